"""The nouns of what becomes of a case: registrations, refined targets, the result.

Frozen and locked like those of `values`, which they are made of.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

import numpy as np
import numpy.typing as npt

from handlers.displacement import DisplacementField
from handlers.dose_results import DoseMeasures
from handlers.geometry import Geometry, Points, RigidTransform
from handlers.values import (
    Case,
    CtRole,
    Finding,
    Image,
    Mask,
    Roi,
    lock_array,
)

CONTOURS_CM3 = "volume_slices_evaluated_cm3"
"""Figure of a new structure against the drawn one: volume of its contours, by slices."""


class RegistrationStatus(StrEnum):
    """The verdict on a registration: only `pass` lets the MR change a contour."""

    PASS = "pass"  # noqa: S105 - a verdict, not a password
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True, slots=True, eq=False)
class Registration:
    """One MR frame of reference, or part of it, brought to the planning CT, and the verdict on it.

    Attributes:
        ct_from_mr: Sends points of the MR frame to the CT frame. With `fail` it is the best guess,
            for people to look at, and is never used.
        status: The verdict.
        reasons: Why it is not `pass`, in sentences; empty for `pass`.
        uncertainty_mm: Distance within which the true place of the target's points is expected.
        quality: Named figures behind the verdict (unit in the name).
        leading_series_uid: The MR series that was registered.
        series_uids: All MR series of that frame that this transform moves.
        centre_mm: Where `translation_mm` is told: centre of the targets, LPS mm in the CT frame.
        notes: What a person may want to know beside the verdict, such as why this series led.
        deformation: What a deformable step added near the targets; None: the rigid map stands.
        series_shifts_mm: Series that lie beside the leading one (own breath-hold), with the shift
            x, y, z in mm of the CT frame that follows `ct_from_mr` for them.
    """

    ct_from_mr: RigidTransform
    status: RegistrationStatus
    reasons: tuple[str, ...]
    uncertainty_mm: float
    quality: Mapping[str, float]
    leading_series_uid: str
    series_uids: tuple[str, ...]
    centre_mm: tuple[float, float, float]
    notes: tuple[str, ...] = ()
    deformation: DisplacementField | None = None
    series_shifts_mm: Mapping[str, tuple[float, float, float]] = field(default_factory=dict)

    def kind_in(self, case: Case) -> str:
        """Return what it moves to the planning CT of its case: `mr`, `ct` or `cbct`."""
        for image in case.other_ct:
            if image.series_instance_uid == self.leading_series_uid:
                return "cbct" if image.role is CtRole.CBCT else "ct"
        return "mr"

    def ct_from_series(self, series_uid: str) -> RigidTransform:
        """Return the rigid map of one of its series: `ct_from_mr`, then the series' own shift."""
        if series_uid not in self.series_shifts_mm:
            return self.ct_from_mr
        frame = self.ct_from_mr.to_frame_uid
        step = np.eye(4)
        step[:3, 3] = self.series_shifts_mm[series_uid]
        return RigidTransform(step, frame, frame) @ self.ct_from_mr

    @property
    def deformation_figures(self) -> dict[str, float]:
        """Size of the deformation and range of its Jacobian determinant; empty without one.

        The determinant is that of x + u(x): below zero the deformation folds, 1 keeps volumes.
        """
        if self.deformation is None:
            return {}
        low, high = self.deformation.jacobian_bounds()
        return {
            "largest_displacement_mm": self.deformation.largest_mm,
            "jacobian_min": low,
            "jacobian_max": high,
        }

    @property
    def translation_mm(self) -> tuple[float, float, float]:
        """How far the MR's point that ends at the targets' centre was moved: x, y, z in mm."""
        end = np.array(self.centre_mm)
        start = self.ct_from_mr.inverse().apply(end)[0]
        x, y, z = end - start
        return float(x), float(y), float(z)


