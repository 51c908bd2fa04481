"""Faults of everything but structure sets, rebuilt from issue threads; see `lint_faults`."""

import copy
from collections.abc import Callable

import numpy as np
from pydicom import Dataset
from pydicom.uid import ExplicitVRLittleEndian

from tests.encode_cases import MR_FRAME
from tests.lint_faults import (
    CT,
    DEFREG,
    DOSE,
    MR,
    MR_2,
    PDF,
    PLAN,
    REG,
    SEG,
    SET,
    SR,
    STATE,
    Fault,
    World,
    drop,
    item_at,
    put,
    put_bytes,
)

MATRIX = ("RegistrationSequence", 2, "MatrixRegistrationSequence", 1, "MatrixSequence", 1)
MATRIX_AT = "(0070,0308)[2].(0070,0309)[1].(0070,030a)[1].(3006,00c6)"
GRID = ("DeformableRegistrationSequence", 1, "DeformableRegistrationGridSequence", 1)
GRID_AT = "(0064,0002)[1].(0064,0005)[1]"
FOREIGN = "1.2.826.0.7.8"

REFERENCES = (
    "ReferencedSeriesSequence",
    "StudiesContainingOtherReferencedInstancesSequence",
    "SourceImageSequence",
    "ReferencedInstanceSequence",
)


def _matrix(change: Callable[[np.ndarray], np.ndarray]) -> Callable[[World], None]:
    def spoil(world: World) -> None:
        item = item_at(world[REG], *MATRIX)
        told = [float(v) for v in item.FrameOfReferenceTransformationMatrix]
        changed = change(np.array(told).reshape(4, 4)).ravel()
        item.FrameOfReferenceTransformationMatrix = [f"{v:.12g}" for v in changed]

    return spoil


def _mirrored(m: np.ndarray) -> np.ndarray:
    return np.diag([-1.0, 1.0, 1.0, 1.0]) @ m


def _scaled(m: np.ndarray) -> np.ndarray:
    return m @ np.diag([1.02, 1.0, 1.0, 1.0])


def _without_source(world: World) -> None:
    item = item_at(world[REG], "RegistrationSequence", 2)
    del item.FrameOfReferenceUID, item.ReferencedImageSequence


def _without_identity(world: World) -> None:
    del world[REG].RegistrationSequence[0]


def _two_matrices(world: World) -> None:
    sequence = item_at(world[REG], *MATRIX[:4]).MatrixSequence
    sequence.append(copy.deepcopy(sequence[0]))


def _without_references(name: str, sequence: str) -> Callable[[World], None]:
    def spoil(world: World) -> None:
        for keyword in REFERENCES:
            if keyword in world[name]:
                del world[name][keyword]
        for item in world[name][sequence]:
            if "ReferencedImageSequence" in item:
                del item.ReferencedImageSequence

    return spoil


def _inverted(world: World) -> None:
    """Add MR that lies 400 mm from the CT, and tell the registration the wrong way round."""
    for number in range(1, 15):
        ds = copy.deepcopy(world[f"MR_1/{number:04}.dcm"])
        ds.SOPInstanceUID, ds.SeriesInstanceUID = f"{FOREIGN}.{number}", FOREIGN
        ds.FrameOfReferenceUID, ds.ImageType = MR_FRAME, ["ORIGINAL", "PRIMARY", "OTHER"]
        x, y, z = (float(v) for v in ds.ImagePositionPatient)
        ds.ImagePositionPatient = [x + 400.0, y, z]
        world[f"SOURCE/{number}.dcm"] = ds
    shift = np.eye(4)
    shift[0, 3] = 400.0
    _matrix(lambda _: shift)(world)


def _pre_matrix(world: World) -> None:
    told = Dataset()
    told.FrameOfReferenceTransformationMatrix = [str(v) for v in np.eye(4).ravel()]
    told.FrameOfReferenceTransformationMatrixType = "RIGID"
    item = item_at(world[DEFREG], *GRID[:2])
    item.PreDeformationMatrixRegistrationSequence = [told]


def _offsets(change: Callable[[list[float]], list[float]]) -> Callable[[World], None]:
    def spoil(world: World) -> None:
        told = [float(v) for v in world[DOSE].GridFrameOffsetVector]
        world[DOSE].GridFrameOffsetVector = change(told)

    return spoil


