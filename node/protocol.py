"""`[[protocol]]`: the recipe for cases, its switches for single targets and its further ROIs.

Part of the configuration: read and checked by `node.config`, passed on to the computing child as it
stands. Nothing is computed here.
"""

import re
from collections import Counter
from collections.abc import Collection, Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, Strict, model_validator

from node.outputs import Output

MARGIN_KEYS = (
    *("left_mm", "right_mm", "anterior_mm"),
    *("posterior_mm", "superior_mm", "inferior_mm"),
)
"""The directions of a margin: the patient's own, however the CT lies."""

LARGEST_MARGIN_MM = 50.0
"""A wider margin is a slip of the pen."""

SOURCES = ("drawn", "refined", "union", "intersection")
"""What a further ROI can be made from, beside another further ROI."""

TARGET_PLACEHOLDER = "{target}"
"""Stands in the name of a further ROI for the name of its target."""

ROI_NAME_LENGTH = 16
"""Longest ROI name that every TPS keeps (AAPM TG-263)."""

SHIPPED_LIMITS = ("tg101", "quantec", "hytec")
"""Tables of organ limits that come with Hilum."""

_NAME_TEMPLATE = re.compile(r"(?:[A-Za-z0-9^+_.-]|\{target\})+")

Positive = Annotated[float, Field(gt=0, le=1e7, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0, le=1e7, allow_inf_nan=False)]
"""At most 1e7 of any unit: longer waits are slips of the pen and leave the calendar."""

Pattern = Annotated[str, Field(min_length=1)]
Patterns = Annotated[tuple[Pattern, ...], Strict(strict=False), Field(min_length=1)]
OutwardMm = Annotated[float, Field(ge=0, le=15)]
InwardMm = Annotated[float, Field(ge=0, le=30)]
UncertaintyMm = Annotated[float, Field(ge=0, le=5)]
"""The bounds of `handlers.refinement`; a test compares them."""

MarginMm = Annotated[float, Field(ge=0, le=LARGEST_MARGIN_MM)]
Review = Literal["probability-seg", "probability-map", "structures"]
PriorModality = Literal["CT", "MR", "RTSTRUCT", "RTDOSE", "RTPLAN", "REG"]
Holes = Literal["keyhole", "xor"]
EndCap = Literal["half-slice", "none", "tapered"]


class Section(BaseModel):
    """A part of the configuration: frozen, strict, without unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, serialize_by_alias=True)


class Prescription(Section):
    """`[protocol.prescription]`: what the target is to receive."""

    dose_gy: Positive
    fractions: Annotated[int, Field(ge=1)]


class GeudRule(Section):
    """`[[protocol.dose.geud]]`: of which structures the gEUD is told, and with which exponent."""

    name: Pattern
    a: Annotated[float, Field(ge=-100, le=100)]

    @model_validator(mode="after")
    def _check(self) -> "GeudRule":
        if self.a == 0:
            raise ValueError("a must not be 0: 1 is the mean dose")
        return self


class DoseRules(Section):
    """`[protocol.dose]`: how dose is measured, and by which tables it is judged.

    Attributes:
        limits: Tables that come with Hilum, by name, and files of a department (`.toml`).
        unchecked_limits: Whether numbers that nobody has read again count, too.
    """

    end_cap: EndCap = "tapered"
    limits: Annotated[tuple[Pattern, ...], Strict(strict=False)] = SHIPPED_LIMITS
    unchecked_limits: bool = False
    volumes_at_gy: Annotated[tuple[Positive, ...], Strict(strict=False)] = ()
    geud: Annotated[tuple[GeudRule, ...], Strict(strict=False)] = ()


class OrganRule(Section):
    """`[[organ]]`: what a department calls an organ, beside the names that are known."""

    name: Pattern
    roi_names: Patterns


class ReirradiationOrgan(Section):
    """`[[protocol.reirradiation.organ]]`: what holds for organs of a name when courses are added.

    Attributes:
        name: Pattern of ROI names or TG-263 names.
        recovery: Part of the prior courses that is forgiven.
        limit_eqd2_gy: On the hottest 0.03 cm3 of all courses together.
    """

    name: Pattern
    alpha_beta_gy: Annotated[float, Field(gt=0, le=100)] | None = None
    recovery: Annotated[float, Field(ge=0, le=1)] = 0.0
    recovery_because: str = ""
    limit_eqd2_gy: Annotated[float, Field(gt=0, le=1000)] | None = None
    limit_source: str = ""

    @model_validator(mode="after")
    def _check(self) -> "ReirradiationOrgan":
        if self.recovery and not self.recovery_because.strip():
            raise ValueError("recovery needs recovery_because: why, in words that are kept")
        if self.limit_eqd2_gy is not None and not self.limit_source.strip():
            raise ValueError("limit_eqd2_gy needs limit_source: who says so")
        return self


class ReirradiationRules(Section):
    """`[protocol.reirradiation]`: how prior courses are added to the one that is planned."""

    prior_fractions: Annotated[int, Field(ge=1, le=100)] | None = None
    shift_mm: Annotated[float, Field(ge=0, le=20)] = 3.0
    eqd2_dose: bool = False
    organ: Annotated[tuple[ReirradiationOrgan, ...], Strict(strict=False)] = ()


class TargetSwitch(Section):
    """`[[protocol.target]]`: what holds for the targets of these names; None: as the protocol."""

    name: Pattern
    refine: bool = True
    max_outward_mm: OutwardMm | None = None
    max_inward_mm: InwardMm | None = None


class MarginTable(Section):
    """A margin in the patient's six directions."""

    left_mm: MarginMm
    right_mm: MarginMm
    anterior_mm: MarginMm
    posterior_mm: MarginMm
    superior_mm: MarginMm
    inferior_mm: MarginMm

    @property
    def is_zero(self) -> bool:
        """Whether it adds nothing."""
        return not any(getattr(self, key) for key in MARGIN_KEYS)


