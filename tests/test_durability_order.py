"""The order in which an object becomes safe, as the kernel sees it: strace is the judge.

Nothing of the node takes part: a node runs under strace, DCMTK sends, and the trace is read.
"""

import itertools
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
SENDS = ("sendto", "sendmsg", "write", "writev")
TRACED = ",".join(dict.fromkeys((*WRITES, *SYNCS, *RENAMES, *SENDS)))

_LINE = re.compile(r"(\d+) +(?:<\.\.\. (\w+) resumed>|(\w+)\()(.*)")
_UNFINISHED = " <unfinished ...>"
_PATHS = re.compile(r'"([^"]*)"')
_HEX_BYTES = re.compile(r'"((?:\\x[0-9a-f]{2})+)"')
_DATA_TF = r"\x04"
"""Type of a P-DATA-TF PDU (PS3.8 9.3.5)."""


class Call(NamedTuple):
    """A system call: lines of the trace at which it began and had returned, and its text."""

    name: str
    text: str
    began: int
    returned: int


NEVER = Call("never", "", 1 << 62, 1 << 62)


def calls_in(trace: str) -> list[Call]:
    """Return the calls of a trace of many threads that did well, in the order they began."""
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
    return sorted((c for c in calls if " = -" not in c.text), key=lambda call: call.began)


def of(calls: Iterable[Call], names: tuple[str, ...], path: str) -> Iterator[Call]:
    """Return the calls of these names on files whose path begins so."""
    return (c for c in calls if c.name in names and f"<{path}" in c.text.split(",")[0])


def is_answer(call: Call) -> bool:
    """Tell whether a call sends a response."""
    found = _HEX_BYTES.search(call.text)
    is_sent = call.name in SENDS and "<socket:" in call.text
    return is_sent and found is not None and found[1].startswith(_DATA_TF)


def first_after(calls: Iterable[Call], moment: int) -> Call:
    """Return the first call that began after a moment, or `NEVER`."""
    return next((call for call in calls if call.began > moment), NEVER)


def written_text(call: Call) -> bytes:
    """Return the bytes of a call as far as strace shows them."""
    return b"".join(bytes.fromhex(t.replace(r"\x", "")) for t in _HEX_BYTES.findall(call.text))


def disorder_in(trace: str, data: str, count: int) -> list[str]:
    """Return where the trace of a node breaks the order of durability.

    Args:
        trace: Of strace, with paths of descriptors and bytes in hexadecimal.
        data: The data folder.
        count: How many objects were received, one after the other over one association.
    """
    calls, problems = calls_in(trace), list[str]()
    answers = [call for call in calls if is_answer(call)]
    kept = [c for c in calls if c.name in RENAMES and f'"{data}/objects/' in c.text]
    if len(answers) != count or len(kept) != count:
        return [f"{len(kept)} objects are kept and {len(answers)} answers sent, not {count}"]
    earlier_answer = -1
    for rename, answer in zip(kept, answers, strict=True):
        spare, path = (Path(name) for name in _PATHS.findall(rename.text))
        writes = list(of(calls, WRITES, str(spare))) or [NEVER]
        sync = first_after(of(calls, SYNCS, str(spare)), writes[-1].returned)
        record = next(
            (
                c
                for c in of(calls, WRITES, f"{data}/journal")
                if path.stem.encode() in written_text(c)
            ),
            NEVER,
        )
        journal = record.text.partition("<")[2].partition(">")[0]
        journal_sync = first_after(of(calls, SYNCS, journal), record.returned)
        steps = {
            "the answer before it": (earlier_answer, earlier_answer),
            "data are written": (writes[0].began, writes[-1].returned),
            "data are synced": (sync.began, sync.returned),
            "the file is renamed": (rename.began, rename.returned),
            "the journal record is written": (record.began, record.returned),
            "the journal record is synced": (journal_sync.began, journal_sync.returned),
            "the answer is sent": (answer.began, answer.returned),
        }
        names = list(steps)
        problems += [
            f"{path.name}: {second} before {first}"
            for first, second in itertools.pairwise(names)
            if steps[first][1] >= steps[second][0]
        ]
        earlier_answer = answer.returned
    return problems


RIGHT_ORDER = """\
7 writev(5</d/spare/a>, [{iov_base="\\x00", iov_len=1}], 1) = 1
7 fdatasync(5</d/spare/a> <unfinished ...>
8 write(3</d/x.sqlite>, "\\x00", 1) = 1
7 <... fdatasync resumed>) = 0
7 rename("/d/spare/a", "/d/objects/ab/abcd.dcm") = 0
7 write(6</d/journal/1>, "\\x00\\x61\\x62\\x63\\x64", 5) = 5
7 fdatasync(6</d/journal/1>) = 0
7 sendto(9<socket:[1]>, "\\x04\\x00", 2, 0, NULL, 0) = 2
"""


@pytest.mark.parametrize(
    ("order", "expected"),
    [
        ([0, 1, 2, 3, 4, 5, 6, 7], ""),
        ([1, 2, 3, 0, 4, 5, 6, 7], "renamed before data are synced"),
        ([0, 4, 1, 2, 3, 5, 6, 7], "renamed before data are synced"),
        ([0, 1, 4, 2, 3, 5, 6, 7], "renamed before data are synced"),
        ([0, 1, 2, 3, 5, 6, 4, 7], "written before the file is renamed"),
        ([0, 1, 2, 3, 4, 6, 5, 7], "sent before the journal record is synced"),
        ([0, 1, 2, 3, 4, 5, 7, 6], "sent before the journal record is synced"),
        ([0, 1, 2, 3, 4, 5, 6], "1 objects are kept and 0 answers sent"),
    ],
)
def test_judge_when_the_order_is_wrong_says_so(order: list[int], expected: str) -> None:
    """The judge itself: a made-up trace, right and in every wrong order."""
    lines = RIGHT_ORDER.splitlines()
    problems = disorder_in("\n".join(lines[at] for at in order), "/d", 1)
    assert bool(problems) == bool(expected), problems
    assert expected in "; ".join(problems)


@pytest.mark.peers
def test_object_when_received_is_synced_renamed_journaled_and_only_then_answered(
    tmp_path: Path, peer_program: Callable[[str], str]
) -> None:
    """Issue 4, point 2: data synced, renamed, journal record synced, then the response."""
    strace, storescu = peer_program("strace"), peer_program("storescu")
    study = make_study(PhantomOptions(seed=7, size="tiny"))
    files = write_datasets(study.ct[:SENT], tmp_path / "sent")
    trace = tmp_path / "trace"
    only = ["--seccomp-bpf", "-e", f"trace={TRACED}"]  # other calls are not slowed down
    prefix = [strace, "-f", "-qq", "-y", "-x", "-s", "2000", *only, "-o", str(trace)]
    with ServeProcess(tmp_path / "node", prefix=prefix) as node:
        address = ["-aec", "HILUM", "-aet", "SCANNER", "127.0.0.1", str(node.port)]
        subprocess.run([storescu, *address, *map(str, files)], check=True, timeout=120)
    assert disorder_in(trace.read_text(encoding="ascii"), str(node.data), SENT) == []