@dataclass(frozen=True, slots=True, eq=False)
class ResampledMr:
    """An MR series on the planning CT's grid; `valid` marks the voxels that the MR covers."""

    image: Image
    valid: Mask
    registration: Registration


class MoveCause(StrEnum):
    """Because of what a part of a target's surface moved."""

    VESSEL = "vessel"
    DUCT = "duct"
    BOWEL = "bowel"
    ORGAN = "organ"
    FAT = "fat"
    GAS = "gas"
    OTHER_TISSUE = "other tissue"
    TARGET_SIGNAL = "target signal"


@dataclass(frozen=True, slots=True)
class VolumeChange:
    """What one cause took from a target, or gave to it.

    Attributes:
        cause: `target signal` for what was added.
        structure: ROI name of the contoured structure, or how a found one is called; empty where
            only the signal tells.
        removed_cm3: Drawn before, no more.
        added_cm3: Not drawn before.
    """

    cause: MoveCause
    structure: str
    removed_cm3: float
    added_cm3: float


@dataclass(frozen=True, slots=True, eq=False)
class VoxelField:
    """A number per voxel on a part of the CT's grid.

    Attributes:
        geometry: The part, cropped from the CT's grid.
        start: Slice, row and column of the CT at which it begins.
        values: float32, shape of `geometry`.
    """

    geometry: Geometry
    start: tuple[int, int, int]
    values: npt.NDArray[np.float32]

    def __post_init__(self) -> None:
        lock_array(self, "values", np.float32, self.geometry)

    @property
    def block(self) -> tuple[slice, slice, slice]:
        """Where it lies in an array of the CT's shape."""
        z, y, x = (
            slice(begin, begin + size)
            for begin, size in zip(self.start, self.geometry.shape, strict=True)
        )
        return z, y, x


@dataclass(frozen=True, slots=True, eq=False)
class SurfaceMoves:
    """Where the drawn surface went, point by point.

    Attributes:
        points_mm: On the drawn surface, evenly spread; LPS mm in the CT's frame, shape (n, 3).
        displacement_mm: Signed distance from there to the refined surface, shape (n,): positive
            where it lies outside of the drawn one.
        causes: Because of what, one for each point; None where it did not move.
    """

    points_mm: Points
    displacement_mm: npt.NDArray[np.float64]
    causes: tuple[MoveCause | None, ...]

    def __post_init__(self) -> None:
        count = len(self.points_mm)
        if self.points_mm.shape != (count, 3) or len(self.displacement_mm) != count:
            raise ValueError("points and displacements of a surface must go together")
        if len(self.causes) != count:
            raise ValueError("every point of a surface needs a cause or None")
        self.points_mm.setflags(write=False)
        self.displacement_mm.setflags(write=False)


@dataclass(frozen=True, slots=True, eq=False)
class SurfaceMap:
    """How far another surface lies from each triangle of a surface.

    Attributes:
        corners_mm: Of the triangles, each once; LPS mm in the CT's frame, shape (m, 3).
        faces: Which corners each triangle has, shape (n, 3).
        distance_mm: From its middle to the other surface, shape (n,): positive where that one lies
            outside.
        areas_mm2: Of the triangles, shape (n,).
    """

    corners_mm: Points
    faces: npt.NDArray[np.int64]
    distance_mm: npt.NDArray[np.float64]
    areas_mm2: npt.NDArray[np.float64]

    def __post_init__(self) -> None:
        count = len(self.faces)
        if self.faces.shape != (count, 3) or not (
            self.distance_mm.shape == self.areas_mm2.shape == (count,)
        ):
            raise ValueError("triangles, distances and areas of a surface must go together")
        for array in (self.corners_mm, self.faces, self.distance_mm, self.areas_mm2):
            array.setflags(write=False)

    @property
    def points_mm(self) -> Points:
        """Middles of the triangles, shape (n, 3)."""
        return np.asarray(self.corners_mm[self.faces].mean(axis=1))


