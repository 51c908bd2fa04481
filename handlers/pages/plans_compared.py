"""Several plans on one planning CT, figure by figure: each further one against the first."""

from collections.abc import Sequence

from handlers.dose_results import Comparison, DoseMeasures, PlanMeasures
from handlers.pages.content import Beside, Block, Section, Table, table_of
from handlers.pages.words import NONE, bare, heading_of, name, number, split_unit

COMPARED_TARGET_KEYS = ("coverage_percent", "d98_gy", "d95_gy", "d2_gy", "mean_gy", "ci_paddick")
COMPARED_ORGAN_KEYS = ("mean_gy", "d0.03cc_gy")
"""Figures by which two plans are compared on the page."""

COMPARED_SHARES = (0.42, 0.58)
"""Parts of the width for targets and organs in that comparison."""


def plans_compared(dose: DoseMeasures) -> Section | None:
    """Return the figures of further plans against those of the first, structure by structure."""
    pairs = [pair for pair in dose.comparisons if pair.plans[0] != pair.plans[1]]
    blocks: list[Block] = []
    for index in sorted({pair.plans[1] for pair in pairs}):
        blocks += _against_first([pair for pair in pairs if pair.plans[1] == index], dose, index)
    return Section("Plans compared", tuple(blocks)) if blocks else None


def _against_first(pairs: Sequence[Comparison], dose: DoseMeasures, index: int) -> list[Block]:
    """Return one plan against the first: targets figure by figure, beside them the organs."""
    first, other = (_label(dose.plans[at], at) for at in (0, index))
    names = {s.name for s in dose.plans[0].structures if s.version is not None}
    caption = f"{other} against {first}"
    targets = [
        (name(pair.structures[0]), heading_of(key), *_change(pair, key))
        for pair in pairs
        if pair.structures[0] in names
        for key in COMPARED_TARGET_KEYS
        if key in pair.figures
    ]
    organs = [
        (
            name(pair.structures[0]),
            *(cell for key in COMPARED_ORGAN_KEYS for cell in _change(pair, key)),
        )
        for pair in pairs
        if pair.structures[0] not in names and pair.figures.keys() & set(COMPARED_ORGAN_KEYS)
    ]
    sides = [first, other, "difference"]
    tables: list[Table] = []
    if targets:
        headings = ["target", "figure", *sides]
        tables.append(table_of(f"{caption}: targets", headings, targets, words=(0, 1)))
    if organs:
        headings = [f"{heading_of(key)} {side}" for key in COMPARED_ORGAN_KEYS for side in sides]
        tables.append(table_of(f"{caption}: organs", ["organ", *headings], organs))
    if len(tables) < 2:
        return list(tables)
    return [Beside(tuple((table,) for table in tables), COMPARED_SHARES)]


def _change(pair: Comparison, key: str) -> tuple[str, str, str]:
    """Return a figure of both plans and the difference; dashes where one lacks it."""
    if key not in pair.figures:
        return NONE, NONE, NONE
    first, second = pair.figures[key]
    change = number(second - first, split_unit(key)[2], is_signed=True)
    return bare(key, first), bare(key, second), change


def _label(plan: PlanMeasures, index: int) -> str:
    return name(plan.label) if plan.label else f"plan {index + 1}"
