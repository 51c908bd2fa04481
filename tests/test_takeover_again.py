"""What a silent process left is taken up in the end, whatever came between."""

import json
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import cast

from node.index import Index
from node.index.instances import InstanceBook
from node.journal import Journal, journal_folder
from node.membership import Membership
from node.receipt import Receipt
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


def test_object_that_was_filed_before_the_power_cut_took_its_rename_is_found_again(
    tmp_path: Path,
) -> None:
    """Its owner would mend that at its start, and does not come back."""
    index = Index(f"sqlite:///{tmp_path / 'index.sqlite'}")
    index.create()
    book, store = InstanceBook(index), ObjectStore(tmp_path, 0, owner="b.serve")
    others = ObjectStore(tmp_path, 0, owner=OTHER)
    journal = Journal(journal_folder(tmp_path, OTHER), store.disk)
    list(journal.open(0))
    file = others.receive("1.2.3")
    file.write([b"data set"])
    file.keep()
    told = dict.fromkeys(Receipt.__slots__, "") | {"spare": file.spare, "path": file.path}
    journal.append(json.dumps(told).encode(), lambda _sequence: None)
    book.add_instances([], (OTHER, 1))
    (tmp_path / file.path).rename(tmp_path / file.spare)  # as the power cut left it

    members = cast("Membership", Members({OTHER: 7}))
    work = cast("Workflow", SimpleNamespace(workers=set))
    Takeover(members, work, book, store, lambda: NOW).look()
    assert (tmp_path / file.path).read_bytes() == b"data set"
    assert not (tmp_path / file.spare).exists()
    journal.close()
    for each in (store, others):
        each.close()
    index.close()
