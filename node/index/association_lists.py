"""Associations as lists show them: those that are open, and those that were, a page at a time."""

from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa

from node.index import Index
from node.index.tables import ASSOCIATIONS

LARGEST_PAGE = 200


@dataclass(frozen=True, slots=True)
class AssociationLine:
    """An association that a peer opened; times are aware.

    Attributes:
        outcome: How it ended; None: it is open.
        objects: How many it carried, repeated ones included, as far as they are filed.
    """

    id: int
    peer: str
    calling_ae: str
    address: str
    opened_at: datetime
    closed_at: datetime | None
    outcome: str | None
    objects: int


@dataclass(frozen=True, slots=True)
class AssociationPage:
    """A part of a list of associations, newest first; `older`: where the next page begins."""

    lines: tuple[AssociationLine, ...]
    older: int | None


def association_page(
    index: Index,
    *,
    peer: str = "",
    only_open: bool = False,
    older: int | None = None,
    size: int = 50,
) -> AssociationPage:
    """Return a page of the associations.

    Args:
        index: Whose tables exist.
        peer: Only of this peer; empty: of all.
        only_open: Only those that are open now.
        older: `AssociationPage.older` of the page before; None: the first page.
        size: How many at most.
    """
    size = min(size, LARGEST_PAGE)
    columns = [ASSOCIATIONS.c[name] for name in AssociationLine.__slots__]
    query = sa.select(*columns).order_by(ASSOCIATIONS.c.id.desc()).limit(size + 1)
    if peer:
        query = query.where(ASSOCIATIONS.c.peer == peer)
    if only_open:
        query = query.where(ASSOCIATIONS.c.closed_at.is_(None))
    if older is not None:
        query = query.where(ASSOCIATIONS.c.id < older)
    with index.read() as connection:
        rows = connection.execute(query).all()
    lines = tuple(AssociationLine(**row._mapping) for row in rows[:size])
    return AssociationPage(lines, lines[-1].id if len(rows) > size else None)
