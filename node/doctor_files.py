"""Tells what is wrong with files that a sender exported: what a case of them would wait for.

Reads headers only, as the node does when objects arrive; keeps and sends nothing. Names no patient:
texts tell series by their description and objects by the end of their UID.
"""

import operator
from collections import defaultdict
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from math import atan2, degrees, hypot
from pathlib import Path

from handlers.values import Severity
from node.assembly import CaseProposal, Patience, assemble
from node.config import Config
from node.doctor_machine import Check, CheckStatus
from node.header import InstanceHeader
from node.process import Gathered, NoCaseError, gather
from node.protocol_fit import choose_protocol, protocol_fit

TILT_TOLERANCE_DEG = 0.5
"""How far the way from slice to slice may lean against their normal."""

SPACING_TOLERANCE_MM = 0.05
"""By how much the steps between slices may differ."""

NAMED = 12
"""So many characters of a UID tell objects apart."""


def check_files(config: Config, inputs: Sequence[Path]) -> tuple[Check, ...]:
    """Return what is found in the files, an entry for each fault, or that they form a case."""
    try:
        gathered = gather(inputs)
    except NoCaseError as error:
        mend = error.hint or "name files or folders that exist"
        return tuple(Check("files", CheckStatus.FAIL, text, mend) for text in error.reasons)
    found = [*_unreadable(gathered), *_unusable(gathered)]
    headers = [one.header for one in gathered.instances]
    found += check_frames(headers)
    found += check_listed_slices(headers)
    found += check_ct_geometry(headers)
    found += check_patients(headers)
    found += check_targets(config, headers)
    faults = [one for one in found if one.status is not CheckStatus.OK]
    told = {one.text for one in faults}
    found += [one for one in _of_cases(config, gathered) if one.text not in told]
    return tuple(found)


def _unreadable(gathered: Gathered) -> Iterator[Check]:
    for text in gathered.unreadable:
        mend = "export again; files that are no DICOM need not be sent"
        yield Check("files", CheckStatus.WARN, text, mend)


def _unusable(gathered: Gathered) -> Iterator[Check]:
    count = len(gathered.instances)
    if not count:
        mend = "name the folder of the export"
        yield Check("files", CheckStatus.FAIL, "no DICOM object that a case could use", mend)
    else:
        yield Check("files", CheckStatus.OK, f"{count} objects")


def check_frames(headers: Sequence[InstanceHeader]) -> Iterator[Check]:
    """Tell of structure sets and doses that lie in another frame of reference than their CT."""
    ct_frames = {
        h.series_instance_uid: h.frame_of_reference_uid for h in headers if h.modality == "CT"
    }
    for header in headers:
        frame = ct_frames.get(header.referenced_series_uid)
        own = header.frame_of_reference_uid
        if header.modality != "RTSTRUCT" or not frame or not own or own == frame:
            continue
        yield Check(
            "frame of reference",
            CheckStatus.FAIL,
            f"structure set …{header.sop_instance_uid[-NAMED:]} lies in frame of reference "
            f"…{own[-NAMED:]}, its CT in …{frame[-NAMED:]}",
            "export structures and CT from the same plan; a CT that was imported anew needs its "
            "structures copied to it in the planning system",
        )


def check_listed_slices(headers: Sequence[InstanceHeader]) -> Iterator[Check]:
    """Tell of slices that a structure set lists and that are not among the files."""
    here = {header.sop_instance_uid for header in headers}
    for header in headers:
        if header.modality != "RTSTRUCT":
            continue
        listed = set(header.referenced_sop_instance_uids)
        missing = len(listed - here)
        if missing:
            text = f"{missing} of {len(listed)} slices that the structure set lists are not there"
            mend = "export the whole CT series on which it was drawn, all of its slices"
            yield Check("listed slices", CheckStatus.FAIL, text, mend)


def check_ct_geometry(headers: Sequence[InstanceHeader]) -> Iterator[Check]:
    """Tell of CT series whose slices lean (gantry tilt) or are not evenly spaced."""
    series: dict[str, list[InstanceHeader]] = defaultdict(list)
    for header in headers:
        is_axial = not any(kind.upper() == "LOCALIZER" for kind in header.image_type)
        if header.modality == "CT" and header.position_mm and header.orientation and is_axial:
            series[header.series_instance_uid].append(header)
    for group in series.values():
        yield from _geometry_of(group)


