"""DICOM datasets -> `values.Case`; the only reader of attributes.

Refuses rather than repairs: a CT or structure set that is unfit is rejected with every reason that
was found; an MR series, a dose or a registration that is unfit is left out with a finding.
Deliberately registers, resamples and interpolates nothing, and never tells a patient's name or
identifier.

Read first: DICOM PS3.3 C.7.6.2 (Image Plane Module) and C.8.8.5 to C.8.8.6 (structure set).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from pydicom import Dataset

from handlers.decode.attributes import failure, has_failure, number_of, text_of
from handlers.decode.images import DecodedSeries, decode_series, slice_index_of_instances
from handlers.decode.other_ct import OtherCtDatasets, decode_other_ct
from handlers.decode.plan_doses import CtPlans, decode_plan_doses
from handlers.decode.registrations import RegisteredImages, decode_registrations
from handlers.decode.structures import check_structures, decode_structures
from handlers.errors import InputRejectedError
from handlers.values import Case, CtRole, Finding, Image, Severity

__all__ = ["CaseDatasets", "DecodedCase", "decode_case"]


@dataclass(frozen=True, slots=True, eq=False)
class CaseDatasets:
    """The objects of one case, with pixel data and file meta information, in any order.

    Attributes:
        ct: The planning CT series.
        structure_set: The RT Structure Set drawn on it.
        mr: MR series by Series Instance UID.
        doses: RT Doses that were planned on it.
        plans: Their RT Plans.
        registrations: Spatial Registration objects that others made.
        other_ct: Other CT series of the patient, by Series Instance UID.
        other_structure_sets: One RT Structure Set drawn on each, by the CT's Series Instance UID.
        other_doses: The RT Doses planned on each, likewise.
        other_plans: Their RT Plans, likewise.
    """

    ct: Sequence[Dataset]
    structure_set: Dataset
    mr: Mapping[str, Sequence[Dataset]]
    doses: Sequence[Dataset] = ()
    plans: Sequence[Dataset] = ()
    registrations: Sequence[Dataset] = ()
    other_ct: Mapping[str, Sequence[Dataset]] = field(default_factory=dict)
    other_structure_sets: Mapping[str, Dataset] = field(default_factory=dict)
    other_doses: Mapping[str, Sequence[Dataset]] = field(default_factory=dict)
    other_plans: Mapping[str, Sequence[Dataset]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, eq=False)
class DecodedCase:
    """A case and the objects it came from.

    Attributes:
        case: The values, with all findings.
        ct: One dataset for each slice of the CT image, in its order.
        mr: Likewise for each MR series that was accepted, by Series Instance UID (an enhanced
            multi-frame object once for each frame).
        structure_set: As received.
        other_ct: Likewise for each other CT series that was accepted.
    """

    case: Case
    ct: tuple[Dataset, ...]
    mr: Mapping[str, tuple[Dataset, ...]]
    structure_set: Dataset
    other_ct: Mapping[str, tuple[Dataset, ...]] = field(default_factory=dict)


def decode_case(datasets: CaseDatasets) -> DecodedCase:
    """Return the case that the objects make.

    Raises:
        InputRejectedError: CT or structure set are unfit; `reasons` lists all that was found.
    """
    patient = _patients(datasets.ct)
    ct = decode_series(datasets.ct, "CT")
    frames = {text_of(ds, "FrameOfReferenceUID") for ds in datasets.ct}
    found = [
        *ct.findings,
        *_check_single_frames(datasets.ct),
        *_check_patient(patient, datasets.structure_set),
        *check_structures(datasets.structure_set, frames.pop() if len(frames) == 1 else ""),
    ]
    image, structures = ct.image, None
    if image is not None and not has_failure(found):
        structures = decode_structures(
            datasets.structure_set, image.geometry, slice_index_of_instances(ct.datasets)
        )
        found += structures.findings
    if (
        image is None
        or structures is None
        or structures.structure_set is None
        or has_failure(found)
    ):
        raise InputRejectedError(
            [finding.text for finding in found if finding.severity is Severity.FAILURE],
            hint="correct what is listed at the sender and send the objects again",
        )
    mr, mr_findings = _decode_mr(datasets.mr, patient)
    plan_doses, dose_findings = decode_plan_doses(
        datasets.doses,
        datasets.plans,
        CtPlans(
            image.geometry.frame_of_reference_uid,
            structures.structure_set.sop_instance_uid,
            patient,
        ),
    )
    other = decode_other_ct(
        OtherCtDatasets(
            datasets.other_ct,
            datasets.other_structure_sets,
            datasets.other_doses,
            datasets.other_plans,
        ),
        ct.datasets[0],
        patient,
    )
    maps, map_findings = decode_registrations(
        datasets.registrations, _registered_images(image, ct, mr, other.series), patient
    )
    case = Case(
        replace(image, role=CtRole.PLANNING),
        structures.structure_set,
        tuple(series.image for series in mr.values() if series.image is not None),
        (*found, *mr_findings, *dose_findings, *other.findings, *map_findings),
        maps,
        tuple(series.image for series in other.series.values() if series.image is not None),
        other.structure_sets,
        plan_doses,
        other.plan_doses,
    )
    sorted_mr = {uid: series.datasets for uid, series in mr.items()}
    sorted_ct = {uid: series.datasets for uid, series in other.series.items()}
    return DecodedCase(case, ct.datasets, sorted_mr, datasets.structure_set, sorted_ct)


def _check_single_frames(ct: Sequence[Dataset]) -> list[Finding]:
    """Return why a multi-frame planning CT is not taken: contours and results name its slices."""
    if all((number_of(ds, "NumberOfFrames") or 1) == 1 for ds in ct):
        return []
    text = (
        "CT: it is an enhanced, multi-frame object, which is not supported as planning CT; "
        "send it as a series of single slices, with the structure set drawn on them"
    )
    return [failure("ct.multi_frame", text)]


def _patients(datasets: Sequence[Dataset]) -> frozenset[str]:
    return frozenset(text_of(ds, "PatientID") for ds in datasets)


def _check_patient(ct_patients: frozenset[str], structure_set: Dataset) -> list[Finding]:
    """Return why CT and structure set are not of one known patient; never who the patients are."""
    if len(ct_patients) > 1:
        text = "CT: its images belong to several patients (Patient ID differs); send one series"
        return [failure("case.several_patients", text)]
    if "" in ct_patients:
        text = "CT: Patient ID is absent, so nothing else can be matched to it"
        return [failure("case.no_patient_id", text)]
    if _patients([structure_set]) != ct_patients and ct_patients:
        text = "CT and structure set belong to different patients (Patient ID differs)"
        return [failure("case.several_patients", text)]
    return []


def _decode_mr(
    series: Mapping[str, Sequence[Dataset]], patient: frozenset[str]
) -> tuple[dict[str, DecodedSeries], list[Finding]]:
    accepted: dict[str, DecodedSeries] = {}
    found: list[Finding] = []
    for uid, datasets in series.items():
        decoded = decode_series(datasets, "MR")
        own = list(decoded.findings)
        if datasets and _patients(datasets) != patient:
            text = f"MR series …{uid[-8:]}: it belongs to another patient (Patient ID differs)"
            own.append(failure("mr.other_patient", text))
        if has_failure(own):
            found += [_left_out(finding, "the series is left out") for finding in own]
        else:
            accepted[uid] = decoded
            found += own
    return accepted, found


def _registered_images(
    image: Image,
    ct: DecodedSeries,
    mr: Mapping[str, DecodedSeries],
    other_ct: Mapping[str, DecodedSeries],
) -> RegisteredImages:
    """Return what a registration may move: not other CT in the planning CT's own frame.

    A map within that frame would be taken for that of an MR which shares it too.
    """
    moved = [
        series
        for series in (*mr.values(), *other_ct.values())
        if series.image is not None
        and (
            series.image.modality == "MR"
            or series.image.geometry.frame_of_reference_uid != image.geometry.frame_of_reference_uid
        )
    ]
    return RegisteredImages(
        image,
        [series.image for series in moved if series.image is not None],
        frozenset(text_of(ds, "SOPInstanceUID") for ds in ct.datasets),
        {
            text_of(ds, "SOPInstanceUID"): text_of(ds, "SeriesInstanceUID")
            for series in moved
            for ds in series.datasets
        },
    )


def _left_out(finding: Finding, consequence: str) -> Finding:
    """Return a failure of something dispensable as the warning that it is for the case."""
    if finding.severity is not Severity.FAILURE:
        return finding
    return replace(finding, severity=Severity.WARNING, text=f"{finding.text}; {consequence}")
