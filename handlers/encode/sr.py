"""CaseResult -> Comprehensive 3D SR, template TID 1500: every number, with unit and origin.

One measurement group per target drawn and refined (they refer to segments of the segmentation), one
per further ROI that the protocol asked to be made from it, one per registration, those of the dose
(see `dose_groups`), and one for the findings. Reasons, findings and abstentions stand there in
full. Complete, but neither verified nor final: that is a person's act.

Times of computing are left out, so that a repeated computation gives the same report.

Read first: DICOM PS3.16 TID 1500, 1411, 1501.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import highdicom as hd
from pydicom import Dataset
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code
from pydicom.uid import UID, Comprehensive3DSRStorage, ExplicitVRLittleEndian

from handlers.encode.deformable import deformable_reference
from handlers.encode.dose_groups import dose_groups, measured_objects
from handlers.encode.evidence import evidence_measurements, surroundings
from handlers.encode.group_texts import COMMENT, algorithm, append_texts
from handlers.encode.identity import (
    DEVICE_SERIAL_NUMBER,
    DEVICE_UID,
    MANUFACTURER,
    MODEL_NAME,
    SERIES_NUMBER_SR,
    Reference,
    ResultSet,
)
from handlers.encode.measurements import measurements_of
from handlers.encode.metric_codes import coding_scheme_item, private_code
from handlers.encode.probability import probability_references
from handlers.encode.registration import KINDS, registration_reference
from handlers.encode.rtstruct import (
    REFINEMENT_FAMILY,
    REFINEMENT_NAME,
    structure_set_reference,
)
from handlers.encode.seg import Segment, segmentation_reference, segments_of
from handlers.encode.text import LO_LENGTH
from handlers.results import DerivedTarget, Registration, TargetResult, TargetStatus
from handlers.values import Finding

ROLE = "SR"
"""Role of this object in a result set: gives its UIDs."""

REGISTRATION_NAME = "Hilum registration"
"""Algorithm Name of the registration."""

VOLUME_METHODS = {
    "voxels": Code("126030", "DCM", "Sum of segmented voxel method for volume"),
    "slices": Code("122503", "DCM", "Integration of sum of closed areas on contiguous slices"),
    "mesh": Code("RNU0", "IBSI", "Volume of Mesh"),
}
"""How volumes are measured (PS3.16 CID 7474), by key of `TargetResult.volumes_cm3`; the meaning of
one is cut to the 64 characters of LO."""

FINDING = codes.DCM.Finding

REGISTRATION_VERDICT = private_code("REG_VERDICT", "Verdict on the registration")
REGISTRATION_VALUES = {
    "pass": private_code("REG_PASS", "Passed its checks"),
    "warn": private_code("REG_WARN", "To be checked by a person"),
    "fail": private_code("REG_FAIL", "Failed its checks, must not be used"),
}
REFINEMENT_VERDICT = private_code("REFINEMENT", "What became of the target")
REFINEMENT_VALUES = {
    TargetStatus.REFINED: private_code("REFINED", "A refined target is proposed"),
    TargetStatus.ABSTAINED: private_code("ABSTAINED", "Abstained: the drawn target stands"),
}
"""Names and values of our qualitative evaluations."""


def encode_report(result_set: ResultSet) -> Dataset:
    """Return the structured report of a result."""
    content = hd.sr.MeasurementReport(
        observation_context=hd.sr.ObservationContext(observer_device_context=_observer()),
        procedure_reported=codes.SCT.ImagingProcedure,
        imaging_measurements=_groups(result_set),
        title=codes.DCM.ImagingMeasurementReport,
    )
    reference = result_set.reference(Comprehensive3DSRStorage, ROLE)
    ds = hd.sr.Comprehensive3DSR(
        evidence=_evidence(result_set),
        content=content,
        series_instance_uid=reference.series_instance_uid,
        series_number=SERIES_NUMBER_SR,
        sop_instance_uid=reference.sop_instance_uid,
        instance_number=1,
        manufacturer=MANUFACTURER,
        is_complete=True,
        is_final=False,
        is_verified=False,
        transfer_syntax_uid=ExplicitVRLittleEndian,
        series_description="Report on registration and target refinement",
    )
    result_set.stamp(ds)
    for item in ds.get("ContributingEquipmentSequence", None) or ():
        item.ContributionDateTime = result_set.authorship.date_time
    ds.CodingSchemeIdentificationSequence = [coding_scheme_item()]
    return ds


def _observer() -> Any:
    return hd.sr.ObserverContext(
        observer_type=codes.DCM.Device,
        observer_identifying_attributes=hd.sr.DeviceObserverIdentifyingAttributes(
            uid=DEVICE_UID,
            name=MANUFACTURER,
            manufacturer_name=MANUFACTURER,
            model_name=MODEL_NAME,
            serial_number=DEVICE_SERIAL_NUMBER,
        ),
    )


def _evidence(result_set: ResultSet) -> list[Dataset]:
    """Return what the report rests on, each instance once, the CT first."""
    series_uids = {uid: None for r in result_set.result.registrations for uid in r.series_uids}
    sources = [
        *result_set.sources.ct,
        *(ds for uid in series_uids for ds in result_set.sources.moved(uid)),
        result_set.sources.structure_set,
        *measured_objects(result_set),
    ]
    references = [registration_reference(result_set, r) for r in result_set.result.registrations]
    deformable = [deformable_reference(result_set, r) for r in result_set.result.registrations]
    references += [reference for reference in deformable if reference is not None]
    references.append(structure_set_reference(result_set))
    if segments_of(result_set):
        references.append(segmentation_reference(result_set))
    for index in range(len(result_set.result.targets)):
        references += probability_references(result_set, index)
    return [result_set.stand_in(ds) for ds in sources] + [
        result_set.stand_in(_as_dataset(reference)) for reference in references
    ]


def _as_dataset(reference: Reference) -> Dataset:
    ds = Dataset()
    ds.SOPClassUID = reference.sop_class_uid
    ds.SOPInstanceUID = reference.sop_instance_uid
    ds.SeriesInstanceUID = reference.series_instance_uid
    ds.StudyInstanceUID = reference.study_instance_uid
    return ds


def _groups(result_set: ResultSet) -> list[Any]:
    segments = {(s.target_index, s.is_refined): s for s in segments_of(result_set)}
    groups = []
    for index, target in enumerate(result_set.result.targets):
        groups.append(_drawn_group(result_set, index, segments.get((index, False))))
        if target.refinement.status is TargetStatus.REFINED:
            groups.append(_refined_group(result_set, index, segments.get((index, True))))
        groups += [_derived_group(result_set, derived) for derived in target.derived]
    for index, registration in enumerate(result_set.result.registrations):
        groups.append(_registration_group(result_set, index, registration))
    groups += dose_groups(result_set)
    groups.append(_findings_group(result_set))
    return groups


def _drawn_group(result_set: ResultSet, index: int, segment: Segment | None) -> Any:
    target = result_set.result.targets[index]
    texts = [(COMMENT, f"Drawn by a person: ROI {target.source_roi.number} of the structure set.")]
    figures: dict[str, float] = {}
    evidence: tuple[list[Any], list[str]] = ([], [])
    if target.refinement.status is TargetStatus.ABSTAINED:
        figures = _refinement_figures(target)
        evidence = evidence_measurements(result_set, target)
        texts += [(COMMENT, f"Abstained: {reason}") for reason in target.refinement.reasons]
        texts += _probability_in_words(result_set, index)
    evaluation = hd.sr.QualitativeEvaluation(
        REFINEMENT_VERDICT, REFINEMENT_VALUES[target.refinement.status]
    )
    return _target_group(
        result_set,
        name=target.source_roi.name,
        uid=result_set.tracking_uid(index, is_refined=False),
        segment=segment,
        volumes_cm3={**target.volumes_cm3, "voxels": target.drawn.volume_cm3},
        figures=figures,
        around=surroundings(
            result_set,
            result_set.tracking_uid(index, is_refined=False),
            target,
            is_final=target.refinement.status is TargetStatus.ABSTAINED,
        ),
        evidence=evidence,
        algorithm=None,
        evaluation=evaluation,
        texts=texts,
    )


def _refined_group(result_set: ResultSet, index: int, segment: Segment | None) -> Any:
    target = result_set.result.targets[index]
    refined = target.refinement.refined
    texts = [
        (
            COMMENT,
            f"Proposal, not approved: {target.refined_roi_name} of the new structure set.",
        )
    ]
    texts += [(COMMENT, reason) for reason in target.refinement.reasons]
    texts += _probability_in_words(result_set, index)
    return _target_group(
        result_set,
        name=target.refined_roi_name or "",
        uid=result_set.tracking_uid(index, is_refined=True),
        segment=segment,
        volumes_cm3={"voxels": refined.volume_cm3 if refined is not None else 0.0},
        figures={**target.metrics, **_refinement_figures(target)},
        around=surroundings(
            result_set, result_set.tracking_uid(index, is_refined=True), target, is_final=True
        ),
        evidence=evidence_measurements(result_set, target),
        algorithm=algorithm(result_set, REFINEMENT_NAME, family=REFINEMENT_FAMILY),
        evaluation=hd.sr.QualitativeEvaluation(
            REFINEMENT_VERDICT, REFINEMENT_VALUES[target.refinement.status]
        ),
        texts=texts,
    )


def _probability_in_words(result_set: ResultSet, index: int) -> list[tuple[Code, str]]:
    return [
        (
            COMMENT,
            "Probability of the target, not calibrated: "
            f"{UID(reference.sop_class_uid).name} {reference.sop_instance_uid}",
        )
        for reference in probability_references(result_set, index)
    ]


def _derived_group(result_set: ResultSet, derived: DerivedTarget) -> Any:
    name = result_set.text(derived.name, LO_LENGTH) or "unnamed"
    group = hd.sr.MeasurementsAndQualitativeEvaluations(
        tracking_identifier=hd.sr.TrackingIdentifier(
            uid=result_set.uid(f"derived target {derived.name}"), identifier=name
        ),
        algorithm_id=algorithm(result_set, REFINEMENT_NAME, family=REFINEMENT_FAMILY),
        measurements=[_volume(derived.mask.volume_cm3, "voxels")],
    )
    words = f"Proposal, not approved: {derived.name} ({derived.interpreted_type})"
    texts = [(COMMENT, f"{words} of the new structure set."), (COMMENT, derived.description)]
    append_texts(result_set, group, texts)
    return group


def _refinement_figures(target: TargetResult) -> dict[str, float]:
    """Return the refinement's own figures, renamed where a metric has the same key."""
    return {
        f"refinement_{key}" if key in target.metrics else key: value
        for key, value in target.refinement.numbers.items()
    }


