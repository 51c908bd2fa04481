"""Cases made of values alone, in any orientation: a CT of air, a ball, its outlines."""

from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from handlers.geometry import Geometry, RigidTransform
from handlers.pictures.choice import PANEL_PIXELS
from handlers.pictures.overview import GAP_PIXELS, HEADER_PIXELS
from handlers.results import (
    CaseResult,
    Refinement,
    Registration,
    RegistrationStatus,
    ResampledMr,
    TargetResult,
    TargetStatus,
)
from handlers.sampling import contours_from_mask
from handlers.values import Case, Image, Mask, Roi, StructureSet
from tests.encode_cases import CT_FRAME, CT_SERIES, MR_FRAME, MR_SERIES, STRUCTURE_SET, ball

POSITIONS: Mapping[str, tuple[tuple[int, int, int], tuple[int, int, int]]] = {
    "HFS": ((1, 0, 0), (0, 1, 0)),
    "HFP": ((-1, 0, 0), (0, -1, 0)),
    "FFS": ((-1, 0, 0), (0, 1, 0)),
    "FFP": ((1, 0, 0), (0, -1, 0)),
    "HFDL": ((0, -1, 0), (1, 0, 0)),
}
"""Row and column direction (LPS) of a CT by Patient Position: as the scanner stores the patient who
lies so, its table below."""

SHAPE = (30, 70, 80)
SPACING_MM = (3.0, 1.25, 1.0)
AIR_HU, BRIGHT_HU = -1000.0, 900.0


def grid_of(position: str = "HFS") -> Geometry:
    """Return the grid of a CT whose centre is the origin."""
    rows, columns = (np.array(each, dtype=np.float64) for each in POSITIONS[position])
    axes = np.stack([np.cross(rows, columns), columns, rows], axis=-1)
    matrix = np.eye(4)
    matrix[:3, :3] = axes * np.array(SPACING_MM)
    matrix[:3, 3] = -matrix[:3, :3] @ ((np.array(SHAPE) - 1) / 2)
    return Geometry(CT_FRAME, matrix, SHAPE)


def case_of(
    grid: Geometry,
    *,
    voxels: npt.NDArray[np.float32] | None = None,
    drawn: Mask | None = None,
    refined: Mask | None = None,
    name: str = "GTVn1",
    status: RegistrationStatus | None = RegistrationStatus.PASS,
    covers: Callable[[Geometry], npt.NDArray[np.bool_]] | None = None,
    organs: tuple[Roi, ...] = (),
) -> CaseResult:
    """Return a result of one target: a ball of 12 mm radius at the origin unless told otherwise.

    Args:
        grid: Of the CT.
        voxels: Of the CT; air if None.
        drawn: The target.
        refined: What is proposed, or None.
        name: ROI name of the target.
        status: Of the registration of the one MR; None: there is no MR.
        covers: Where the MR lies; None: everywhere.
        organs: Other ROIs.
    """
    drawn = ball(grid, (0, 0, 0), 12.0) if drawn is None else drawn
    source = Roi(1, name, "GTV", contours_from_mask(drawn))
    ct = Image(
        grid, np.full(grid.shape, AIR_HU, np.float32) if voxels is None else voxels, "CT", CT_SERIES
    )
    structures = StructureSet(STRUCTURE_SET, CT_FRAME, "PLAN", (source, *organs))
    target = TargetResult(
        source_roi=source,
        drawn=drawn,
        refinement=Refinement(TargetStatus.ABSTAINED, None, ("Too little is seen.",))
        if refined is None
        else Refinement(TargetStatus.REFINED, refined, ("Border seen on T1.",)),
        refined_roi_name=None if refined is None else "GTVn1_CT1MR1",
        metrics={},
        organ_distances_mm={},
    )
    registrations: tuple[Registration, ...] = ()
    resampled: tuple[ResampledMr, ...] = ()
    if status is not None:
        registrations = (registration_of(status),)
    if status in (RegistrationStatus.PASS, RegistrationStatus.WARN):
        resampled = (mr_of(grid, registrations[0], covers),)
    return CaseResult(
        case=Case(ct, structures, tuple(r.image for r in resampled)),
        registrations=registrations,
        resampled=resampled,
        targets=(target,),
        findings=(),
        timing_s={},
    )


def registration_of(status: RegistrationStatus) -> Registration:
    """Return a registration that moves nothing, with a verdict."""
    return Registration(
        ct_from_mr=RigidTransform(np.eye(4), CT_FRAME, MR_FRAME),
        status=status,
        reasons=() if status is RegistrationStatus.PASS else ("Engines differ.",),
        uncertainty_mm=1.3,
        quality={},
        leading_series_uid=MR_SERIES,
        series_uids=(MR_SERIES,),
        centre_mm=(0.0, 0.0, 0.0),
    )


def mr_of(
    grid: Geometry,
    registration: Registration,
    covers: Callable[[Geometry], npt.NDArray[np.bool_]] | None = None,
    contrast: str = "T1",
) -> ResampledMr:
    """Return an MR that is bright all over, where it lies."""
    inside = np.ones(grid.shape, dtype=np.bool_) if covers is None else covers(grid)
    ramp = np.linspace(100.0, 900.0, grid.shape[2], dtype=np.float32)
    voxels = np.array(np.broadcast_to(ramp, grid.shape))
    image = Image(grid, voxels, "MR", MR_SERIES, "t1 vibe", contrast)
    return ResampledMr(image, Mask(grid, inside), registration)


def with_further_mr(result: CaseResult, further: ResampledMr) -> CaseResult:
    """Return a result with one more resampled MR and its registration."""
    return replace(
        result,
        registrations=(*result.registrations, further.registration),
        resampled=(*result.resampled, further),
    )


def panel(pixels: npt.NDArray[np.uint8], which: int) -> npt.NDArray[np.int64]:
    """Return one of the two parts of a picture: 0 CT with MR, 1 CT alone."""
    left = which * (PANEL_PIXELS + GAP_PIXELS)
    part = pixels[HEADER_PIXELS : HEADER_PIXELS + PANEL_PIXELS, left : left + PANEL_PIXELS]
    return part.astype(np.int64)


def near(
    part: npt.NDArray[np.int64], color: tuple[int, int, int], tolerance: int = 60
) -> npt.NDArray[np.bool_]:
    """Return which pixels have nearly a color."""
    return np.asarray(np.abs(part - np.array(color)).max(axis=-1) <= tolerance)
