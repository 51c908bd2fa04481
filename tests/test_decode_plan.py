"""RT Plan: prescription, fractions, structure set; what it does not tell is absent and told."""

from collections.abc import Mapping
from typing import Any

import pytest
from pydicom import Dataset
from pydicom.sequence import Sequence as DicomSequence

from handlers.decode.plan import decode_plan
from handlers.values import PlannedTarget, Severity
from tests import datasets
from tests.decoding import check_anonymous, codes, decode

PATIENT = frozenset((datasets.PATIENT_ID,))


def test_plan_is_read() -> None:
    """Label, approval, prescription to an ROI of the case's structure set, fractions, date."""
    decoded = decode(doses=[datasets.dose()], plans=[datasets.plan()])
    (planned,) = decoded.case.plan_doses
    plan = planned.plan
    assert plan is not None
    assert (plan.sop_instance_uid, plan.label, plan.approval) == (
        datasets.PLAN,
        "small",
        "APPROVED",
    )
    assert (plan.structure_set_uid, plan.fractions) == (datasets.STRUCTURE_SET, 5)
    assert plan.targets == (PlannedTarget(1, 2.0),)
    assert plan.planned_on == "20260302"
    assert planned.dose_uids == (datasets.DOSE,)
    assert codes(decoded) == {}


@pytest.mark.parametrize(
    ("prescriptions", "structure_set_uid", "expected"),
    [
        ([("VOLUME", 1, 2.0), ("VOLUME", 3, 1.5)], datasets.STRUCTURE_SET, [(1, 2.0), (3, 1.5)]),
        ([("SITE", None, 2.0)], datasets.STRUCTURE_SET, [(None, 2.0)]),
        ([("SITE", None, 2.0), ("COORDINATES", None, 1.8)], datasets.STRUCTURE_SET, [(None, 2.0)]),
        ([("COORDINATES", None, 1.8)], datasets.STRUCTURE_SET, [(None, 1.8)]),
        ([("POINT", 7, 1.8)], datasets.STRUCTURE_SET, [(None, 1.8)]),
        ([("VOLUME", 1, 2.0)], "1.2.3.4", [(None, 2.0)]),
        ([("VOLUME", 1, 0.0)], datasets.STRUCTURE_SET, []),
        ([], datasets.STRUCTURE_SET, []),
    ],
    ids=[
        "two targets",
        "a site",
        "a site, and a point beside it",
        "a point alone",
        "a point that is an ROI",
        "another structure set",
        "zero",
        "none",
    ],
)
def test_prescription_is_what_the_plan_gives_to_targets(
    prescriptions: list[tuple[str, int | None, float]],
    structure_set_uid: str,
    expected: list[tuple[int | None, float]],
) -> None:
    """An ROI number counts only in the structure set that it was given in."""
    ds = datasets.plan(prescriptions=prescriptions, structure_set_uid=structure_set_uid)
    decoded, found = decode_plan(ds, datasets.STRUCTURE_SET, PATIENT)
    assert decoded is not None
    assert decoded.plan.targets == tuple(PlannedTarget(*one) for one in expected)
    assert [f.code for f in found] == ([] if expected else ["plan.prescription"])


def test_dose_of_an_organ_is_no_prescription() -> None:
    """Dose references of type ORGAN_AT_RISK tell limits."""
    ds = datasets.plan(prescriptions=[("VOLUME", 1, 2.0), ("VOLUME", 2, 1.0)])
    ds.DoseReferenceSequence[1].DoseReferenceType = "ORGAN_AT_RISK"
    decoded, _ = decode_plan(ds, datasets.STRUCTURE_SET, PATIENT)
    assert decoded is not None
    assert decoded.plan.targets == (PlannedTarget(1, 2.0),)


def with_fractions(number: object) -> Dataset:
    ds = datasets.plan()
    ds.FractionGroupSequence[0].NumberOfFractionsPlanned = number
    return ds


@pytest.mark.parametrize(
    ("ds", "code"),
    [
        (with_fractions(None), "plan.fractions"),
        (with_fractions(0), "plan.fractions"),
        (datasets.plan(FractionGroupSequence=None), "plan.fractions"),
        (datasets.plan(groups={1: (1,), 2: (2,)}), "plan.fraction_groups"),
    ],
    ids=["not told", "zero", "no fraction group", "two groups"],
)
def test_number_of_fractions_is_absent_where_no_one_number_holds(ds: Dataset, code: str) -> None:
    """EQD2 needs the fractions in which all of the dose is given: never guessed."""
    decoded, found = decode_plan(ds, datasets.STRUCTURE_SET, PATIENT)
    assert decoded is not None
    assert decoded.plan.fractions is None
    assert decoded.plan.has_several_groups is (code == "plan.fraction_groups")
    assert [(f.code, f.severity) for f in found] == [(code, Severity.WARNING)]


