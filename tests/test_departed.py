"""What processes left that never came back: it goes when nothing is owed, and nobody lives."""

import json
import os
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from node.config import NodeSection
from node.departed import LONG_GONE, Departed
from node.index import Index
from node.index.instances import InstanceBook
from node.journal import Journal, journal_folder
from node.process_name import free_name
from node.receipt import Receipt

GONE = "pod-7f9c.serve"


class Share:
    """A shared data folder in which a process worked that is gone."""

    def __init__(self, root: Path) -> None:
        self.node = NodeSection(data=root, database="postgresql+psycopg://hilum@db/hilum")
        self.index = Index(f"sqlite:///{root / 'index.sqlite'}")
        self.index.create()
        self.book = InstanceBook(self.index)
        self.now = datetime.now(UTC) + LONG_GONE + timedelta(days=1)
        held = free_name(self.node, GONE)
        assert held is not None
        held.release()
        journal = Journal(journal_folder(root, GONE), segment_bytes=1 << 12)
        assert list(journal.open(0)) == []
        told = dict.fromkeys(Receipt.__slots__, "") | {"spare": f"spare/{GONE}/0/ab"}
        journal.append(json.dumps(told).encode(), lambda _sequence: None)
        journal.close()
        self.places = [root / name for name in (f"spare/{GONE}", f"work/{GONE}")]
        for place in self.places:
            place.mkdir(parents=True)
            (place / "1").write_bytes(b"x")
        self.places += [journal.folder, held.path]

    def filed(self) -> None:
        """Let everything that the process promised be in the index."""
        self.book.add_instances([], (GONE, 1))

    def departed(self, alive: str = "pod-1111.serve") -> Departed:
        return Departed(self.node, self.book, lambda name: name == alive, lambda: self.now)

    def left(self) -> list[Path]:
        return [place for place in self.places if place.exists()]


@pytest.fixture
def share(tmp_path: Path) -> Iterator[Share]:
    made = Share(tmp_path)
    yield made
    made.index.close()


def test_what_a_process_left_goes_when_it_is_long_gone_and_owes_nothing(share: Share) -> None:
    """Names of containers come and go: each leaves eight megabytes of journal."""
    share.filed()
    assert share.departed().remove() == [GONE]
    assert share.left() == []
    assert share.book.filed_up_to(GONE) == 0
    assert share.departed().remove() == []
    again = free_name(share.node, GONE)  # the name can be taken again
    assert again is not None
    again.release()


def test_what_a_process_promised_and_nobody_filed_stays(
    share: Share, caplog: pytest.LogCaptureFixture
) -> None:
    """Nothing is lost: its promise is the only thing that knows of the object."""
    assert share.departed().remove() == []
    assert share.left() == share.places
    assert [record.message for record in caplog.records] == ["process.owes"]


def test_object_that_a_power_cut_left_among_the_spare_files_stays(share: Share) -> None:
    """The index has it, its rename was lost: there is no other file of it."""
    share.filed()
    lot = share.places[0] / "0"
    lot.mkdir()
    (lot / "ab").write_bytes(b"x")
    assert share.departed().remove() == []
    assert share.left() == share.places


def test_what_a_living_process_has_stays_however_long_it_did_nothing(share: Share) -> None:
    """A node that receives nothing for a month writes nothing, and holds its name."""
    share.filed()
    held = free_name(share.node, GONE)
    assert held is not None
    assert share.departed().remove() == []
    held.release()  # or its file server forgot it, while nobody could reach it
    assert share.departed(alive=GONE).remove() == []
    assert share.left() == share.places


def test_what_was_written_of_late_stays(share: Share) -> None:
    """A host that is away for some weeks finds everything again."""
    share.filed()
    late_s = share.now.timestamp() - LONG_GONE.total_seconds() + 60
    os.utime(share.places[0] / "1", (late_s, late_s))
    assert share.departed().remove() == []
    assert share.left() == share.places


def test_name_whose_file_was_removed_meanwhile_is_held_by_the_new_file(share: Share) -> None:
    """Two processes must not hold one name: the one by a file that nobody finds any more."""
    first = free_name(share.node, GONE)
    assert first is not None
    first.path.unlink()
    second = free_name(share.node, GONE)
    assert second is not None
    assert free_name(share.node, GONE) is None
    first.release()
    assert free_name(share.node, GONE) is None
    second.release()
