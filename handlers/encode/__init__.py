"""CaseResult -> the DICOM objects of a result set, one at a time, cross-referenced, repeatable.

`encode_result_set` is the door; one module per kind of object lies behind it, named after the
object. This package alone makes UIDs. It writes no file: the caller does, and adopts the set whole
or not at all.
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import TypeVar

import numpy as np
from pydicom import Dataset

from handlers.encode.blending import ROLE as BLENDING_ROLE
from handlers.encode.blending import encode_blending, has_blending
from handlers.encode.contour_graphics import ROLE as CONTOURS_ROLE
from handlers.encode.contour_graphics import encode_contour_graphics
from handlers.encode.deformable import encode_deformable_registration
from handlers.encode.identity import MANUFACTURER, Authorship, ResultSet, Sources
from handlers.encode.image import encode_resampled_mr
from handlers.encode.overview import ROLE as OVERVIEW_ROLE
from handlers.encode.overview import encode_overview
from handlers.encode.pdf import ROLE as DOCUMENT_ROLE
from handlers.encode.pdf import about_result, encode_document
from handlers.encode.probability import (
    MAP_ROLE,
    SEGMENTATION_ROLE,
    encode_probability_map,
    encode_probability_segmentation,
    has_map,
    has_segmentation,
    problems_of_probability,
)
from handlers.encode.registration import encode_registration
from handlers.encode.rtdose import ROLE as DOSE_ROLE
from handlers.encode.rtdose import encode_summed_dose, summed_doses
from handlers.encode.rtstruct import encode_structure_set
from handlers.encode.seg import encode_segmentation
from handlers.encode.split_structures import encode_split_structure_set, frames_elsewhere
from handlers.encode.sr import encode_report
from handlers.errors import EncodingError
from handlers.geometry import GRID_TOLERANCE_MM
from handlers.results import CaseResult, RegistrationStatus

__all__ = ["MANUFACTURER", "Authorship", "Sources", "about_result", "encode_result_set"]

FUSED_FOLDER = "fused"
"""Folder of what viewers show: pictures and presentation states."""

REQUIRED_OF_SOURCES = ("SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID")
"""Without these an object cannot be referenced."""

REQUIRED_OF_CT = (
    "FrameOfReferenceUID",
    "ImagePositionPatient",
    "ImageOrientationPatient",
    "PixelSpacing",
    "Rows",
    "Columns",
)
"""Besides, without these no object can be placed on the CT."""

_T = TypeVar("_T")


def encode_result_set(
    result: CaseResult, sources: Sources, authorship: Authorship, document: bytes | None = None
) -> Iterator[tuple[str, Dataset]]:
    """Yield every object of a result set with its relative file name.

    In order: `REG_1.dcm` and on (one per registration), `DEFREG_1.dcm` and on (numbered like the
    registration, where it has a deformation), `MR_1/0001.dcm` and on (one folder per
    resampled MR), `SEG.dcm` (unless no target has a voxel), `PSEG_1.dcm`, `PM_1.dcm` and on
    (numbered like the target; see `probability`), `RTSTRUCT.dcm`, `RTSTRUCT_2.dcm` and on (where
    the source has ROIs of other frames of reference; see `split_structures`), `RTDOSE_1.dcm` and on
    (where sums of courses are asked for, by ascending alpha/beta), then what viewers show:
    `fused/OVERVIEW_1.dcm` and on (numbered like the target, unless it has no voxel),
    `fused/BLENDING_1.dcm` and on (numbered like the resampled MR), `fused/CONTOURS_1.dcm` (unless
    no target has a contour), `SR.dcm`; last `PDF.dcm`, if there is a document. Each is ready for
    `dcmwrite(..., enforce_file_format=True)`. Equal arguments give equal bytes.

    Args:
        result: What was computed. MR whose registration failed must not be among its resampled.
        sources: The datasets of that case. They are read, never changed.
        authorship: When, by which version and with which settings.
        document: The report for people, a PDF file; None: none is written.

    Raises:
        EncodingError: Result and sources do not belong together, or an object would not be valid.
    """
    problems = _problems(result, sources, authorship)
    if problems:
        raise EncodingError("; ".join(problems), hint="give the sources of this very case")
    result_set = ResultSet(result, sources, authorship)
    problems = problems_of_probability(result_set)
    if problems:
        raise EncodingError("; ".join(problems), hint="leave `review` out to go without them")
    for index in range(len(result.registrations)):
        name = f"REG_{index + 1}.dcm"
        yield name, _build(name, partial(encode_registration, result_set, index))
    for index, registration in enumerate(result.registrations):
        if registration.deformation is not None:
            name = f"DEFREG_{index + 1}.dcm"
            yield name, _build(name, partial(encode_deformable_registration, result_set, index))
    for index in range(len(result.resampled)):
        images = encode_resampled_mr(result_set, index)
        for number in range(1, result.case.ct.geometry.shape[0] + 1):
            name = f"MR_{index + 1}/{number:04d}.dcm"
            yield name, _build(name, partial(next, images))
    segmentation = _build("SEG.dcm", partial(encode_segmentation, result_set))
    if segmentation is not None:
        yield "SEG.dcm", segmentation
    yield from _probabilities(result_set)
    yield "RTSTRUCT.dcm", _build("RTSTRUCT.dcm", partial(encode_structure_set, result_set))
    for index in range(len(frames_elsewhere(result_set))):
        name = f"RTSTRUCT_{index + 2}.dcm"
        yield name, _build(name, partial(encode_split_structure_set, result_set, index))
    for index in range(len(summed_doses(result_set))):
        name = f"{DOSE_ROLE}_{index + 1}.dcm"
        yield name, _build(name, partial(encode_summed_dose, result_set, index))
    yield from _fused(result_set)
    yield "SR.dcm", _build("SR.dcm", partial(encode_report, result_set))
    if document is not None:
        name = f"{DOCUMENT_ROLE}.dcm"
        yield name, _build(name, partial(encode_document, result_set, document))


def _probabilities(result_set: ResultSet) -> Iterator[tuple[str, Dataset]]:
    for index in range(len(result_set.result.targets)):
        if has_segmentation(result_set, index):
            name = f"{SEGMENTATION_ROLE}_{index + 1}.dcm"
            yield name, _build(name, partial(encode_probability_segmentation, result_set, index))
        if has_map(result_set, index):
            name = f"{MAP_ROLE}_{index + 1}.dcm"
            yield name, _build(name, partial(encode_probability_map, result_set, index))


def _fused(result_set: ResultSet) -> Iterator[tuple[str, Dataset]]:
    for index in range(len(result_set.result.targets)):
        name = f"{FUSED_FOLDER}/{OVERVIEW_ROLE}_{index + 1}.dcm"
        overview = _build(name, partial(encode_overview, result_set, index))
        if overview is not None:
            yield name, overview
    for index in range(len(result_set.result.resampled)):
        name = f"{FUSED_FOLDER}/{BLENDING_ROLE}_{index + 1}.dcm"
        if _build(name, partial(has_blending, result_set, index)):
            yield name, _build(name, partial(encode_blending, result_set, index))
    states = encode_contour_graphics(result_set)
    name = f"{FUSED_FOLDER}/{CONTOURS_ROLE}_1.dcm"
    number = 1
    while (state := _build(name, partial(next, states, None))) is not None:
        yield name, state
        number += 1
        name = f"{FUSED_FOLDER}/{CONTOURS_ROLE}_{number}.dcm"


def _build(name: str, build: Callable[[], _T]) -> _T:
    try:
        return build()
    except (AttributeError, KeyError, TypeError, ValueError, OverflowError) as error:
        # the libraries' messages may quote a value of the sources: only the kind is passed on
        raise EncodingError(
            f"{name} cannot be written: {type(error).__name__} while building it",
            hint="a source object has an attribute that cannot be copied; see the cause",
        ) from error


def _problems(result: CaseResult, sources: Sources, authorship: Authorship) -> list[str]:
    problems = []
    if authorship.created.tzinfo is None:
        problems.append("the time of creation has no time zone")
    if not authorship.uid_seed or not authorship.software_version:
        problems.append("UIDs need a seed and equipment a software version")
    slices = result.case.ct.geometry.shape[0]
    if len(sources.ct) != slices:
        problems.append(f"{len(sources.ct)} CT datasets for {slices} slices")
    for what, datasets in (
        ("CT", sources.ct),
        ("structure set", (sources.structure_set,)),
        ("MR", [ds for series in sources.mr.values() for ds in series]),
        ("other CT", [ds for series in sources.other_ct.values() for ds in series]),
        ("dose and plan", list(sources.radiotherapy)),
    ):
        required = REQUIRED_OF_SOURCES + (REQUIRED_OF_CT if what == "CT" else ())
        absent = sorted({k for ds in datasets for k in required if not ds.get(k)})
        if absent:
            problems.append(f"{what} datasets lack {', '.join(absent)}")
    if not problems:
        problems += _problems_of_ct(result, sources)
        problems += _problems_of_references(result, sources)
    return problems


def _problems_of_ct(result: CaseResult, sources: Sources) -> list[str]:
    geometry = result.case.ct.geometry
    frames = {str(ds.FrameOfReferenceUID) for ds in sources.ct}
    problems = []
    if frames != {geometry.frame_of_reference_uid}:
        problems.append("the CT datasets lie in another frame of reference than the case's CT")
    if any((int(ds.Rows), int(ds.Columns)) != geometry.shape[1:] for ds in sources.ct):
        problems.append("the CT datasets have another matrix than the case's CT")
    centres = geometry.points_from_indices([(i, 0, 0) for i in range(geometry.shape[0])])
    positions = np.array([[float(x) for x in ds.ImagePositionPatient] for ds in sources.ct])
    if float(np.abs(positions - centres).max()) > GRID_TOLERANCE_MM:
        problems.append("the CT datasets are not in the slice order of the case's CT")
    return problems


def _problems_of_references(result: CaseResult, sources: Sources) -> list[str]:
    problems = []
    if str(sources.structure_set.SOPInstanceUID) != result.case.structure_set.sop_instance_uid:
        problems.append("the structure set dataset is not the case's structure set")
    wanted = {uid for registration in result.registrations for uid in registration.series_uids}
    wanted |= {resampled.image.series_instance_uid for resampled in result.resampled}
    held = {**sources.mr, **sources.other_ct}
    if not wanted <= {uid for uid, series in held.items() if series}:
        problems.append("the datasets of an MR series (or of another CT) are absent")
    ct_frame = result.case.ct.geometry.frame_of_reference_uid
    if any(r.ct_from_mr.to_frame_uid != ct_frame for r in result.registrations):
        problems.append("a registration does not end in the frame of reference of the CT")
    fields = [r.deformation for r in result.registrations if r.deformation is not None]
    if any(f.geometry.frame_of_reference_uid != ct_frame for f in fields):
        problems.append("a deformation does not lie in the frame of reference of the CT")
    failed = [r for r in result.registrations if r.status is RegistrationStatus.FAIL]
    if any(registration.deformation is not None for registration in failed):
        problems.append("a registration that failed must not have a deformation")
    grid = result.case.ct.geometry
    masks = [t.drawn for t in result.targets]
    masks += [t.refinement.refined for t in result.targets if t.refinement.refined is not None]
    on_grid = [m.geometry for m in masks] + [r.image.geometry for r in result.resampled]
    if not all(geometry.coincides_with(grid) for geometry in on_grid):
        problems.append("a mask or a resampled MR does not lie on the grid of the CT")
    if any(r.registration.status is RegistrationStatus.FAIL for r in result.resampled):
        problems.append("a resampled MR whose registration failed must not be written")
    return problems
