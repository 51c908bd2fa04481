"""How well each series was brought to the planning CT: verdict, numbers, pictures."""

from handlers.pages.content import Block, Section, Statement, Tone, table_of
from handlers.pages.registration_figure import registration_figure
from handlers.pages.summary import KINDS
from handlers.pages.words import name, number, said, sentence
from handlers.results import CaseResult, Registration, RegistrationStatus

QUALITY = {
    "engines_apart_mm": "the engines apart",
    "brightness_apart_mm": "brightness apart",
    "structure_apart_mm": "structure apart",
    "local_apart_mm": "local measures apart",
    "local_shift_mm": "moved around the target",
    "as_sent_apart_mm": "apart from as it was sent",
    "target_coverage": "part of the target shown",
    "similarity": "similarity",
    "sharpness": "sharpness",
}
"""Figures of quality that stand on the page, and what they are called; the structured report has
all."""


def registration_section(result: CaseResult) -> Section | None:
    """Return the section on all registrations; None if there is none."""
    if not result.registrations:
        return None
    headings = ("registration", "verdict", "uncertainty (mm)", "translation L, P, S (mm)",
                "rotation x, y, z (°)",
                "deformation")  # fmt: skip
    tones = {
        index: Tone.CAUTION
        for index, each in enumerate(result.registrations)
        if each.status is not RegistrationStatus.PASS
    }
    rows = tuple(_row(result, number_, r) for number_, r in enumerate(result.registrations, 1))
    blocks: list[Block] = [
        table_of("Registration to the planning CT", headings, rows, words=(0, 1, 5), tones=tones),
    ]
    for number_, registration in enumerate(result.registrations, start=1):
        blocks += _words(result, number_, registration)
        figure = registration_figure(result, registration)
        if figure is not None:
            blocks.append(figure)
        elif registration.status is RegistrationStatus.FAIL:
            words = (
                f"Registration {number_} failed: its series was not resampled, so none is shown."
            )
            blocks.append(Statement(words, Tone.NOTE))
    return Section("Registration to the planning CT", tuple(blocks))


def _row(result: CaseResult, at: int, registration: Registration) -> tuple[str, ...]:
    kind = KINDS[registration.kind_in(result.case)]
    contrasts = [
        image.contrast or name(image.description)
        for image in (*result.case.mr, *result.case.other_ct)
        if image.series_instance_uid in registration.series_uids
        and (image.contrast or image.description)
    ]
    what = f"{at}: {kind} {', '.join(contrasts)}".strip()
    figures = registration.deformation_figures
    deformed = "none, rigid alone"
    if figures:
        deformed = (
            f"up to {number(figures['largest_displacement_mm'], 1)} mm, Jacobian "
            f"{number(figures['jacobian_min'], 2)} to {number(figures['jacobian_max'], 2)}"
        )
    return (
        what,
        str(registration.status),
        number(registration.uncertainty_mm, 1),
        _three(registration.translation_mm),
        _three(registration.ct_from_mr.rotation_deg),
        deformed,
    )


def _three(values: tuple[float, float, float]) -> str:
    return ", ".join(number(value, 1, is_signed=True) for value in values)


def _words(result: CaseResult, at: int, registration: Registration) -> list[Block]:
    blocks: list[Block] = []
    if registration.reasons:
        reasons = " ".join(sentence(reason) for reason in registration.reasons)
        blocks.append(Statement(f"Registration {at}: {reasons}", Tone.CAUTION))
    told = [sentence(note) for note in registration.notes]
    quality = [
        f"{label} {said(key, registration.quality[key])}"
        for key, label in QUALITY.items()
        if key in registration.quality
    ]
    if quality:
        told.append(f"Quality: {', '.join(quality)}.")
    daily = result.daily_positions.get(registration.leading_series_uid)
    if daily is not None:
        told.append(
            f"The patient lies off plan by {_three(daily.shift_mm)} mm along and "
            f"{_three(daily.rotation_deg)}° about X, Y, Z (IEC 61217 fixed)."
        )
        if not daily.is_frame_shared:
            told.append("It lies in a frame of its own: this compares coordinates only.")
    if told:
        blocks.append(Statement(f"Registration {at}: {' '.join(told)}", Tone.NOTE))
    return blocks
