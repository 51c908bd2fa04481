"""How much each voxel belongs to a target -> a fractional Segmentation, or a Parametric Map.

Written on request only (`CaseResult.review`), one object per target and kind, for a person who
wants to see why a contour went where it went. The Segmentation has the whole CT slices, as viewers
of segmentations want it, in steps of 1/255; the Parametric Map has the block around the target, in
steps of 1/10000, as integers: more programs show them than floating-point pixels.

The probability is not calibrated, and says so. Never thresholds it, and never resamples.

Read first: DICOM PS3.3 A.51 and C.8.20.2 (Segmentation), A.75 (Parametric Map), C.7.6.16.2.11 (real
world values).
"""

import highdicom as hd
import numpy as np
import numpy.typing as npt
from pydicom import Dataset
from pydicom.sr.codedict import codes
from pydicom.uid import ParametricMapStorage, SegmentationStorage
from pydicom.valuerep import DSfloat

from handlers.encode.identity import (
    SERIES_NUMBER_PM,
    SERIES_NUMBER_PSEG,
    Reference,
    ResultSet,
)
from handlers.encode.seg import (
    describe_segments,
    make_repeatable,
    series_arguments,
    standing_segment,
)
from handlers.encode.text import LO_LENGTH
from handlers.results import VoxelField

SEGMENTATION = "probability-seg"
MAP = "probability-map"
"""What `CaseResult.review` calls them."""

SEGMENTATION_ROLE = "PSEG"
MAP_ROLE = "PM"
"""Roles of these objects in a result set: give their UIDs, their file names, and their place."""

LABEL = "PROBABILITY"
"""Content Label (0070,0080) of both."""

DESCRIPTION = "Probability of the target, not calibrated"
"""Content Description (0070,0081) of both, at most 64 characters."""

MAXIMUM_FRACTIONAL_VALUE = 255
"""Maximum Fractional Value (0062,000E): all that 8 bits hold."""

STORED_OF_ONE = 10000
"""Stored value of a Parametric Map that means 1: hundredths of a percent, which show as such where
the real world value mapping is not read."""

TOLERANCE = 0.5 / STORED_OF_ONE
"""How far below 0 or above 1 a probability may lie by rounding: it is written as 0 or 1."""


def has_segmentation(result_set: ResultSet, index: int) -> bool:
    """Tell whether the probability of a target is written as a Segmentation.

    It must be asked for, known, and somewhere large enough for one step: empty frames are left out.
    """
    field = _field(result_set, index, SEGMENTATION)
    return field is not None and bool(_steps(field, MAXIMUM_FRACTIONAL_VALUE).any())


def has_map(result_set: ResultSet, index: int) -> bool:
    """Tell whether the probability of a target is written as a Parametric Map."""
    return _field(result_set, index, MAP) is not None


def probability_references(result_set: ResultSet, index: int) -> list[Reference]:
    """Return the references to the objects that hold the probability of a target, if any."""
    references = []
    if has_segmentation(result_set, index):
        references.append(result_set.reference(SegmentationStorage, SEGMENTATION_ROLE, index))
    if has_map(result_set, index):
        references.append(result_set.reference(ParametricMapStorage, MAP_ROLE, index))
    return references


def problems_of_probability(result_set: ResultSet) -> list[str]:
    """Return what forbids to write the probabilities that are asked for."""
    problems = []
    grid = result_set.result.case.ct.geometry
    for index in range(len(result_set.result.targets)):
        field = _field(result_set, index, SEGMENTATION) or _field(result_set, index, MAP)
        if field is None:
            continue
        name = f"the probability of target {index + 1}"
        ends = np.add(field.start, field.geometry.shape)
        place = grid.crop(field.start, field.geometry.shape)
        is_within = min(field.start) >= 0 and bool(np.all(ends <= grid.shape))
        if not is_within or not field.geometry.coincides_with(place):
            problems.append(f"{name} does not lie on the grid of the CT")
        if field.values.min() < -TOLERANCE or field.values.max() > 1.0 + TOLERANCE:
            problems.append(f"{name} is not within 0 to 1")
        if standing_segment(result_set, index) is None:
            problems.append(f"{name} belongs to a target without a voxel")
    return problems


