"""What the computing child is told, and what it leaves: the two records between the processes."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from node.limit_tables import LimitTable
from node.outline_program import SecondOpinionSettings
from node.outputs import Output
from node.peer import Tps
from node.protocol import (
    DerivedRule,
    DoseRules,
    Holes,
    OrganRule,
    Prescription,
    ReirradiationRules,
    Review,
    TargetSwitch,
)

OUTCOME_FILE = "outcome.json"
OUTPUT_FOLDER = "out"
METRICS_FILE = "metrics.json"
REPORT_PAGE = "report.html"
REPORT_FILES = ("report.pdf", REPORT_PAGE)
"""The report for people, in two forms that say the same."""

RESULTS_FOLDER = "results"
"""Where adopted result sets lie in the data folder: case, then revision."""


class SecondOpinionChoice(BaseModel):
    """What results tell of how a second opinion was asked for: no path of the machine."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    fast: bool
    device: Literal["cpu", "gpu"]


class ComputeSettings(BaseModel):
    """What is told about computing in every result; fields as in `node.protocol.Protocol`.

    Attributes:
        dose: Tables by name, without a path of the machine.
        own_limits: Those of them that are the department's own.
        organ: What the department calls organs.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    target_patterns: tuple[str, ...]
    max_outward_mm: float
    max_inward_mm: float = 10.0
    max_uncertainty_mm: float = 3.0
    may_enter: tuple[str, ...] = ()
    review: tuple[Review, ...] = ()
    holes: Holes = "keyhole"
    target: tuple[TargetSwitch, ...] = ()
    derived: tuple[DerivedRule, ...] = ()
    registration: Literal["automatic", "as-sent"] = "automatic"
    prescription: Prescription | None = None
    dose: DoseRules = DoseRules()
    reirradiation: ReirradiationRules = ReirradiationRules()
    own_limits: dict[str, LimitTable] = Field(default_factory=dict)
    organ: tuple[OrganRule, ...] = ()
    second_opinion: SecondOpinionChoice | None = None
    tps: tuple[Tps, ...] = ()


class JobFinding(BaseModel):
    """Something that was noticed before computing began."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    code: str
    severity: str
    text: str


class OtherCtPaths(BaseModel):
    """A CT beside the planning CT: its slices, and what was drawn and planned on it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    images: tuple[str, ...]
    structure_set: str | None = None
    doses: tuple[str, ...] = ()
    plans: tuple[str, ...] = ()


class Job(BaseModel):
    """All that the child is told. Paths are relative to `root`, or absolute.

    Attributes:
        doses: What was planned on the planning CT, all that came; likewise `plans`.
        other_ct: By Series Instance UID.
        case: Identity of the computation, told in `metrics.json` as it is.
        uid_seed: Fingerprint of inputs, settings and software version: all UIDs derive from it.
        created: ISO 8601 with time zone; every date and time in the results comes from it.
        memory_mib: Limit of the address space.
        second_opinion: Where the outside program and its weights are; never told in results.
        destinations: Which kinds of results are owed to each peer, by the peer's name; like the
            next, not the child's business.
        delivery_give_up_h: How long delivery may take, where the protocol says so.
        with_view: Whether to leave what the page shows, too, beside the result set.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    root: str
    ct: tuple[str, ...]
    structure_set: str
    mr: dict[str, tuple[str, ...]]
    doses: tuple[str, ...] = ()
    plans: tuple[str, ...] = ()
    registrations: tuple[str, ...] = ()
    other_ct: dict[str, OtherCtPaths] = {}
    settings: ComputeSettings
    case: dict[str, Any]
    findings: tuple[JobFinding, ...] = ()
    uid_seed: str
    software_version: str
    created: datetime
    memory_mib: float
    second_opinion: SecondOpinionSettings | None = None
    destinations: dict[str, tuple[Output, ...]] = {}
    delivery_give_up_h: float | None = None
    with_view: bool = False


class Outcome(BaseModel):
    """How computing ended.

    Attributes:
        kind: `done`: a whole result set lies in `out/`; `rejected`: the input is unfit; `failed`:
            an error of ours; an operator may begin the case again.
        reasons: Why, in sentences, for the last two.
        results: File name in `out/` by SOP Instance UID.
        summary: Verdicts for people.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["done", "rejected", "failed"]
    reasons: tuple[str, ...] = ()
    results: dict[str, str] = {}
    summary: dict[str, Any] = {}


def summary_lines(summary: Mapping[str, Any]) -> list[str]:
    """Return a result's summary as lines for people."""
    lines = [
        f"registration {n} ({r.get('kind', 'mr').upper()}): {r['status']}, "
        f"uncertainty {r['uncertainty_mm']:.1f} mm"
        + (f" ({'; '.join(r['reasons'])})" if r["reasons"] else "")
        for n, r in enumerate(summary.get("registrations", ()), start=1)
    ]
    lines += [
        f"target {t['source_roi']}: {t['status']}"
        + (f" as {t['refined_roi']}" if t["refined_roi"] else "")
        + (f" ({'; '.join(t['reasons'])})" if t["reasons"] else "")
        for t in summary.get("targets", ())
    ]
    return lines
