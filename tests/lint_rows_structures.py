"""Faults of structure sets, rebuilt from issue threads; see `lint_faults`."""

import copy
from collections.abc import Callable

import numpy as np
from pydicom import Dataset

from tests.lint_faults import CT, SET, Fault, World, drop, item_at, put, put_bytes

ROIS, DRAWN, OBSERVED = "StructureSetROISequence", "ROIContourSequence", "RTROIObservationsSequence"
FIRST = (DRAWN, 4, "ContourSequence", 1)
AT = "(3006,0039)[4].(3006,0040)[1]"
DATA = f"{AT}.(3006,0050) ContourData"
FOREIGN = "1.2.826.0.7.7"


def _points(world: World) -> np.ndarray:
    return np.array([float(v) for v in item_at(world[SET], *FIRST).ContourData]).reshape(-1, 3)


def _draw(world: World, points: np.ndarray) -> None:
    contour = item_at(world[SET], *FIRST)
    contour.ContourData = [f"{v:.3f}" for v in np.ravel(points)]
    contour.NumberOfContourPoints = len(points)


def _two_points(world: World) -> None:
    _draw(world, _points(world)[:2])


def _no_triples(world: World) -> None:
    item_at(world[SET], *FIRST).ContourData = item_at(world[SET], *FIRST).ContourData[:-1]


def _bent(world: World) -> None:
    points = _points(world)
    points[0, 2] += 1.0
    _draw(world, points)


def _closed_twice(world: World) -> None:
    points = _points(world)
    _draw(world, np.vstack([points, points[:1]]))


def _crossed(world: World) -> None:
    points = _points(world)
    half = len(points) // 2
    _draw(world, np.vstack([points[:half], points[half:][::-1]]))


def _off_slice(world: World) -> None:
    _draw(world, _points(world) + np.array([0.0, 0.0, 1.2]))


def _outside(world: World) -> None:
    _draw(world, _points(world) + np.array([400.0, 0.0, 0.0]))


def _ring_within(kind: str) -> Callable[[World], None]:
    def spoil(world: World) -> None:
        points = _points(world)
        inner = copy.deepcopy(item_at(world[SET], *FIRST))
        middle = points.mean(axis=0)
        inner.ContourData = [f"{v:.3f}" for v in np.ravel(middle + (points - middle) * 0.4)]
        inner.ContourGeometricType = kind
        item_at(world[SET], DRAWN, 4).ContourSequence.append(inner)

    return spoil


def _other_frame_everywhere(world: World) -> None:
    world[SET].ReferencedFrameOfReferenceSequence[0].FrameOfReferenceUID = FOREIGN
    for roi in world[SET].StructureSetROISequence:
        roi.ReferencedFrameOfReferenceUID = FOREIGN


def _two_frames(world: World) -> None:
    second = Dataset()
    second.FrameOfReferenceUID = FOREIGN
    world[SET].ReferencedFrameOfReferenceSequence.append(second)
    world[SET].StructureSetROISequence[1].ReferencedFrameOfReferenceUID = FOREIGN


def _refer_to(uid_of: str | None) -> Callable[[World], None]:
    def spoil(world: World) -> None:
        image = item_at(world[SET], *FIRST, "ContourImageSequence", 1)
        image.ReferencedSOPInstanceUID = FOREIGN if uid_of is None else world[uid_of].SOPInstanceUID

    return spoil


def _names_alike(world: World) -> None:
    world[SET].StructureSetROISequence[0].ROIName = "Bowel_Small_PRV05_left"
    world[SET].StructureSetROISequence[1].ROIName = "bowel_small_prv05_right"


def _second_set_of_other_type(world: World) -> None:
    other = copy.deepcopy(world[SET])
    other.SOPInstanceUID, other.SeriesInstanceUID = FOREIGN, f"{FOREIGN}.1"
    other.RTROIObservationsSequence[0].RTROIInterpretedType = "ORGAN"
    world["OTHER.dcm"] = other


def _drop_roi_contours(world: World) -> None:
    del world[SET].ROIContourSequence[1]


def _drop_observation(world: World) -> None:
    del world[SET].RTROIObservationsSequence[3]


LONG_NUMBERS = b"19.034504652023315\\-6.3554956912994385\\112.5" + b"\\1.0\\2.0\\112.5" * 3
"""Numbers as Eclipse logged them: 18 and 19 characters."""

