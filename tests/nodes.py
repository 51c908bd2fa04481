"""A node as a process of its own, as a department runs it; killed and started at will."""

import io
import os
import secrets
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager, redirect_stderr, redirect_stdout, suppress
from pathlib import Path
from typing import Any

import pydicom
from pydicom import Dataset

from node.__main__ import main as hilum_main
from node.config import Peer, Role
from node.delivery import InstanceOutcome, send_instances
from node.index import Index
from node.index.cases import CaseBook, CaseRecord
from node.phantom import PhantomStudy

ROOT = Path(__file__).resolve().parent.parent

CONFIGURATION = """\
[node]
port = {port}
data = "data"
quiet_s = {quiet_s}
incomplete_s = {incomplete_s}
min_free_mib = {min_free_mib}
network_timeout_s = 20
delivery_retry_s = 0.5
delivery_retry_cap_s = 1.0
echo_every_min = 0
{node_keys}

[web]
{web_keys}

[[peer]]
name = "scanner"
ae_title = "SCANNER"
host = "127.0.0.1"
roles = ["send"]
{peers}
[[protocol]]
name = "liver"
targets = ["GTVn*", "GTV*"]
destinations = [{destinations}]
"""
"""Nobody is called by the clock: tests count associations."""

LONG_S = 480.0
"""For what comes within seconds on an idle machine."""


def free_port() -> int:
    """Return a port of the loopback address that nobody uses now.

    None of those that the system gives to whoever asks for any port: another test's receiver would
    get it meanwhile, and take what was meant for a peer that is away.
    """
    while True:
        port = secrets.choice(range(10_000, 32_000))
        try:
            socket.create_server(("127.0.0.1", port)).close()
        except OSError:
            continue
        return port


def wait_for(condition: Callable[[], Any], *, timeout_s: float, what: str) -> Any:
    """Return the first true answer of `condition`, asked ten times a second until a deadline."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        answer = condition()
        if answer:
            return answer
        time.sleep(0.1)
    raise AssertionError(f"after {timeout_s:.0f} s still waiting for {what}")


class NodeProcess:
    """`hilum serve` in its own process and folder.

    Args:
        folder: Gets the configuration, the data and the log.
        receivers: Port by peer name, of the peers that receive results.
    """

    def __init__(
        self,
        folder: Path,
        receivers: dict[str, int],
        *,
        quiet_s: float = 1.0,
        incomplete_s: float = 4.0,
        min_free_mib: float = 10.0,
        node_keys: str = "",
        web_keys: str = "enabled = false",
    ) -> None:
        self.folder = folder
        self.port = free_port()
        self.config = folder / "hilum.toml"
        self.log = folder / "node.log"
        peers = "".join(
            f'\n[[peer]]\nname = "{name}"\nae_title = "{name.upper()}"\nhost = "127.0.0.1"\n'
            f'port = {port}\nroles = ["receive"]\n'
            for name, port in receivers.items()
        )
        text = CONFIGURATION.format(
            port=self.port,
            quiet_s=quiet_s,
            incomplete_s=incomplete_s,
            min_free_mib=min_free_mib,
            node_keys=node_keys,
            web_keys=web_keys,
            peers=peers,
            destinations=", ".join(f'"{name}"' for name in receivers),
        )
        folder.mkdir(parents=True, exist_ok=True)
        self.config.write_text(text, encoding="utf-8")
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> "NodeProcess":
        """Start the node and wait until it listens."""
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "node", "serve", "--config", str(self.config)],
                cwd=ROOT,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, "PYTHONPATH": str(ROOT)},
            )
        try:
            wait_for(self._listens, timeout_s=LONG_S, what="the node to listen")
        except AssertionError:
            self.kill()
            raise
        return self

    def _listens(self) -> bool:
        assert self._process is not None
        if self._process.poll() is not None:
            raise AssertionError(f"the node ended:\n{self.log.read_text()[-3000:]}")
        try:
            socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
        except OSError:
            return False
        return True

    def kill(self) -> None:
        """End the node as a power cut would: SIGKILL."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """End the node as an operator does: SIGTERM."""
        self._end(signal.SIGTERM)

    def _end(self, number: signal.Signals) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(number)
            try:
                self._process.wait(timeout=60)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
                raise AssertionError(f"the node did not stop after {number.name}") from None

    def __enter__(self) -> "NodeProcess":
        return self.start()

    def __exit__(self, *_exception: object) -> None:
        self.kill()

    def computing_child(self) -> int | None:
        """Return the process that computes for this node, if there is one now."""
        assert self._process is not None
        for tasks in Path(f"/proc/{self._process.pid}/task").glob("*/children"):
            with suppress(OSError):  # a thread or a child has ended meanwhile
                for child in tasks.read_text().split():
                    if b"node.compute" in Path(f"/proc/{child}/cmdline").read_bytes():
                        return int(child)
        return None

    def peer(self) -> Peer:
        """Return this node as a peer to send to."""
        return Peer(
            name="node", ae_title="HILUM", host="127.0.0.1", port=self.port, roles=(Role.RECEIVE,)
        )

    def send(self, paths: Iterable[Path]) -> None:
        """Send files over DICOM; every one must be answered with success."""
        answers = send_instances(self.peer(), "SCANNER", list(paths), timeout_s=120)
        wrong = [a for a in answers if a.outcome is not InstanceOutcome.SENT]
        assert not wrong, wrong

    def hilum(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        """Run a command of `hilum` with this node's configuration."""
        return run_hilum(*arguments, "--config", str(self.config))

    def cases(self) -> list[CaseRecord]:
        """Return what the index knows of all cases."""
        with self._book() as book:
            return book.cases()

    def case(self) -> CaseRecord:
        """Return all that the index knows of the only case."""
        with self._book() as book:
            (only,) = book.cases()
            found = book.case(only.case_id)
        assert found is not None
        return found

    @contextmanager
    def _book(self) -> Iterator[CaseBook]:
        index = Index(f"sqlite:///{self.folder / 'data' / 'index.sqlite'}")
        try:
            yield CaseBook(index)
        finally:
            index.close()

    def states(self) -> list[str]:
        """Return the state of each case, in a thirtieth of the time that `cases` takes."""
        path = self.folder / "data" / "index.sqlite"
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=60)) as index:
            return [str(state) for (state,) in index.execute("SELECT state FROM cases")]

    def wait_for_state(self, *states: str, timeout_s: float = LONG_S) -> CaseRecord:
        """Wait until the only case is in one of the states, and return it."""

        def reached() -> CaseRecord | None:
            return self.case() if set(self.states()) & set(states) else None

        found: CaseRecord = wait_for(reached, timeout_s=timeout_s, what=" or ".join(states))
        return found

    def wait_for_revision(self, revision: int, *, timeout_s: float = LONG_S) -> CaseRecord:
        """Wait until this revision of the only case is delivered, and return it."""

        def reached() -> CaseRecord | None:
            if self.states() != ["delivered"]:
                return None
            case = self.case()
            return case if (case.state, case.revision) == ("delivered", revision) else None

        what = f"revision {revision} to be delivered"
        found: CaseRecord = wait_for(reached, timeout_s=timeout_s, what=what)
        return found


