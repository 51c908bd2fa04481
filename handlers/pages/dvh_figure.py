"""Dose-volume histograms as curves that a black and white print tells apart, with their limits.

Each curve bears a letter, and has a dash of its own; the tables repeat the letters.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from handlers.dose_results import (
    Dvh,
    LimitStatus,
    LimitVerdict,
    PlanMeasures,
    StructureDose,
    TargetVersion,
)
from handlers.limit_metrics import MetricKind, metric_of
from handlers.pages.content import Figure
from handlers.pages.drawing import (
    BLACK,
    WHITE,
    Area,
    Box,
    Clip,
    Drawing,
    Part,
    Rgb,
    Stroke,
    Words,
    rectangle,
)
from handlers.pages.words import ELLIPSIS, count, joined, name

Floats = npt.NDArray[np.float64]

PLOT = Box(9.0, 3.4, 94.0, 44.0)
"""The axes."""

PLOT_MM = (PLOT.left + PLOT.width + 2.0, PLOT.top + PLOT.height + 7.4)
"""Width and height of the figure without its legend."""

LEGEND_MM = 62.0
"""Width of the legend."""

LONGEST_CALLED = 24
"""Letters of a name in the legend."""

MOST_ORGANS, MOST_TARGETS = 9, 12
"""Curves that are drawn: more cannot be told apart on paper."""

SAMPLES = 376
"""Doses at which a curve is drawn: four to a millimetre."""

CLEAR_MM = 3.5
"""A letter so far from all other curves and letters is read without doubt."""

TARGET_DASHES: Mapping[TargetVersion | None, tuple[float, ...]] = {
    TargetVersion.DRAWN: (),
    TargetVersion.REFINED: (1.6, 1.0),
    TargetVersion.DERIVED: (3.2, 0.8, 0.6, 0.8),
}
ORGAN_DASHES: tuple[tuple[float, ...], ...] = ((), (1.4, 0.7), (0.4, 0.7), (2.4, 0.6, 0.4, 0.6))
TARGET_COLORS: tuple[Rgb, ...] = ((0, 0, 0), (150, 20, 60), (20, 60, 150))
ORGAN_COLORS: tuple[Rgb, ...] = (
    (0, 110, 60), (200, 90, 0), (30, 90, 200), (130, 60, 160), (120, 90, 30),
    (0, 130, 140), (190, 40, 110), (90, 110, 0), (90, 90, 90),
)  # fmt: skip
GRID: Rgb = (222, 222, 222)
SOFT: Rgb = (110, 110, 110)


@dataclass(frozen=True, slots=True, eq=False)
class Curve:
    """A structure that is drawn.

    Attributes:
        key: Its letter.
        structure: What it is of.
        dvh: Its histogram.
        color: Of the line.
        width_mm: Likewise.
        dash_mm: Likewise.
    """

    key: str
    structure: StructureDose
    dvh: Dvh
    color: Rgb
    width_mm: float
    dash_mm: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class _Axes:
    """Where doses and volumes lie on the sheet."""

    step_gy: float
    end_gy: float

    def points(self, dose_gy: Floats, percent: Floats) -> Floats:
        return np.stack(
            [
                PLOT.left + dose_gy / self.end_gy * PLOT.width,
                PLOT.top + (1 - percent / 100) * PLOT.height,
            ],
            axis=-1,
        )

    def point(self, dose_gy: float, percent: float) -> tuple[float, float]:
        x, y = self.points(np.array([dose_gy]), np.array([percent]))[0]
        return float(x), float(y)

    def line(self, dvh: Dvh) -> Floats:
        """Return a curve to where it reaches the axis."""
        doses = np.linspace(0.0, self.end_gy, SAMPLES)
        percent = percent_at(dvh, doses)
        end = min(int(np.count_nonzero(percent > 0)) + 1, SAMPLES)
        return self.points(doses[:end], percent[:end])


def curves_of(plan: PlanMeasures, bodies: Collection[str]) -> tuple[Curve, ...]:
    """Return what is drawn of a plan: its targets, then the organs that matter most.

    Of the organs those with an exceeded limit come first, then those with any, then the hottest.

    Args:
        plan: The plan.
        bodies: Names of what encloses or carries the patient: no curve.
    """
    told = [s for s in plan.structures if s.dvh is not None and s.dvh.structure_cm3 > 0]
    targets = [s for s in told if s.version is not None][:MOST_TARGETS]
    exceeded = {v.roi_name for v in plan.limits if v.status is LimitStatus.EXCEEDED}
    limited = {v.roi_name for v in plan.limits}

    def rank(organ: StructureDose) -> tuple[bool, bool, float]:
        hottest = organ.figures.get("d0.03cc_gy", organ.figures.get("max_gy", 0.0))
        return organ.name not in exceeded, organ.name not in limited, -hottest

    all_organs = [s for s in told if s.version is None and s.name not in bodies]
    kept = sorted(all_organs, key=rank)[:MOST_ORGANS]
    organs = [s for s in told if s in kept]
    return tuple(_curve(index, s, targets, organs) for index, s in enumerate((*targets, *organs)))


def _curve(
    index: int,
    structure: StructureDose,
    targets: Sequence[StructureDose],
    organs: Sequence[StructureDose],
) -> Curve:
    if structure.dvh is None:
        raise ValueError("a structure without a histogram has no curve")
    key = "abcdefghijklmnopqrstuvwxyz"[index]
    if structure.version is not None:
        drawn = list(dict.fromkeys(each.target for each in targets))
        color = TARGET_COLORS[drawn.index(structure.target) % len(TARGET_COLORS)]
        dash = TARGET_DASHES[structure.version]
        return Curve(key, structure, structure.dvh, color, 0.5, dash)
    at = index - len(targets)
    if organs[at] is not structure:
        raise ValueError("organs come after targets")
    color = ORGAN_COLORS[at % len(ORGAN_COLORS)]
    return Curve(key, structure, structure.dvh, color, 0.3, ORGAN_DASHES[at % len(ORGAN_DASHES)])


def dvh_figure(
    plan: PlanMeasures, curves: Sequence[Curve], title: str, *, has_legend: bool
) -> Figure:
    """Return the curves of a plan, the marks of their limits, and the prescribed dose.

    Args:
        plan: The plan.
        curves: At least one of its structures.
        title: How the plan is called.
        has_legend: Whether names stand beside; else a table beside it must give the letters.
    """
    prescribed_gy = 0.0 if plan.prescribed is None else plan.prescribed.dose_gy
    highest = max([float(c.dvh.dose_gy[-1]) for c in curves] + [prescribed_gy, 1e-3])
    axes = _axes(highest * 1.03)
    lines = [Stroke(axes.line(c.dvh), c.color, c.width_mm, c.dash_mm) for c in curves]
    marks = _marks(plan, curves, axes)
    parts: list[Part] = [*_grid(axes), Clip(PLOT, tuple(lines))]
    if prescribed_gy:
        parts += _prescription(prescribed_gy, axes)
    parts += _keys(curves, axes, [(mark.x, mark.y) for mark in marks])
    parts += [part for mark in marks for part in mark.parts()]
    parts += _legend(curves, has_names=has_legend)
    width = PLOT_MM[0] + (LEGEND_MM if has_legend else 0.0)
    names = joined([_called(curve.structure) for curve in curves])
    return Figure(
        Drawing(width, PLOT_MM[1], tuple(parts)),
        "Triangles are limits: a curve is to pass below and left of those with its letter; filled "
        f"where it does not.{_left_out(plan, curves)}",
        f"Cumulative dose-volume histograms, {title}: {names}; their figures stand in the tables.",
    )


def percent_at(dvh: Dvh, dose_gy: Floats) -> Floats:
    """Return the volume that gets at least each dose, in percent of the structure.

    Example:
        >>> dvh = Dvh(np.array([1.0, 2.0]), np.array([4.0, 1.0]), 4.0, 1.25)
        >>> percent_at(dvh, np.array([0.5, 1.0, 1.5, 2.0, 2.5])).tolist()
        [100.0, 100.0, 25.0, 25.0, 0.0]
    """
    steps = np.append(dvh.volume_cm3, 0.0)
    at = np.searchsorted(dvh.dose_gy, dose_gy, side="left")
    return np.asarray(np.minimum(100.0 * steps[at] / dvh.structure_cm3, 100.0))


def limit_point(verdict: LimitVerdict, structure_cm3: float) -> tuple[float, float] | None:
    """Return dose in Gy and volume in percent that a limit names; None if it is no point.

    Example:
        >>> from handlers.dose_results import Limit
        >>> row = Limit("Duodenum", "D5cc", 18.0, "Gy", 5, "", "", "", "")
        >>> limit_point(LimitVerdict(row, "Duodenum", LimitStatus.MET, 12.0), 50.0)
        (18.0, 10.0)
    """
    limit = verdict.limit
    metric = metric_of(limit.metric)
    if metric.kind is MetricKind.MEAN:
        return None
    if metric.kind is MetricKind.DOSE_TO_PERCENT:
        return limit.bound, metric.at
    if metric.kind in (MetricKind.DOSE_TO_VOLUME, MetricKind.POINT):
        return limit.bound, min(100.0, 100.0 * metric.at / structure_cm3)
    percent = limit.bound if limit.unit == "%" else 100.0 * limit.bound / structure_cm3
    if metric.kind is MetricKind.SPARED:
        percent = 100.0 - percent
    return metric.at, min(100.0, max(0.0, percent))


def _left_out(plan: PlanMeasures, curves: Sequence[Curve]) -> str:
    told = sum(s.dvh is not None and s.dvh.structure_cm3 > 0 for s in plan.structures)
    more = told - len(curves)
    return f" {count(more, 'further structure')} in the table only." if more else ""


def _axes(highest: float) -> _Axes:
    """Return axes with at most eight round steps."""
    power = 10.0 ** np.floor(np.log10(highest / 8))
    step = next(s * power for s in (1, 2, 5, 10) if s * power * 8 >= highest * (1 - 1e-9))
    return _Axes(float(step), float(np.ceil(highest / step) * step))


def _grid(axes: _Axes) -> list[Part]:
    parts: list[Part] = []
    right, bottom = PLOT.left + PLOT.width, PLOT.top + PLOT.height
    for percent in range(0, 101, 20):
        _, y = axes.point(0.0, percent)
        line = np.array([[PLOT.left, y], [right, y]])
        parts.append(Stroke(line, GRID if percent else BLACK, 0.15 if percent else 0.3))
        parts.append(Words(str(percent), PLOT.left - 1.2, y + 0.8, 2.2, anchor="end"))
    for at in range(round(axes.end_gy / axes.step_gy) + 1):
        x, _ = axes.point(at * axes.step_gy, 0.0)
        line = np.array([[x, PLOT.top], [x, bottom]])
        parts.append(Stroke(line, GRID if at else BLACK, 0.15 if at else 0.3))
        parts.append(Words(f"{at * axes.step_gy:g}", x, bottom + 3.2, 2.2, anchor="middle"))
    middle = PLOT.left + PLOT.width / 2
    parts.append(Words("dose (Gy)", middle, bottom + 6.8, 2.3, anchor="middle"))
    parts.append(Words("volume (%)", 0.0, PLOT.top - 1.2, 2.3))
    return parts


def _prescription(dose_gy: float, axes: _Axes) -> list[Part]:
    x, _ = axes.point(dose_gy, 0.0)
    line = np.array([[x, PLOT.top], [x, PLOT.top + PLOT.height]])
    words = Words(f"prescribed {dose_gy:g} Gy", x + 0.5, PLOT.top - 1.2, 2.2, SOFT, "end")
    return [Stroke(line, SOFT, 0.25, (0.8, 0.8)), words]


@dataclass(frozen=True, slots=True, eq=False)
class _Mark:
    """A limit on the sheet: a triangle whose lower left corner is the limit."""

    x: float
    y: float
    curve: Curve
    is_exceeded: bool

    def parts(self) -> list[Part]:
        x, y, color = self.x, self.y, self.curve.color
        corners = np.array([[x, y], [x + 1.9, y - 0.9], [x + 0.9, y - 1.9]])
        return [
            Area(corners, color, color if self.is_exceeded else WHITE),
            Words(self.curve.key, x + 1.9, y - 1.5, 2.0, color, is_bold=self.is_exceeded),
        ]


def _marks(plan: PlanMeasures, curves: Sequence[Curve], axes: _Axes) -> list[_Mark]:
    marks = []
    for curve in curves:
        for verdict in plan.limits:
            # what was not measured has no place beside what was
            if verdict.roi_name != curve.structure.name or verdict.value is None:
                continue
            point = limit_point(verdict, curve.dvh.structure_cm3)
            if point is not None and point[0] <= axes.end_gy:
                is_exceeded = verdict.status is LimitStatus.EXCEEDED
                marks.append(_Mark(*axes.point(*point), curve, is_exceeded))
    return marks


def _keys(curves: Sequence[Curve], axes: _Axes, marks: Sequence[tuple[float, float]]) -> list[Part]:
    """Return the letter of each curve on it, where no other curve, letter or mark is near."""
    lines = [_even(axes.line(curve.dvh)) for curve in curves]
    # the letter of a mark stands above and right of it
    taken = np.array([(x + 1.2, y - 1.2) for x, y in marks]).reshape(-1, 2)
    parts: list[Part] = []
    for index, curve in enumerate(curves):
        places = lines[index]
        apart = np.full(len(places), CLEAR_MM)
        for near in (*(line for at, line in enumerate(lines) if at != index), taken):
            if len(near):
                each = np.linalg.norm(places[:, None] - near, axis=-1)
                apart = np.minimum(apart, each.min(axis=1))
        # the steep part of a curve is more its own than the shoulder that all share
        at = int(np.argmax(apart - 0.01 * np.abs(places[:, 1] - PLOT.top - PLOT.height / 2)))
        x, y = (float(v) for v in places[at])
        taken = np.concatenate([taken, [[x, y]]])
        ground = Box(x - 1.2, y - 1.3, 2.4, 2.6)
        parts.append(Area(rectangle(ground), WHITE, WHITE))
        parts.append(Words(curve.key, x, y + 0.8, 2.3, curve.color, "middle", is_bold=True))
    return parts


def _even(line: Floats) -> Floats:
    """Return points on a curve a millimetre apart, off its ends."""
    way = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(line, axis=0), axis=1))])
    at = np.linspace(0.02, 0.98, max(3, int(way[-1]))) * way[-1]
    return np.stack([np.interp(at, way, line[:, axis]) for axis in (0, 1)], axis=-1)


def _legend(curves: Sequence[Curve], *, has_names: bool) -> list[Part]:
    if not has_names:
        return []
    left = PLOT.left + PLOT.width + 4.0
    row = min(4.0, PLOT.height / max(1, len(curves)))
    size = min(2.2, row * 0.8)
    parts: list[Part] = []
    for index, curve in enumerate(curves):
        y = PLOT.top + 1.5 + index * row
        line = np.array([[left + 4.0, y], [left + 14.0, y]])
        parts.append(Words(curve.key, left, y + 0.8, size, curve.color, is_bold=True))
        parts.append(Stroke(line, curve.color, curve.width_mm, curve.dash_mm))
        parts.append(Words(_called(curve.structure), left + 15.5, y + 0.8, size))
    return parts


def _called(structure: StructureDose) -> str:
    words = name(structure.name)
    if len(words) > LONGEST_CALLED:
        words = words[: LONGEST_CALLED - 1] + ELLIPSIS
    return f"{words}, {structure.version}" if structure.version is not None else words
