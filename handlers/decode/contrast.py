"""What an MR series shows, by written rules; empty where no rule holds."""

import re

from pydicom import Dataset

from handlers.decode.attributes import items_of, number_of, text_of, texts_of

LONG_ECHO_MS = 60.0
"""Spin echoes later than this are T2-weighted (effective echo time of fast spin echo likewise)."""

SHORT_ECHO_MS = 30.0
"""Spin echoes earlier than this show no T2; with a short repetition time they are T1-weighted."""

SHORT_REPETITION_MS = 1000.0
"""Spin echo repeated faster than this is T1-weighted, if the echo is early too."""

SHORT_GRADIENT_ECHO_MS = 10.0
"""Gradient echoes earlier than this show no T2*."""

_WORDS = (
    ("ADC", re.compile(r"(?<![A-Z0-9])ADC(?![A-Z0-9])")),
    ("DWI", re.compile(r"(?<![A-Z0-9])(DWI|DIFFUSION)(?![A-Z0-9])")),
    ("T2", re.compile(r"(?<![A-Z0-9])T2W?(?![A-Z0-9*])")),
    ("T1", re.compile(r"(?<![A-Z0-9])T1W?(?![A-Z0-9*])")),
)


def contrast_of(ds: Dataset) -> tuple[str, bool]:
    """Return `T1`, `T2`, `DWI`, `ADC` or empty, and whether only the description said so.

    The first rule that holds decides:
    1. Image Type holds ADC or DIFFUSION MAP: ADC.
    2. Diffusion b-value present (also in the MR Diffusion Sequence), or Image Type holds DIFFUSION,
       or Scanning Sequence is EP with SE: DWI.
    3. Without GR: Echo Time of 60 ms or more: T2. Echo Time below 30 ms with a Repetition Time of
       at most 1000 ms, or with a contrast agent: T1.
    4. With GR: Echo Time below 10 ms, and either spoiled (Sequence Variant SP), or with an
       inversion pulse (IR), or with a contrast agent; but not steady state (SS) unspoiled: T1.
    5. Only if no Echo Time is given: exactly one of the words ADC, DWI or DIFFUSION, T2, T1 in
       Series Description. ADC beats DWI.
    """
    image_type = texts_of(ds, "ImageType")
    if {"ADC", "DIFFUSION MAP", "DIFFUSION_MAP"} & set(image_type):
        return "ADC", False
    sequence = set(texts_of(ds, "ScanningSequence"))
    if _b_value_is_told(ds) or "DIFFUSION" in image_type or {"EP", "SE"} <= sequence:
        return "DWI", False
    echo_ms = _timing_ms(ds, "EchoTime", "MREchoSequence", "EffectiveEchoTime")
    if echo_ms is None:
        return _from_description(text_of(ds, "SeriesDescription")), True
    if "GR" in sequence:
        return _gradient_echo(ds, sequence, echo_ms), False
    if echo_ms >= LONG_ECHO_MS:
        return "T2", False
    repetition_ms = _timing_ms(
        ds, "RepetitionTime", "MRTimingAndRelatedParametersSequence", "RepetitionTime"
    )
    is_fast = repetition_ms is not None and 0 < repetition_ms <= SHORT_REPETITION_MS
    if sequence and echo_ms < SHORT_ECHO_MS and (is_fast or text_of(ds, "ContrastBolusAgent")):
        return "T1", False
    return "", False


def _gradient_echo(ds: Dataset, sequence: set[str], echo_ms: float) -> str:
    variant = set(texts_of(ds, "SequenceVariant"))
    if echo_ms >= SHORT_GRADIENT_ECHO_MS or ("SS" in variant and "SP" not in variant):
        return ""
    is_t1 = "SP" in variant or "IR" in sequence or bool(text_of(ds, "ContrastBolusAgent"))
    return "T1" if is_t1 else ""


def _functional_groups(ds: Dataset) -> list[Dataset]:
    shared = items_of(ds, "SharedFunctionalGroupsSequence")
    return [*shared, *items_of(ds, "PerFrameFunctionalGroupsSequence")[:1]]


def _b_value_is_told(ds: Dataset) -> bool:
    places = [ds]
    for group in _functional_groups(ds):
        places += items_of(group, "MRDiffusionSequence")
    return any(number_of(place, "DiffusionBValue") is not None for place in places)


def _timing_ms(ds: Dataset, keyword: str, sequence: str, nested_keyword: str) -> float | None:
    times = [number_of(ds, keyword)]
    for group in _functional_groups(ds):
        times += [number_of(item, nested_keyword) for item in items_of(group, sequence)]
    return next((time for time in times if time), None)


def _from_description(description: str) -> str:
    found = [name for name, word in _WORDS if word.search(description.upper())]
    if found[:2] == ["ADC", "DWI"]:
        found.remove("DWI")
    return found[0] if len(found) == 1 else ""
