"""What Orthanc reads of our results: four patient positions, MR planes that are not axial.

Each case is a phantom whose true pose and true target stand for what would be found, so that
nothing is computed but what is written. All of what is checked comes out of Orthanc, as its own
parser tells it.
"""

import json
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from pydicom import Dataset
from pydicom.uid import CTImageStorage, RTStructureSetStorage, SpatialRegistrationStorage

from handlers.decode import CaseDatasets, decode_case
from handlers.encode import Sources, encode_result_set
from handlers.results import (
    CaseResult,
    Refinement,
    Registration,
    RegistrationStatus,
    ResampledMr,
    TargetResult,
    TargetStatus,
)
from handlers.sampling import mask_from_roi, resample
from handlers.values import Mask
from node.phantom import PhantomOptions, PhantomStudy, make_study
from node.phantom.options import MrPlane, PatientPosition
from tests.archives import fill, orthanc
from tests.encode_cases import AUTHORSHIP
from tests.nodes import free_port, write_datasets

Array = npt.NDArray[np.float64]

CASES: list[tuple[PatientPosition, MrPlane]] = [
    ("HFS", "sagittal"),
    ("HFP", "coronal"),
    ("FFS", "oblique"),
    ("FFP", "sagittal"),
]
REFINED = "GTVn_CT1MR1"
CONTOUR_DATA = "3006-0050"
"""Orthanc leaves long values out unless asked for the tag."""


@dataclass(frozen=True)
class InOrthanc:
    """A case, and the instances of its study as Orthanc tells them.

    Attributes:
        study: The phantom.
        instances: Their tags by name, by SOP Instance UID.
    """

    study: PhantomStudy
    instances: Mapping[str, Mapping[str, Any]]

    def of_class(self, sop_class_uid: str) -> list[Mapping[str, Any]]:
        return [i for i in self.instances.values() if i["SOPClassUID"] == sop_class_uid]


def result_set(study: PhantomStudy) -> Iterator[Dataset]:
    """Give the objects of a study whose truth was found, each to be written before the next."""
    series = str(study.mr["T1"][0].SeriesInstanceUID)
    decoded = decode_case(CaseDatasets(study.ct, study.structure_set, {series: study.mr["T1"]}))
    case, grid = decoded.case, decoded.case.ct.geometry
    (roi,) = (roi for roi in case.structure_set.rois if roi.name.startswith("GTV"))
    registration = Registration(
        ct_from_mr=study.ct_from_mr,
        status=RegistrationStatus.PASS,
        reasons=(),
        uncertainty_mm=1.0,
        quality={},
        leading_series_uid=series,
        series_uids=(series,),
        centre_mm=(0.0, 0.0, 0.0),
    )
    moved, valid = resample(case.mr[0], grid, study.ct_from_mr)
    target = TargetResult(
        source_roi=roi,
        drawn=mask_from_roi(roi, grid),
        refinement=Refinement(
            TargetStatus.REFINED, Mask(grid, study.true_target.inside.copy()), ("The truth.",)
        ),
        refined_roi_name=REFINED,
        metrics={},
        organ_distances_mm={},
    )
    result = CaseResult(
        case, (registration,), (ResampledMr(moved, valid, registration),), (target,), (), {}
    )
    sources = Sources(decoded.ct, decoded.structure_set, decoded.mr)
    for _, ds in encode_result_set(result, sources, AUTHORSHIP):
        yield ds


@pytest.fixture(scope="module")
def told(
    tmp_path_factory: pytest.TempPathFactory, peer_program: Callable[[str], str]
) -> dict[tuple[str, str], InOrthanc]:
    """Return every case as one Orthanc tells it."""
    folder, http_port = tmp_path_factory.mktemp("positions"), free_port()

    def ask(path: str) -> Any:
        with urllib.request.urlopen(f"http://127.0.0.1:{http_port}{path}", timeout=60) as answer:
            return json.load(answer)

    found = {}
    with orthanc(peer_program, folder / "pacs", {}, name="pacs", http_port=http_port) as pacs:
        for seed, (position, plane) in enumerate(CASES, start=21):
            options = PhantomOptions(
                seed=seed,
                size="tiny",
                patient_position=position,
                mr_plane=plane,
                contrasts=("T1",),
                with_dose=False,
            )
            study = make_study(options)
            objects = chain(study.ct, result_set(study))
            paths = write_datasets(objects, folder / f"{position} {plane}")
            fill(pacs, paths)
            uid = study.ct[0].StudyInstanceUID
            (held,) = (
                one["Instances"]
                for one in _studies(ask)
                if one["MainDicomTags"]["StudyInstanceUID"] == uid
            )
            tags = [
                ask(f"/instances/{one}/tags?simplify&ignore-length={CONTOUR_DATA}") for one in held
            ]
            assert len(tags) == len(paths)
            found[position, plane] = InOrthanc(study, {one["SOPInstanceUID"]: one for one in tags})
    return found


