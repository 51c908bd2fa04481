"""What the planning system sends: RT Structure Set, RT Plan and RT Dose of the phantom.

Contours are sections of the solids themselves, not of voxels. The dose is a smooth function of the
distance from the drawn target, not a calculation of transport.

Read first: PS3.3 C.8.8.5 (Structure Set), C.8.8.3 (RT Dose), C.8.8.9 to C.8.8.14 (RT Plan).
"""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
from pydicom import config
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.tag import Tag
from pydicom.uid import RTDoseStorage, RTPlanStorage, RTStructureSetStorage
from skimage import measure

from handlers.geometry import Geometry
from node.phantom.grids import dose_geometry
from node.phantom.objects import (
    Series,
    code_item,
    decimals,
    derived_uid,
    new_instance,
    reference_item,
    sequence_of,
)
from node.phantom.options import PhantomOptions
from node.phantom.signals import coordinates
from node.phantom.solids import Solid

DETACHED_STUDY_MANAGEMENT = "1.2.840.10008.3.1.2.3.1"
"""Retired SOP class that structure sets still name for their study (PS3.3 C.8.8.5)."""

TARGET_NAME = "GTVn"
TRUE_TARGET_NAME = "GTVn_true"
PRIOR_TARGET_NAME = "CTV_5040"

SECTION_STEPS_MM = (1.0, 2.0)
"""Rasters for narrow and for wide solids, on which sections are traced; corners lie in between.

They and the tolerance grow with pixels of more than 2.5 mm.
"""

WIDE_MM = 60.0

CORNER_TOLERANCE_MM = 0.06
"""How far a corner may lie from its neighbours' chord to be dropped."""

SMALLEST_SECTION_MM2 = 4.0

HOTTEST_DOSE = 1.28
"""Dose at the target's centre over the prescription: prescribed to about 78 percent."""

PENUMBRA_MM = 4.5
COVERAGE_MARGIN_MM = 2.0

DOSE_STEP_GY = 1e-6
"""Dose Grid Scaling: fine enough for 32 bits to make sense, no dose comes near their end."""

COLORS = {TARGET_NAME: (255, 0, 0), "External": (0, 200, 0), "Liver": (150, 90, 40)}


def sections(solid: Solid, ct: Geometry) -> dict[int, list[npt.NDArray[np.float64]]]:
    """Return the closed polygons (n, 3) in LPS mm of a solid on the CT's slices, by slice index.

    Holes are left out: planners do not draw them.
    """
    start, stop = _index_box(solid, ct)
    if np.any(start > stop):
        return {}
    rows, columns = ct.spacing_mm[1:]
    coarseness = max(1.0, rows / 2.5)
    wide = min(np.subtract(solid.highest, solid.lowest)[:2]) > WIDE_MM
    raster_mm = SECTION_STEPS_MM[1] if wide else SECTION_STEPS_MM[0]
    steps = (rows / raster_mm / coarseness, columns / raster_mm / coarseness)
    r, c = (
        np.arange(start[n] - 1.5, stop[n] + 1.5, 1 / steps[n - 1], dtype=np.float64) for n in (1, 2)
    )
    polygons = {}
    for s in range(max(0, int(np.floor(start[0]))), min(ct.shape[0] - 1, int(stop[0]) + 1) + 1):
        points = _raster_points(ct, s, r, c)
        distance = solid.distance(*points.astype(np.float32))
        found = []
        for ring in _outer_rings(
            distance, raster_mm * coarseness, CORNER_TOLERANCE_MM * coarseness
        ):
            across, along = (a[0] + ring[:, k] * (a[1] - a[0]) for k, a in ((0, r), (1, c)))
            indices = np.column_stack([np.full(len(ring), s), across, along])
            found.append(ct.points_from_indices(indices))
        if found:
            polygons[s] = found
    return polygons