def _six(value: Any) -> Any:
    """Return a single margin as a table of six; all else as it is."""
    if isinstance(value, dict | MarginTable):
        return value
    if isinstance(value, bool) or not isinstance(value, int | float):
        text = f"must be a number of mm, or a table of {', '.join(MARGIN_KEYS)}"
        raise ValueError(text)  # noqa: TRY004 - pydantic collects value errors
    if not 0 <= value <= LARGEST_MARGIN_MM:
        raise ValueError(f"must lie between 0 and {LARGEST_MARGIN_MM:g}: a target never shrinks")
    return dict.fromkeys(MARGIN_KEYS, float(value))


class ClipRule(Section):
    """`[[protocol.derived.clip]]`: organs that a margin does not reach into, and how near."""

    organs: Patterns
    margin_mm: Annotated[float, Field(ge=0, le=20)] = 0.0


class DerivedRule(Section):
    """`[[protocol.derived]]`: a further ROI that is made from each target it names."""

    name: str | None = None
    type: Literal["GTV", "CTV", "PTV"]
    targets: Patterns = ("*",)
    source: Annotated[str, Field(alias="from", min_length=1)]
    when_abstained: Literal["drawn", "none"] = "drawn"
    margin_mm: Annotated[MarginTable, BeforeValidator(_six)] = MarginTable.model_validate(
        dict.fromkeys(MARGIN_KEYS, 0.0)
    )
    clip: Annotated[tuple[ClipRule, ...], Strict(strict=False)] = ()

    @model_validator(mode="after")
    def _check(self) -> "DerivedRule":
        problems: list[str] = []
        if self.name is not None and not _NAME_TEMPLATE.fullmatch(self.name):
            problems.append(
                f"name {self.name!r} may hold letters, digits, ^ + _ . - and {TARGET_PLACEHOLDER}"
            )
        elif self.name is not None:
            problems += _length_problems(self.name)
        if self.clip and self.margin_mm.is_zero:
            problems.append("clip cuts margins only: give margin_mm, or leave out clip")
        if problems:
            raise ValueError("\n".join(problems))
        return self


def _length_problems(name: str) -> list[str]:
    fixed = len(name.replace(TARGET_PLACEHOLDER, ""))
    places = name.count(TARGET_PLACEHOLDER)
    if places > 1:
        return [f"name {name!r} holds {TARGET_PLACEHOLDER} more than once"]
    if fixed + places > ROI_NAME_LENGTH:
        return [f"name {name!r} is longer than the {ROI_NAME_LENGTH} characters that a TPS keeps"]
    return []


class OutputRule(Section):
    """`[[protocol.output]]`: which objects of a result set one destination gets."""

    peer: Annotated[str, Field(min_length=1)]
    objects: Annotated[tuple[Output, ...], Strict(strict=False), Field(min_length=1)]


class FetchRule(Section):
    """`[[protocol.fetch]]`: what is fetched from a peer that can be queried."""

    peer: Annotated[str, Field(min_length=1)]
    by: Literal["move", "get"] = "move"
    missing: bool = True
    priors: Annotated[tuple[PriorModality, ...], Strict(strict=False)] = ()
    priors_window_days: NotNegative = 3650.0


