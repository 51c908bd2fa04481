"""Registrations of other CT: their objects, their place in report and metrics."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from handlers.decode import DecodedCase
from handlers.displacement import DisplacementField
from handlers.geometry import Geometry
from handlers.report import metrics_document
from handlers.results import DailyPosition, RegistrationStatus
from handlers.values import CtRole
from node.view_job import moved_ct_of_metrics
from node.viewing import moved_ct_of_result
from tests.encode_cases import (
    CT_FRAME,
    MR_SERIES,
    EncodeCase,
    as_received,
    build_case,
    registration,
    report_of,
    texts_of,
    written,
)
from tests.test_encode_peers import PeerProgram, errors_of, write

CBCT_SERIES, PRIOR_SERIES = "1.2.826.0.1.42", "1.2.826.0.1.52"
PRIOR_FRAME = "1.2.826.0.1.50"

DAILY = DailyPosition(
    shift_mm=(1.5, -2.25, 3.0),
    rotation_deg=(0.5, 0.25, -1.0),
    at_mm=(-5.0, 5.0, 125.0),
    patient_position="HFS",
    is_frame_shared=True,
    organ_distances_mm={"GTVn1": {"Duodenum": 7.5}},
)


def with_other_ct() -> EncodeCase:
    """Return the case with a CBCT in the planning CT's frame and a prior CT in its own."""
    case = build_case()
    result, sources = case.result, case.sources
    images, datasets, maps = [], {}, []
    for series, role, frame in (
        (CBCT_SERIES, CtRole.CBCT, CT_FRAME),
        (PRIOR_SERIES, CtRole.PRIOR, PRIOR_FRAME),
    ):
        image = replace(result.case.ct, series_instance_uid=series, role=role)
        geometry = replace(image.geometry, frame_of_reference_uid=frame)
        images.append(replace(image, geometry=geometry))
        made = []
        for i, ds in enumerate(sources.ct):
            one = as_received(ds)
            one.SOPInstanceUID, one.SeriesInstanceUID = f"{series}.{i}", series
            one.FrameOfReferenceUID = frame
            made.append(one)
        datasets[series] = tuple(made)
        maps.append(registration(frame, [series], RegistrationStatus.PASS))
    changed = replace(
        result,
        case=replace(result.case, other_ct=tuple(images)),
        registrations=(*result.registrations, *maps),
        daily_positions={CBCT_SERIES: DAILY},
    )
    return EncodeCase(changed, replace(sources, other_ct=datasets))


def test_each_other_ct_gets_a_registration_of_its_own() -> None:
    """Issue 3: the same object as an MR gets; in a shared frame the images tell both apart."""
    case = with_other_ct()
    objects = written(case, until="SEG.dcm")
    cbct, prior = objects["REG_3.dcm"], objects["REG_4.dcm"]
    assert (cbct.ContentLabel, prior.ContentLabel) == ("CBCT_RIGID", "CTCT_RIGID")
    assert cbct.ContentDescription == "CBCT to planning CT, rigid: passed its checks"
    frames = [item.FrameOfReferenceUID for item in cbct.RegistrationSequence]
    assert frames == [CT_FRAME, CT_FRAME]
    listed = [
        [image.ReferencedSOPInstanceUID for image in item.ReferencedImageSequence]
        for item in cbct.RegistrationSequence
    ]
    assert listed[0] == [ds.SOPInstanceUID for ds in case.sources.ct]
    assert listed[1] == [ds.SOPInstanceUID for ds in case.sources.other_ct[CBCT_SERIES]]
    assert prior.RegistrationSequence[1].FrameOfReferenceUID == PRIOR_FRAME
    text = prior.RegistrationSequence[1].MatrixRegistrationSequence[0].MatrixSequence[0]
    values = [float(v) for v in text.FrameOfReferenceTransformationMatrix]
    expected = case.result.registrations[3].ct_from_mr.matrix
    np.testing.assert_allclose(np.reshape(values, (4, 4)), expected, atol=1e-10)
    assert objects["REG_1.dcm"].ContentLabel == "CTMR_RIGID"
    assert not any(name.startswith("MR_3") for name in objects), "only MR is resampled"


