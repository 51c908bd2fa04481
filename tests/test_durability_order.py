"""The order in which an object becomes safe, as the kernel sees it: strace is the judge.

Nothing of the node takes part: a node runs under strace, DCMTK sends, and the trace is read.
"""

import re
import subprocess
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from node.phantom import PhantomOptions, make_study
from tests.nodes import write_datasets
from tests.serve_process import ServeProcess

SENT = 4
WRITES = ("write", "pwrite64", "writev", "pwritev", "pwritev2")
SYNCS = ("fsync", "fdatasync")
RENAMES = ("rename", "renameat", "renameat2")
SENDS = ("sendto", "sendmsg")
TRACED = ",".join((*WRITES, *SYNCS, *RENAMES, *SENDS))

_LINE = re.compile(r"(\d+) +(?:<\.\.\. (\w+) resumed>|(\w+)\()(.*)")
_UNFINISHED = " <unfinished ...>"
_PATHS = re.compile(r'"([^"]*)"')
_FIRST_BYTES = re.compile(r'"((?:\\x[0-9a-f]{2})+)"')


class Call(NamedTuple):
    """A system call: lines of the trace at which it began and had returned, and its text."""

    name: str
    text: str
    began: int
    returned: int

    @property
    def did_well(self) -> bool:
        return not re.search(r"= -\d", self.text)


def calls_in(trace: str) -> list[Call]:
    """Return the calls of a trace of many threads, in the order in which they began."""
    calls, begun = [], dict[tuple[str, str], tuple[int, str]]()
    for number, line in enumerate(trace.splitlines()):
        found = _LINE.match(line)
        if not found:
            continue
        thread, resumed, started, text = found.groups()
        if started and text.endswith(_UNFINISHED):
            begun[thread, started] = number, text.removesuffix(_UNFINISHED)
        elif started:
            calls.append(Call(started, text, number, number))
        else:
            at, before = begun.pop((thread, resumed))
            calls.append(Call(resumed, before + text, at, number))
    return sorted(calls, key=lambda call: call.began)


def of(calls: Iterable[Call], names: tuple[str, ...], path: str) -> Iterator[Call]:
    """Return the calls of these names on a file of this path, or below this folder."""
    return (c for c in calls if c.name in names and f"<{path}" in c.text.split(",")[0])


def is_answer(call: Call) -> bool:
    """Tell whether a call sends a P-DATA-TF PDU (PS3.8 9.3.5)."""
    found = _FIRST_BYTES.search(call.text)
    is_sent = call.name in (*SENDS, "write", "writev") and "<socket:" in call.text
    return is_sent and found is not None and found[1].startswith(r"\x04")


def first_after(calls: Iterable[Call], moment: int, what: str) -> Call:
    """Return the first call that began after a moment."""
    found = next((call for call in calls if call.began > moment), None)
    assert found is not None, what
    assert found.did_well, found.text
    return found


def written_text(call: Call) -> bytes:
    """Return the bytes of a call as far as strace shows them."""
    return b"".join(
        bytes.fromhex(text.replace(r"\x", "")) for text in _FIRST_BYTES.findall(call.text)
    )


@pytest.mark.peers
def test_object_when_received_is_synced_renamed_journaled_and_only_then_answered(
    tmp_path: Path, peer_program: Callable[[str], str]
) -> None:
    """Issue 4, point 2: data synced, renamed, journal record synced, then the response."""
    strace, storescu = peer_program("strace"), peer_program("storescu")
    files = write_datasets(
        make_study(PhantomOptions(seed=7, size="tiny")).ct[:SENT], tmp_path / "sent"
    )
    trace = tmp_path / "trace"
    prefix = [
        strace,
        "-f",
        "-qq",
        "-y",
        "-x",
        "-s",
        "2000",
        "-e",
        f"trace={TRACED}",
        "-o",
        str(trace),
    ]
    with ServeProcess(tmp_path / "node", prefix=prefix) as node:
        address = ["-aec", "HILUM", "-aet", "SCANNER", "127.0.0.1", str(node.port)]
        subprocess.run([storescu, *address, *map(str, files)], check=True, timeout=120)
    data, calls = node.data, calls_in(trace.read_text(encoding="ascii"))
    answers = [call for call in calls if is_answer(call)]
    journal_writes = list(of(calls, WRITES, f"{data}/journal/"))
    kept = [c for c in calls if c.name in RENAMES and f"{data}/objects/" in c.text]
    assert len(answers) == len(kept) == SENT
    earlier_answer = -1
    for rename, answer in zip(kept, answers, strict=True):
        spare, path = (Path(name) for name in _PATHS.findall(rename.text))
        writes = list(of(calls, WRITES, str(spare)))
        assert writes, "the data set is written into the file that is renamed"
        assert writes[0].began > earlier_answer
        sync = first_after(of(calls, SYNCS, str(spare)), writes[-1].returned, "data is synced")
        assert sync.returned < rename.began
        assert rename.did_well
        record = first_after(journal_writes, rename.returned, "a journal record is written")
        assert path.stem.encode() in written_text(record), "the record is that of this object"
        journal = record.text.split("<")[1].split(">")[0]
        journal_sync = first_after(
            of(calls, SYNCS, journal), record.returned, "the journal record is synced"
        )
        assert journal_sync.returned < answer.began
        earlier_answer = answer.returned
