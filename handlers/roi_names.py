"""Names of ROIs: which of them a pattern means, and what new ones are called.

Read first: AAPM TG-263 (2018), Standardizing Nomenclatures in Radiation Oncology.
"""

import re
from collections.abc import Iterable
from fnmatch import fnmatchcase

ROI_NAME_LENGTH = 16
"""Longest ROI name that every TPS keeps (AAPM TG-263)."""

REFINED_SUFFIX = "_CT1MR1"
"""TG-263: the imaging that a target was drawn on, planning CT and MR together."""

DRAWN_SUFFIX = "_CT1"
"""The same for the planning CT alone."""

TARGET_PLACEHOLDER = "{target}"
"""Stands in a template for the name of the target."""

_NUMBER = re.compile(r" \(ROI -?\d+\)$")

_TARGET_TYPE = re.compile(r"^I?[GCP]TV|^ITV", re.IGNORECASE)


def matches(name: str, patterns: Iterable[str]) -> bool:
    """Tell whether an ROI name fits one of the patterns, ignoring case.

    A name that was made `numbered` fits what the name alone fits.

    Example:
        >>> matches(numbered("Duodenum", 7), ["duodenum"])
        True
    """
    plain = without_number(name).casefold()
    return any(fnmatchcase(plain, pattern.casefold()) for pattern in patterns)


def names_in_use(names: Iterable[str]) -> set[str]:
    """Return what no new ROI may be called, case-folded: names, and what a TPS leaves of long ones.

    A TPS that keeps 16 characters would otherwise hold two ROIs of one name, or refuse the set.

    Example:
        >>> sorted(names_in_use(["GTVn ", "Bowel_Large_with_air"]))
        ['bowel_large_with', 'bowel_large_with_air', 'gtvn']
    """
    whole = {name.strip().casefold() for name in names}
    return whole | {name[:ROI_NAME_LENGTH].strip() for name in whole}


def numbered(name: str, number: int) -> str:
    """Return what an ROI is called among others of the same name."""
    return f"{name} (ROI {number})"


def without_number(name: str) -> str:
    """Return a name without what `numbered` added to it.

    Example:
        >>> without_number(numbered("Duodenum", 7))
        'Duodenum'
    """
    return _NUMBER.sub("", name)


def refined_name(source: str, taken: set[str]) -> str:
    """Return the TG-263 name of a refined target: at most 16 characters, unique ignoring case.

    Args:
        source: Name of the drawn ROI.
        taken: Case-folded names that are in use.

    Example:
        >>> refined_name("GTVn", {"gtvn"})
        'GTVn_CT1MR1'
        >>> refined_name("GTV Mass (primary)", {"gtvmasspr_ct1mr1"})
        'GTVMassp1_CT1MR1'
    """
    return _unique("", _plain(source), REFINED_SUFFIX, taken)


def derived_name(
    template: str | None, interpreted_type: str, source: str, taken: set[str], *, has_mr: bool
) -> str:
    """Return the name of a further ROI of a target: at most 16 characters, unique ignoring case.

    Args:
        template: What the protocol calls it, or None: the type instead of the target's own, then
            the imaging. A template is kept as it is, but for a number where it is taken.
        interpreted_type: `GTV`, `CTV` or `PTV`.
        source: Name of the drawn ROI.
        taken: Case-folded names that are in use.
        has_mr: Whether the MR had a part in it.

    Example:
        >>> derived_name(None, "PTV", "GTVn_left", {"gtvn_left"}, has_mr=True)
        'PTVnleft_CT1MR1'
        >>> derived_name("PTV_{target}", "PTV", "GTVn", {"ptv_gtvn"}, has_mr=True)
        'PTV_GTVn1'
    """
    if template is None:
        suffix = REFINED_SUFFIX if has_mr else DRAWN_SUFFIX
        rest = _plain(_TARGET_TYPE.sub("", source), default="")
        return _unique("", f"{interpreted_type}{rest}", suffix, taken)
    if TARGET_PLACEHOLDER not in template:
        return _unique("", template, "", taken)
    before, after = template.split(TARGET_PLACEHOLDER)
    return _unique(before, _plain(source), after, taken)


def unique_name(wanted: str, taken: set[str]) -> str:
    """Return a name of at most 16 characters, with a number if it is taken (case-folded)."""
    return _unique("", wanted, "", taken)


def _plain(name: str, default: str = "Target") -> str:
    return re.sub(r"[^A-Za-z0-9^+-]", "", name) or default


def _unique(before: str, stem: str, after: str, taken: set[str]) -> str:
    """Return the first free name; the stem alone is cut where the room ends."""
    number = ""
    while True:
        room = ROI_NAME_LENGTH - len(before) - len(after) - len(number)
        name = f"{before}{stem[: max(room, 0)]}{number}{after}"
        if name.casefold() not in taken:
            return name
        number = str(int(number or "0") + 1)
