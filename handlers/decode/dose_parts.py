"""Doses of parts of a plan, and revisions of one dose: which of them make a whole.

Parts are fraction groups or beams. They are summed only if they are all that the plan has, each
once, on one grid.
Read first: DICOM PS3.3 C.8.8.3 (RT Dose Module: Dose Summation Type).
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from pydicom import Dataset

from handlers.decode.attributes import (
    failure,
    has_failure,
    items_of,
    note,
    number_of,
    tail,
    text_of,
    warning,
)
from handlers.decode.dose import decode_dose, name_dose, plans_of_dose
from handlers.decode.plan import DecodedPlan
from handlers.values import DoseGrid, Finding, PlanDose

WHOLE = "PLAN"
PARTS = {"FRACTION": "fraction groups", "BEAM": "beams"}
"""Dose Summation Types whose sum over all parts is the plan's dose: each is the entire delivery of
its fraction group or beams, not that of one session."""

LISTED = 10
"""So many beams or groups are listed in a text."""

Part = tuple[int, ...]
"""Fraction Group Number, of a beam with its Beam Number."""


def sum_of_parts(
    kind: str, members: Sequence[Dataset], decoded: DecodedPlan | None, frame_uid: str
) -> tuple[PlanDose | None, list[Finding]]:
    """Return the sum of doses of fraction groups or beams, if they are all of the plan's."""
    where = f"Dose of plan {tail(plans_of_dose(members[0])[0])}"
    if decoded is None:
        text = f"{where}: only doses of its parts have come ({kind}), and not the plan that says "
        return None, [failure("dose.parts_without_plan", f"{text}which parts there are")]
    chosen, found = _newest_of_each(kind, members, decoded, frame_uid)
    if flaw := _flaw_of_parts(kind, chosen, decoded, where):
        found.append(flaw)
    if has_failure(found):
        return None, found
    dose, told = _summed([*chosen.values()], frame_uid, where)
    found += told
    if dose is None or has_failure(found):
        return None, found
    uids = tuple(sorted(text_of(ds, "SOPInstanceUID") for ds in chosen.values()))
    whole = replace(dose, sop_instance_uid=uids[0] if len(uids) == 1 else "", summation_type=WHOLE)
    return PlanDose(whole, uids, decoded.plan), [*found, _told_sum(kind, len(uids), where)]


def _summed(
    parts: Sequence[Dataset], frame_uid: str, where: str
) -> tuple[DoseGrid | None, list[Finding]]:
    """Return the sum of doses on one grid; one at a time is held beside it."""
    first, found = decode_dose(parts[0], frame_uid)
    if first is None:
        return None, found
    total = first.dose_gy.astype(np.float64)
    for ds in parts[1:]:
        dose, told = decode_dose(ds, frame_uid)
        found += told
        if dose is None:
            return None, found
        if not first.geometry.coincides_with(dose.geometry):
            text = f"{where}: the doses of its parts lie on different grids, so they are not summed"
            return None, [*found, failure("dose.grids_differ", f"{text}; export them on one grid")]
        total += dose.dose_gy
    return replace(first, dose_gy=total.astype(np.float32)), found


def _told_sum(kind: str, count: int, where: str) -> Finding:
    parts = PARTS[kind]
    if count == 1:
        text = f"{where}: it came as the dose of all its {parts} (summation type {kind})"
    else:
        text = f"{where}: it is the sum of {count} doses of its {parts}, which are all of them"
    return note("dose.summed", text, doses=count)


def _parts_of(kind: str, ds: Dataset, decoded: DecodedPlan) -> frozenset[Part]:
    """Return which fraction groups or beams a dose is of; empty if it does not tell."""
    parts: set[Part] = set()
    (only,) = decoded.groups if len(decoded.groups) == 1 else (None,)
    for plan in items_of(ds, "ReferencedRTPlanSequence"):
        for group in items_of(plan, "ReferencedFractionGroupSequence"):
            told = number_of(group, "ReferencedFractionGroupNumber")
            number = only if told is None else int(told)
            if number is None:
                continue
            if kind == "FRACTION":
                parts.add((number,))
                continue
            for beam in items_of(group, "ReferencedBeamSequence"):
                beam_number = number_of(beam, "ReferencedBeamNumber")
                if beam_number is not None:
                    parts.add((number, int(beam_number)))
    return frozenset(parts)


