"""Tables of targets: drawn against refined, what moved the contour, and the organs around."""

from collections.abc import Mapping

from handlers.pages.content import Block, Statement, Table, Tone, table_of
from handlers.pages.scene import body_names
from handlers.pages.words import (
    NONE,
    bare,
    label_of,
    name,
    number,
    said,
    sentence,
    split_unit,
)
from handlers.results import CaseResult, Neighbour, TargetResult
from handlers.surface_figures import MOVED_MM, surface_figures

VOLUME_METHODS = {
    "slices": "Volume, sum of slices",
    "mesh": "Volume, closed surface",
}
"""Methods beside the count of voxels, by their name in the keys."""

OVERLAP_KEYS = ("dsc", "jaccard", "sensitivity", "over_contour", "removed_cm3", "added_cm3")
"""Metrics of volumes; the others are of surfaces."""

MOST_BESIDE, NEAREST = 24, 20
"""Organs that stand beside the pictures of a target; of more than that so many."""


def volume_table(target: TargetResult) -> Table:
    """Return volumes drawn and refined, by each method, and of what lies in them.

    First comes that of the contours, which is what other systems find.
    """
    refined = target.refinement.refined
    metrics = target.metrics
    rows: list[tuple[str, ...]] = []
    for method, label in VOLUME_METHODS.items():
        drawn = metrics.get(f"volume_{method}_reference_cm3", target.volumes_cm3.get(method))
        if drawn is not None:
            rows.append(_pair(label, drawn, metrics.get(f"volume_{method}_evaluated_cm3")))
    voxels_cm3 = None if refined is None else refined.volume_cm3
    rows.append(_pair("Volume, voxels", target.drawn.volume_cm3, voxels_cm3))
    for content in target.contents:
        named = f" ({', '.join(name(each) for each in content.structures)})"
        label = f"{str(content.cause).capitalize()} inside{named if content.structures else ''}"
        final = None if refined is None else content.final_cm3
        rows.append(_pair(label, content.drawn_cm3, final))
    headings = ["cm³", "drawn", "refined", "difference"]
    if refined is None:
        headings, rows = headings[:2], [row[:2] for row in rows]
    return table_of(f"{name(target.source_roi.name)}: volumes", headings, rows)


def _pair(label: str, drawn: float, refined: float | None) -> tuple[str, str, str, str]:
    if refined is None:
        return label, bare("_cm3", drawn), NONE, NONE
    change = refined - drawn
    percent = f" ({number(100 * change / drawn, 0, is_signed=True)} %)" if drawn else ""
    difference = number(change, split_unit("_cm3")[2], is_signed=True) + percent
    return label, bare("_cm3", drawn), bare("_cm3", refined), difference


def overlap_table(target: TargetResult) -> Table | None:
    """Return what compares the volumes of both contours; None after an abstention."""
    keys = [key for key in target.metrics if key in OVERLAP_KEYS]
    rows = [(label_of(key), said(key, target.metrics[key])) for key in keys]
    return table_of("Overlap, by voxels", ["measure", "value"], rows) if rows else None


def distance_table(target: TargetResult) -> Table | None:
    """Return what compares the surfaces of both contours; None after an abstention."""
    metrics = target.metrics
    rows = [
        (label_of(key), said(key, value))
        for key, value in metrics.items()
        if key not in OVERLAP_KEYS and not key.startswith(("volume_", "centroid_shift_"))
    ]
    if "centroid_shift_mm" in metrics:
        rows.append(("Centroid shift", said("_mm", metrics["centroid_shift_mm"])))
    return table_of("Surfaces, refined to drawn", ["measure", "value"], rows) if rows else None


def _shift(metrics: Mapping[str, float]) -> str:
    """Return the way of the centroid in the patient's directions."""
    ways = [metrics.get(f"centroid_shift_{axis}_mm") for axis in "xyz"]
    words = []
    for way, (plus, minus) in zip(ways, (("L", "R"), ("P", "A"), ("H", "F")), strict=True):
        if way is None:
            return ""
        words.append(f"{plus if way >= 0 else minus} {number(abs(way), 1)}")
    return f"{', '.join(words)} mm"


