"""Starts the computing child, bounds its time, hears its progress, and reads how it ended.

Knows nothing of cases or databases: a job goes in, an outcome comes out. Never imports the core.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import node
from node.compute_job import OUTCOME_FILE, Job, Outcome
from node.errors import ComputeError

_TAIL_BYTES = 4000

ONE_BLAS_THREAD = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
"""The matrices are small: more threads wait for each other in loops that burn the machine's time
(3.5 s of CPU for a deformation became 12). What the operator sets stands."""


class ChildProcesses:
    """Runs jobs, one child process each, and can kill all that run."""

    def __init__(self) -> None:
        self._running: set[subprocess.Popen[bytes]] = set()
        self._lock = threading.Lock()
        self._stopped = False

    def run(
        self,
        job: Job,
        folder: Path,
        *,
        timeout_s: float,
        on_step: Callable[[str], None] = lambda _step: None,
    ) -> Outcome:
        """Compute `job` in the new folder `folder` and return how it ended.

        The result files are in `folder`/out when the outcome is `done`.

        Raises:
            ComputeError: The child left no outcome: it was killed, crashed or ran out of time.
        """
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        job_file = folder / "job.json"
        job_file.write_text(job.model_dump_json(), encoding="utf-8")
        with (folder / "stderr.txt").open("wb") as errors:
            process = self._start(job_file, errors.fileno())
            timed_out = threading.Event()
            timer = threading.Timer(timeout_s, _kill, (process, timed_out))
            timer.start()
            try:
                _follow(process, on_step)
                code = process.wait()
            finally:
                timer.cancel()
                _kill(process)
                process.wait()
                with self._lock:
                    self._running.discard(process)
        outcome_file = folder / OUTCOME_FILE
        if outcome_file.exists():
            return Outcome.model_validate_json(outcome_file.read_text(encoding="utf-8"))
        raise self._failure(code, timed_out.is_set(), timeout_s, folder)

    @property
    def is_stopped(self) -> bool:
        """Whether `stop` was called."""
        return self._stopped

    def stop(self) -> None:
        """Kill every running child and refuse new ones."""
        with self._lock:
            self._stopped = True
            running = list(self._running)
        for process in running:
            _kill(process)

    def _start(self, job_file: Path, stderr: int) -> "subprocess.Popen[bytes]":
        home = str(Path(node.__file__).resolve().parent.parent)
        path = os.pathsep.join(filter(None, (home, os.environ.get("PYTHONPATH", ""))))
        with self._lock:
            if self._stopped:
                raise ComputeError(
                    "the node is stopping", hint="the work goes on at the next start"
                )
            process = subprocess.Popen(  # noqa: S603 - our own interpreter and module
                [sys.executable, "-m", "node.compute", str(job_file), str(os.getpid())],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=stderr,
                env={**ONE_BLAS_THREAD, **os.environ, "PYTHONPATH": path},
                start_new_session=True,
            )
            self._running.add(process)
        return process

    def _failure(self, code: int, timed_out: bool, timeout_s: float, folder: Path) -> ComputeError:
        if self._stopped:
            return ComputeError("the node is stopping", hint="the work goes on at the next start")
        if timed_out:
            return ComputeError(
                f"computing took longer than {timeout_s:.0f} s and was stopped",
                hint="raise node.compute_timeout_s, or look at the machine's load",
            )
        if code < 0:
            name = signal.Signals(-code).name
            return ComputeError(
                f"the computing process was ended by {name}",
                hint="SIGKILL often means that the machine ran out of memory",
            )
        last_words = (folder / "stderr.txt").read_bytes()[-_TAIL_BYTES:].decode("utf-8", "replace")
        last_line = last_words.strip().rsplit("\n", 1)[-1].split(":", 1)[0]
        return ComputeError(
            f"the computing process ended with code {code} ({last_line})",
            hint="if the words in brackets speak of memory, raise node.compute_memory_mib",
        )


def _follow(process: "subprocess.Popen[bytes]", on_step: Callable[[str], None]) -> None:
    assert process.stdout is not None  # noqa: S101 - opened as a pipe above
    with process.stdout as lines:
        for line in lines:
            try:
                step = json.loads(line)["step"]
            except (ValueError, KeyError, TypeError):
                continue  # a library printed something; only our own lines count
            on_step(str(step))


def _kill(process: "subprocess.Popen[bytes]", flag: threading.Event | None = None) -> None:
    if process.poll() is None:
        if flag is not None:
            flag.set()
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            return