def test_beams_without_dose_are_none_that_a_sum_waits_for() -> None:
    """Setup fields and port films stand in the fraction group beside treatment beams."""
    ds = datasets.plan(groups={1: (1, 2, 3)})
    ds.IonBeamSequence = DicomSequence()
    for number, delivery in ((1, "TREATMENT"), (2, "SETUP"), (3, "TREATMENT")):
        beam = Dataset()
        beam.BeamNumber, beam.TreatmentDeliveryType = number, delivery
        ds.IonBeamSequence.append(beam)
    decoded, _ = decode_plan(ds, datasets.STRUCTURE_SET, PATIENT)
    assert decoded is not None
    assert decoded.beams == {(1, 1), (1, 3)}


@pytest.mark.parametrize(
    ("sequence", "radiation", "is_told"),
    [
        ("BeamSequence", "PHOTON", False),
        ("BeamSequence", "ELECTRON", False),
        ("BeamSequence", "PROTON", True),
        ("IonBeamSequence", "ION", True),
    ],
)
def test_plan_of_particles_is_told(sequence: str, radiation: str, is_told: bool) -> None:
    """Its physical dose does more than limits for photons know."""
    beam = Dataset()
    beam.BeamNumber, beam.RadiationType = 1, radiation
    ds = datasets.plan()
    setattr(ds, sequence, DicomSequence([beam]))
    decoded, found = decode_plan(ds, datasets.STRUCTURE_SET, PATIENT)
    assert decoded is not None
    assert [(f.code, f.severity) for f in found] == (
        [("plan.particles", Severity.WARNING)] if is_told else []
    )


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"Modality": "RTDOSE"}, "plan.modality"),
        ({"PatientID": "other"}, "plan.other_patient"),
        ({"PlanIntent": "MACHINE_QA"}, "plan.intent"),
        ({"PlanIntent": "VERIFICATION"}, "plan.intent"),
    ],
)
def test_plan_that_is_no_patient_s_is_left_out_with_its_dose(
    changes: Mapping[str, Any], code: str
) -> None:
    """What treats nobody, or somebody else, is no plan of the case."""
    decoded = decode(doses=[datasets.dose()], plans=[datasets.plan(**changes)])
    assert decoded.case.plan_doses == ()
    assert codes(decoded) == {code: Severity.WARNING, "dose.of_refused_plan": Severity.WARNING}


@pytest.mark.parametrize(
    ("plan", "code"),
    [
        (datasets.plan(ApprovalStatus="REJECTED"), "plan.rejected"),
        (datasets.plan(structure_set_uid="1.2.3.4"), "plan.other_structure_set"),
        (datasets.plan(ReferencedStructureSetSequence=None), "plan.other_structure_set"),
    ],
    ids=["rejected", "another structure set", "no structure set"],
)
def test_doubtful_plan_is_kept_and_told(plan: Dataset, code: str) -> None:
    """The dose lies in the CT's frame and is measured; whoever reads it must know."""
    decoded = decode(doses=[datasets.dose()], plans=[plan])
    assert len(decoded.case.plan_doses) == 1
    assert codes(decoded) == {code: Severity.WARNING}


def test_plan_without_dose_is_told() -> None:
    """Else a physicist would look for its numbers."""
    decoded = decode(plans=[datasets.plan()])
    assert decoded.case.plan_doses == ()
    assert codes(decoded) == {"plan.without_dose": Severity.WARNING}


def test_free_text_of_a_plan_stands_in_no_finding() -> None:
    """A label or a description may hold a name."""
    ds = datasets.plan(
        RTPlanLabel="Secret", RTPlanDescription="Secret", ApprovalStatus="REJECTED",
        FractionGroupSequence=None, prescriptions=[], structure_set_uid="1.2.3.4",
    )  # fmt: skip
    _, found = decode_plan(ds, datasets.STRUCTURE_SET, PATIENT)
    assert len(found) == 3
    check_anonymous([finding.text for finding in found])
