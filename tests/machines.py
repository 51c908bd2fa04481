"""Several processes of one node on one PostgreSQL and one folder, and cases that cost little."""

import copy
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pydicom
import sqlalchemy as sa
from pydicom import Dataset
from pydicom.uid import generate_uid

from node.config import Peer, Role
from node.delivery import InstanceOutcome, send_instances
from node.index import Index
from node.index.cases import CaseBook, CaseRecord
from node.index.heartbeats import Heartbeats
from node.phantom import PhantomOptions, make_study
from tests.nodes import ROOT, free_port, wait_for, write_datasets

CONFIGURATION = """\
[node]
name = "{name}"
port = {port}
data = "{data}"
{database}
quiet_s = {quiet_s}
incomplete_s = 60
min_free_mib = 10
network_timeout_s = 20
delivery_retry_s = 0.5
delivery_retry_cap_s = 1.0
heartbeat_limit_s = {heartbeat_limit_s}
compute = {compute}
{node_keys}

[web]
enabled = false

[[peer]]
name = "scanner"
ae_title = "SCANNER"
host = "127.0.0.1"
roles = ["send"]

[[peer]]
name = "tps"
ae_title = "TPS"
host = "127.0.0.1"
port = {receiver_port}
roles = ["receive"]

[[protocol]]
name = "liver"
targets = ["GTVn*", "GTV*"]
destinations = ["tps"]
"""

STANDARD = "1.2.840.10008."
"""What the UIDs of SOP classes and transfer syntaxes begin with."""


@dataclass(frozen=True)
class Program:
    """A version of Hilum that a process runs.

    Attributes:
        root: The folder that holds `node` and `handlers`.
        installed: A folder that says which version is installed (`installed_as`), or None.
    """

    root: Path
    installed: Path | None = None

    @property
    def environment(self) -> dict[str, str]:
        """What makes Python run this one."""
        path = [str(folder) for folder in (self.root, self.installed) if folder is not None]
        return {**os.environ, "PYTHONPATH": os.pathsep.join(path)}


OURS = Program(ROOT)
"""That of the work tree."""


def installed_as(folder: Path, version: str) -> Path:
    """Make a folder that tells Python that this version of Hilum is installed; return it."""
    known = folder / f"hilum-{version}.dist-info"
    known.mkdir(parents=True)
    text = f"Metadata-Version: 2.1\nName: hilum\nVersion: {version}\n"
    (known / "METADATA").write_text(text, encoding="utf-8")
    return folder


