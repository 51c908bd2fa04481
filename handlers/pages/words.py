"""How numbers, names and dates are said on a page."""

import math
import unicodedata
from collections.abc import Mapping

MINUS = "\N{MINUS SIGN}"
NONE = "\N{EN DASH}"
"""Stands where there is no value."""

ELLIPSIS = "\N{HORIZONTAL ELLIPSIS}"

UNITS: Mapping[str, tuple[str, int]] = {
    "_mm3": ("mm³", 0),
    "_cm3": ("cm³", 2),
    "_mm": ("mm", 1),
    "_gy": ("Gy", 2),
    "_percent": ("%", 1),
    "_deg": ("°", 1),
    "_hu": ("HU", 0),
    "_s": ("s", 1),
}
"""Unit and decimals by suffix of a key; without one a number is dimensionless."""

PLAIN_DECIMALS = 3

COUNTS = frozenset({"added_path_slices", "engines", "local_measures"})
"""Figures that are whole numbers."""

LABELS: Mapping[str, str] = {
    "dsc": "Dice coefficient (DSC)",
    "jaccard": "Jaccard index",
    "sensitivity": "Share of drawn kept",
    "over_contour": "Share of refined new",
    "removed_cm3": "Removed",
    "added_cm3": "Added",
    "hd_mm": "Hausdorff distance",
    "hd95_mm": "HD95, larger direction",
    "hd95_pooled_mm": "HD95, directions pooled",
    "mean_surface_distance_mm": "Mean surface distance",
    "mean_distance_to_agreement_mm": "Mean distance to agreement",
    "surface_dsc_1mm": "Surface DSC at 1 mm",
    "surface_dsc_2mm": "Surface DSC at 2 mm",
    "added_path_length_mm": "Added path length",
    "added_path_slices": "Slices with added path",
    "coverage_percent": "Coverage",
    "ci_rtog": "CI RTOG",
    "ci_paddick": "CI Paddick",
    "gradient_index": "Gradient index",
    "r50": "R50%",
    "d2cm_percent": "D2cm",
    "hi_icru83": "HI ICRU83",
    "mean_gy": "Mean",
    "max_gy": "Maximum",
    "min_gy": "Minimum",
}
"""What a figure is called, by key; others are called by their key."""

LONGEST_NAME = 64
"""Letters of a name that are said: as many as an ROI Name may have (VR LO)."""

SHORT_UID = 10
"""Digits of a UID that tell it from others at a glance."""


def split_unit(key: str) -> tuple[str, str, int]:
    """Return what a key says without its unit, the unit, and how many decimals it gets.

    Example:
        >>> split_unit("hd95_mm"), split_unit("dsc"), split_unit("surface_dsc_2mm")
        (('hd95', 'mm', 1), ('dsc', '', 3), ('surface_dsc_2mm', '', 3))
    """
    if key in COUNTS:
        return key, "", 0
    for suffix, (unit, decimals) in UNITS.items():
        if key.endswith(suffix):
            return key.removesuffix(suffix), unit, decimals
    return key, "", PLAIN_DECIMALS


def label_of(key: str) -> str:
    """Return what a figure is called, without its unit.

    Example:
        >>> label_of("d0.03cc_gy"), label_of("d95_gy"), label_of("d2cm_gy"), label_of("far_mm")
        ('D0.03cc', 'D95%', 'D2cm', 'Far')
    """
    if key in LABELS:
        return LABELS[key]
    stem, unit, _ = split_unit(key)
    if unit == "Gy" and stem[:1] == "d" and stem[1:2].isdigit():
        return "D" + stem[1:] + ("" if stem.endswith(("cc", "mm3", "cm")) else "%")
    words = stem.replace("_", " ")
    return words[:1].upper() + words[1:]


def heading_of(key: str) -> str:
    """Return what a figure is called, with its unit.

    Example:
        >>> heading_of("mean_gy"), heading_of("dsc")
        ('Mean (Gy)', 'Dice coefficient (DSC)')
    """
    unit = split_unit(key)[1]
    return f"{label_of(key)} ({unit})" if unit else label_of(key)


def number(value: float | None, decimals: int, *, is_signed: bool = False) -> str:
    """Return a number as it is printed; a dash where there is none.

    Example:
        >>> number(-0.04, 1), number(2.345, 2), number(None, 1), number(float("nan"), 1)
        ('0.0', '2.35', '–', 'not a number')
    """
    if value is None:
        return NONE
    if not math.isfinite(value):
        return "not a number" if math.isnan(value) else "infinite"
    text = f"{abs(value):.{decimals}f}"
    if not any(digit in "123456789" for digit in text):
        return text
    if value < 0:
        return MINUS + text
    return "+" + text if is_signed else text


def said(key: str, value: float | None, *, is_signed: bool = False) -> str:
    """Return the value of a figure with its unit.

    Example:
        >>> said("hd95_mm", 2.25), said("dsc", 0.7341), said("coverage_percent", 97.0)
        ('2.2 mm', '0.734', '97.0 %')
    """
    _, unit, decimals = split_unit(key)
    text = number(value, decimals, is_signed=is_signed)
    is_number = value is not None and math.isfinite(value)
    if not unit or not is_number:
        return text
    return text + unit if unit == "°" else f"{text} {unit}"


def bare(key: str, value: float | None) -> str:
    """Return the value of a figure without its unit, for a column that names it."""
    return number(value, split_unit(key)[2])


def name(text: str) -> str:
    r"""Return a name that others gave as one line without marks that cannot be seen.

    Example:
        >>> name("GTV\u202e\n n1"), name("")
        ('GTV n1', 'unnamed')
    """
    line = "".join(c for c in " ".join(text.split()) if unicodedata.category(c)[0] != "C")
    if len(line) > LONGEST_NAME:
        line = line[: LONGEST_NAME - 1] + ELLIPSIS
    return line or "unnamed"


def sentence(text: str) -> str:
    """Return words as a sentence: one line, a capital first, a full stop last.

    Example:
        >>> sentence("too little is seen")
        'Too little is seen.'
    """
    line = "".join(c for c in " ".join(text.split()) if unicodedata.category(c)[0] != "C")
    if not line:
        return ""
    line = line[0].upper() + line[1:]
    return line if line[-1] in ".!?:" else f"{line}."


def short_uid(uid: str) -> str:
    """Return the end of a UID, by which a person tells it from others.

    Example:
        >>> short_uid("1.2.826.0.1.3680043.8.498.1234"), short_uid("1.2.3")
        ('…8.498.1234', '1.2.3')
    """
    return uid if len(uid) <= SHORT_UID else ELLIPSIS + uid[-SHORT_UID:]


def count(number_of: int, noun: str, plural: str = "") -> str:
    """Return a count with its noun.

    Example:
        >>> count(1, "target"), count(2, "MR series", "MR series")
        ('1 target', '2 MR series')
    """
    return f"{number_of} {noun if number_of == 1 else plural or noun + 's'}"


def joined(parts: list[str]) -> str:
    """Return parts as a list in a sentence.

    Example:
        >>> joined(["a", "b", "c"]), joined(["a"])
        ('a, b and c', 'a')
    """
    if len(parts) < 2:
        return "".join(parts)
    return f"{', '.join(parts[:-1])} and {parts[-1]}"
