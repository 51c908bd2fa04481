"""A power cut, simulated: what a disk holds that forgets whatever was not synced.

`Recorder` compiles forgetful_disk.c and names the environment under which a program writes down
every change below a folder, and everything it sends. `surviving` reads such a log up to a cut and
returns what is left under a `Rule`. Nothing here knows DICOM or the node.

A sync of a file keeps its content; a sync of a folder keeps the names in it. A rename is whole or
not at all, as on every journaling file system (ext4, XFS, Btrfs). Under `Names.SYNCED` only the
sync of a folder keeps its names: POSIX promises no more. Under `Names.WITH_FILE` the sync of a file
keeps its own name, too, as on ext4.

Not simulated: a disk that lies about a sync, sectors that decay.
"""

import os
import random
import shutil
import struct
import subprocess
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path, PurePosixPath
from typing import NamedTuple

SOURCE = Path(__file__).with_suffix(".c")
SECTOR_BYTES = 512
"""What a disk writes whole; a write that is cut is torn between sectors."""

_HEAD = struct.Struct("<4I4Q")


class Record(NamedTuple):
    """One call, as forgetful_disk.c wrote it down; `kind` is its letter there."""

    kind: str
    first: str
    second: str
    port: int
    inode: int
    offset: int
    token: int
    content: bytes


class Data(Enum):
    """What becomes of written bytes that were not synced."""

    NONE = "lost"
    SOME = "some sectors, at random"
    ALL = "kept"


class Names(Enum):
    """What becomes of names that were made, changed or removed, and not synced."""

    SYNCED = "lost unless the folder was synced"
    WITH_FILE = "lost unless the folder or the file was synced"
    PREFIX = "those before a random moment kept, in order"
    SOME = "each kept or lost at random"
    ALL = "kept"


@dataclass(frozen=True, slots=True)
class Rule:
    """What survives beside what was synced."""

    data: Data
    names: Names

    def __str__(self) -> str:
        return f"unsynced bytes {self.data.value}; unsynced names {self.names.value}"


RULES = (
    Rule(Data.NONE, Names.SYNCED),
    Rule(Data.NONE, Names.WITH_FILE),
    Rule(Data.NONE, Names.ALL),
    Rule(Data.SOME, Names.PREFIX),
    Rule(Data.SOME, Names.SOME),
    Rule(Data.ALL, Names.SYNCED),
)
"""The corners, and what lies between them."""

AS_KILLED = Rule(Data.ALL, Names.ALL)
"""What a killed process leaves: the machine goes on, so everything survives."""


class UnfollowedCallError(Exception):
    """The program changed the folder in a way that the recorder cannot follow."""


@dataclass(frozen=True, slots=True)
class Recorder:
    """A compiled recorder.

    Attributes:
        library: What is preloaded.
    """

    library: Path

    @classmethod
    def compiled(cls, compiler: str, folder: Path) -> "Recorder":
        """Compile forgetful_disk.c into a folder."""
        library = folder / "forgetful_disk.so"
        command = [compiler, "-shared", "-fPIC", "-O2", "-Wall", "-Wextra", "-Werror"]
        subprocess.run([*command, "-o", str(library), str(SOURCE)], check=True)
        return cls(library)

    def environment(self, root: Path, log: Path) -> dict[str, str]:
        """Return the variables under which a program records what it does below `root`."""
        return {
            "LD_PRELOAD": str(self.library),
            "FORGETFUL_ROOT": str(root.resolve()),
            "FORGETFUL_LOG": str(log),
        }


def read_log(log: Path) -> list[Record]:
    """Return the records of a log in order; a last one that is cut short is left out."""
    content, at, records = log.read_bytes(), 0, []
    while at + _HEAD.size <= len(content):
        kind, first, second, port, inode, offset, size, token = _HEAD.unpack_from(content, at)
        at += _HEAD.size
        end = at + first + second + size
        if end > len(content):
            break
        names = (
            content[at : at + first].decode(),
            content[at + first : at + first + second].decode(),
        )
        data = content[at + first + second : end]
        records.append(Record(chr(kind), *names, port, inode, offset, token, data))
        at = end
    return records


