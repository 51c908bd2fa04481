"""Two versions of the program side by side, under steady traffic, for `rolling_upgrade`."""

import json
import shutil
import signal
import subprocess
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from node.errors import DeliveryError
from tests.machines import CheapCases, HilumProcess, Machines, Program, installed_as
from tests.nodes import ROOT, wait_for

LONG_S = 1800.0

OPEN_CASES = 3
"""How many cases are under way at most: traffic is steady, however fast the machine is."""


@dataclass(frozen=True)
class Versions:
    """The two programs."""

    old: Program
    new: Program


def exported(commit: str, folder: Path) -> Versions:
    """Return the program as of a commit, and a copy of the present one."""
    old, new = folder / "old", folder / "new"
    old.mkdir(parents=True)
    archive = subprocess.run(["git", "archive", commit], cwd=ROOT, check=True, capture_output=True)
    subprocess.run(["tar", "x", "-C", str(old)], input=archive.stdout, check=True)
    ignored = shutil.ignore_patterns("__pycache__")
    for package in ("node", "handlers"):
        shutil.copytree(ROOT / package, new / package, ignore=ignored)
    return Versions(
        Program(old, installed_as(folder / "installed-old", "0.1.0")),
        Program(new, installed_as(folder / "installed-new", "0.2.0")),
    )


@dataclass
class Traffic:
    """Cases that come in, a few at a time, through whichever serve takes them.

    Attributes:
        answered: SOP Instance UIDs that were answered with success.
        sent: How many cases are through.
    """

    machines: Machines
    folder: Path
    cheap: CheapCases = field(default_factory=CheapCases)
    answered: set[str] = field(default_factory=set)
    sent: int = 0
    trouble: str = ""
    _ended: threading.Event = field(default_factory=threading.Event)

    @contextmanager
    def flowing(self) -> Iterator["Traffic"]:
        """Let cases come in, in the background, until the end."""
        thread = threading.Thread(target=self._flow)
        thread.start()
        try:
            yield self
        finally:
            self._ended.set()
            thread.join(LONG_S)
        assert not self.trouble, self.trouble

    def _flow(self) -> None:
        try:
            while not self._ended.wait(0.5):
                if self.sent - self.delivered() >= OPEN_CASES:
                    continue
                case = self.cheap.write(self.folder / str(self.sent), self.sent)
                wait_for(partial(self._send, case), timeout_s=LONG_S, what="a serve")
                self.sent += 1
        except Exception as error:  # noqa: BLE001 - told by the thread that waits for it
            self.trouble = str(error)

    def _send(self, case: Sequence[Path]) -> bool:
        """Send a case, half of it through each of two serves; all through one, if need be."""
        serves = [p for p in self.machines.processes if p.role == "serve" and p.is_running()]
        halves = (serves, case[::2]), (serves[::-1], case[1::2])
        return all(self._send_part(first, part) for first, part in halves)

    def _send_part(self, serves: Sequence[HilumProcess], part: Sequence[Path]) -> bool:
        for serve in serves:
            try:
                found = serve.send(part)
            except DeliveryError:
                continue
            self.answered.update(found)
            if len(found) == len(part):
                return True
        return False

    def delivered(self) -> int:
        """Return how many cases are delivered."""
        return self.machines.states()["delivered"]

    def wait_for_more(self, cases: int) -> None:
        """Wait until so many more cases are delivered than now."""
        goal = self.delivered() + cases
        wait_for(
            lambda: self.trouble or self.delivered() >= goal,
            timeout_s=LONG_S,
            what=f"{goal} delivered cases",
        )
        assert not self.trouble, self.trouble


def replaced(
    machines: Machines, process: HilumProcess, program: Program, number: signal.Signals
) -> HilumProcess:
    """End a process and start another version of it in its place; return that."""
    process.end(number)
    fresh = HilumProcess(process.role, process.config, process.port, (), program)
    machines.processes[machines.processes.index(process)] = fresh.launch()
    return fresh.wait_until_ready()


def is_computing(process: HilumProcess) -> bool:
    """Tell whether a process is computing a case."""
    begun: list[str] = []
    for line in lines_of(process):
        if line["event"] == "case.step":
            begun.append(line["case_id"])
        elif line["event"] in ("case.finished", "case.overtaken"):
            begun = [case for case in begun if case != line["case_id"]]
    return bool(begun)


def lines_of(process: HilumProcess) -> list[dict[str, Any]]:
    """Return what a process has logged since it was started last."""
    return [json.loads(line) for line in process.logged().splitlines() if is_entry(line)]


def wait_until_computing(process: HilumProcess) -> None:
    """Wait until a process computes."""
    wait_for(lambda: is_computing(process), timeout_s=LONG_S, what="a case to be computed")


def refusal(process: HilumProcess) -> str:
    """Start a process that refuses to work; return what it says."""
    process.launch()
    wait_for(lambda: not process.is_running(), timeout_s=LONG_S, what="it to refuse")
    assert process.end() == 1, process.logged()
    return " ".join(process.logged().split())


def is_entry(line: str) -> bool:
    """Tell whether a line of a log is a whole entry."""
    return line.startswith("{") and line.endswith("}")


def with_more_tables(program: Program, folder: Path, installed: Path) -> Program:
    """Return a program as its next version will be: each case has a column more."""
    shutil.copytree(program.root, folder)
    tables, steps = folder / "node/index/tables.py", folder / "node/index/migrations/__init__.py"
    now = next(n for n in range(2, 99) if f"SCHEMA_VERSION = {n}" in tables.read_text())
    for file, old, new in (
        (tables, f"SCHEMA_VERSION = {now}", f"SCHEMA_VERSION = {now + 1}"),
        (steps, "to_3.upgrade}", f"to_3.upgrade, {now}: _add_one}}"),
    ):
        text = file.read_text(encoding="utf-8")
        assert text.count(old) == 1, f"{file.name} has no {old}"
        file.write_text(text.replace(old, new), encoding="utf-8")
    column = 'sa.Column("more", sa.Integer, server_default="0", nullable=False)'
    text = steps.read_text(encoding="utf-8")
    added = f'def _add_one(op: "Operations") -> None:\n    op.add_column("cases", {column})\n\n\n'
    steps.write_text(text.replace("STEPS:", f"{added}STEPS:", 1), encoding="utf-8")
    return Program(folder, installed)