def _target_group(
    result_set: ResultSet,
    *,
    name: str,
    uid: str,
    segment: Segment | None,
    volumes_cm3: Mapping[str, float],
    figures: Mapping[str, float],
    around: tuple[list[Any], list[str]],
    evidence: tuple[list[Any], list[str]],
    algorithm: Any,
    evaluation: Any,
    texts: Iterable[tuple[Code, str]],
) -> Any:
    measurements, unmeasured = measurements_of(figures)
    measurements += around[0] + evidence[0]
    unmeasured += around[1] + evidence[1]
    arguments: dict[str, Any] = {
        "tracking_identifier": hd.sr.TrackingIdentifier(
            uid=uid, identifier=result_set.text(name, LO_LENGTH) or "unnamed"
        ),
        "algorithm_id": algorithm,
        "measurements": [
            *(_volume(volumes_cm3[how], how) for how in VOLUME_METHODS if how in volumes_cm3),
            *measurements,
        ],
        "qualitative_evaluations": [evaluation],
    }
    if segment is None:
        group: Any = hd.sr.MeasurementsAndQualitativeEvaluations(**arguments)
    else:
        group = hd.sr.VolumetricROIMeasurementsAndQualitativeEvaluations(
            referenced_segment=_referenced_segment(result_set, segment),
            finding_type=segment.property_type,
            finding_category=segment.property_category,
            **arguments,
        )
    append_texts(result_set, group, [*texts, *((COMMENT, text) for text in unmeasured)])
    return group