def _newest_of_each(
    kind: str, members: Sequence[Dataset], decoded: DecodedPlan, frame_uid: str
) -> tuple[dict[frozenset[Part], Dataset], list[Finding]]:
    """Return one dose for each set of parts, the newest."""
    alike: dict[frozenset[Part], list[Dataset]] = defaultdict(list)
    found: list[Finding] = []
    for ds in members:
        parts = _parts_of(kind, ds, decoded)
        if not parts:
            text = f"{name_dose(ds)}: it does not tell of which {PARTS[kind]} of its plan it is"
            found.append(failure("dose.parts_untold", text))
        else:
            alike[parts].append(ds)
    chosen: dict[frozenset[Part], Dataset] = {}
    for parts, same in alike.items():
        last, told = newest(same, frame_uid)
        found += told
        if last is not None:
            chosen[parts] = last
    return chosen, found


def _flaw_of_parts(
    kind: str, chosen: Mapping[frozenset[Part], Dataset], decoded: DecodedPlan, where: str
) -> Finding | None:
    """Return why doses of parts do not make the whole, or None."""
    named = PARTS[kind]
    wanted: set[Part] = set(decoded.beams) if kind == "BEAM" else {(g,) for g in decoded.groups}
    given = [part for parts in chosen for part in parts]
    if kind == "BEAM" and decoded.setups:
        text = f"{where}: it has application setups beside its beams, whose doses are not summed"
        return failure("dose.parts_missing", text)
    if missing := wanted.difference(given):
        text = f"{where}: no dose has come of its {named} {_listed(missing)}, so there is no sum"
        return failure("dose.parts_missing", text, missing=len(missing))
    if strange := set(given) - wanted:
        text = f"{where}: doses have come of {named} that it does not have: {_listed(strange)}"
        return failure("dose.parts_unknown", text)
    if len(given) != len(set(given)):
        twice = {part for part in given if given.count(part) > 1}
        text = f"{where}: several doses hold its {named} {_listed(twice)}, so they are not summed"
        return failure("dose.parts_overlap", text)
    return None


def _listed(parts: set[Part]) -> str:
    numbers = sorted({part[-1] for part in parts})
    more = f" and {len(numbers) - LISTED} more" if len(numbers) > LISTED else ""
    return ", ".join(map(str, numbers[:LISTED])) + more


def newest(same: Sequence[Dataset], frame_uid: str) -> tuple[Dataset | None, list[Finding]]:
    """Return the dose made last of several of one thing; None if it cannot be told which."""
    if len(same) == 1:
        return same[0], []
    where = ", ".join(tail(text_of(ds, "SOPInstanceUID")) for ds in same)
    dates = _when(same)
    last = [ds for ds, when in zip(same, dates, strict=True) if when == max(dates)]
    if len(last) == 1:
        text = f"Doses {where}: they are of the same; {tail(text_of(last[0], 'SOPInstanceUID'))}"
        return last[0], [warning("dose.revisions", f"{text}, made last, counts")]
    decoded = [decode_dose(ds, frame_uid)[0] for ds in same]
    if _are_equal(decoded):
        text = f"Doses {where}: they are of the same and equal; one of them counts"
        return same[0], [note("dose.revisions", text)]
    text = f"Doses {where}: they are of the same, differ, and do not tell which was made last"
    return None, [failure("dose.ambiguous", f"{text}; send the one that counts alone")]


def _when(same: Sequence[Dataset]) -> list[str]:
    """Return when each dose was made as texts that sort, by what all of them tell; or empty."""
    for name in ("InstanceCreation", "Content", "Series"):
        if all(text_of(ds, f"{name}Date") for ds in same):
            return [f"{text_of(ds, f'{name}Date')} {text_of(ds, f'{name}Time')}" for ds in same]
    return [""] * len(same)


def _are_equal(doses: Sequence[DoseGrid | None]) -> bool:
    first = doses[0]
    return first is not None and all(
        one is not None
        and one.geometry.coincides_with(first.geometry)
        and np.array_equal(one.dose_gy, first.dose_gy)
        for one in doses
    )


__all__ = ["PARTS", "WHOLE", "newest", "sum_of_parts"]