def _all_mr(change: Callable[[Dataset], None]) -> Callable[[World], None]:
    def spoil(world: World) -> None:
        for name in world:
            if name.startswith("MR_1/"):
                change(world[name])

    return spoil


def _lift(ds: Dataset) -> None:
    x, y, z = (float(v) for v in ds.ImagePositionPatient)
    ds.ImagePositionPatient = [x, y, z + 0.7]


def _tilt(ds: Dataset) -> None:
    ds.ImageOrientationPatient = [1, 0, 0, 0, 0.8, 0.6]


def _same_position(world: World) -> None:
    world[MR_2].ImagePositionPatient = world[MR].ImagePositionPatient


def _slice_missing(world: World) -> None:
    del world["MR_1/0005.dcm"]


def _same_uid(world: World) -> None:
    world[MR_2].SOPInstanceUID = world[MR].SOPInstanceUID


def _blank(world: World) -> None:
    world[PLAN].PatientID = world[PLAN].PatientName = ""


def _undeclared(world: World) -> None:
    if "SpecificCharacterSet" in world[PLAN]:
        del world[PLAN].SpecificCharacterSet
    put_bytes(PLAN, "PatientName", b"M\xfcller")(world)


def _long_contour_in_explicit(world: World) -> None:
    world[SET].file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    contour = item_at(world[SET], "ROIContourSequence", 4, "ContourSequence", 1)
    turns = np.linspace(0, 2 * np.pi, 3000, endpoint=False)
    middle = [float(v) for v in contour.ContourData[:3]]
    points = np.stack([np.cos(turns), np.sin(turns), 0 * turns], axis=1) * 3 + middle
    contour.ContourData = [f"{v:.5f}" for v in points.ravel()]
    contour.NumberOfContourPoints = len(points)


def _shared_uid(world: World) -> None:
    world[REG].SeriesInstanceUID = world[REG].SOPInstanceUID


def _short_grid(world: World) -> None:
    grid = item_at(world[DEFREG], *GRID)
    grid.VectorGridData = grid.VectorGridData[:-12]


def _short_pixels(world: World) -> None:
    world[MR].PixelData = world[MR].PixelData[:-100]


def _unknown_segment(world: World) -> None:
    frame = world[SEG].PerFrameFunctionalGroupsSequence[0]
    frame.SegmentIdentificationSequence[0].ReferencedSegmentNumber = 9


def _frame_too_few(world: World) -> None:
    del world[SEG].PerFrameFunctionalGroupsSequence[-1]


def _no_evidence(world: World) -> None:
    for keyword in ("CurrentRequestedProcedureEvidenceSequence", "PertinentOtherEvidenceSequence"):
        if keyword in world[SR]:
            del world[SR][keyword]


def _text_without_value(world: World) -> None:
    def first_text(ds: Dataset) -> Dataset | None:
        for item in ds.get("ContentSequence", ()):
            if item.ValueType == "TEXT":
                return item
            deeper = first_text(item)
            if deeper is not None:
                return deeper
        return None

    item = first_text(world[SR])
    assert item is not None
    del item.TextValue