def _index_box(
    solid: Solid, ct: Geometry
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    pairs = list(zip(solid.lowest, solid.highest, strict=True))
    corners = [(x, y, z) for x in pairs[0] for y in pairs[1] for z in pairs[2]]
    indices = ct.indices_from_points(corners)
    last = np.array(ct.shape) - 1.0
    return np.clip(indices.min(axis=0), 0, last + 1), np.clip(indices.max(axis=0), -1, last)


def _raster_points(
    ct: Geometry, s: int, r: npt.NDArray[np.float64], c: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    rows, columns = np.meshgrid(r, c, indexing="ij")
    indices = np.column_stack([np.full(rows.size, s), rows.ravel(), columns.ravel()])
    return ct.points_from_indices(indices).T.reshape(3, *rows.shape)


def _outer_rings(
    distance: npt.NDArray[np.float32], step_mm: float, tolerance_mm: float
) -> list[npt.NDArray[np.float64]]:
    """Return the outer borders of the negative regions, in raster units, corners thinned."""
    padded = np.pad(distance.astype(np.float64), 1, constant_values=1.0)
    rings = []
    found = measure.find_contours(padded, 0.0, positive_orientation="low")
    for ring in found:
        a, b = ring[:-1, 0], ring[:-1, 1]
        area = 0.5 * float(np.sum(a * np.roll(b, -1) - np.roll(a, -1) * b))
        # the winding tells an outer border from a hole
        if area * step_mm**2 > SMALLEST_SECTION_MM2:
            rings.append(_thinned(ring[:-1], tolerance_mm / step_mm) - 1)
    return rings


def _thinned(ring: npt.NDArray[np.float64], tolerance: float) -> npt.NDArray[np.float64]:
    """Drop corners of a closed ring that lie on the chord of their neighbours, in three passes."""
    for _ in range(3):
        before, after = np.roll(ring, 1, axis=0), np.roll(ring, -1, axis=0)
        chord, arm = after - before, ring - before
        height = np.abs(chord[:, 0] * arm[:, 1] - chord[:, 1] * arm[:, 0])
        droppable = height < tolerance * np.linalg.norm(chord, axis=1)
        droppable[::2] = False  # never two neighbours at once
        if len(ring) - np.count_nonzero(droppable) < 8:
            break
        ring = ring[~droppable]
    return ring


def structure_set(
    series: Series,
    ct_instances: tuple[Dataset, ...],
    ct: Geometry,
    named: Mapping[str, Solid],
    label: str = "PLANNING",
) -> Dataset:
    """Return the RT Structure Set of named solids on the CT, in this order."""
    ds = new_instance(RTStructureSetStorage, series, 1)
    ds.OperatorsName = ""
    ds.FrameOfReferenceUID = ct.frame_of_reference_uid
    ds.PositionReferenceIndicator = ""
    ds.StructureSetLabel = label
    ds.StructureSetDate, ds.StructureSetTime = series.date, series.time
    ds.ReferencedFrameOfReferenceSequence = sequence_of(_referenced_frame(ct_instances))
    rois, contours, observations = [], [], []
    for number, (name, solid) in enumerate(named.items(), start=1):
        polygons = sections(solid, ct)
        if not polygons:  # outside a short CT
            continue
        rois.append(_roi(number, name, ct.frame_of_reference_uid))
        contours.append(_roi_contour(number, name, polygons, ct_instances))
        observations.append(_observation(number, name))
    ds.StructureSetROISequence = sequence_of(*rois)
    ds.ROIContourSequence = sequence_of(*contours)
    ds.RTROIObservationsSequence = sequence_of(*observations)
    ds.ApprovalStatus = "UNAPPROVED"
    return ds


def _referenced_frame(ct_instances: tuple[Dataset, ...]) -> Dataset:
    first = ct_instances[0]
    series = Dataset()
    series.SeriesInstanceUID = first.SeriesInstanceUID
    series.ContourImageSequence = sequence_of(
        *(reference_item(ds.SOPClassUID, ds.SOPInstanceUID) for ds in ct_instances)
    )
    study = reference_item(DETACHED_STUDY_MANAGEMENT, first.StudyInstanceUID)
    study.RTReferencedSeriesSequence = sequence_of(series)
    frame = Dataset()
    frame.FrameOfReferenceUID = first.FrameOfReferenceUID
    frame.RTReferencedStudySequence = sequence_of(study)
    return frame


def _roi(number: int, name: str, frame_uid: str) -> Dataset:
    item = Dataset()
    item.ROINumber = number
    item.ReferencedFrameOfReferenceUID = frame_uid
    item.ROIName = name
    item.ROIGenerationAlgorithm = "MANUAL" if name == TARGET_NAME else "SEMIAUTOMATIC"
    return item


def _roi_contour(
    number: int,
    name: str,
    polygons: Mapping[int, list[npt.NDArray[np.float64]]],
    ct_instances: tuple[Dataset, ...],
) -> Dataset:
    item = Dataset()
    item.ReferencedROINumber = number
    item.ROIDisplayColor = list(COLORS.get(name, ((67 * number) % 256, 160, (131 * number) % 256)))
    rings = []
    for s, found in polygons.items():
        image = ct_instances[s]
        for points in found:
            ring = Dataset()
            ring.ContourImageSequence = sequence_of(
                reference_item(image.SOPClassUID, image.SOPInstanceUID)
            )
            ring.ContourGeometricType = "CLOSED_PLANAR"
            ring.NumberOfContourPoints = len(points)
            ring.add(_contour_data(points))
            rings.append(ring)
    item.ContourSequence = sequence_of(*rings)
    return item


def _contour_data(points: npt.NDArray[np.float64]) -> DataElement:
    # written to 0.01 mm; the strings are valid by construction, and their checks take the longest
    texts = [f"{value:.2f}" for value in points.ravel().tolist()]
    return DataElement(Tag("ContourData"), "DS", texts, validation_mode=config.IGNORE)


def _observation(number: int, name: str) -> Dataset:
    item = Dataset()
    item.ObservationNumber = number
    item.ReferencedROINumber = number
    kinds = {TARGET_NAME: "GTV", TRUE_TARGET_NAME: "GTV", PRIOR_TARGET_NAME: "CTV"}
    kinds["External"] = "EXTERNAL"
    item.RTROIInterpretedType = kinds.get(name, "ORGAN")
    item.ROIInterpreter = ""
    if kinds.get(name) == "GTV":
        item.RTROIIdentificationCodeSequence = sequence_of(code_item("130051", "DCM", "GTV Nodal"))
    return item


def plan(
    series: Series,
    options: PhantomOptions,
    structures: Dataset,
    isocentre: tuple[float, ...],
    *,
    label: str = "SBRT",
    beams: int = 1,
) -> Dataset:
    """Return the RT Plan: one fraction group, arcs, the prescription to the first ROI."""
    ds = new_instance(RTPlanStorage, series, 1)
    ds.OperatorsName = ""
    ds.FrameOfReferenceUID = structures.ReferencedFrameOfReferenceSequence[0].FrameOfReferenceUID
    ds.PositionReferenceIndicator = ""
    ds.RTPlanLabel = label
    ds.RTPlanDate, ds.RTPlanTime = series.date, series.time
    ds.RTPlanGeometry = "PATIENT"
    ds.ReferencedStructureSetSequence = sequence_of(
        reference_item(structures.SOPClassUID, structures.SOPInstanceUID)
    )
    ds.DoseReferenceSequence = sequence_of(_prescription(series, options))
    ds.FractionGroupSequence = sequence_of(_fraction_group(options, beams))
    setup = Dataset()
    setup.PatientSetupNumber = 1
    setup.PatientPosition = options.patient_position
    ds.PatientSetupSequence = sequence_of(setup)
    ds.BeamSequence = sequence_of(*(_arc(isocentre, number) for number in range(1, beams + 1)))
    ds.ApprovalStatus = "UNAPPROVED"
    return ds


def _prescription(series: Series, options: PhantomOptions) -> Dataset:
    item = Dataset()
    item.DoseReferenceNumber = 1
    item.DoseReferenceUID = derived_uid(series.key, "prescription")
    item.DoseReferenceStructureType = "VOLUME"
    item.ReferencedROINumber = 1
    item.DoseReferenceType = "TARGET"
    item.TargetPrescriptionDose = decimals([options.prescription_gy])[0]
    return item


def _fraction_group(options: PhantomOptions, beams: int) -> Dataset:
    referenced = []
    for number in range(1, beams + 1):
        beam = Dataset()
        beam.ReferencedBeamNumber = number
        beam.BeamDose = decimals([options.prescription_gy / options.fractions / beams])[0]
        beam.BeamMeterset = "2000"
        referenced.append(beam)
    group = Dataset()
    group.FractionGroupNumber = 1
    group.NumberOfFractionsPlanned = options.fractions
    group.NumberOfBeams = beams
    group.NumberOfBrachyApplicationSetups = 0
    group.ReferencedBeamSequence = sequence_of(*referenced)
    return group


def _arc(isocentre: tuple[float, ...], number: int) -> Dataset:
    beam = Dataset()
    beam.BeamNumber = number
    beam.BeamName = "ARC" if number == 1 else f"ARC{number}"
    beam.BeamType = "DYNAMIC"
    beam.RadiationType = "PHOTON"
    beam.TreatmentMachineName = "PHANTOM"
    beam.Manufacturer = "Hilum phantom linac"
    beam.PrimaryDosimeterUnit = "MU"
    beam.SourceAxisDistance = "1000"
    beam.TreatmentDeliveryType = "TREATMENT"
    jaws = [Dataset(), Dataset()]
    for jaw, kind in zip(jaws, ("ASYMX", "ASYMY"), strict=True):
        jaw.RTBeamLimitingDeviceType = kind
        jaw.NumberOfLeafJawPairs = 1
    beam.BeamLimitingDeviceSequence = sequence_of(*jaws)
    beam.NumberOfWedges = beam.NumberOfCompensators = beam.NumberOfBoli = beam.NumberOfBlocks = 0
    beam.FinalCumulativeMetersetWeight = "1"
    beam.NumberOfControlPoints = 2
    beam.ControlPointSequence = sequence_of(_first_control_point(isocentre), _last_control_point())
    beam.ReferencedPatientSetupNumber = 1
    return beam


def _first_control_point(isocentre: tuple[float, ...]) -> Dataset:
    point = Dataset()
    point.ControlPointIndex = 0
    point.NominalBeamEnergy = "6"
    point.DoseRateSet = "1400"
    openings = [Dataset(), Dataset()]
    for opening, kind in zip(openings, ("ASYMX", "ASYMY"), strict=True):
        opening.RTBeamLimitingDeviceType = kind
        opening.LeafJawPositions = ["-25", "25"]
    point.BeamLimitingDevicePositionSequence = sequence_of(*openings)
    point.GantryAngle, point.GantryRotationDirection = "181", "CW"
    point.BeamLimitingDeviceAngle, point.BeamLimitingDeviceRotationDirection = "0", "NONE"
    point.PatientSupportAngle, point.PatientSupportRotationDirection = "0", "NONE"
    point.TableTopEccentricAngle, point.TableTopEccentricRotationDirection = "0", "NONE"
    point.TableTopVerticalPosition = point.TableTopLongitudinalPosition = None
    point.TableTopLateralPosition = None
    point.IsocenterPosition = decimals(np.round(isocentre, 2))
    point.CumulativeMetersetWeight = "0"
    return point


def _last_control_point() -> Dataset:
    point = Dataset()
    point.ControlPointIndex = 1
    point.GantryAngle, point.GantryRotationDirection = "179", "NONE"
    point.CumulativeMetersetWeight = "1"
    return point


def dose_gy(
    grid: Geometry, drawn: Solid, body: Solid, centre: tuple[float, ...], prescription_gy: float
) -> npt.NDArray[np.float64]:
    """Return absorbed dose in Gy: a hot target, a steep fall, the bath of an arc in the body."""
    x, y, z = coordinates(grid)
    outside = drawn.distance(x, y, z) - np.float32(COVERAGE_MARGIN_MM)
    # a logistic fall that passes through the prescription at the margin
    middle = PENUMBRA_MM * np.log(1 / (HOTTEST_DOSE - 1))
    falling = HOTTEST_DOSE / (1 + np.exp(np.clip((outside - middle) / PENUMBRA_MM, -30, 30)))
    radius = np.hypot(x - np.float32(centre[0]), y - np.float32(centre[1]))
    along = (z - np.float32(centre[2])) / 24.0
    bath = 0.22 * np.exp(-radius / 60.0) * np.exp(-(along**4))
    inside = np.clip(0.5 - body.distance(x, y, z) / 3.0, 0, 1)
    relative = (np.maximum(falling, 0) + bath * (1 - falling / HOTTEST_DOSE)) * inside
    return np.asarray(np.broadcast_to(relative, grid.shape) * prescription_gy, dtype=np.float64)


def dose(
    series: Series,
    ct: Geometry,
    plan_instance: Dataset,
    absorbed_gy: npt.NDArray[np.float64],
    *,
    beam: int | None = None,
) -> Dataset:
    """Return the RT Dose of the whole plan or of a beam: Gy, 32 bits, on `dose_geometry(ct)`."""
    grid = dose_geometry(ct)
    ds = new_instance(RTDoseStorage, series, beam or 1)
    ds.OperatorsName = ""
    ds.ContentDate, ds.ContentTime = series.date, series.time
    ds.FrameOfReferenceUID = grid.frame_of_reference_uid
    ds.PositionReferenceIndicator = ""
    ds.ImagePositionPatient = decimals(grid.points_from_indices((0, 0, 0))[0])
    ds.ImageOrientationPatient = decimals(grid.axes.T[[2, 1]])
    ds.PixelSpacing = decimals(grid.spacing_mm[1:])
    ds.SliceThickness = decimals([grid.spacing_mm[0]])[0]
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.NumberOfFrames, ds.Rows, ds.Columns = grid.shape
    ds.FrameIncrementPointer = Tag("GridFrameOffsetVector")
    ds.GridFrameOffsetVector = decimals(np.arange(grid.shape[0]) * grid.spacing_mm[0])
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 32, 32, 31, 0
    ds.DoseUnits, ds.DoseType, ds.DoseSummationType = "GY", "PHYSICAL", "PLAN"
    ds.TissueHeterogeneityCorrection = "IMAGE"
    ds.ReferencedRTPlanSequence = sequence_of(
        reference_item(plan_instance.SOPClassUID, plan_instance.SOPInstanceUID)
    )
    if beam is not None:
        ds.DoseSummationType = "BEAM"
        group, referenced = Dataset(), Dataset()
        referenced.ReferencedBeamNumber = beam
        group.ReferencedFractionGroupNumber = 1
        group.ReferencedBeamSequence = sequence_of(referenced)
        ds.ReferencedRTPlanSequence[0].ReferencedFractionGroupSequence = sequence_of(group)
    ds.DoseGridScaling = decimals([DOSE_STEP_GY])[0]
    ds.PixelData = np.rint(absorbed_gy / DOSE_STEP_GY).astype("<u4").tobytes()
    ds["PixelData"].VR = "OW"
    return ds