@dataclass(frozen=True, slots=True)
class Neighbour:
    """How a target lies to one other structure.

    Attributes:
        name: ROI name of the other structure.
        overlap_cm3: Volume in common, by voxels.
        distance_mm: Smallest distance of the surfaces; 0 if they have a voxel in common.
        drawn_overlap_cm3: The same for the target as drawn.
        drawn_distance_mm: Likewise.
    """

    name: str
    overlap_cm3: float
    distance_mm: float
    drawn_overlap_cm3: float
    drawn_distance_mm: float


@dataclass(frozen=True, slots=True)
class Content:
    """How much of a target lies in vessels, ducts or bowel.

    Attributes:
        cause: Which of them: contoured structures by name, and found ones; what lies in several
            counts once.
        structures: Names of those that lie in the target as drawn, or in the end.
        drawn_cm3: In the target as drawn.
        final_cm3: In the refined target; of a target that stays, the same.
    """

    cause: MoveCause
    structures: tuple[str, ...]
    drawn_cm3: float
    final_cm3: float


class TargetStatus(StrEnum):
    """What became of a target's contour."""

    REFINED = "refined"
    ABSTAINED = "abstained"


@dataclass(frozen=True, slots=True, eq=False)
class Refinement:
    """The answer of the refinement for one target; with `abstained`, `refined` is None.

    Attributes:
        status: Whether a contour is proposed.
        refined: The proposed target on the CT grid.
        reasons: Why it abstained, or what was done, in sentences.
        numbers: Figures behind the answer (unit in the name).
        level: Whose zero level is the refined surface, finer than the voxels: above zero in the
            voxels of `refined`, below it in all others. None with `abstained`.
        probability: How much each voxel around belongs to the target, 0 to 1, not calibrated; None
            where the MR was not looked at.
        moves: Of the drawn surface; None with `abstained`.
        changes: Volumes by cause, largest first.
        confidence: How far the proposal can be trusted, 0 to 1; None with `abstained`.
        found: Structures that nobody contoured, found around the target, by proposed ROI name.
    """

    status: TargetStatus
    refined: Mask | None
    reasons: tuple[str, ...]
    numbers: Mapping[str, float] = field(default_factory=dict)
    level: VoxelField | None = None
    probability: VoxelField | None = None
    moves: SurfaceMoves | None = None
    changes: tuple[VolumeChange, ...] = ()
    confidence: float | None = None
    found: Mapping[str, Mask] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if (self.refined is None) != (self.status is TargetStatus.ABSTAINED):
            raise ValueError("a refined target has a mask, an abstention has none")


@dataclass(frozen=True, slots=True, eq=False)
class DerivedTarget:
    """A further ROI made from a target by the protocol: a combination, or a target with a margin.

    Attributes:
        name: TG-263 name of the new ROI, at most 16 characters, unique in the structure set.
        interpreted_type: `GTV`, `CTV` or `PTV`.
        mask: Its voxels on the CT grid; never empty.
        description: How it was made, in a sentence for people.
        level: As in `Refinement`, or None: the border of the mask is traced.
        metrics: It against the drawn target, as in `TargetResult`.
        neighbours: How it, and the drawn target, lie to each other ROI.
    """

    name: str
    interpreted_type: str
    mask: Mask
    description: str
    level: VoxelField | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)
    neighbours: tuple[Neighbour, ...] = ()

    @property
    def volume_cm3(self) -> float:
        """Volume of the contours that go out, by slices; by voxels where that was not measured."""
        return self.metrics.get(CONTOURS_CM3, self.mask.volume_cm3)


