"""Gives this process a name that no other living process has, and that is its own after a restart.

The name is held by a lock on a file in the data folder: it is free again however a process ends.
"""

import fcntl
import os
import re
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from node.config import NodeSection
from node.errors import NodeError

SINGLE_NODE = "node"
"""The name where there is only one process."""

LOCK_FILE = "node.lock"
LOCK_FOLDER = "processes"
"""Where the locks lie: of the only process, and of each of several."""

LONGEST_HOST = 40
MOST_WORKERS = 99
"""Workers on one host."""

_STOP_IT_FIRST = "stop it first: two that do not share one database cannot share a data folder"


@dataclass(frozen=True, slots=True)
class HeldName:
    """A name, for as long as the process lives or until `release`."""

    name: str
    path: Path
    _lock: IO[str]

    def release(self) -> None:
        """Let another process have the name."""
        self._lock.close()


def serve_name(node: NodeSection) -> HeldName:
    """Take the name of `hilum serve`.

    Raises:
        NodeError: Another one has it, or the folder cannot be used.
    """
    with _Folder(node.data):
        if not node.is_shared:
            node.data.mkdir(parents=True, exist_ok=True)
            held = _locked(SINGLE_NODE, node.data / LOCK_FILE)
            hint = "stop it, or give this node another `node.data` folder"
            if held is None:
                raise NodeError(f"another node already works in {node.data}", hint=hint)
            _refuse_sharing(node, held)
            return held
        name = f"{host_part(node)}.serve"
        held = _locked(name, _lock_file(node, name))
    if held is None:
        hint = "stop it, or give this one a `node.name` of its own"
        raise NodeError(f"another process named {name} works in {node.data}", hint=hint)
    _refuse_lone(node, held)
    return held


def worker_name(node: NodeSection) -> HeldName:
    """Take the first name that is free for a worker on this host.

    Raises:
        NodeError: None is free, or the folder cannot be used.
    """
    with _Folder(node.data):
        for number in range(1, MOST_WORKERS + 1):
            name = f"{host_part(node)}.worker-{number}"
            held = _locked(name, _lock_file(node, name))
            if held is not None:
                _refuse_lone(node, held)
                return held
    raise NodeError(f"{MOST_WORKERS} workers run on this host", hint="stop some of them")


def lock_of(data: Path, name: str) -> Path:
    """Return the lock file of a name."""
    return data / LOCK_FILE if name == SINGLE_NODE else data / LOCK_FOLDER / f"{name}.lock"


def is_held(lock: Path) -> bool:
    """Tell whether a living process has the name of that lock file."""
    try:
        with lock.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    return False


def _refuse_lone(node: NodeSection, held: HeldName) -> None:
    """Do nothing unless a node works in the folder for which there is no other process.

    It has an index of its own, or is of a version that knew nothing of others: both would take the
    objects and the work of the rest for what they were themselves.
    """
    if is_held(node.data / LOCK_FILE):
        held.release()
        raise NodeError(
            f"a node that shares its work with nobody works in {node.data}", hint=_STOP_IT_FIRST
        )


def _refuse_sharing(node: NodeSection, held: HeldName) -> None:
    """Do nothing unless processes work in the folder that share a PostgreSQL."""
    locks = sorted((node.data / LOCK_FOLDER).glob("*.lock"))
    if working := [lock.stem for lock in locks if is_held(lock)]:
        held.release()
        raise NodeError(
            f"processes that share PostgreSQL work in {node.data}: {', '.join(working)}",
            hint=_STOP_IT_FIRST,
        )


def free_name(node: NodeSection, name: str) -> HeldName | None:
    """Take the name of a process that is to be forgotten; None: a living one has it.

    Raises:
        OSError: The folder cannot be used.
    """
    return _locked(name, _lock_file(node, name))


def host_part(node: NodeSection) -> str:
    """Return what the names of the processes of this host begin with."""
    host = re.sub(r"[^A-Za-z0-9_-]", "-", socket.gethostname())
    return node.name or host[:LONGEST_HOST] or "host"


def _lock_file(node: NodeSection, name: str) -> Path:
    folder = node.data / LOCK_FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    return folder / f"{name}.lock"


def _locked(name: str, path: Path) -> HeldName | None:
    while True:
        file = path.open("a", encoding="utf-8")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            return None
        if _is_still(path, file):
            break
        file.close()  # its name was forgotten this moment, and the file with it
    file.truncate(0)
    file.write(str(os.getpid()))
    file.flush()
    return HeldName(name, path, file)


def _is_still(path: Path, file: IO[str]) -> bool:
    """Tell whether an open file is the one that lies at its path."""
    try:
        return os.path.samestat(path.stat(), os.fstat(file.fileno()))
    except FileNotFoundError:
        return False


class _Folder:
    """Tells what is wrong with the data folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __enter__(self) -> None:
        pass

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        if isinstance(error, OSError):
            raise NodeError(
                f"the data folder {self._folder} cannot be used: {error.strerror}",
                hint="name another with node.data, or give this user the right to write there",
            ) from error