def run_hilum(*arguments: str) -> "subprocess.CompletedProcess[str]":
    """Run `hilum` in a process of its own, as a user does."""
    return subprocess.run(
        [sys.executable, "-m", "node", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=LONG_S,
        check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )


def hilum_here(*arguments: str) -> "subprocess.CompletedProcess[str]":
    """Run `hilum` in this process: where words and exit code are the point, not the process.

    A process of its own spends a second or two on imports before it says a word.
    """
    out, err = io.StringIO(), io.StringIO()
    kept = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    given, sys.argv = sys.argv, ["hilum", *arguments]
    try:
        with redirect_stdout(out), redirect_stderr(err):
            hilum_main()
        code = 0
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    finally:
        sys.argv = given
        for number, handler in kept.items():
            signal.signal(number, handler)
    return subprocess.CompletedProcess(arguments, code, out.getvalue(), err.getvalue())


def without_contrast(study: PhantomStudy) -> PhantomStudy:
    """Return the study with MR that show nothing: its case is computed in a third of the time.

    For tests of what happens around the computing: such MR are left out, so the case abstains and
    is delivered without registration and resampled MR.
    """
    for series in study.mr.values():
        for ds in series:
            ds.PixelData = bytes(len(ds.PixelData))
    return study


RESULTS_WITHOUT_MR = 6
"""What is delivered then: SEG, RTSTRUCT, SR, PDF, overview, contours."""


def write_datasets(datasets: Iterable[Dataset], folder: Path) -> list[Path]:
    """Write datasets as DICOM files and return their paths, in order."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for number, dataset in enumerate(datasets):
        path = folder / f"{number:05}.dcm"
        pydicom.dcmwrite(path, dataset, enforce_file_format=True)
        paths.append(path)
    return paths
