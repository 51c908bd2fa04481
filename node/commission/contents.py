"""From rows to what the document shows: tables in words, plots and pictures. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from node.commission import accuracy, faults, figures, kit, limits, orientation, own
from node.commission.document import Picture, Report
from node.commission.figures import Pixels
from node.commission.limits import Limit, Measurement
from node.commission.table import printed

MUST_END = Limit("one of", limits.OWN_RULE, allowed=("done",))
"""Every case must end with a result."""


@dataclass(slots=True)
class Shown:
    """What the figures need of every case.

    Attributes:
        errors: Verdict and lengths of landmark errors in mm, by case.
        pictures: Checkerboards.
    """

    errors: dict[str, tuple[str, Pixels]] = field(default_factory=dict)
    pictures: list[Picture] = field(default_factory=list)

    def add_case(self, measured: kit.MeasuredCase) -> None:
        """Keep what is shown of a case of the kit."""
        name, status = measured.case.name, measured.result.only.status
        self.errors[name] = (status, measured.errors_mm)
        self._add(name, status, measured.picture)

    def add_pair(self, name: str, measured: own.MeasuredPair) -> None:
        """Keep what is shown of an own pair."""
        if len(measured.errors_mm):
            self.errors[name] = (measured.status, measured.errors_mm)
        self._add(name, measured.status, measured.picture)

    def _add(self, name: str, status: str, picture: bytes | None) -> None:
        if picture is not None:
            self.pictures.append(Picture(picture, f"{name}: {status}"))


def report(
    facts: Mapping[str, str],
    together: Sequence[Measurement],
    rows: Sequence[Measurement],
    shown: Shown,
    *,
    is_cut_short: bool,
) -> Report:
    """Return all that the document tells."""
    return Report(
        facts=facts,
        summary=together,
        case_lines=case_lines(rows),
        planted=planted_lines(rows),
        own=[row for row in rows if row.case.startswith("own ")],
        not_met=[row for row in (*together, *rows) if row.is_met is False],
        plots=_plots(rows, shown),
        pictures=shown.pictures,
        is_cut_short=is_cut_short,
    )


def case_lines(rows: Sequence[Measurement]) -> list[tuple[str, ...]]:
    """Return one line for each case of the kit and each own pair, header first."""
    lines: list[tuple[str, ...]] = [
        (
            "case",
            "verdict",
            "TRE median / 95 %",
            "error / stated",
            "DSC, node carried",
            "DSC, drawn / refined",
            "Jacobian",
            "time",
            "remarks",
        )
    ]
    for name in dict.fromkeys(r.case for r in rows if r.case.startswith(("kit ", "own "))):
        if "," in name:
            continue  # a planted fault
        told = {r.what: r for r in rows if r.case == name and not _is_secondary(r, rows)}
        lines.append(
            (
                name,
                _value(told, kit.VERDICT) or limits.FAILED,
                _pair(told, kit.MEDIAN, "TRE within 40 mm, 95th percentile")
                or _pair(told, _own_median(told), "TRE of own landmarks, 95th percentile"),
                _pair(told, kit.TRUE_ERROR, kit.STATED) or _value(told, kit.STATED),
                _value(told, "DSC of the true node, carried"),
                _pair(told, accuracy.DRAWN_DSC, accuracy.REFINED_DSC)
                or _value(told, "target contour"),
                _pair(told, "Jacobian, smallest", "Jacobian, largest")
                or ("rigid" if kit.VERDICT in told else ""),
                _value(told, kit.REGISTRATION_TIME),
                ". ".join(
                    filter(None, (_value(told, w) for w in ("features", "reasons", "reason")))
                ),
            )
        )
    return lines


def _is_secondary(row: Measurement, rows: Sequence[Measurement]) -> bool:
    """Tell whether a row is about a series that did not lead."""
    leading = next((r.series for r in rows if r.case == row.case and r.what == kit.VERDICT), "")
    return bool(row.series) and row.series != leading


def _own_median(told: Mapping[str, Measurement]) -> str:
    return next((w for w in told if w.endswith("own landmarks, median")), "")


def _value(told: Mapping[str, Measurement], what: str) -> str:
    return printed(told[what].value, told[what].unit) if what in told else ""


def _pair(told: Mapping[str, Measurement], one: str, other: str) -> str:
    if one not in told or other not in told:
        return ""
    return f"{printed(told[one].value)} / {_value(told, other)}"


def planted_lines(rows: Sequence[Measurement]) -> list[tuple[str, ...]]:
    """Return one line for each planted fault and orientation test, header first."""
    lines: list[tuple[str, ...]] = [("what", "outcome", "verdict", "median error", "reasons")]
    names = dict.fromkeys(
        r.case for r in rows if r.case.startswith(orientation.PREFIX) or r.case.startswith("kit ")
    )
    for name in names:
        told = {r.what: r for r in rows if r.case == name}
        outcome = next(
            (w for w in told if w == orientation.OUTCOME or w.startswith(faults.PREFIX)), ""
        )
        is_planted = "," in name or name.startswith(orientation.PREFIX)
        if not is_planted:
            continue
        lines.append(
            (
                name,
                _value(told, outcome) or limits.FAILED,
                _value(told, "verdict"),
                _value(told, "error about the target, median")
                or _value(told, "planted error, TRE median"),
                _value(told, "reasons") or _value(told, "reason"),
            )
        )
    return lines


def _plots(rows: Sequence[Measurement], shown: Shown) -> list[Picture]:
    plots = []
    if shown.errors:
        plots.append(
            Picture(
                figures.error_distribution(shown.errors),
                "Errors of the landmarks in the leading series: median, quartiles, 5th to 95th "
                "percentile.",
            )
        )
    by_case = {
        what: {r.case: r.value for r in rows if r.what == what}
        for what in (kit.VERDICT, kit.STATED, kit.TRUE_ERROR)
    }
    points = [
        (case, str(by_case[kit.VERDICT][case]), float(by_case[kit.STATED][case]), float(error))
        for case, error in by_case[kit.TRUE_ERROR].items()
    ]
    if points:
        plots.append(
            Picture(
                figures.error_against_uncertainty(points),
                "The true error at the target's centre against the uncertainty that was stated.",
            )
        )
    return plots


__all__ = ["MUST_END", "Shown", "case_lines", "planted_lines", "report"]