def _volume(volume_cm3: float, how: str) -> Any:
    return hd.sr.Measurement(
        name=codes.SCT.Volume,
        value=float(volume_cm3),
        unit=codes.UCUM.CubicCentimeter,
        method=VOLUME_METHODS[how],
    )


def _referenced_segment(result_set: ResultSet, segment: Segment) -> Any:
    reference = segmentation_reference(result_set)
    return hd.sr.ReferencedSegment(
        sop_class_uid=reference.sop_class_uid,
        sop_instance_uid=reference.sop_instance_uid,
        segment_number=segment.number,
        source_series=hd.sr.SourceSeriesForSegmentation(str(result_set.ct.SeriesInstanceUID)),
    )


def _registration_group(result_set: ResultSet, index: int, registration: Registration) -> Any:
    figures = {
        **dict(zip(_axes("translation", "mm"), registration.translation_mm, strict=True)),
        **dict(zip(_axes("rotation", "deg"), registration.ct_from_mr.rotation_deg, strict=True)),
        "uncertainty_mm": registration.uncertainty_mm,
        **registration.deformation_figures,
        **_daily_figures(result_set, registration),
    }
    figures |= {
        f"quality_{key}" if key in figures else key: value
        for key, value in registration.quality.items()
    }
    measurements, unmeasured = measurements_of(figures)
    reference = registration_reference(result_set, registration)
    texts = [(COMMENT, f"Verdict: {registration.status}")]
    texts += [(COMMENT, reason) for reason in registration.reasons]
    texts += [(COMMENT, note) for note in registration.notes]
    texts.append((COMMENT, f"Spatial Registration {reference.sop_instance_uid}"))
    if (deformable := deformable_reference(result_set, registration)) is not None:
        texts.append((COMMENT, f"Deformable Spatial Registration {deformable.sop_instance_uid}"))
    else:
        texts.append((COMMENT, "Rigid alone: no deformation is used."))
    kind = KINDS[registration.kind_in(result_set.result.case)]
    texts += [
        (COMMENT, f"{kind} {_series_in_words(registration, uid)}")
        for uid in registration.series_uids
    ]
    texts += [(COMMENT, text) for text in unmeasured]
    group = hd.sr.MeasurementsAndQualitativeEvaluations(
        tracking_identifier=hd.sr.TrackingIdentifier(
            uid=result_set.uid("registration group", index),
            identifier=f"Registration {index + 1}",
        ),
        algorithm_id=algorithm(result_set, REGISTRATION_NAME),
        measurements=measurements,
        qualitative_evaluations=[
            hd.sr.QualitativeEvaluation(
                REGISTRATION_VERDICT, REGISTRATION_VALUES[registration.status]
            )
        ],
    )
    append_texts(result_set, group, texts)
    return group


