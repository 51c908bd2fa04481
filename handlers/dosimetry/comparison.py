"""The same figures side by side: versions of a target in one plan, and two plans of one patient."""

from collections.abc import Iterator, Sequence

from handlers.dose_results import Comparison, PlanMeasures, StructureDose, TargetVersion


def comparisons(plans: Sequence[PlanMeasures]) -> tuple[Comparison, ...]:
    """Return every pair that a person will want to see together.

    In each plan the drawn target against each of its other versions; then every further plan
    against the first, structure by structure. A figure that one of both lacks is left out.
    """
    pairs = [
        Comparison((index, index), (first.name, second.name), _figures(first, second))
        for index, plan in enumerate(plans)
        for first, second in _versions(plan)
    ]
    pairs += [
        Comparison((0, index), (first.name, second.name), _figures(first, second))
        for index, plan in enumerate(plans[1:], start=1)
        for first, second in _same_structures(plans[0], plan)
    ]
    return tuple(pair for pair in pairs if pair.figures)


def _versions(plan: PlanMeasures) -> Iterator[tuple[StructureDose, StructureDose]]:
    for drawn in plan.structures:
        if drawn.version is TargetVersion.DRAWN:
            for other in plan.structures:
                if other.target == drawn.target and other.version not in (None, drawn.version):
                    yield drawn, other


def _same_structures(
    plan: PlanMeasures, other: PlanMeasures
) -> Iterator[tuple[StructureDose, StructureDose]]:
    there = {structure.name: structure for structure in other.structures}
    for structure in plan.structures:
        if structure.name in there:
            yield structure, there[structure.name]


def _figures(first: StructureDose, second: StructureDose) -> dict[str, tuple[float, float]]:
    return {
        key: (value, second.figures[key])
        for key, value in first.figures.items()
        if key in second.figures
    }