def cause_table(target: TargetResult) -> Table | None:
    """Return what was removed and added, and because of what; None if nothing was."""
    changes = target.refinement.changes
    figures = surface_figures(target.refinement.moves)
    moved = {} if figures is None else {each.cause: each for each in figures.causes}
    if not changes:
        return None
    rows = []
    told: set[str] = set()
    for change in changes:
        of_surface = moved.get(change.cause) if str(change.cause) not in told else None
        told.add(str(change.cause))
        cause = (
            f"{change.cause} ({name(change.structure)})" if change.structure else str(change.cause)
        )
        rows.append(
            (
                cause[:1].upper() + cause[1:],
                bare("_cm3", change.removed_cm3),
                bare("_cm3", change.added_cm3),
                NONE if of_surface is None else number(100 * of_surface.share, 0),
                NONE if of_surface is None else number(of_surface.mean_mm, 1, is_signed=True),
            )
        )
    headings = ["because of", "removed (cm³)", "added (cm³)", "of surface (%)", "mean way (mm)"]
    return table_of(f"{name(target.source_roi.name)}: volumes by cause", headings, rows)


def _surface_words(target: TargetResult) -> list[str]:
    """Return where the drawn surface went, in a sentence."""
    figures = surface_figures(target.refinement.moves)
    if figures is None:
        return []
    return [
        f"Of the drawn surface {number(100 * figures.inward_share, 0)} % moved inward by more than "
        f"{MOVED_MM} mm (at most {number(figures.largest_inward_mm, 1)} mm) and "
        f"{number(100 * figures.outward_share, 0)} % outward (at most "
        f"{number(figures.largest_outward_mm, 1)} mm)."
    ]


def neighbour_table(result: CaseResult, target: TargetResult) -> Table | None:
    """Return how a target lies to the organs, the nearest first; None if there are none.

    What encloses or carries the patient is no organ. Of very many only the nearest are told; then
    all stand in `all_neighbours`.
    """
    neighbours = _organs_near(result, target)
    if not neighbours:
        return None
    some = neighbours if len(neighbours) <= MOST_BESIDE else neighbours[:NEAREST]
    caption = f"{name(_final_name(target))} to organs"
    if len(some) < len(neighbours):
        caption += f", nearest {len(some)} of {len(neighbours)}"
    rows = [
        (name(each.name), bare("_mm", each.distance_mm), bare("_cm3", each.overlap_cm3))
        for each in some
    ]
    return table_of(caption, ["organ", "mm apart", "cm³ shared"], rows)


def all_neighbours(result: CaseResult) -> list[Table]:
    """Return how targets lie to all organs, drawn and in the end, where there are very many."""
    tables = []
    for target in result.targets:
        neighbours = _organs_near(result, target)
        if len(neighbours) <= MOST_BESIDE:
            continue
        rows = [
            (
                name(each.name),
                bare("_mm", each.drawn_distance_mm),
                bare("_mm", each.distance_mm),
                bare("_cm3", each.drawn_overlap_cm3),
                bare("_cm3", each.overlap_cm3),
            )
            for each in neighbours
        ]
        headings = [
            "organ",
            "distance of the drawn (mm)",
            "distance in the end (mm)",
            "overlap of the drawn (cm³)",
            "overlap in the end (cm³)",
        ]
        caption = f"{name(target.source_roi.name)}: all organs, the nearest first"
        tables.append(table_of(caption, headings, rows))
    return tables


def _organs_near(result: CaseResult, target: TargetResult) -> list[Neighbour]:
    bodies = body_names(result)
    organs = [each for each in target.neighbours if each.name not in bodies]
    return sorted(organs, key=lambda each: (each.distance_mm, -each.overlap_cm3))


def _final_name(target: TargetResult) -> str:
    return target.refined_roi_name or target.source_roi.name


def further_words(target: TargetResult) -> list[Block]:
    """Return how a target was refined, what was found around it, what was made from it."""
    told = []
    if target.refinement.refined is not None:
        told += [sentence(reason) for reason in target.refinement.reasons]
    told += _surface_words(target)
    if shift := _shift(target.metrics):
        told.append(f"The centroid moved {shift}.")
    if target.refinement.found:
        found = ", ".join(
            f"{name(each)} {said('_cm3', mask.volume_cm3)}"
            for each, mask in target.refinement.found.items()
        )
        told.append(f"Found around it, contoured by nobody: {found}.")
    told += [
        f"Made from it: {name(d.name)} ({d.interpreted_type}, "
        f"{said('_cm3', d.volume_cm3)}), {d.description}"
        for d in target.derived
    ]
    return [Statement(" ".join(told), Tone.NOTE)] if told else []