def encode_probability_segmentation(result_set: ResultSet, index: int) -> Dataset:
    """Return the probability of a target as a Segmentation (FRACTIONAL, PROBABILITY).

    Frames lie on the CT's slices with its rows and columns; those below half a step everywhere are
    left out. The segment bears the tracking UID of the target in `SEG.dcm`.
    """
    field = _required(result_set, index, SEGMENTATION)
    segment = standing_segment(result_set, index)
    if segment is None:
        raise ValueError("a probability without a segment to which it belongs")
    occupied = np.flatnonzero(_steps(field, MAXIMUM_FRACTIONAL_VALUE).any(axis=(1, 2)))
    _, rows, columns = field.block
    frames = np.zeros((len(occupied), *result_set.result.case.ct.geometry.shape[1:], 1), np.float32)
    frames[:, rows, columns, 0] = np.clip(field.values[occupied], 0.0, 1.0)
    slices = occupied + field.start[0]
    reference = result_set.reference(SegmentationStorage, SEGMENTATION_ROLE, index)
    ds = hd.seg.Segmentation(
        source_images=[result_set.stand_in(result_set.sources.ct[i]) for i in slices],
        pixel_array=frames,
        segmentation_type=hd.seg.SegmentationTypeValues.FRACTIONAL,
        fractional_type=hd.seg.SegmentationFractionalTypeValues.PROBABILITY,
        max_fractional_value=MAXIMUM_FRACTIONAL_VALUE,
        segment_descriptions=describe_segments(result_set, [segment], is_computed=True),
        **series_arguments(result_set, reference, SERIES_NUMBER_PSEG + index + 1),
        content_label=LABEL,
        content_description=DESCRIPTION,
        series_description=_series_description(result_set, index),
    )
    make_repeatable(ds, result_set, f"{SEGMENTATION_ROLE} {index}")
    return ds


def encode_probability_map(result_set: ResultSet, index: int) -> Dataset:
    """Return the probability of a target as a Parametric Map on the block around it.

    Every frame lies in a slice of the CT, cut at borders of its voxels. Real world value = stored
    value / 10000, unit 1.
    """
    field = _required(result_set, index, MAP)
    ct = result_set.sources.ct[field.block[0]]
    reference = result_set.reference(ParametricMapStorage, MAP_ROLE, index)
    patient = hd.CoordinateSystemNames.PATIENT
    slice_mm, row_mm, column_mm = field.geometry.spacing_mm
    corners = field.geometry.points_from_indices([(i, 0, 0) for i in range(len(ct))])
    ds = hd.pm.ParametricMap(
        source_images=[result_set.stand_in(each) for each in ct],
        pixel_array=_steps(field, STORED_OF_ONE).astype(np.uint16),
        **series_arguments(result_set, reference, SERIES_NUMBER_PM + index + 1),
        contains_recognizable_visual_features=False,
        real_world_value_mappings=[_real_world_values()],
        voi_lut_transformations=[
            hd.VOILUTTransformation(window_center=STORED_OF_ONE / 2, window_width=STORED_OF_ONE)
        ],
        plane_positions=[
            hd.PlanePositionSequence(patient, [DSfloat(v, auto_format=True) for v in corner])
            for corner in corners
        ],
        plane_orientation=hd.PlaneOrientationSequence(patient, ct[0].ImageOrientationPatient),
        pixel_measures=hd.PixelMeasuresSequence((row_mm, column_mm), slice_mm, slice_mm),
        content_label=LABEL,
        content_description=DESCRIPTION,
        series_description=_series_description(result_set, index),
    )
    result_set.add_body_part(ds)
    make_repeatable(ds, result_set, f"{MAP_ROLE} {index}")
    return ds


def _real_world_values() -> hd.pm.RealWorldValueMapping:
    return hd.pm.RealWorldValueMapping(
        lut_label=LABEL,
        lut_explanation=DESCRIPTION,
        unit=codes.UCUM.NoUnits,
        value_range=(0, STORED_OF_ONE),
        slope=1.0 / STORED_OF_ONE,
        intercept=0.0,
        quantity_definition=codes.DCM.FractionalProbabilisticSegmentation,
    )


def _field(result_set: ResultSet, index: int, what: str) -> VoxelField | None:
    if what not in result_set.result.review:
        return None
    return result_set.result.targets[index].refinement.probability


def _required(result_set: ResultSet, index: int, what: str) -> VoxelField:
    field = _field(result_set, index, what)
    if field is None:
        raise ValueError("a probability that nobody asked for, or that is not known")
    return field


def _steps(field: VoxelField, count: int) -> npt.NDArray[np.float32]:
    """Return the probabilities in steps of 1/`count`, rounded."""
    return np.asarray(np.rint(np.clip(field.values, 0.0, 1.0) * np.float32(count)))


def _series_description(result_set: ResultSet, index: int) -> str:
    segment = standing_segment(result_set, index)
    name = segment.name if segment is not None else f"target {index + 1}"
    return result_set.text(f"Probability, not calibrated: {name}", LO_LENGTH)
