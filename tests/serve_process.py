"""`hilum serve` in a session of its own, and what its data folder holds, seen from outside.

Reads the index with plain SQLite, and files as they lie there: nothing of the node's own code takes
part in the verdict. Knows the promise of the node (an object answered 0x0000 is there and indexed
once) and the folders that may lie in its data folder.
"""

import hashlib
import os
import signal
import sqlite3
import struct
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from tests.nodes import ROOT, NodeProcess, wait_for

PREAMBLE_BYTES = 132
"""Preamble and prefix of a DICOM file (PS3.10 7.1)."""
LONG_VRS = (b"OB", b"OW", b"UN")
TEMPORARY_SUFFIXES = (".part", ".tmp", ".temp", ".incoming")
SETTLED_S = 1.0


def end_in_order_when_terminated() -> None:
    """Let SIGTERM unwind a script, so that no node is left running in its own session."""
    signal.signal(signal.SIGTERM, lambda number, _frame: sys.exit(128 + number))


class IndexRow(NamedTuple):
    """What the index says of one object."""

    sop_instance_uid: str
    sha256: str
    path: str


class ServeProcess(NodeProcess):
    """A node as a department runs it, that can be killed with everything it started.

    Args:
        folder: Gets the configuration, the data and the log.
        node_keys: More keys of `[node]`.
        prefix: A program that starts the node, as strace.
        environment: More variables.
    """

    def __init__(
        self,
        folder: Path,
        *,
        node_keys: str = "",
        prefix: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(folder.resolve(), {}, quiet_s=3600.0, node_keys=node_keys)
        self.data = self.folder / "data"
        self._prefix = list(prefix)
        self._environment = {**os.environ, "PYTHONPATH": str(ROOT), **(environment or {})}

    def launch(self) -> None:
        """Start the node and wait for nothing."""
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [
                    *self._prefix,
                    sys.executable,
                    "-m",
                    "node",
                    "serve",
                    "--config",
                    str(self.config),
                ],
                cwd=ROOT,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=self._environment,
                start_new_session=True,
            )

    def start(self) -> "ServeProcess":
        """Start the node and wait until it listens."""
        self.launch()
        wait_for(self._listens, timeout_s=480, what="the node to listen")
        return self

    @property
    def pid(self) -> int:
        """Process id of what was started."""
        assert self._process is not None
        return self._process.pid

    def kill_group(self) -> None:
        """End the node and every process that it started: SIGKILL, as `kill -9` of the group."""
        if self._process is not None and self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait(timeout=60)

    def kill(self) -> None:
        """End the node alone: SIGKILL. Its children end by themselves or with `kill_group`."""
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait(timeout=60)

    @contextmanager
    def ending(self) -> Iterator["ServeProcess"]:
        """Give the node as it is, and end it and all it started when done."""
        try:
            yield self
        finally:
            self.kill_group()

    def __enter__(self) -> "ServeProcess":
        return self.start()

    def __exit__(self, *_exception: object) -> None:
        self.kill_group()


def index_rows(data: Path) -> list[IndexRow]:
    """Return every object that the index of a data folder knows; none without an index."""
    path = data / "index.sqlite"
    if not path.exists():
        return []
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=60)) as index:
        query = "SELECT sop_instance_uid, sha256, path FROM instances ORDER BY id"
        return [IndexRow(*row) for row in index.execute(query)]


def index_count(data: Path) -> int:
    """Return how many objects the index knows."""
    with closing(sqlite3.connect(f"file:{data / 'index.sqlite'}?mode=ro", uri=True)) as index:
        return int(index.execute("SELECT count(*) FROM instances").fetchone()[0])


def index_damage(data: Path) -> list[str]:
    """Return what SQLite says of its own file; nothing if it is whole."""
    with closing(sqlite3.connect(data / "index.sqlite", timeout=60)) as index:
        found = [str(row[0]) for row in index.execute("PRAGMA integrity_check")]
    return [] if found == ["ok"] else found


