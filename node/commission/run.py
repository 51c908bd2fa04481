"""The order of a commissioning: every case, one after the other, then the report.

A case that fails is listed as failed and the next begins; a run that is interrupted still leaves a
report of what there is. Nothing waits without a bound: every computation has its time limit.
"""

import hashlib
import json
import platform
import tempfile
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

import handlers
from handlers.refinement import RefinementSettings
from handlers.registration import RegistrationSettings
from node.case_job import software_version
from node.commission import contents, faults, kit, limits, orientation, own, summary
from node.commission.computing import attempt
from node.commission.document import pdf_bytes
from node.commission.limits import Measurement
from node.commission.table import MET, csv_text, printed
from node.config import Config
from node.errors import NodeError
from node.phantom.export import check_folder
from node.phantom.options import Size

CSV_FILE, PDF_FILE = "report.csv", "commissioning.pdf"
REPORT_STEP = "write the report"
ORIENTATION_OFFSET = 250_000
"""The orientation tests' seed lies this far from the first of the kit."""

OnStep = Callable[[str], None]


class OrderError(NodeError):
    """What is asked for cannot be done; nothing was computed."""


@dataclass(frozen=True, slots=True)
class Order:
    """What is asked for.

    Attributes:
        cases: Number of cases of the kit; 0: own pairs only.
        seed: Of the first; every second case is a hard one.
        own: Folders with a department's pairs.
        size: Grids of the kit.
        config: Protocols for the own pairs.
        with_faults: Plant faults.
        orientation_tests: Names from `orientation.TESTS`.
    """

    cases: int
    seed: int
    own: tuple[Path, ...]
    size: Size
    config: Config
    with_faults: bool = True
    orientation_tests: tuple[str, ...] = orientation.TESTS


@dataclass(frozen=True, slots=True)
class Verdict:
    """How a commissioning ended.

    Attributes:
        outcome: Whether every limit was kept; `failed` with any that was not.
        rows: Everything that was measured, the summary first.
        files: What was written.
    """

    outcome: Literal["met", "failed"]
    rows: tuple[Measurement, ...]
    files: tuple[Path, ...]

    @property
    def not_met(self) -> tuple[Measurement, ...]:
        """Rows whose limit was not kept."""
        return tuple(row for row in self.rows if row.is_met is False)


@dataclass(slots=True)
class _Progress:
    """What there is so far."""

    rows: list[Measurement] = field(default_factory=list)
    shown: contents.Shown = field(default_factory=contents.Shown)
    done: set[str] = field(default_factory=set)

    def fail(self, case: str, reason: str) -> None:
        self.rows.append(Measurement(case, summary.STATUS, limits.FAILED, limit=contents.MUST_END))
        self.rows.append(Measurement(case, "reason", reason))


def steps(order: Order) -> tuple[str, ...]:
    """Return the steps in order, for whoever draws a progress bar."""
    own_names = [f"own {n}" for n in range(1, len(order.own) + 1)]
    told = [*own_names]
    for case in _kit_cases(order):
        told += [f"{case.name}: {w}" for w in ("make the patient", "compute", "measure")]
        told += [f"{case.name}: planted faults"]
    if order.cases:
        told += [f"{orientation.PREFIX}{test}" for test in order.orientation_tests]
    return (*told, REPORT_STEP)


def commission(order: Order, out: Path, on_step: OnStep = lambda _step: None) -> Verdict:
    """Compute, measure, and write the report below `out`.

    Args:
        order: What is asked for.
        out: A folder that does not exist or is empty.
        on_step: Is told each step as it begins.

    Raises:
        OrderError: Nothing is asked for, `out` holds something, or an own folder cannot be used.
    """
    with warnings.catch_warnings():
        # a warning of a library may quote the value it dislikes, and that value may be a name
        warnings.simplefilter("ignore")
        return _commission(order, out, on_step)


def _commission(order: Order, out: Path, on_step: OnStep) -> Verdict:
    pairs = _own_pairs(order, out)
    out.mkdir(parents=True, exist_ok=True)
    progress, began = _Progress(), datetime.now(UTC)
    try:
        with tempfile.TemporaryDirectory(prefix="hilum-commission-") as folder:
            _work(order, pairs, Path(folder), progress, on_step)
    except (KeyboardInterrupt, SystemExit):
        for name in _case_names(order):
            if name not in progress.done:
                progress.fail(name, "the run was interrupted")
        _report(order, progress, began, out, is_cut_short=True)
        raise
    on_step(REPORT_STEP)
    return _report(order, progress, began, out, is_cut_short=False)


def _own_pairs(order: Order, out: Path) -> list[own.OwnPair]:
    if order.cases < 1 and not order.own:
        raise OrderError("nothing is asked for", hint="ask for cases of the kit or name --own")
    try:
        check_folder(out)
        return [own.read_own_pair(path, n) for n, path in enumerate(order.own, start=1)]
    except NodeError as error:
        raise OrderError(str(error), hint=error.hint) from error


def lines(verdict: Verdict) -> list[str]:
    """Return the summary as lines for people."""
    told = []
    for row in verdict.rows:
        if row.case == summary.ALL:
            limit = "" if row.limit is None else f", limit {row.limit}"
            told.append(f"{MET[row.is_met]:>3}  {row.what}: {printed(row.value, row.unit)}{limit}")
    if verdict.not_met:
        told.append(f"{len(verdict.not_met)} limits are not met; the report lists them")
    return [*told, *(str(path) for path in verdict.files)]