@dataclass(frozen=True, slots=True, eq=False)
class TargetResult:
    """A target before and after.

    Attributes:
        source_roi: The clinician's ROI, never altered.
        drawn: Its voxels on the CT grid.
        refinement: What was proposed, or why nothing was.
        refined_roi_name: TG-263 name of the new ROI, or None.
        metrics: Refined against drawn: named figures, unit in the name; empty after an abstention.
        organ_distances_mm: Smallest distance from the final target to each other ROI, by ROI name.
        derived: What else the protocol asks to be made from it.
        volumes_cm3: Of the target as drawn, by method: `voxels`, `slices`, `mesh`.
        neighbours: How the final target, and the drawn one, lie to each other ROI.
        contents: What of it lies in vessels, ducts and bowel; classes without any are absent.
        surface_map: How far the refined surface lies from the drawn one; None after an abstention.
    """

    source_roi: Roi
    drawn: Mask
    refinement: Refinement
    refined_roi_name: str | None
    metrics: Mapping[str, float]
    organ_distances_mm: Mapping[str, float]
    derived: tuple[DerivedTarget, ...] = ()
    volumes_cm3: Mapping[str, float] = field(default_factory=dict)
    neighbours: tuple[Neighbour, ...] = ()
    contents: tuple[Content, ...] = ()
    surface_map: SurfaceMap | None = None

    @property
    def drawn_cm3(self) -> float:
        """Volume of the drawn contours, by slices; by voxels where that was not measured."""
        return self.volumes_cm3.get("slices", self.drawn.volume_cm3)

    @property
    def refined_cm3(self) -> float | None:
        """The same of the refined contours as they go out; None after an abstention."""
        refined = self.refinement.refined
        if refined is None:
            return None
        return self.metrics.get(CONTOURS_CM3, refined.volume_cm3)


@dataclass(frozen=True, slots=True, eq=False)
class DailyPosition:
    """How the patient lay for a CBCT, against how the planning CT was planned.

    IEC 61217 fixed system (the table's at zero angles): X to the right of one who faces the gantry,
    which is the patient's left in HFS; Y towards the gantry; Z up.

    Attributes:
        shift_mm: How far the anatomy at `at_mm` lies from where it was planned: X, Y, Z.
        rotation_deg: How far the patient is turned about X, Y, Z (R = Rz Ry Rx), right-handed.
        at_mm: Centre of the targets, LPS mm in the planning CT's frame.
        patient_position: By which the axes were turned.
        is_frame_shared: CBCT and planning CT lie in one frame of reference. If not, nothing says
            that equal coordinates are one place in the room: the shift is only a difference of
            numbers.
        organ_distances_mm: Target ROI name to organ name, as drawn on the CBCT, to their smallest
            distance once the shift is taken back; empty where nothing is drawn on it.
    """

    shift_mm: tuple[float, float, float]
    rotation_deg: tuple[float, float, float]
    at_mm: tuple[float, float, float]
    patient_position: str
    is_frame_shared: bool
    organ_distances_mm: Mapping[str, Mapping[str, float]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, eq=False)
class CaseResult:
    """All that was computed for one case; never partly filled.

    `daily_positions` holds one entry for each CBCT whose registration did not fail, by its Series
    Instance UID. `review` names what the protocol asks to be written for people who review the
    proposals: `probability-seg`, `probability-map`, `structures`. `outlined` are organs, by name,
    that nobody drew and an outside program, `outlined_by`, outlined on the CT's grid. With
    `holes_as_xor` holes of new contours are rings of their own (CLOSEDPLANAR_XOR), else keyholes.
    `dose` is None where no dose came, or none could be used.
    """

    case: Case
    registrations: tuple[Registration, ...]
    resampled: tuple[ResampledMr, ...]
    targets: tuple[TargetResult, ...]
    findings: tuple[Finding, ...]
    timing_s: Mapping[str, float]
    daily_positions: Mapping[str, DailyPosition] = field(default_factory=dict)
    review: frozenset[str] = frozenset()
    outlined: Mapping[str, Mask] = field(default_factory=dict)
    outlined_by: str = ""
    holes_as_xor: bool = False
    dose: DoseMeasures | None = None
