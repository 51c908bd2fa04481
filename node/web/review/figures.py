"""The figures of a result in words: `metrics.json` as tables, named as in the report.

The only reader of `metrics.json` for the review view. Rounds for reading; computes nothing.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from handlers.pages.words import NONE, heading_of, label_of, name, number, said, sentence

BETWEEN = (
    "dsc", "mean_surface_distance_mm", "hd95_mm", "hd_mm", "surface_dsc_1mm", "surface_dsc_2mm",
    "removed_cm3", "added_cm3", "volume_change_percent", "centroid_shift_mm",
)  # fmt: skip
"""What is told of drawn against refined, in order, as far as it is there."""

OF_PLAN = (
    "mean_gy", "d98_gy", "d95_gy", "d50_gy", "d2_gy", "coverage_percent", "ci_paddick",
    "gradient_index", "hi_icru83", "d2cm_gy",
)  # fmt: skip
"""What is told of drawn and refined target in a plan."""

TONES = {
    "pass": "good", "warn": "notice", "fail": "bad", "refined": "good", "abstained": "notice",
    "met": "good", "exceeded": "bad", "failure": "bad", "warning": "notice", "info": "work",
}  # fmt: skip
"""How a verdict is colored; its word always stands beside the color."""

JUDGED = ("met", "exceeded")
"""What is said of a limit that could be judged."""

Pair = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Verdict:
    """A word and how it is colored."""

    word: str
    tone: str

    @classmethod
    def of(cls, word: str) -> "Verdict":
        """Return the verdict of a word of the metrics."""
        return cls(word, TONES.get(word, ""))


@dataclass(frozen=True, slots=True)
class ShownRegistration:
    """A registration in words."""

    number: int
    title: str
    verdict: Verdict
    reasons: tuple[str, ...]
    main: tuple[Pair, ...]
    quality: tuple[Pair, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ShownTarget:
    """A target in words; `organs` are rows of name, distance and overlap, drawn and now."""

    number: int
    name: str
    refined: str
    verdict: Verdict
    reasons: tuple[str, ...]
    main: tuple[Pair, ...]
    between: tuple[Pair, ...]
    changes: tuple[tuple[str, str, str], ...]
    organs: tuple[tuple[str, str, str, str, str], ...]


@dataclass(frozen=True, slots=True)
class ShownLimit:
    """A limit of a plan in words."""

    organ: str
    metric: str
    bound: str
    value: str
    verdict: Verdict
    why: str


@dataclass(frozen=True, slots=True)
class ShownPlan:
    """A plan in words.

    Attributes:
        figures: A table: heading, then one cell for each of `structures`.
        unmatched: ROIs that bear no limit, and why; the reason may be empty.
    """

    title: str
    prescription: str
    structures: tuple[str, ...]
    figures: tuple[tuple[str, tuple[str, ...]], ...]
    limits: tuple[ShownLimit, ...]
    not_judged: tuple[ShownLimit, ...]
    unmatched: tuple[Pair, ...]
    reasons: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Figures:
    """All that is told in words beside the pictures."""

    registrations: tuple[ShownRegistration, ...]
    targets: tuple[ShownTarget, ...]
    plans: tuple[ShownPlan, ...]
    findings: tuple[tuple[Verdict, str], ...]


def figures_of(metrics: Mapping[str, Any]) -> Figures:
    """Return the figures of a result, from the content of `metrics.json`.

    Results of earlier versions tell less: what they lack is left out.
    """
    dose = metrics.get("dose") or {}
    return Figures(
        tuple(_registration(r, n) for n, r in enumerate(metrics["registrations"], start=1)),
        tuple(_target(target) for target in metrics["targets"]),
        tuple(_plan(plan) for plan in dose.get("plans", ())),
        tuple((Verdict.of(f["severity"]), sentence(f["text"])) for f in metrics["findings"]),
    )


def _registration(told: Mapping[str, Any], number_of: int) -> ShownRegistration:
    x, y, z = (number(v, 1, is_signed=True) for v in told["translation_mm"])
    is_deformed = told.get("deformation", {}).get("accepted", False)
    a, b, c = (number(v, 1, is_signed=True) for v in told["rotation_deg"])
    return ShownRegistration(
        number=number_of,
        title=f"Registration {number_of}: {told.get('kind', 'mr').upper()} to planning CT",
        verdict=Verdict.of(told["status"]),
        reasons=tuple(sentence(reason) for reason in told["reasons"]),
        main=(
            ("Uncertainty at the target (95 %)", f"{number(told['uncertainty_mm'], 1)} mm"),
            ("Moved at the target, x, y, z", f"{x}, {y}, {z} mm"),
            ("Turned about x, y, z", f"{a}, {b}, {c} °"),
            ("Deformation", "used near the target" if is_deformed else "none"),
        ),
        quality=tuple((label_of(key), said(key, value)) for key, value in told["quality"].items()),
        notes=tuple(sentence(note) for note in told.get("notes", ()) if note),
    )


def _target(told: Mapping[str, Any]) -> ShownTarget:
    metrics = told["metrics"]
    confidence = told.get("confidence")
    return ShownTarget(
        number=told["source_roi_number"],
        name=name(told["source_roi"]),
        refined=name(told["refined_roi"]) if told["refined_roi"] else "",
        verdict=Verdict.of(told["status"]),
        reasons=tuple(sentence(reason) for reason in told["reasons"]),
        main=(
            ("Volume as drawn", _cm3(told["drawn_volume_cm3"])),
            ("Volume refined", _cm3(told["refined_volume_cm3"])),
            ("Confidence", NONE if confidence is None else number(confidence, 2)),
        ),
        between=tuple((label_of(k), said(k, metrics[k])) for k in BETWEEN if k in metrics),
        changes=tuple(
            (
                name(change["structure"]) if change["structure"] else change["cause"],
                number(change["removed_cm3"], 2),
                number(change["added_cm3"], 2),
            )
            for change in told.get("changes", ())
        ),
        organs=_organs(told.get("organs", ())),
    )


def _organs(told: Sequence[Mapping[str, Any]]) -> tuple[tuple[str, str, str, str, str], ...]:
    return tuple(
        (
            name(each["name"]),
            number(each["drawn_distance_mm"], 1),
            number(each["distance_mm"], 1),
            number(each["drawn_overlap_cm3"], 2),
            number(each["overlap_cm3"], 2),
        )
        for each in sorted(told, key=lambda each: float(each["distance_mm"]))
    )


def _plan(told: Mapping[str, Any]) -> ShownPlan:
    targets = [each for each in told["structures"] if each["version"] is not None]
    prescribed = told["prescription"]
    words = "no prescription is known"
    if prescribed is not None:
        fractions = prescribed["fractions"]
        times = f" in {fractions} fractions" if fractions else ""
        words = f"{number(prescribed['dose_gy'], 1)} Gy{times}, said by the {prescribed['said_by']}"
    return ShownPlan(
        title=f"Plan {told['plan']}: {name(told['label'])}",
        prescription=words,
        structures=tuple(f"{name(each['name'])}, {each['version']}" for each in targets),
        figures=tuple(
            (
                heading_of(key),
                tuple(said(key, each["figures"].get(key)) for each in targets),
            )
            for key in OF_PLAN
            if any(key in each["figures"] for each in targets)
        ),
        limits=tuple(
            _limit(each)
            for each in sorted(told["limits"], key=lambda each: each["status"] != "exceeded")
            if each["status"] in JUDGED
        ),
        not_judged=tuple(_limit(each) for each in told["limits"] if each["status"] not in JUDGED),
        unmatched=tuple((name(roi), why) for roi, why in _unmatched(told).items()),
        reasons=tuple(sentence(reason) for reason in told["reasons"]),
    )


def _unmatched(told: Mapping[str, Any]) -> Mapping[str, str]:
    """Return the ROIs of a plan that bear no limit, and why (earlier versions did not say)."""
    reasons: Mapping[str, str] = told.get("unmatched_reasons", {})
    return reasons or dict.fromkeys(told.get("unmatched_rois", ()), "")


def _limit(told: Mapping[str, Any]) -> ShownLimit:
    unit = told["unit"]
    value = NONE if told["value"] is None else f"{number(told['value'], 2)} {unit}"
    parts = (told["reason"], told["endpoint"], told["source"], told["certainty"])
    return ShownLimit(
        organ=name(told["roi"] or told["organ"]),
        metric=told["metric"],
        bound=f"{told['bound']:g} {unit}",
        value=f"{_side(told['metric'])} {value}" if told["is_bound"] else value,
        verdict=Verdict.of(told["status"]),
        why="; ".join(part for part in parts if part),
    )


def _side(metric: str) -> str:
    """Return where the truth lies beside a value of which only a part was seen."""
    return "at most" if metric.startswith("CV") else "at least"


def _cm3(value: float | None) -> str:
    return NONE if value is None else f"{number(value, 2)} cm³"
