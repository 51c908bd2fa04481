"""What a silent process left open is closed even if filing for it took long."""

from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import cast

from node.index import Index
from node.index.instances import InstanceBook
from node.journal import Journal, journal_folder
from node.membership import Membership
from node.storage import ObjectStore
from node.takeover import Takeover
from node.workflow import Workflow

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
OTHER = "a.serve"


class Members:
    """Tells who is silent, at each look what comes next; the last for ever."""

    identity = SimpleNamespace(name="b.serve")

    def __init__(self, *answers: dict[str, int]) -> None:
        self._answers = list(answers)
        self._now: dict[str, int] = {}

    def look(self, _others: Iterable[str] = ()) -> bool:
        self._now = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
        return False

    def silent(self) -> dict[str, int]:
        return self._now


def test_associations_are_closed_by_a_later_look_if_one_is_in_doubt(tmp_path: Path) -> None:
    """One that did not look for long cannot say who is silent, and must not take that for done."""
    index = Index(f"sqlite:///{tmp_path / 'index.sqlite'}")
    index.create()
    book, store = InstanceBook(index), ObjectStore(tmp_path, 0)
    journal = Journal(journal_folder(tmp_path, OTHER), store.disk)
    list(journal.open(0))
    book.open_association(
        calling_ae="CT1", peer_name="ct", address="10.0.0.1", opened_at=NOW, node_run=OTHER
    )
    silent, unsure = {OTHER: 7}, dict[str, int]()
    members = cast("Membership", Members(silent, unsure, unsure, silent))
    work = cast("Workflow", SimpleNamespace(workers=set))
    takeover = Takeover(members, work, book, store, lambda: NOW)
    takeover.look()
    assert book.open_associations(OTHER), "nobody may end what a living process has open"
    takeover.look()
    assert not book.open_associations(OTHER)
    journal.close()
    store.close()
    index.close()