def _kit_cases(order: Order) -> list[kit.KitCase]:
    return [kit.KitCase(order.seed + n, n % 2 == 1, order.size) for n in range(order.cases)]


def _case_names(order: Order) -> list[str]:
    tests = order.orientation_tests if order.cases else ()
    return [
        *(f"own {n}" for n in range(1, len(order.own) + 1)),
        *(case.name for case in _kit_cases(order)),
        *(f"{orientation.PREFIX}{test}" for test in tests),
    ]


def _work(
    order: Order, pairs: Sequence[own.OwnPair], folder: Path, progress: _Progress, on_step: OnStep
) -> None:
    for pair in pairs:
        on_step(pair.name)
        _own_pair(pair, folder, order.config, progress)
    plan = faults.FaultPlan(order.cases)
    for case in _kit_cases(order):
        _kit_case(case, plan if order.with_faults else None, folder, progress, on_step)
    if order.cases:
        size: Size = "tiny" if order.size == "tiny" else "small"
        tests = orientation.OrientationTests(order.seed + ORIENTATION_OFFSET, size, folder / "o")
        for test in order.orientation_tests:
            name = f"{orientation.PREFIX}{test}"
            on_step(name)
            _one(name, lambda t=test: tests.run(t), progress)  # type: ignore[misc]


def _one(name: str, work: Callable[[], list[Measurement]], progress: _Progress) -> None:
    found = attempt(work, lambda reason: progress.fail(name, reason))
    progress.rows += found or []
    progress.done.add(name)


def _own_pair(pair: own.OwnPair, folder: Path, config: Config, progress: _Progress) -> None:
    with tempfile.TemporaryDirectory(dir=folder) as place:
        measured = attempt(
            lambda: own.measure_pair(pair, Path(place), config),
            lambda reason: progress.fail(pair.name, pair.anonymous(reason)),
        )
    progress.done.add(pair.name)
    if measured is not None:
        progress.rows += measured.rows
        progress.shown.add_pair(pair.name, measured)


def _kit_case(
    case: kit.KitCase,
    plan: faults.FaultPlan | None,
    folder: Path,
    progress: _Progress,
    on_step: OnStep,
) -> None:
    with tempfile.TemporaryDirectory(dir=folder) as place:
        measured = attempt(
            lambda: kit.measure_case(case, Path(place) / "case", on_step),
            lambda reason: progress.fail(case.name, reason),
        )
        progress.done.add(case.name)
        if measured is None:
            return
        progress.rows += measured.rows
        progress.shown.add_case(measured)
        if plan is None or not measured.is_useful or measured.result.only.status != "pass":
            return
        on_step(f"{case.name}: planted faults")
        for n, (kind, direction) in enumerate(plan.next_faults()):
            _one(
                f"{case.name}, {kind}",
                lambda k=kind, d=direction, n=n: faults.plant(  # type: ignore[misc]
                    measured, k, d, Path(place) / f"fault-{n}"
                ),
                progress,
            )


def _report(
    order: Order, progress: _Progress, began: datetime, out: Path, *, is_cut_short: bool
) -> Verdict:
    is_full = order.size == "full"
    together = summary.summary_rows(progress.rows, is_full_size=is_full, with_kit=order.cases > 0)
    rows = (*together, *progress.rows)
    report = contents.report(
        _facts(order, began), together, progress.rows, progress.shown, is_cut_short=is_cut_short
    )
    texts = {CSV_FILE: csv_text(rows).encode(), PDF_FILE: pdf_bytes(report)}
    for name, content in texts.items():
        part = out / f"{name}.part"
        part.write_bytes(content)
        part.rename(out / name)
    unmet = any(row.is_met is False for row in rows)
    return Verdict("failed" if unmet else "met", rows, tuple(out / name for name in texts))


def _facts(order: Order, began: datetime) -> dict[str, str]:
    cases = f"{order.cases} of the kit, seeds {order.seed} to {order.seed + order.cases - 1}"
    asked = [cases + f", {order.size} size"] if order.cases else []
    asked += [f"{len(order.own)} own pairs"] if order.own else []
    return {
        "software version": f"{software_version()}, core {_digest_of_core()}",
        "settings digest": _digest_of_settings(order.config),
        "machine": _machine(),
        "begun (UTC)": f"{began:%Y-%m-%d %H:%M}",
        "duration": f"{(datetime.now(UTC) - began).total_seconds() / 60:.1f} min",
        "cases": "; ".join(asked),
        "limits": f"{limits.TG132}; {limits.BAR}; {limits.PAIRS_BAR}; {limits.OWN_RULE}",
    }


def _machine() -> str:
    # not its name: that belongs to the hospital
    return f"{platform.system()} {platform.machine()}, Python {platform.python_version()}"


def _digest_of_core() -> str:
    """Return what tells two versions of the core apart, even without a new version number."""
    root = Path(handlers.__file__).parent
    total = hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        total.update(str(path.relative_to(root)).encode() + path.read_bytes())
    return total.hexdigest()[:12]


def _digest_of_settings(config: Config) -> str:
    protocols = [p.model_dump(mode="json", exclude={"destinations"}) for p in config.protocol]
    told = [asdict(RegistrationSettings()), asdict(RefinementSettings()), protocols]
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:12]


__all__ = ["CSV_FILE", "PDF_FILE", "Order", "OrderError", "Verdict", "commission", "lines", "steps"]
