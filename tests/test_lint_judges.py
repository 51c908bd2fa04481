"""The export gate beside others: dicom3tools on the same faults, and objects of real clinics."""

import copy
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from pydicom import Dataset
from pydicom.datadict import keyword_for_tag

from handlers.lint import Level, Report, lint
from handlers.lint.attribute_types import _modules
from node.lint_files import read_files
from tests.encode_cases import bytes_of
from tests.lint_faults import (
    DEFREG,
    MR,
    REG,
    SEG,
    SET,
    SR,
    Fault,
    clean_world,
    spoiled,
    unchecked,
)
from tests.lint_rows_others import OTHER_FAULTS
from tests.lint_rows_structures import STRUCTURE_FAULTS

KNOWN_TO_DCIODVFY = {
    "value.too-long": "Length invalid for this VR",
    "value.enumerated": "Unrecognized enumerated value",
    "value.count": "Bad attribute Value Multiplicity",
    "uid.illegal": "Leading zeroes in embedded numeric component",
    "uid.shared-by-levels": "SOPInstanceUID has same value as SeriesInstanceUID",
    "charset.not-declared": "Character invalid for character repertoire",
    "type1.empty": "Empty attribute",
    "type2.missing": "Missing attribute Type 2 Required Element=<MRAcquisitionType>",
    "approval.incomplete": "Missing attribute Type 2C Conditional Element=<ReviewDate>",
    "reg.no-source": "Missing attribute Type 1C Conditional Element=<FrameOfReferenceUID>",
    "image.orientation": "Orientation vector",
    "image.pixels": "PixelData has incorrect value length",
    "sr.value-missing": "Missing attribute Type 1C Conditional Element=<TextValue>",
    "sr.not-evidence": "Referenced SOP Instance is not listed in",
    "sr.verified-by-nobody": "Element=<VerifyingObserverSequence>",
    "seg.numbers": "SegmentNumber not monotonically increasing",
    "seg.unknown-segment": "ReferencedSegmentNumber does not match",
    "seg.bits": "High Bit",
    "frames.count": "Number of items in PerFrameFunctionalGroupsSequence does not match",
}
"""What dicom3tools says of the faults that it knows, too (it says nothing of any RT Dose)."""


def errors(program: str, ds: Dataset, path: Path) -> str:
    """Return what dciodvfy calls an error."""
    with unchecked():
        path.write_bytes(bytes_of(ds))
    done = subprocess.run([program, path], capture_output=True, check=False)
    told = (done.stderr + done.stdout).decode("utf-8", "replace").splitlines()
    return "\n".join(line for line in told if line.startswith("Error"))


@pytest.mark.peers
@pytest.mark.parametrize("name", [SET, REG, DEFREG, SEG, SR, MR])
def test_types_of_attributes_when_one_is_absent_are_those_of_dciodvfy(
    name: str, tmp_path: Path, peer_program: Callable[[str], str]
) -> None:
    """Issue 6, 4: every type 1 and 2 attribute that we ask for, dicom3tools asks for, too."""
    program, whole = peer_program("dciodvfy"), clean_world()[name]
    wanted = {
        keyword_for_tag(tag)
        for module in _modules(str(whole.SOPClassUID))
        if module.is_mandatory
        for tag in module.wanted.types
    } - {"SOPClassUID", "SOPInstanceUID"}
    assert len(wanted) > 15
    assert errors(program, whole, tmp_path / "whole.dcm") == ""
    only_ours = []
    for keyword in sorted(wanted):
        ds = copy.deepcopy(whole)
        delattr(ds, keyword)
        if f"<{keyword}>" not in errors(program, ds, tmp_path / "x.dcm"):
            only_ours.append(keyword)
    assert only_ours == []


@pytest.mark.peers
@pytest.mark.parametrize(
    "fault",
    [f for f in (*STRUCTURE_FAULTS, *OTHER_FAULTS) if f.rule in KNOWN_TO_DCIODVFY],
    ids=str,
)
def test_fault_when_dciodvfy_knows_the_rule_is_its_error_too(
    fault: Fault, tmp_path: Path, peer_program: Callable[[str], str]
) -> None:
    """Issue 6, 4: what we call an error, an outside judge calls an error."""
    told = errors(peer_program("dciodvfy"), spoiled(fault)[fault.name], tmp_path / "x.dcm")
    assert KNOWN_TO_DCIODVFY[fault.rule] in told


def real_report(folder: Path) -> Report:
    return lint(read_files([folder]).subjects)


def told(report: Report) -> set[tuple[str, str]]:
    """Return rule and keyword of the errors."""
    return {
        (p.rule.id, str(p.place).rpartition(" ")[2])
        for p in report.problems
        if p.rule.level is Level.ERROR
    }


JUST = {
    ("type2.missing", "OperatorsName"),
    ("type2.missing", "PositionReferenceIndicator"),
    ("value.too-long", "StudyID"),
    ("uid.shared-by-levels", "SOPInstanceUID"),
}
"""Faults that real objects have; dciodvfy calls each an error (see the last test)."""


@pytest.mark.slow
@pytest.mark.real_data
def test_clinical_sets_when_judged_are_blamed_only_for_what_the_standard_forbids(
    real_data: Path,
) -> None:
    """Issue 6, 4: a false error on a real, accepted object would be a defect."""
    assert told(real_report(real_data / "rt-dose-plan")) == {("type2.missing", "OperatorsName")}
    assert told(real_report(real_data / "liver-mr")) == set()
    assert told(real_report(real_data / "pancreas-ct")) == {
        ("uid.shared-by-levels", "SOPInstanceUID")
    }
    patients = sorted((real_data / "sarcoma-ct-mr").glob("STS_*"))
    assert len(patients) == 10
    for patient in patients:
        further = told(real_report(patient)) - JUST
        if patient.name == "STS_046":  # its ROI names a frame of reference that nothing has
            assert {rule for rule, _ in further} == {"roi.frame-unknown", "struct.frame-differs"}
        else:
            assert further == set(), patient.name


@pytest.mark.real_data
@pytest.mark.peers
def test_clinical_sets_when_judged_by_dciodvfy_have_the_same_errors(
    real_data: Path, peer_program: Callable[[str], str]
) -> None:
    """Each complaint about a real object is that of an outside judge."""
    path = real_data / "sarcoma-ct-mr" / "STS_006" / "CT" / "mask" / "RS.dcm"
    done = subprocess.run([peer_program("dciodvfy"), path], capture_output=True, check=False)
    said = (done.stderr + done.stdout).decode("utf-8", "replace")
    assert re.search(r"Error.*Type 2 Required Element=<OperatorsName>", said)
    assert re.search(r"Error.*Type 2 Required Element=<PositionReferenceIndicator>", said)
    assert re.search(r"Error.*SH Study ID.*Length invalid", said)
    assert re.search(r"Error.*SOPInstanceUID has same value as SeriesInstanceUID", said)