STRUCTURE_FAULTS: tuple[Fault, ...] = (
    Fault("value.too-long", SET, DATA, put_bytes(SET, "ContourData", LONG_NUMBERS, *FIRST),
          thread="GSTT-CSC/TotalSegmentator-AIDE#11"),
    Fault("value.too-long", SET, "(3006,0002) StructureSetLabel",
          put(SET, "StructureSetLabel", "PyTRiP structures set"), thread="pytrip/pytrip#291"),
    Fault("contour.too-few-points", SET, DATA, _two_points, thread="qurit/rt-utils#87"),
    Fault("contour.count-wrong", SET, f"{AT}.(3006,0046)",
          put(SET, "NumberOfContourPoints", 4711, *FIRST)),
    Fault("contour.not-triples", SET, DATA, _no_triples),
    Fault("contour.not-planar", SET, DATA, _bent),
    Fault("contour.repeated-point", SET, DATA, _closed_twice),
    Fault("contour.crosses-itself", SET, DATA, _crossed),
    Fault("contour.nested", SET, "(3006,0039)[4].(3006,0040)[8]", _ring_within("CLOSED_PLANAR"),
          thread="pyplati/platipy#244"),
    Fault("contour.mixed-xor", SET, AT, _ring_within("CLOSEDPLANAR_XOR")),
    Fault("tps.xor", SET, AT, put(SET, "ContourGeometricType", "CLOSEDPLANAR_XOR", *FIRST),
          tps="monaco"),
    Fault("roi.number-not-unique", SET, "(3006,0020)[1].(3006,0022) ROINumber",
          put(SET, "ROINumber", 3, ROIS, 2)),
    Fault("roi.unknown", SET, "(3006,0039)[4].(3006,0084) ReferencedROINumber",
          put(SET, "ReferencedROINumber", 99, DRAWN, 4)),
    Fault("roi.unobserved", SET, "(3006,0020)[4] StructureSetROISequence", _drop_observation),
    Fault("roi.name-empty", SET, "(3006,0020)[1].(3006,0026) ROIName",
          put(SET, "ROIName", "", ROIS, 1)),
    Fault("raystation.empty", SET, "(3006,0020)[1].(3006,0026) ROIName",
          put(SET, "ROIName", "", ROIS, 1), "raystation", "pytrip/pytrip#266"),
    Fault("roi.name-not-unique", SET, "(3006,0020)[2].(3006,0026) ROIName",
          put(SET, "ROIName", "gtvN1 ", ROIS, 2)),
    Fault("roi.no-contour", SET, "(3006,0020)[2] StructureSetROISequence", _drop_roi_contours,
          thread="e0404/matRad#529"),
    Fault("roi.frame-unknown", SET, "(3006,0020)[1].(3006,0024)",
          put(SET, "ReferencedFrameOfReferenceUID", FOREIGN, ROIS, 1), thread="qurit/rt-utils#29"),
    Fault("struct.frame-differs", SET, "(3006,0020)[1].(3006,0024)", _other_frame_everywhere,
          thread="qurit/rt-utils#29"),
    Fault("struct.frames-several", SET, "(3006,0010) ReferencedFrameOfReferenceSequence",
          _two_frames, thread="pymedphys/pymedphys#1950"),
    Fault("eclipse.frames-several", SET, "(3006,0010) ReferencedFrameOfReferenceSequence",
          _two_frames, "eclipse", "pymedphys/pymedphys#1950"),
    Fault("struct.no-images", SET, "(3006,0010) ReferencedFrameOfReferenceSequence",
          drop(SET, "RTReferencedStudySequence", "ReferencedFrameOfReferenceSequence", 1)),
    Fault("contour.no-image", SET, f"{AT} ContourSequence",
          drop(SET, "ContourImageSequence", *FIRST), thread="pytrip/pytrip#188"),
    Fault("contour.image-not-listed", SET, f"{AT}.(3006,0016)", _refer_to(None)),
    Fault("contour.image-absent", SET, f"{AT}.(3006,0016)", _refer_to(None)),
    Fault("contour.wrong-slice", SET, f"{AT}.(3006,0016)", _refer_to(CT)),
    Fault("contour.off-slice", SET, DATA, _off_slice, thread="e0404/matRad#910"),
    Fault("contour.outside-image", SET, DATA, _outside, thread="microsoft/InnerEye-DICOM-RT#6"),
    Fault("struct.study-differs", SET, "(0020,000d) StudyInstanceUID",
          put(SET, "StudyInstanceUID", FOREIGN), thread="pytrip/pytrip#254"),
    Fault("approval.incomplete", SET, "(300e,0008) ReviewerName",
          put(SET, "ApprovalStatus", "APPROVED")),
    Fault("patient.differs", SET, "(0010,0020) PatientID", put(SET, "PatientID", "ANOTHER"),
          thread="pytrip/pytrip#266"),
    Fault("patient.spelled-differently", SET, "(0010,0010) PatientName",
          put(SET, "PatientName", "Mueller^Juergen"), thread="microsoft/InnerEye-DICOM-RT#6"),
    Fault("value.enumerated", SET, f"{AT}.(3006,0042) ContourGeometricType",
          put(SET, "ContourGeometricType", "POLYGON", *FIRST)),
    Fault("value.defined-term", SET, "(3006,0080)[1].(3006,00a4) RTROIInterpretedType",
          put(SET, "RTROIInterpretedType", "TUMOR", OBSERVED, 1)),
    Fault("type1.empty", SET, "(3006,0002) StructureSetLabel", put(SET, "StructureSetLabel", "")),
    Fault("eclipse.name-length", SET, "(3006,0020)[1].(3006,0026) ROIName",
          put(SET, "ROIName", "GTVn1_CT1MR1_refined", ROIS, 1), "eclipse"),
    Fault("eclipse.name-not-unique", SET, "(3006,0020)[2].(3006,0026) ROIName", _names_alike,
          "eclipse"),
    Fault("eclipse.study-id", SET, "(0020,0010) StudyID", put(SET, "StudyID", ""), "eclipse",
          "pytrip/pytrip#255"),
    Fault("raystation.type-differs", SET, "(3006,0080)[1].(3006,00a4) RTROIInterpretedType",
          _second_set_of_other_type, "raystation",
          "brianmanderson/Dicom_RT_and_Images_to_Mask#15"),
    Fault("raystation.type-empty", SET, "(3006,0080)[1].(3006,00a4) RTROIInterpretedType",
          put(SET, "RTROIInterpretedType", "", OBSERVED, 1), "raystation"),
)  # fmt: skip