class Protocol(Section):
    """`[[protocol]]`: a named recipe for cases."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,32}$")]
    structure_sets: Patterns = ("*",)
    targets: Patterns
    mr: Patterns = ("*",)
    mr_window_days: NotNegative = 60.0
    other_ct: Annotated[tuple[str, ...], Strict(strict=False)] = ("*",)
    prior_window_days: NotNegative = 3650.0
    registration: Literal["automatic", "as-sent"] = "automatic"
    max_outward_mm: OutwardMm = 5.0
    max_inward_mm: InwardMm = 10.0
    max_uncertainty_mm: UncertaintyMm = 3.0
    may_enter: Annotated[tuple[Pattern, ...], Strict(strict=False)] = ()
    review: Annotated[tuple[Review, ...], Strict(strict=False)] = ()
    holes: Holes = "keyhole"
    destinations: Annotated[tuple[str, ...], Strict(strict=False)] = ()
    delivery_give_up_h: Positive | None = None
    output: Annotated[tuple[OutputRule, ...], Strict(strict=False)] = ()
    fetch: Annotated[tuple[FetchRule, ...], Strict(strict=False)] = ()
    target: Annotated[tuple[TargetSwitch, ...], Strict(strict=False)] = ()
    derived: Annotated[tuple[DerivedRule, ...], Strict(strict=False)] = ()
    prescription: Prescription | None = None
    dose: DoseRules = DoseRules()
    reirradiation: ReirradiationRules = ReirradiationRules()


def output_problems(protocol: Mapping[str, Any], queried: Collection[str]) -> list[str]:
    """Return what is wrong with the peers of `output` and `fetch`; the protocol may be unsound.

    Args:
        protocol: As in the file.
        queried: Names of the peers with the role `query`.
    """
    told = f"protocol {protocol.get('name')!r}:"
    destinations = protocol.get("destinations")
    destinations = destinations if isinstance(destinations, list | tuple) else ()
    problems = []
    for key, among, what in (
        ("output", destinations, "is none of its destinations"),
        ("fetch", queried, "is no peer with the role 'query'"),
    ):
        entries = protocol.get(key)
        entries = entries if isinstance(entries, list | tuple) else ()
        peers = [entry.get("peer") for entry in entries if isinstance(entry, dict)]
        named = Counter(peer for peer in peers if isinstance(peer, str))
        problems += [f"{told} {key} peer {name!r} {what}" for name in named if name not in among]
        problems += [
            f"{told} {key} peer {name!r} is named twice" for name in named if named[name] > 1
        ]
    return problems


def fetch_problems(protocol: Mapping[str, Any], senders: Collection[str]) -> list[str]:
    """Return what keeps fetched objects out; the protocol may be unsound.

    Args:
        protocol: As in the file.
        senders: Names of the peers with the role `send`.
    """
    entries = protocol.get("fetch")
    entries = entries if isinstance(entries, list | tuple) else ()
    moving = [
        entry["peer"]
        for entry in entries
        if isinstance(entry, dict) and entry.get("by", "move") == "move" and "peer" in entry
    ]
    return [
        f'protocol {protocol.get("name")!r}: fetch peer {name!r} is to send by "move": give it the '
        "role 'send', too, or fetch by \"get\""
        for name in moving
        if isinstance(name, str) and name not in senders
    ]


def derived_problems(protocol: Mapping[str, Any]) -> list[str]:
    """Return what is wrong between the `derived` entries of a protocol that may be unsound."""
    entries = protocol.get("derived")
    entries = entries if isinstance(entries, list | tuple) else ()
    names = [entry.get("name") if isinstance(entry, dict) else None for entry in entries]
    told = f"protocol {protocol.get('name')!r}: derived"
    counts = Counter(name.casefold() for name in names if isinstance(name, str))
    problems = [f"{told} name {name!r} is used twice" for name, n in counts.items() if n > 1]
    for index, (name, entry) in enumerate(zip(names, entries, strict=True)):
        if isinstance(name, str) and name.casefold() in SOURCES:
            problems.append(f"{told}[{index + 1}].name {name!r} has another meaning in `from`")
        source = entry.get("from") if isinstance(entry, dict) else None
        if isinstance(source, str) and source not in (*SOURCES, *names[:index]):
            problems.append(
                f"{told}[{index + 1}].from {source!r} is none of {', '.join(SOURCES)}, nor the "
                "name of an earlier derived entry"
            )
    return problems
