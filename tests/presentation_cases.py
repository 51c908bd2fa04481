"""A phantom in any position as a result to encode, without computing it: what is made is made up.

Its datasets, grids and true registration are the phantom's; refined and derived targets are the
drawn one, shrunk and grown.
"""

from dataclasses import replace
from functools import cache

import numpy as np
from matplotlib.path import Path as Outline
from pydicom import Dataset
from scipy import ndimage

from handlers.decode import CaseDatasets, decode_case
from handlers.encode import Sources
from handlers.results import (
    CaseResult,
    DerivedTarget,
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
from node.phantom.options import PatientPosition
from tests.encode_cases import AUTHORSHIP, EncodeCase

CONTRASTS = ("T1", "T2")


@cache
def phantom_of(position: PatientPosition) -> PhantomStudy:
    """Return the phantom that lies so."""
    return make_study(
        PhantomOptions(size="tiny", patient_position=position, contrasts=CONTRASTS, with_dose=False)
    )


@cache
def phantom_case(position: PatientPosition = "HFS") -> EncodeCase:
    """Return a result for the phantom: its target refined, a PTV derived, T1 passed, T2 warned."""
    study = phantom_of(position)
    mr = {str(series[0].SeriesInstanceUID): series for series in study.mr.values()}
    decoded = decode_case(CaseDatasets(ct=study.ct, structure_set=study.structure_set, mr=mr))
    case = decoded.case
    source = next(roi for roi in case.structure_set.rois if roi.name == "GTVn")
    drawn = mask_from_roi(source, case.ct.geometry)
    once = ndimage.generate_binary_structure(3, 1)
    refined = Mask(drawn.geometry, ndimage.binary_erosion(drawn.inside, once))
    ptv = Mask(drawn.geometry, ndimage.binary_dilation(drawn.inside, once, iterations=2))
    target = TargetResult(
        source_roi=source,
        drawn=drawn,
        refinement=Refinement(TargetStatus.REFINED, refined, ("Border seen on T1.",)),
        refined_roi_name="GTVn_CT1MR1",
        metrics={"dsc": 0.8},
        organ_distances_mm={},
        derived=(DerivedTarget("PTVn", "PTV", ptv, "GTVn with a margin."),),
    )
    verdicts = (RegistrationStatus.PASS, RegistrationStatus.WARN)
    registrations = tuple(
        Registration(
            ct_from_mr=study.ct_from_mr,
            status=status,
            reasons=() if status is RegistrationStatus.PASS else ("Engines differ.",),
            uncertainty_mm=1.4,
            quality={"nmi": 1.1},
            leading_series_uid=image.series_instance_uid,
            series_uids=(image.series_instance_uid,),
            centre_mm=study.target_centre_mm,
        )
        for image, status in zip(case.mr, verdicts, strict=True)
    )
    resampled = tuple(
        ResampledMr(*resample(image, case.ct.geometry, study.ct_from_mr), registration)
        for image, registration in zip(case.mr, registrations, strict=True)
    )
    result = CaseResult(
        case=case,
        registrations=registrations,
        resampled=resampled,
        targets=(target,),
        findings=(),
        timing_s={"registration": 1.0},
    )
    sources = Sources(decoded.ct, decoded.structure_set, dict(decoded.mr))
    return EncodeCase(result, sources, AUTHORSHIP)


def renamed(case: EncodeCase, name: str) -> EncodeCase:
    """Return a case whose target has another ROI name."""
    (target,) = case.result.targets
    return case.with_result(
        targets=(replace(target, source_roi=replace(target.source_roi, name=name)),)
    )


def graphics_by_slice(state: Dataset, layer: str) -> dict[str, list[np.ndarray]]:
    """Return the polylines of a layer, (n, 2) as column and row, by the image they lie on."""
    found: dict[str, list[np.ndarray]] = {}
    for annotation in state.GraphicAnnotationSequence:
        if annotation.GraphicLayer != layer:
            continue
        (image,) = annotation.ReferencedImageSequence
        for item in annotation.GraphicObjectSequence:
            points = np.array(item.GraphicData, dtype=np.float64).reshape(-1, 2)
            assert len(points) == item.NumberOfGraphicPoints
            found.setdefault(str(image.ReferencedSOPInstanceUID), []).append(points)
    return found


def filled(polylines: list[np.ndarray], rows: int, columns: int, shift: float = 0.0) -> np.ndarray:
    """Return which pixels have their middle inside polylines, as a viewer that fills them would.

    PS3.3 C.10.5.1.2: the corner of the first pixel is 0 0, so its middle is 0.5 0.5.
    """
    row, column = np.mgrid[0:rows, 0:columns]
    middles = np.column_stack((column.ravel() + 0.5, row.ravel() + 0.5)) + shift
    inside = np.zeros(rows * columns, dtype=np.bool_)
    for points in polylines:
        inside ^= Outline(points).contains_points(middles)
    return inside.reshape(rows, columns)
