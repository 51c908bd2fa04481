"""Has pictures made again that are not there: in a child process, one case at a time, bounded.

Of revisions that were computed by an earlier version, or whose pictures were removed to make room.
"""

import json
import logging
import os
import subprocess
import sys
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import node
from node.config import Config
from node.supervise import ONE_BLAS_THREAD
from node.web.review.shown import ShownRevision

LOGGER = logging.getLogger(__name__)

LONGEST_S = 300.0
"""How long making the pictures of one case may take."""

MOST_WAITING = 20
"""Cases whose pictures may be wanted at a time."""

MOST_REMEMBERED = 200
"""Failures that are remembered."""


@dataclass(frozen=True, slots=True)
class Remade:
    """How far making pictures again is.

    Attributes:
        state: `absent`: nobody asked; `waiting` and `working`; `failed`.
        reason: Why it failed.
    """

    state: Literal["absent", "waiting", "working", "failed"]
    reason: str = ""


ABSENT = Remade("absent")


class Remaking:
    """Makes pictures again, in the background of this process.

    Args:
        config: Limits of the node.
    """

    def __init__(self, config: Config) -> None:
        self._root = str(config.node.data.resolve())
        self._memory_mib = config.node.compute_memory_mib
        self._lock = threading.Lock()
        self._wanted: dict[Path, Remade] = {}
        self._failed: dict[Path, Remade] = {}
        self._thread: threading.Thread | None = None

    def state(self, shown: ShownRevision) -> Remade:
        """Return how far the pictures of a revision are that are not there."""
        with self._lock:
            return self._wanted.get(shown.folder) or self._failed.get(shown.folder) or ABSENT

    def want(self, shown: ShownRevision) -> Remade:
        """Have the pictures of a revision made; to ask twice is harmless."""
        with self._lock:
            if shown.folder in self._wanted:
                return self._wanted[shown.folder]
            if len(self._wanted) >= MOST_WAITING:
                return Remade("failed", "too many pictures are being made; ask again later")
            self._failed.pop(shown.folder, None)
            self._wanted[shown.folder] = Remade("waiting")
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="pictures", daemon=True)
                self._thread.start()
            return self._wanted[shown.folder]

    def _work(self) -> None:
        while True:
            with self._lock:
                folder = next(iter(self._wanted), None)
                if folder is None:
                    self._thread = None
                    return
                self._wanted[folder] = Remade("working")
            reason = self._made(folder)
            with self._lock:
                del self._wanted[folder]
                if reason:
                    self._failed[folder] = Remade("failed", reason)
                    while len(self._failed) > MOST_REMEMBERED:
                        del self._failed[next(iter(self._failed))]

    def _made(self, folder: Path) -> str:
        """Make the pictures of a folder; return why that failed, or nothing."""
        case_id, revision = folder.parent.name, int(folder.name)
        try:
            reason = self._run(folder)
        except (OSError, subprocess.SubprocessError) as error:
            reason = f"making the pictures could not be started ({type(error).__name__})"
        LOGGER.info(
            "review.pictures_made" if not reason else "review.pictures_failed",
            extra={"case_id": case_id, "revision": revision, "reason": reason},
        )
        return reason

    def _run(self, folder: Path) -> str:
        home = str(Path(node.__file__).resolve().parent.parent)
        path = os.pathsep.join(filter(None, (home, os.environ.get("PYTHONPATH", ""))))
        command = [sys.executable, "-m", "node.view_job", str(folder.resolve()), self._root]
        try:
            done = subprocess.run(  # noqa: S603 - our own interpreter and module
                [*command, str(self._memory_mib), str(os.getpid())],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env={**ONE_BLAS_THREAD, **os.environ, "PYTHONPATH": path},
                timeout=LONGEST_S,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return f"making the pictures took longer than {LONGEST_S:.0f} s and was stopped"
        if done.returncode == 0:
            return ""
        try:
            last = done.stdout.decode().strip().rsplit("\n", 1)[-1]
            return str(json.loads(last)["reason"])
        except (ValueError, KeyError, TypeError):
            return f"making the pictures ended with code {done.returncode}"
