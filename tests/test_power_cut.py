"""A simulated power cut keeps what was answered; the long run is tests/bench/power_cut.py.

The simulation itself is tested first, with a small program that forgets syncs: it must be caught.
"""

import random
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.bench.power_cut import (
    cut_point,
    judge_cut,
    record_load,
    unseen_changes,
)
from tests.forgetful_disk import (
    AS_KILLED,
    RULES,
    Data,
    Names,
    Record,
    Recorder,
    Rule,
    UnfollowedCallError,
    differences,
    read_log,
    surviving,
)

ONLY_SYNCED = Rule(Data.NONE, Names.SYNCED)
LIKE_EXT4 = Rule(Data.NONE, Names.WITH_FILE)
NAMES_STAY = Rule(Data.NONE, Names.ALL)
WHOLE = b"whole" * 1000

WRITER = """
import mmap, os, socket, sys
root, port, steps = sys.argv[1], int(sys.argv[2]), sys.argv[3]
line = socket.create_connection(("127.0.0.1", port))
file = os.open(root + "/new.part", os.O_CREAT | os.O_RDWR)
os.write(file, b"whole" * 1000)
for step in steps.split():
    if step == "file":
        os.fdatasync(file)
    elif step == "late":
        os.pwrite(file, b"LATE", 0)
    elif step == "rename":
        os.rename(root + "/new.part", root + "/new.dcm")
    elif step == "folder":
        folder = os.open(root, os.O_RDONLY)
        os.fsync(folder)
    elif step == "map":
        mmap.mmap(file, 5000)[0:4] = b"MAPS"
    elif step == "answer":
        line.send(b"answer")
"""
"""Writes a file and answers, in the steps that it is told."""


@pytest.fixture
def recorder(tmp_path: Path, peer_program: Callable[[str], str]) -> Recorder:
    return Recorder.compiled(peer_program("gcc"), tmp_path)


def recorded_steps(steps: str, recorder: Recorder, tmp_path: Path) -> tuple[Path, list[Record]]:
    """Return the folder in which the writer took its steps, and what was recorded of it."""
    root, log = tmp_path / "root", tmp_path / "disk.log"
    root.mkdir()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = str(listener.getsockname()[1])
        command = [sys.executable, "-S", "-c", WRITER, str(root), port, steps]
        subprocess.run(command, check=True, env=recorder.environment(root, log))
    return root, read_log(log)


@pytest.mark.parametrize(
    ("steps", "rule", "expected"),
    [
        ("file rename folder answer", ONLY_SYNCED, {"new.dcm": WHOLE}),
        ("rename folder answer", ONLY_SYNCED, {"new.dcm": b""}),
        ("file rename answer", ONLY_SYNCED, {}),
        ("file rename answer", LIKE_EXT4, {"new.part": WHOLE}),
        ("rename file answer", LIKE_EXT4, {"new.dcm": WHOLE}),
        ("rename answer", NAMES_STAY, {"new.dcm": b""}),
        ("file folder rename answer", ONLY_SYNCED, {"new.part": WHOLE}),
        ("file late rename folder answer", ONLY_SYNCED, {"new.dcm": WHOLE}),
        ("late file rename folder answer", ONLY_SYNCED, {"new.dcm": b"LATE" + WHOLE[4:]}),
        ("answer file rename folder", ONLY_SYNCED, {}),
        ("answer file rename folder", AS_KILLED, {"new.part": WHOLE}),
    ],
)
def test_simulation_when_a_sync_is_forgotten_shows_the_loss(
    steps: str, rule: Rule, expected: dict[str, bytes], recorder: Recorder, tmp_path: Path
) -> None:
    """Issue 4, point 7: the judge itself; worked out by hand for a cut at the answer."""
    root, records = recorded_steps(steps, recorder, tmp_path)
    (answered,) = (at for at, one in enumerate(records) if one.content == b"answer")
    found = surviving(root, {}, records[: answered + 1], rule, random.Random(1))
    assert found == expected


def test_simulation_when_replayed_whole_is_what_lies_there(
    recorder: Recorder, tmp_path: Path
) -> None:
    """Issue 4, point 7: the recorder misses nothing; a cut that loses nothing changes nothing."""
    root, records = recorded_steps("late rename answer", recorder, tmp_path)
    found = surviving(root, {}, records, AS_KILLED, random.Random(1))
    assert differences(found, root) == []
    assert differences({"new.dcm": WHOLE}, root) == ["new.dcm"]


def test_simulation_when_a_write_cannot_be_followed_refuses(
    recorder: Recorder, tmp_path: Path
) -> None:
    """A write through a memory map is not seen: the simulation says so and does not guess."""
    root, records = recorded_steps("map answer", recorder, tmp_path)
    with pytest.raises(UnfollowedCallError, match="mmap"):
        surviving(root, {}, records, AS_KILLED, random.Random(1))


def test_node_when_power_is_cut_keeps_what_it_answered(recorder: Recorder, tmp_path: Path) -> None:
    """Issue 4, point 7: under every rule of what a disk forgets.

    Half of the cuts come right behind the last answer: it had the least time to become safe.
    """
    run = record_load(tmp_path / "load", recorder, seconds=0.5, at_least=21)
    assert unseen_changes(run) == []
    assert len(run.answered_at) > 20, "there was load"
    rng, problems = random.Random(4), []
    last = max(run.answered_at.values()) + 1
    for number, rule in enumerate(RULES):
        cut = last if number % 2 == 0 else cut_point(run, rng)
        problems += judge_cut(run, cut, rule, rng, tmp_path / "cut")
    assert problems == []