def wait_for_index(data: Path, uids: Collection[str], timeout_s: float = 120) -> list[IndexRow]:
    """Return the index once it holds these objects and stands still, or what it holds at last."""
    wanted, deadline = set(uids), time.monotonic() + timeout_s
    rows, still_since = index_rows(data), time.monotonic()
    while time.monotonic() < deadline:
        missing = wanted - {row.sop_instance_uid for row in rows}
        if not missing and time.monotonic() - still_since > SETTLED_S:
            break
        time.sleep(0.1)
        now = index_rows(data)
        if len(now) != len(rows):
            rows, still_since = now, time.monotonic()
    return rows


def data_set_in(path: Path) -> bytes:
    """Return the data set of a DICOM file: what follows the file meta information (PS3.10 7.1)."""
    content = path.read_bytes()
    at = PREAMBLE_BYTES
    while content[at : at + 2] == b"\x02\x00":
        if content[at + 4 : at + 6] in LONG_VRS:
            at += 12 + struct.unpack_from("<I", content, at + 8)[0]
        else:
            at += 8 + struct.unpack_from("<H", content, at + 6)[0]
    return content[at:]


def sha256_of_data_set(path: Path) -> str:
    """Return the hash of a file's data set; that of nothing if the file is torn."""
    try:
        found = data_set_in(path)
    except struct.error:
        found = b""
    return hashlib.sha256(found).hexdigest()


@dataclass(frozen=True, slots=True)
class Verdict:
    """How a settled data folder keeps the promise of the node.

    Attributes:
        problems: How it is broken; empty if it is kept.
        indexed: Number of objects in the index.
        unindexed: Files that are whole, of objects that were never answered, and not indexed.
    """

    problems: list[str]
    indexed: int
    unindexed: list[str]


def verdict_on(data: Path, sent: Mapping[str, str], answered: Collection[str]) -> Verdict:
    """Judge the data folder of a node that was started again, and runs.

    Args:
        data: The data folder.
        sent: SHA-256 of the data set by SOP Instance UID, of everything that was ever begun.
        answered: SOP Instance UIDs that were answered 0x0000.
    """
    rows = wait_for_index(data, answered)
    problems = [f"damaged index: {text}" for text in index_damage(data)]
    times = Counter(row.sop_instance_uid for row in rows)
    problems += [f"{uid} is indexed {n} times" for uid, n in times.items() if n != 1]
    problems += [f"{uid} was answered and is not indexed" for uid in set(answered) - set(times)]
    for row in rows:
        if row.sha256 != sent.get(row.sop_instance_uid):
            problems.append(f"{row.sop_instance_uid} is indexed with content that was not sent")
        elif not (data / row.path).exists():
            problems.append(f"{row.sop_instance_uid} is indexed and has no file")
    sha256_by_path = {row.path: row.sha256 for row in rows}
    whole, unindexed = set(sent.values()), []
    for path in sorted((data / "objects").rglob("*")):
        if not path.is_file():
            continue
        name, found = path.relative_to(data).as_posix(), sha256_of_data_set(path)
        if found != sha256_by_path.get(name, found) or found not in whole:
            problems.append(f"{name} ({path.stat().st_size} bytes) is not what was sent")
        elif name not in sha256_by_path:
            unindexed.append(name)
    problems += [f"left over: {name}" for name in left_over(data)]
    return Verdict(problems, len(rows), unindexed)


def beside_objects(data: Path) -> dict[str, int]:
    """Return size by name of every file of a data folder that is no object."""
    return {
        path.relative_to(data).as_posix(): path.stat().st_size
        for path in sorted(data.rglob("*"))
        if path.is_file() and path.relative_to(data).parts[0] != "objects"
    }


def left_over(data: Path) -> list[str]:
    """Return what should have gone: temporary files, and spare ones that hold something."""
    return [
        f"{name} ({size} bytes)"
        for name, size in beside_objects(data).items()
        if name.startswith("incoming/")
        or name.endswith(TEMPORARY_SUFFIXES)
        or (name.startswith("spare/") and size)
    ]