class _File:
    """One file, whatever its names: what is safe, and what may be lost."""

    __slots__ = ("names", "safe", "unsafe")

    def __init__(self, safe: bytes = b"") -> None:
        self.safe = bytearray(safe)
        self.unsafe: list[tuple[int, Record]] = []
        self.names: list[int] = []

    def keep_before(self, position: int) -> None:
        """Make safe what was written before a position of the log."""
        count = sum(1 for at, _ in self.unsafe if at < position)
        for _, record in self.unsafe[:count]:
            _apply(self.safe, record)
        del self.unsafe[:count]

    def survivor(self, data: Data, rng: random.Random) -> bytes:
        found = bytearray(self.safe)
        for _, record in self.unsafe:
            if data is Data.ALL:
                _apply(found, record)
            elif data is Data.SOME:
                for torn in _torn(record, rng):
                    _apply(found, torn)
        return bytes(found)


def _apply(content: bytearray, record: Record) -> None:
    if record.kind == "T":
        del content[record.offset :]
        content.extend(bytes(record.offset - len(content)))
        return
    content.extend(bytes(max(0, record.offset - len(content))))
    content[record.offset : record.offset + len(record.content)] = record.content


def _torn(record: Record, rng: random.Random) -> Iterator[Record]:
    """Return what of a change reached the disk: none, all, or some of its sectors."""
    fate = rng.randrange(3)
    if record.kind == "T" or fate < 2:
        if fate:
            yield record
        return
    at, end = record.offset, record.offset + len(record.content)
    while at < end:
        upto = min(end, (at // SECTOR_BYTES + 1) * SECTOR_BYTES)
        if rng.random() < 0.5:
            some = record.content[at - record.offset : upto - record.offset]
            yield record._replace(offset=at, content=some)
        at = upto


@dataclass(slots=True)
class _NameChange:
    """One change of names: it happens whole."""

    position: int
    kind: str
    first: str
    second: str
    file: _File | None
    is_safe: bool = False

    def folders(self) -> set[str]:
        return {str(PurePosixPath(p).parent) for p in (self.first, self.second) if p}


@dataclass(slots=True)
class _Disk:
    """Names and files: as the program sees them now, and as they are safe."""

    now: dict[str, _File | None] = field(default_factory=dict)
    safe: dict[str, _File | None] = field(default_factory=dict)
    changes: list[_NameChange] = field(default_factory=list)
    by_inode: dict[int, _File] = field(default_factory=dict)
    syncs: dict[int, int] = field(default_factory=dict)
    of_path: dict[str, list[_NameChange]] = field(default_factory=dict)

    def play(self, position: int, record: Record, names: Names) -> None:
        kind = record.kind
        if kind == "X" and not record.second.endswith("-shm"):  # SQLite: made anew at every start
            raise UnfollowedCallError(f"{record.first}: {record.second}")
        if kind in "WT":
            if record.inode in self.by_inode:  # else without a name already
                self.by_inode[record.inode].unsafe.append((position, record))
        elif kind in "CLRUMD":
            self._rename(position, record)
        elif kind == "S":
            self.syncs[record.token] = position
        elif kind == "s":
            self._sync(self.syncs.pop(record.token), record, names)

    def _rename(self, position: int, record: Record) -> None:
        kind, first, second = record.kind, record.first, record.second
        file: _File | None = None
        if kind == "C":
            file = self.by_inode[record.inode] = _File()
        elif kind == "L":
            file = self.by_inode[record.inode]
        elif kind in "RU":
            file = self.now.get(first)
        change = _NameChange(position, kind, first, second, file)
        _change_names(self.now, change)
        self.changes.append(change)
        for path in filter(None, (first, second)):
            self.of_path.setdefault(path, []).append(change)

    def _sync(self, begun: int, record: Record, names: Names) -> None:
        if record.first:
            wanted = [c for c in self.changes if record.first in c.folders()]
        else:
            file = self.by_inode.get(record.inode)
            if file is None:
                return
            file.keep_before(begun)
            wanted = []
            if names is Names.WITH_FILE:
                wanted = [c for c in self.changes if c.file is file]
        self._keep([c for c in wanted if c.position < begun])

    def _keep(self, wanted: Iterable[_NameChange]) -> None:
        """Make changes of names safe, with those earlier ones that they rest upon."""
        todo, kept = list(wanted), []
        while todo:
            change = todo.pop()
            if change.is_safe:
                continue
            change.is_safe = True
            kept.append(change)
            for path in filter(None, (change.first, change.second)):
                todo += [c for c in self.of_path[path] if c.position < change.position]
        for change in sorted(kept, key=lambda c: c.position):
            _change_names(self.safe, change)
        if kept:
            self.changes = [c for c in self.changes if not c.is_safe]
            for path in {p for c in kept for p in (c.first, c.second) if p}:
                self.of_path[path] = [c for c in self.of_path[path] if not c.is_safe]

    def cut(self, names: Names, rng: random.Random) -> dict[str, _File | None]:
        """Return the names that are left when the power goes."""
        left = dict(self.safe)
        many = rng.randint(0, len(self.changes)) if names is Names.PREFIX else len(self.changes)
        for change in self.changes[:many]:
            if names in (Names.PREFIX, Names.ALL) or (names is Names.SOME and rng.random() < 0.5):
                _change_names(left, change)
        return left


def _change_names(names: dict[str, _File | None], change: _NameChange) -> None:
    """Apply a change where it still fits: what it rests upon may have been lost."""
    if change.kind in "CLM":
        names[change.first] = change.file
    elif change.first in names and names[change.first] is change.file:
        if change.kind == "R" and change.file is None:
            below = [p for p in names if p.startswith(change.first + "/")]
            for path in below:
                names[change.second + path.removeprefix(change.first)] = names.pop(path)
        if change.kind == "R":
            names[change.second] = names[change.first]
        del names[change.first]


def snapshot(root: Path) -> dict[str, tuple[int, bytes | None]]:
    """Return what lies below a folder, all of it safe: inode and content, None for a folder."""
    found: dict[str, tuple[int, bytes | None]] = {}
    for path in sorted(root.resolve().rglob("*")):
        content = None if path.is_dir() else path.read_bytes()
        found[str(path)] = path.stat().st_ino, content
    return found


def surviving(
    root: Path,
    before: dict[str, tuple[int, bytes | None]],
    records: list[Record],
    rule: Rule,
    rng: random.Random,
) -> dict[str, bytes | None]:
    """Return what a disk holds after the power was cut behind the last of `records`.

    Args:
        root: The folder that was watched.
        before: Its `snapshot` before the program began.
        records: The log up to the cut.
        rule: What survives beside what was synced.
        rng: Decides where the rule leaves it to chance.

    Returns:
        Content by path relative to `root`; None for a folder.

    Raises:
        UnfollowedCallError: The log holds a call that cannot be simulated.
    """
    disk = _Disk()
    for path, (inode, content) in before.items():
        file = None if content is None else _File(content)
        disk.safe[path] = disk.now[path] = file
        if file is not None:
            disk.by_inode[inode] = file
    for position, record in enumerate(records):
        disk.play(position, record, rule.names)
    left = disk.cut(rule.names, rng)
    top = str(root.resolve())
    found: dict[str, bytes | None] = {}
    for path in sorted(left):  # a folder before what is in it
        parent = str(PurePosixPath(path).parent)
        file = left[path]
        if path != top and (parent == top or parent.removeprefix(top + "/") in found):
            content = None if file is None else file.survivor(rule.data, rng)
            found[path.removeprefix(top + "/")] = content
    return found


def lay_out(found: dict[str, bytes | None], folder: Path) -> None:
    """Write what survived into a new folder."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for name, content in found.items():
        if content is None:
            (folder / name).mkdir()
        else:
            (folder / name).write_bytes(content)


def differences(found: dict[str, bytes | None], folder: Path) -> list[str]:
    """Return the paths in which what was replayed differs from what really lies in a folder.

    With `AS_KILLED` this proves that the recorder saw every change. The shared memory of SQLite is
    left out: nothing in it must last.
    """
    real = {
        os.path.relpath(path, folder.resolve()): content
        for path, (_, content) in snapshot(folder).items()
    }
    names = sorted(n for n in {*real, *found} if not n.endswith("-shm"))
    return [n for n in names if real.get(n, b"absent") != found.get(n, b"absent")]