def _geometry_of(group: Sequence[InstanceHeader]) -> Iterator[Check]:
    name = group[0].series_description or f"…{group[0].series_instance_uid[-NAMED:]}"
    row, column = (group[0].orientation or ())[:3], (group[0].orientation or ())[3:]
    normal = _cross(row, column)
    placed = sorted(
        (sum(map(operator.mul, normal, h.position_mm or ())), h.position_mm or ()) for h in group
    )
    steps = [(b - a, q, p) for (a, p), (b, q) in pairwise(placed) if b - a > 0]
    if len(steps) < 2:
        return
    along, last, first = placed[-1][0] - placed[0][0], placed[-1][1], placed[0][1]
    way = [b - a for a, b in zip(first, last, strict=True)]
    aside = hypot(*(w - along * n for w, n in zip(way, normal, strict=True)))
    tilt = degrees(atan2(aside, along))
    if tilt > TILT_TOLERANCE_DEG:
        text = f'CT series "{name}" leans by {tilt:.1f} degrees: the gantry was tilted'
        mend = "scan without gantry tilt, or let the planning system make an upright series of it"
        yield Check("gantry tilt", CheckStatus.FAIL, text, mend)
    widths = [step for step, _, _ in steps]
    if max(widths) - min(widths) > SPACING_TOLERANCE_MM:
        text = f'CT series "{name}": slices are {min(widths):.2f} to {max(widths):.2f} mm apart'
        mend = "export all slices; a series of two spacings must be made even before planning"
        yield Check("slice spacing", CheckStatus.FAIL, text, mend)


def _cross(a: Sequence[float], b: Sequence[float]) -> tuple[float, float, float]:
    return a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]


def check_patients(headers: Sequence[InstanceHeader]) -> Iterator[Check]:
    """Tell whether the objects are of more than one Patient ID; the IDs are not told."""
    by_patient: dict[str, set[str]] = defaultdict(set)
    for header in headers:
        by_patient[header.patient_id.strip()].add(header.modality)
    if len(by_patient) < 2:
        return
    groups = "; ".join(sorted(f"{', '.join(sorted(found))}" for found in by_patient.values()))
    text = f"the objects carry {len(by_patient)} different Patient IDs ({groups})"
    mend = "correct the Patient ID at the scanner or in the archive and send the series again"
    yield Check("patient", CheckStatus.FAIL, text, mend)


def check_targets(config: Config, headers: Sequence[InstanceHeader]) -> Iterator[Check]:
    """Tell of structure sets to which no protocol applies, or in which no ROI is a target."""
    for header in headers:
        if header.modality != "RTSTRUCT":
            continue
        protocol, objection = choose_protocol(header, config.protocol, {})
        if protocol is None:
            text = f'no protocol is for the structure set "{header.structure_set_label}"'
            mend = "extend structure_sets of a protocol, or name the set as one expects"
            yield Check("protocol", CheckStatus.FAIL, text, mend)
        elif protocol_fit(header, protocol).target_by is None:
            text = objection or f"protocol {protocol.name}: no ROI is a target"
            mend = f"rename the ROI, or extend targets of protocol {protocol.name}"
            yield Check("target", CheckStatus.FAIL, text, mend)


def _of_cases(config: Config, gathered: Gathered) -> Iterator[Check]:
    """Tell what assembly makes of the files: the cases, what they lack, what was noticed."""
    patience = Patience(incomplete_s=0.0, mr_wait_h=0.0)
    now = datetime.now(UTC) + timedelta(seconds=1)
    for case in assemble(gathered.instances, config.protocol, patience, now):
        name = f"case …{case.structure_set_uid[-NAMED:] or case.ct_series_uid[-NAMED:]}"
        lacking = _lacking(case)
        mend = "send what is missing, or correct it at its source"
        yield from (Check(name, CheckStatus.FAIL, text, mend) for text in lacking)
        for finding in case.findings:
            if finding.severity != Severity.INFO:
                yield Check(name, CheckStatus.WARN, finding.text, "look at it before it is sent")
        if not lacking:
            text = f"can be computed under protocol {case.protocol_name}"
            yield Check(name, CheckStatus.OK, text)


def _lacking(case: CaseProposal) -> list[str]:
    found = [text for text in (case.rejection, *case.waiting_for) if text]
    return list(dict.fromkeys(found))
