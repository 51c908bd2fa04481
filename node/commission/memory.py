"""Peak memory of the computing child, from the kernel's own high-water mark.

Not from `getrusage`: there the mark of a child begins with that of the parent it was forked from,
and a parent that holds a phantom is the larger of the two.

Read first: proc_pid_status(5), VmHWM.
"""

import os
import threading
from pathlib import Path
from types import TracebackType
from typing import Self

SAMPLE_S = 0.1
"""The mark only grows, so that no more than this before the child's end can be missed."""

KIB = 1024.0


class PeakMemory:
    """Watches the children of this process while a block runs.

    Attributes:
        mib: Largest mark that was seen, in MiB; 0 where the system does not tell.
    """

    def __init__(self) -> None:
        self.mib = 0.0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._over.wait(SAMPLE_S):
            self.mib = max(self.mib, *(_mark_mib(pid) for pid in children(os.getpid())), 0.0)


def children(parent: int) -> list[int]:
    """Return the children of a process that have begun to run a program of their own."""
    found = []
    for path in Path("/proc").glob(f"{parent}/task/*/children"):
        try:
            found += [int(pid) for pid in path.read_text().split()]
        except OSError:
            continue  # a thread that has ended since
    return found


def _mark_mib(pid: int) -> float:
    own = Path("/proc/self")
    child = Path(f"/proc/{pid}")
    try:
        if (child / "cmdline").read_bytes() == (own / "cmdline").read_bytes():
            return 0.0  # forked, but not yet another program: its memory is still ours
        lines = (child / "status").read_text().splitlines()
    except OSError:
        return 0.0
    marks = [float(line.split()[1]) for line in lines if line.startswith("VmHWM:")]
    return marks[0] / KIB if marks else 0.0