def test_report_tells_what_was_registered_and_how_the_patient_lay() -> None:
    """TID 1501: the daily position as numbers with units, each series by its kind."""
    report = report_of(with_other_ct())
    texts = texts_of(report)
    assert f"CBCT series {CBCT_SERIES}" in texts
    assert f"CT series {PRIOR_SERIES}" in texts
    assert f"MR series {MR_SERIES}" in texts
    assert str(report).count("DAILY_SHIFT_Y") == 1


def test_metrics_tell_kind_and_daily_position() -> None:
    """Issue 3: shift and rotation in IEC 61217, distance to the organs of the day."""
    case = with_other_ct()
    document = json.loads(json.dumps(metrics_document(case.result, {})))
    told = document["registrations"]
    assert [each["kind"] for each in told] == ["mr", "mr", "cbct", "ct"]
    assert [each["daily_position"] is None for each in told] == [True, True, False, True]
    daily = told[2]["daily_position"]
    assert daily["shift_mm"] == {"x": 1.5, "y": -2.25, "z": 3.0}
    assert daily["rotation_deg"] == {"x": 0.5, "y": 0.25, "z": -1.0}
    assert daily["organ_distances_mm"] == {"GTVn1": {"Duodenum": 7.5}}
    assert daily["is_frame_of_reference_shared"] is True
    assert told[3]["frame_of_reference_uid"] == PRIOR_FRAME


@pytest.mark.peers
def test_dciodvfy_accepts_registrations_of_other_ct(
    tmp_path: Path, peer_program: PeerProgram
) -> None:
    """Peers 3.4: no error in the REG of a CBCT and of a prior CT, nor in the report."""
    dciodvfy = peer_program("dciodvfy")
    paths = {p.name: p for p in write(with_other_ct(), tmp_path)}
    for name in ("REG_3.dcm", "REG_4.dcm", "SR.dcm"):
        assert errors_of(dciodvfy, paths[name]) == set(), name


def test_case_without_mr_is_encoded() -> None:
    """A CBCT alone: its registration, the drawn structures and the report."""
    case = with_other_ct()
    registrations = case.result.registrations[2:]
    alone = case.with_result(registrations=registrations, resampled=())
    names = [name for name in written(alone) if not name.startswith("fused/")]
    assert names == ["REG_1.dcm", "REG_2.dcm", "SEG.dcm", "RTSTRUCT.dcm", "SR.dcm"]


def deformed(case: EncodeCase) -> EncodeCase:
    """Return the case with a bump of 4 mm in the registration of its CBCT."""
    vectors = np.zeros((5, 5, 5, 3), np.float32)
    vectors[2, 2, 2] = (3.0, 1.0, -2.0)
    matrix = np.eye(4)
    matrix[:3, :3] = 8.0 * np.eye(3)[:, ::-1]  # slice, row, column along z, y, x
    matrix[:3, 3] = case.result.case.ct.geometry.centre_mm() - 16.0
    field = DisplacementField(Geometry(CT_FRAME, matrix, (5, 5, 5)), vectors)
    registrations = list(case.result.registrations)
    registrations[2] = replace(registrations[2], deformation=field)
    return case.with_result(registrations=tuple(registrations))


def test_other_ct_when_shown_again_lies_where_it_was_computed(tmp_path: Path) -> None:
    """Issue 8: what the result set tells is enough: matrix, deformation, verdict, number."""
    case = deformed(with_other_ct())
    for path in write(case, tmp_path):
        if not path.name.startswith("DEFREG"):
            path.unlink()
    sources = case.sources
    decoded = DecodedCase(case.result.case, sources.ct, sources.mr, sources.structure_set)
    metrics = json.loads(json.dumps(metrics_document(case.result, {})))
    again = tuple(moved_ct_of_metrics(decoded, metrics, tmp_path))
    first = moved_ct_of_result(case.result)
    assert [each.registration for each in first] == [3, 4]
    for one, other in zip(again, first, strict=True):
        assert one.image is other.image
        assert (one.registration, one.status) == (other.registration, other.status)
        assert np.array_equal(one.ct_from_image.matrix, other.ct_from_image.matrix)
        assert (one.deformation is None) == (other.deformation is None)
    points = case.result.case.ct.geometry.centre_mm() + np.array(
        [[0.0, 0, 0], [4, 2, 1], [50, 0, 0]]
    )
    fields = [each[0].deformation for each in (again, first)]
    assert fields[0] is not None
    assert fields[1] is not None
    assert np.abs(fields[0].at(points) - fields[1].at(points)).max() < 0.01
