"""What a report says, before it has a form: sections of statements, facts, tables and figures.

Every number is a word already: what gives these a form changes none.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TypeAlias

from handlers.pages.drawing import Drawing


class Tone(StrEnum):
    """How a statement, or a row, is said; never by its color alone."""

    PLAIN = "plain"
    STRONG = "strong"
    CAUTION = "caution"
    NOTE = "note"


@dataclass(frozen=True, slots=True)
class Statement:
    """One or more sentences; `lead` comes first and is the more important part."""

    text: str
    tone: Tone = Tone.PLAIN
    lead: str = ""


@dataclass(frozen=True, slots=True)
class Facts:
    """Pairs of name and value; `name_share` of the width is for the names."""

    rows: tuple[tuple[str, str], ...]
    name_share: float = 0.3


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table.

    Attributes:
        heading: Never empty.
        is_number: Aligned to the right, never broken.
        is_whole: Words that are never broken.
    """

    heading: str
    is_number: bool = False
    is_whole: bool = False


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of words; the first column is the heading of its row.

    Attributes:
        caption: What the table shows; that of a section with one table is the section's title.
        columns: At least one.
        rows: Each as long as `columns`.
        tones: Of rows that are to be seen, by index.
    """

    caption: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[str, ...], ...]
    tones: Mapping[int, Tone] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if any(len(row) != len(self.columns) for row in self.rows):
            raise ValueError("every row of a table has a cell for each column")


def table_of(
    caption: str,
    headings: Sequence[str],
    rows: Iterable[tuple[str, ...]],
    *,
    words: Collection[int] = (0,),
    whole: Collection[int] = (),
    tones: Mapping[int, Tone] | None = None,
) -> Table:
    """Return a table.

    Args:
        caption: What it shows.
        headings: Of the columns.
        rows: As in `Table`.
        words: Which columns hold words; the others hold numbers.
        whole: Which of these are never broken.
        tones: As in `Table`.
    """
    columns = tuple(
        Column(heading, at not in words, at in whole) for at, heading in enumerate(headings)
    )
    return Table(caption, columns, tuple(rows), tones or {})


@dataclass(frozen=True, slots=True, eq=False)
class Figure:
    """A drawing with what stands below it, and what it shows for those who cannot see it."""

    drawing: Drawing
    caption: str
    alt: str


Plain: TypeAlias = Statement | Facts | Table | Figure


@dataclass(frozen=True, slots=True, eq=False)
class Beside:
    """Short columns side by side, read one after the other.

    Attributes:
        columns: Blocks of each.
        shares: Of the width, together 1.
    """

    columns: tuple[tuple[Plain, ...], ...]
    shares: tuple[float, ...]

    def __post_init__(self) -> None:
        if len(self.columns) != len(self.shares) or abs(sum(self.shares) - 1.0) > 1e-6:
            raise ValueError("each column has a share of the width, and the shares make 1")


Block: TypeAlias = Plain | Beside


@dataclass(frozen=True, slots=True, eq=False)
class Section:
    """A heading with its blocks; `level` 1 or 2."""

    title: str
    blocks: tuple[Block, ...]
    level: int = 1


@dataclass(frozen=True, slots=True, eq=False)
class Document:
    """A report.

    Attributes:
        title: What it is.
        subject: Of what and whom it speaks, repeated on every page.
        warning: What must not be overlooked, repeated on every page.
        sections: In reading order; the first has no title of its own.
        created_date: As YYYY-MM-DD.
        created_time: As HH:MM:SS, UTC.
        software_version: Of what wrote it.
    """

    title: str
    subject: str
    warning: str
    sections: tuple[Section, ...]
    created_date: str
    created_time: str
    software_version: str