class HilumProcess:
    """`hilum serve` or `hilum worker` in a process of its own.

    Args:
        role: The command.
        config: Its configuration file.
        port: Where it listens; 0: nowhere.
        prefix: What starts it, as `taskset`.
        program: What it runs.
    """

    def __init__(
        self,
        role: str,
        config: Path,
        port: int = 0,
        prefix: Sequence[str] = (),
        program: Program = OURS,
    ) -> None:
        self.role = role
        self.config = config
        self.port = port
        self.program = program
        self.log = config.with_suffix(f".{role}.log")
        self._command = [*prefix, sys.executable, "-m", "node", role, "--config", str(config)]
        self._process: subprocess.Popen[bytes] | None = None
        self._logged_before = 0

    @property
    def pid(self) -> int:
        """Process id."""
        assert self._process is not None
        return self._process.pid

    def launch(self) -> "HilumProcess":
        """Start it and wait for nothing."""
        with self.log.open("ab") as log:
            self._logged_before = log.tell()
            self._process = subprocess.Popen(
                self._command,
                cwd=self.program.root,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=self.program.environment,
            )
        return self

    def wait_until_ready(self) -> "HilumProcess":
        """Wait until it says that it works."""

        def is_ready() -> bool:
            assert self._process is not None
            text = self.logged()
            assert self._process.poll() is None, text[-3000:]
            return "; Ctrl-C stops it" in text

        wait_for(is_ready, timeout_s=480, what=f"{self.log.name} to be ready")
        return self

    def logged(self) -> str:
        """Return what stands in the log since it was launched."""
        return self.log.read_bytes()[self._logged_before :].decode("utf-8")

    def send_signal(self, number: signal.Signals) -> None:
        """Send a signal, to this process alone."""
        os.kill(self.pid, number)

    def end(self, number: signal.Signals = signal.SIGTERM) -> int | None:
        """End it and wait for that; return its exit code."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGCONT)
            self._process.send_signal(number)
            try:
                self._process.wait(timeout=60)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
                raise AssertionError(f"{self.log.name} did not end after {number.name}") from None
        return None if self._process is None else self._process.returncode

    def is_running(self) -> bool:
        """Tell whether it has not ended."""
        return self._process is not None and self._process.poll() is None

    def peer(self) -> Peer:
        """Return it as a peer to send to."""
        return Peer(
            name="node", ae_title="HILUM", host="127.0.0.1", port=self.port, roles=(Role.RECEIVE,)
        )

    def send(self, paths: Sequence[Path]) -> list[str]:
        """Send files; return the SOP Instance UIDs that were answered with success."""
        answers = send_instances(self.peer(), "SCANNER", list(paths), timeout_s=120)
        return [a.sop_instance_uid for a in answers if a.outcome is InstanceOutcome.SENT]


@dataclass
class Machines:
    """Processes that share a database and a folder; ended with `end`."""

    folder: Path
    database: str
    receiver_port: int
    quiet_s: float = 1.0
    heartbeat_limit_s: float = 6.0
    compute: bool = True
    node_keys: str = ""
    program: Program = OURS
    processes: list[HilumProcess] = field(default_factory=list)

    @property
    def data(self) -> Path:
        """The folder that all share."""
        return self.folder / "data"

    def configured(self, name: str, port: int) -> Path:
        """Write the configuration of a process; return the file."""
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / f"{name}.toml"
        text = CONFIGURATION.format(
            name=name,
            port=port,
            data=self.data,
            database=f'database = "{self.database}"' if self.database else "",
            quiet_s=self.quiet_s,
            heartbeat_limit_s=self.heartbeat_limit_s,
            compute=str(self.compute).lower(),
            receiver_port=self.receiver_port,
            node_keys=self.node_keys,
        )
        path.write_text(text, encoding="utf-8")
        return path

    def serve(self, name: str, prefix: Sequence[str] = ()) -> HilumProcess:
        """Launch `hilum serve`."""
        port = free_port()
        config = self.configured(name, port)
        return self._launched(HilumProcess("serve", config, port, prefix, self.program))

    def worker(self, name: str, prefix: Sequence[str] = ()) -> HilumProcess:
        """Launch `hilum worker`."""
        config = self.configured(name, 0)
        return self._launched(HilumProcess("worker", config, 0, prefix, self.program))

    def _launched(self, process: HilumProcess) -> HilumProcess:
        self.processes.append(process)
        return process.launch()

    def end(self) -> None:
        """End every process that runs."""
        for process in self.processes:
            process.end(signal.SIGKILL)

    @contextmanager
    def index(self) -> Iterator[Index]:
        """Give the index that all share."""
        found = Index(self.database or f"sqlite:///{self.data / 'index.sqlite'}")
        try:
            yield found
        finally:
            found.close()

    def cases(self) -> list[CaseRecord]:
        """Return all that the index knows of each case."""
        with self.index() as index:
            book = CaseBook(index)
            found = [book.case(record.case_id) for record in book.cases()]
        return [one for one in found if one is not None]

    def states(self) -> Counter[str]:
        """Return how many cases are in which state."""
        return Counter(str(state) for (state,) in self.rows("SELECT state FROM cases"))

    def rows(self, statement: str) -> list[Any]:
        """Return what a query of the index gives."""
        with self.index() as index, index.read() as connection:
            return list(connection.execute(sa.text(statement)).all())

    def lives(self) -> list[str]:
        """Return the names of the processes that have ever given a sign and not left."""
        with self.index() as index:
            return [sign.identity.name for sign in Heartbeats(index).signs()]

    def wait_until_delivered(self, cases: int, timeout_s: float = 240) -> None:
        """Wait until so many cases are delivered, and no other is there."""
        wait_for(
            lambda: self.states() == {"delivered": cases},
            timeout_s=timeout_s,
            what=f"{cases} delivered cases",
        )


class CheapCases:
    """Cases of a tiny phantom that differ in patient and UIDs; their MR shows nothing.

    Nothing is registered then: the case abstains, says so and is delivered, in a few seconds.
    """

    def __init__(self) -> None:
        options = PhantomOptions(seed=7, size="tiny", contrasts=("T1",), with_dose=False)
        self._objects = list(make_study(options).instances())
        self.objects = len(self._objects)
        for ds in self._objects:
            if ds.Modality == "MR":
                ds.PixelData = bytes(len(ds.PixelData))
            if ds.Modality == "RTSTRUCT":
                _keep_targets(ds)

    def write(self, folder: Path, number: int) -> list[Path]:
        """Write the objects of a case; return their files."""
        return write_datasets(self._made(number), folder)

    def _made(self, number: int) -> Iterator[Dataset]:
        for one in self._objects:
            ds = copy.deepcopy(one)
            ds.walk(lambda _ds, element: _renumber(element, number))
            ds.PatientID = f"SYNTHETIC-{number}"
            ds.PatientName = f"Synthetic^{number}"
            yield ds


def _keep_targets(ds: Dataset) -> None:
    """Leave all ROIs out but targets: there is less to measure."""
    kept = {roi.ROINumber for roi in ds.StructureSetROISequence if roi.ROIName.startswith("GTV")}
    for keyword, number in (
        ("StructureSetROISequence", "ROINumber"),
        ("ROIContourSequence", "ReferencedROINumber"),
        ("RTROIObservationsSequence", "ReferencedROINumber"),
    ):
        setattr(ds, keyword, [item for item in ds[keyword].value if item[number].value in kept])


def _renumber(element: pydicom.DataElement, number: int) -> None:
    if element.VR != "UI" or not element.value:
        return
    values = [element.value] if isinstance(element.value, str) else list(element.value)
    fresh = [
        one if str(one).startswith(STANDARD) else generate_uid(entropy_srcs=[one, str(number)])
        for one in values
    ]
    element.value = fresh[0] if len(fresh) == 1 else fresh
