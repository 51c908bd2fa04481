"""The order of the report: from a result to its content."""

from handlers.pages.about import About
from handlers.pages.closing import findings_section, provenance_section
from handlers.pages.content import Beside, Block, Document, Plain, Section, Statement, Tone
from handlers.pages.dose_tables import dose_sections
from handlers.pages.registration_part import registration_section
from handlers.pages.scene import body_names
from handlers.pages.summary import summary
from handlers.pages.surface_figure import NARROW, WIDE, surface_figure
from handlers.pages.target_figure import target_figure
from handlers.pages.target_tables import (
    all_neighbours,
    cause_table,
    distance_table,
    further_words,
    neighbour_table,
    overlap_table,
    volume_table,
)
from handlers.pages.words import name
from handlers.results import CaseResult, TargetResult

TITLE = "MR-guided target review"
WARNING = (
    "PROPOSAL, NOT APPROVED: to be judged by a clinician before any use. Hilum is not a cleared "
    "medical device."
)

NUMBER_SHARES = (0.46, 0.24, 0.3)
"""Of volumes, overlap and distances."""

PICTURE_SHARE = 0.725
"""Part of the width for the pictures of a target; beside them stand legend and organs."""

MOST_ORGANS_ABOVE = 13
"""With no more organs than that the surface of the target has room below them."""


def document_of(result: CaseResult, about: About) -> Document:
    """Return the report on a result.

    The first page says what was done, the verdicts, and shows the first target; then come its
    numbers, the further targets, organs, dose, registration, findings and provenance. What was not
    computed is not mentioned, or said to be absent where a reader would look for it.
    """
    first, *further = result.targets
    sections = summary(result, about)
    sections[-1] = _with(sections[-1], _picture(result, first))
    sections.append(Section(f"Target {name(first.source_roi.name)}", _numbers(result, first)))
    for target in further:
        blocks = (*_picture(result, target), *_numbers(result, target))
        sections.append(Section(f"Target {name(target.source_roi.name)}", blocks))
    if organs := all_neighbours(result):
        sections.append(Section("Organs around the targets", tuple(organs)))
    if result.dose is not None:
        sections += dose_sections(result.dose, body_names(result))
    else:
        words = Statement("No dose came with this case, or none could be used.")
        sections.append(Section("Dose", (words,)))
    registration = registration_section(result)
    if registration is not None:
        sections.append(registration)
    if (findings := findings_section(result)) is not None:
        sections.append(findings)
    sections.append(provenance_section(about))
    return Document(
        title=TITLE,
        subject=_subject(about),
        warning=WARNING,
        sections=tuple(sections),
        created_date=about.created_date,
        created_time=about.created_time,
        software_version=about.software_version,
    )


def _subject(about: About) -> str:
    parts = [about.patient_name or "unnamed", f"ID {about.patient_id or 'not told'}"]
    if about.birth_date:
        parts.append(f"born {about.birth_date}")
    if about.study_date:
        parts.append(f"CT of {about.study_date}")
    return ", ".join(parts)


def _with(section: Section, blocks: tuple[Block, ...]) -> Section:
    return Section(section.title, (*section.blocks, *blocks), section.level)


def _picture(result: CaseResult, target: TargetResult) -> tuple[Block, ...]:
    organs = neighbour_table(result, target)
    beside: tuple[Plain, ...] = (Statement("No organ was measured to.", Tone.NOTE),)
    if organs is not None:
        beside = (organs,)
    figures = target_figure(result, target)
    if figures is None:
        return (Statement("The target has no voxel on the CT: there is nothing to show."), *beside)
    pictures, legend = figures
    if _has_room_beside(result, target) and (surface := surface_figure(target, NARROW)):
        beside = (*beside, surface)
    columns = ((pictures,), (legend, *beside))
    return (Beside(columns, (PICTURE_SHARE, 1 - PICTURE_SHARE)),)


def _has_room_beside(result: CaseResult, target: TargetResult) -> bool:
    """Tell whether the surface of a target stands beside its pictures, below the organs."""
    organs = neighbour_table(result, target)
    return organs is None or len(organs.rows) <= MOST_ORGANS_ABOVE


def _numbers(result: CaseResult, target: TargetResult) -> tuple[Block, ...]:
    volumes, causes = volume_table(target), cause_table(target)
    left = (volumes,) if causes is None else (volumes, causes)
    overlap, distances = overlap_table(target), distance_table(target)
    surface = None if _has_room_beside(result, target) else surface_figure(target, WIDE)
    more = (*([surface] if surface is not None else []), *further_words(target))
    if overlap is None or distances is None:
        compared = tuple(table for table in (overlap, distances) if table is not None)
        return (*left, *compared, *more)
    return (Beside((left, (overlap,), (distances,)), NUMBER_SHARES), *more)