OTHER_FAULTS: tuple[Fault, ...] = (
    Fault("value.malformed", DOSE, "(3004,000e) DoseGridScaling",
          put_bytes(DOSE, "DoseGridScaling", b"1,5e-3")),
    Fault("value.count", MR, "(0028,0030) PixelSpacing",
          put_bytes(MR, "PixelSpacing", b"1.5\\1.25\\1")),
    Fault("uid.illegal", REG, "(0020,000e) SeriesInstanceUID",
          put(REG, "SeriesInstanceUID", "1.2.826.007.1")),
    Fault("value.written-as-un", SET, "(3006,0039)[4].(3006,0040)[1].(3006,0050)",
          _long_contour_in_explicit),
    Fault("charset.unknown", PLAN, "(0008,0005) SpecificCharacterSet",
          put_bytes(PLAN, "SpecificCharacterSet", b"ISO_IR 999")),
    Fault("charset.not-declared", PLAN, "(0010,0010) PatientName", _undeclared),
    Fault("type1.missing", SEG, "(0062,0001) SegmentationType", drop(SEG, "SegmentationType")),
    Fault("type2.missing", MR, "(0018,0023) MRAcquisitionType", drop(MR, "MRAcquisitionType"),
          thread="SlicerRt/SlicerRT#186"),
    Fault("uid.not-unique", MR_2, "(0008,0018) SOPInstanceUID", _same_uid,
          thread="pytrip/pytrip#254"),
    Fault("uid.shared-by-levels", REG, "(0008,0018) SOPInstanceUID", _shared_uid),
    Fault("series.mixed", MR_2, "(0020,000d) StudyInstanceUID",
          put(MR_2, "StudyInstanceUID", FOREIGN)),
    Fault("patient.blank", PLAN, "(0010,0020) PatientID", _blank,
          thread="microsoft/InnerEye-DICOM-RT#6"),
    Fault("raystation.empty", PLAN, "(0010,0010) PatientName", _blank, "raystation",
          "pytrip/pytrip#266"),
    Fault("reg.no-source", REG, "(0070,0308)[2] RegistrationSequence", _without_source,
          thread="SlicerRt/SlicerRT#41"),
    Fault("reg.matrix-unusable", REG, MATRIX_AT,
          put(REG, "FrameOfReferenceTransformationMatrix", ["1"] * 15, *MATRIX)),
    Fault("reg.last-row", REG, MATRIX_AT, _matrix(np.transpose)),
    Fault("reg.not-orthonormal", REG, MATRIX_AT, _matrix(_scaled)),
    Fault("reg.coarse", REG, MATRIX_AT, _matrix(lambda m: np.round(m, 5))),
    Fault("reg.mirrors", REG, MATRIX_AT, _matrix(_mirrored)),
    Fault("value.enumerated", REG,
          "(0070,0308)[2].(0070,0309)[1].(0070,030a)[1].(0070,030c)",
          put(REG, "FrameOfReferenceTransformationMatrixType", "TRANSLATION", *MATRIX),
          thread="microsoft/InnerEye-DICOM-RT#6"),
    Fault("reg.several-matrices", REG, "(0070,0308)[2].(0070,0309)[1].(0070,030a)", _two_matrices),
    Fault("reg.no-identity", REG, "(0070,0308) RegistrationSequence", _without_identity),
    Fault("reg.own-frame-moved", REG, "(0070,0308)[2] RegistrationSequence",
          lambda w: put(REG, "FrameOfReferenceUID", w[REG].FrameOfReferenceUID,
                        "RegistrationSequence", 2)(w)),
    Fault("reg.no-series", REG, "(0008,1115) ReferencedSeriesSequence",
          _without_references(REG, "RegistrationSequence"), thread="SlicerRt/SlicerRT#42"),
    Fault("reg.no-series", DEFREG, "(0008,1115) ReferencedSeriesSequence",
          _without_references(DEFREG, "DeformableRegistrationSequence")),
    Fault("reg.frame-of-images", REG, "(0070,0308)[1].(0020,0052) FrameOfReferenceUID",
          put(REG, "FrameOfReferenceUID", FOREIGN, "RegistrationSequence", 1)),
    Fault("reg.direction", REG, MATRIX_AT, _inverted, thread="microsoft/InnerEye-DICOM-RT#6"),
    Fault("pinnacle.registration-lost", REG, "(0008,0016) SOPClassUID", lambda _: None, "pinnacle",
          "pymedphys/pymedphys#1811"),
    Fault("defreg.no-grid", DEFREG, "(0064,0002) DeformableRegistrationSequence",
          drop(DEFREG, "DeformableRegistrationGridSequence", *GRID[:2])),
    Fault("defreg.grid-length", DEFREG, f"{GRID_AT}.(0064,0009) VectorGridData", _short_grid),
    Fault("defreg.grid-geometry", DEFREG, GRID_AT,
          put(DEFREG, "GridResolution", [2.0, 0.0, 2.0], *GRID)),
    Fault("defreg.grid-elsewhere", DEFREG, GRID_AT,
          put(DEFREG, "ImagePositionPatient", [5000, 0, 0], *GRID)),
    Fault("defreg.matrices", DEFREG, "(0064,0002)[1].(0064,000f)", _pre_matrix),
    Fault("dose.bits", DOSE, "(0028,0100) BitsAllocated", put(DOSE, "BitsStored", 12)),
    Fault("dose.signed", DOSE, "(0028,0103) PixelRepresentation",
          put(DOSE, "PixelRepresentation", 1)),
    Fault("dose.scaling", DOSE, "(3004,000e) DoseGridScaling", put(DOSE, "DoseGridScaling", "0")),
    Fault("dose.frame-pointer", DOSE, "(0028,0009) FrameIncrementPointer",
          put(DOSE, "FrameIncrementPointer", 0x00181063)),
    Fault("dose.offsets-count", DOSE, "(3004,000c)", _offsets(lambda o: o[:-1])),
    Fault("dose.offsets-start", DOSE, "(3004,000c)", _offsets(lambda o: [v + 7.0 for v in o])),
    Fault("dose.offsets-order", DOSE, "(3004,000c)",
          _offsets(lambda o: [o[0], o[2], o[1], *o[3:]])),
    Fault("dose.offsets-uneven", DOSE, "(3004,000c)", _offsets(lambda o: [*o[:-1], o[-1] + 1.0]),
          thread="e0404/matRad#548"),
    Fault("dose.no-plan", DOSE, "(300c,0002) ReferencedRTPlanSequence",
          drop(DOSE, "ReferencedRTPlanSequence"), thread="cerr/CERR#318"),
    Fault("dose.frame-differs", DOSE, "(0020,0052) FrameOfReferenceUID",
          put(DOSE, "FrameOfReferenceUID", FOREIGN)),
    Fault("image.orientation", MR, "(0020,0037) ImageOrientationPatient",
          put(MR, "ImageOrientationPatient", [1, 0, 0, 0.2, 0.9, 0]),
          thread="microsoft/InnerEye-DICOM-RT#6"),
    Fault("image.spacing", CT, "(0028,0030) PixelSpacing", put(CT, "PixelSpacing", [0, 1.5])),
    Fault("image.pixels", MR, "(7fe0,0010) PixelData", _short_pixels),
    Fault("series.parts", MR, "(0020,000e) SeriesInstanceUID", put(MR_2, "Rows", 47)),
    Fault("series.frames-several", MR, "(0020,0052) FrameOfReferenceUID",
          put(MR_2, "FrameOfReferenceUID", FOREIGN)),
    Fault("series.same-position", MR, "(0020,0032) ImagePositionPatient", _same_position,
          thread="AustralianCancerDataNetwork/pydicer#76"),
    Fault("series.uneven", MR, "(0020,0032) ImagePositionPatient", _slice_missing),
    Fault("mr.rescale", MR, "(0028,1053) RescaleSlope", put(MR, "RescaleSlope", "2")),
    Fault("mr.off-ct-grid", MR, "(0020,0032) ImagePositionPatient", _all_mr(_lift)),
    Fault("eclipse.not-axial", MR, "(0020,0037) ImageOrientationPatient", _all_mr(_tilt),
          "eclipse"),
    Fault("sr.value-missing", SR, "(0040,a730)", _text_without_value),
    Fault("sr.not-evidence", SR, "(0040,a730)", _no_evidence),
    Fault("sr.verified-by-nobody", SR, "(0040,a493) VerificationFlag",
          put(SR, "VerificationFlag", "VERIFIED")),
    Fault("sr.scheme-unidentified", SR, "(0040,a730)",
          drop(SR, "CodingSchemeIdentificationSequence")),
    Fault("seg.numbers", SEG, "(0062,0002) SegmentSequence",
          put(SEG, "SegmentNumber", 7, "SegmentSequence", 1)),
    Fault("seg.unknown-segment", SEG, "(5200,9230)[1]", _unknown_segment),
    Fault("seg.bits", SEG, "(0028,0100) BitsAllocated", put(SEG, "HighBit", 7)),
    Fault("frames.count", SEG, "(5200,9230) PerFrameFunctionalGroupsSequence", _frame_too_few),
    Fault("state.no-images", STATE, "(0008,1115) ReferencedSeriesSequence",
          drop(STATE, "ReferencedSeriesSequence")),
    Fault("pdf.not-pdf", PDF, "(0042,0011) EncapsulatedDocument",
          put(PDF, "EncapsulatedDocument", b"<html></html> ")),
)  # fmt: skip