def _daily_figures(result_set: ResultSet, registration: Registration) -> dict[str, float]:
    """Return how the patient lay for a CBCT; empty for anything else."""
    daily = result_set.result.daily_positions.get(registration.leading_series_uid)
    if daily is None:
        return {}
    figures = dict(zip(_axes("daily_shift", "mm"), daily.shift_mm, strict=True))
    return figures | dict(zip(_axes("daily_rotation", "deg"), daily.rotation_deg, strict=True))


def _series_in_words(registration: Registration, series_uid: str) -> str:
    shift = registration.series_shifts_mm.get(series_uid)
    if shift is None:
        return f"series {series_uid}"
    x, y, z = shift
    return f"series {series_uid}, shifted in the CT by {x:.1f}, {y:.1f}, {z:.1f} mm (x, y, z)"


def _findings_group(result_set: ResultSet) -> Any:
    group = hd.sr.MeasurementsAndQualitativeEvaluations(
        tracking_identifier=hd.sr.TrackingIdentifier(
            uid=result_set.uid("findings group"), identifier="Findings of the case"
        )
    )
    findings = [_finding_in_words(finding) for finding in result_set.result.findings]
    texts = [(FINDING, text) for text in findings] or [(COMMENT, "No findings.")]
    append_texts(result_set, group, texts)
    return group


def _finding_in_words(finding: Finding) -> str:
    numbers = ", ".join(f"{key} = {value:g}" for key, value in finding.numbers.items())
    return f"{finding.severity} [{finding.code}]: {finding.text}" + (
        f" ({numbers})" if numbers else ""
    )


def _axes(kind: str, unit: str) -> list[str]:
    return [f"{kind}_{axis}_{unit}" for axis in "xyz"]