def _studies(ask: Callable[[str], Any]) -> Iterator[dict[str, Any]]:
    """Return each study with the Orthanc identifiers of its instances."""
    for study in ask("/studies?expand"):
        instances = ask(f"/studies/{study['ID']}/instances")
        yield {**study, "Instances": [one["ID"] for one in instances]}


def numbers(text: str) -> Array:
    """Return the values of a DS, which Orthanc tells as they stand."""
    return np.array([float(value) for value in text.split("\\")])


def contours_of(case: InOrthanc, name: str) -> list[tuple[Array, Mapping[str, Any]]]:
    """Return the contours of a ROI (n, 3), each with the tags of the image it refers to."""
    (structures,) = case.of_class(RTStructureSetStorage)
    (number,) = (
        roi["ROINumber"] for roi in structures["StructureSetROISequence"] if roi["ROIName"] == name
    )
    (drawn,) = (
        one for one in structures["ROIContourSequence"] if one["ReferencedROINumber"] == number
    )
    return [
        (
            numbers(one["ContourData"]).reshape(-1, 3),
            case.instances[one["ContourImageSequence"][0]["ReferencedSOPInstanceUID"]],
        )
        for one in drawn["ContourSequence"]
    ]


def centroid(contours: Sequence[Array]) -> Array:
    """Return the centroid of stacked polygons, each weighted by its area."""
    sums, total = np.zeros(3), 0.0
    for points in contours:
        start = points[0]
        edges = points - start
        twice = np.cross(edges[1:-1], edges[2:])
        normal = twice.sum(axis=0) / np.linalg.norm(twice.sum(axis=0))
        areas = twice @ normal / 2
        middles = start + (edges[1:-1] + edges[2:]) / 3
        sums += areas @ middles
        total += areas.sum()
    return np.asarray(sums / total)


@pytest.mark.peers
@pytest.mark.parametrize(("position", "plane"), CASES)
def test_structure_set_when_orthanc_reads_it_lies_on_the_slices_and_at_the_truth(
    told: dict[tuple[str, str], InOrthanc], position: str, plane: str
) -> None:
    """Issue 6: each contour in the plane and the field of the CT slice that it names."""
    case = told[position, plane]
    contours = contours_of(case, REFINED)
    assert len({image["SOPInstanceUID"] for _, image in contours}) >= 4
    for points, image in contours:
        assert image["SOPClassUID"] == CTImageStorage
        assert image["PatientPosition"] == position
        row, column = numbers(image["ImageOrientationPatient"]).reshape(2, 3)
        away = points - numbers(image["ImagePositionPatient"])
        assert np.abs(away @ np.cross(row, column)).max() < 0.01
        height, width = int(image["Rows"]), int(image["Columns"])
        between_rows, between_columns = numbers(image["PixelSpacing"])
        along = away @ row / between_columns
        down = away @ column / between_rows
        assert 0 < along.min() < along.max() < width
        assert 0 < down.min() < down.max() < height
    truth = case.study.true_target
    centre = truth.geometry.points_from_indices(np.argwhere(truth.inside)).mean(axis=0)
    off_mm = np.linalg.norm(centroid([points for points, _ in contours]) - centre)
    assert off_mm < 0.5, "pixels of this small phantom measure 4 mm"


@pytest.mark.peers
@pytest.mark.parametrize(("position", "plane"), CASES)
def test_registration_when_orthanc_reads_it_holds_the_true_pose(
    told: dict[tuple[str, str], InOrthanc], position: str, plane: str
) -> None:
    """Issue 6: whatever the plane of the MR, the matrix leads from its frame to that of the CT."""
    case = told[position, plane]
    (registration,) = case.of_class(SpatialRegistrationStorage)
    truth = case.study.ct_from_mr
    assert registration["FrameOfReferenceUID"] == truth.to_frame_uid
    (item,) = (
        one
        for one in registration["RegistrationSequence"]
        if one["FrameOfReferenceUID"] == truth.from_frame_uid
    )
    (step,) = item["MatrixRegistrationSequence"][0]["MatrixSequence"]
    matrix = numbers(step["FrameOfReferenceTransformationMatrix"]).reshape(4, 4)
    np.testing.assert_allclose(matrix, truth.matrix, atol=1e-6)
