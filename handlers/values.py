"""The nouns of the product: images, structures, dose, the case and what became of it.

All values are frozen and compared by identity (arrays have no useful equality); grids are compared
with `Geometry.coincides_with`. A constructor checks shape and range and locks its array without a
copy: the caller gives the array away. Altered copies come from `dataclasses.replace`.

Nothing here knows a file, a state, an attempt or a DICOM dataset.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

import numpy as np
import numpy.typing as npt

from handlers.displacement import DisplacementField
from handlers.geometry import Geometry, Points, RigidTransform

COPLANARITY_TOLERANCE_MM = 0.1
"""Largest distance of a contour point from the plane of its contour."""


class Severity(StrEnum):
    """How much a finding matters to the person who reads it."""

    INFO = "info"
    WARNING = "warning"
    FAILURE = "failure"


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that a person should know about a case; never holds a patient identifier."""

    code: str
    severity: Severity
    text: str
    numbers: Mapping[str, float] = field(default_factory=dict)


class CtRole(StrEnum):
    """What a CT of a case is to it."""

    PLANNING = "planning"
    PRIOR = "prior"
    CBCT = "cbct"
    FURTHER = "further"


@dataclass(frozen=True, slots=True, eq=False)
class Image:
    """A scalar volume on a regular grid.

    Attributes:
        geometry: Its grid.
        voxels: float32, shape (slices, rows, columns); CT in HU, MR in arbitrary units.
        modality: `CT` or `MR`.
        series_instance_uid: The series it was read from.
        description: Series Description; free text of the sender, shown to people.
        contrast: What an MR series shows, as one of `T1`, `T2`, `DWI`, `ADC`, or empty if unknown.
        role: What a CT is to the case; None for MR. `prior` was planned on earlier, `cbct` was
            taken at the treatment machine; of a `further` CT neither is known.
        patient_position: How the patient lay, as `HFS`; empty if not told.
    """

    geometry: Geometry
    voxels: npt.NDArray[np.float32]
    modality: str
    series_instance_uid: str
    description: str = ""
    contrast: str = ""
    role: CtRole | None = None
    patient_position: str = ""

    def __post_init__(self) -> None:
        _lock(self, "voxels", np.float32, self.geometry)


@dataclass(frozen=True, slots=True, eq=False)
class Mask:
    """A structure as the voxels whose centres lie inside it; bool, shape of the grid."""

    geometry: Geometry
    inside: npt.NDArray[np.bool_]

    def __post_init__(self) -> None:
        _lock(self, "inside", np.bool_, self.geometry)

    @property
    def volume_cm3(self) -> float:
        """Volume by voxel summation in cm3."""
        return float(np.count_nonzero(self.inside)) * self.geometry.voxel_volume_mm3 / 1000.0


@dataclass(frozen=True, slots=True, eq=False)
class Contour:
    """One closed planar polygon: points (n, 3) in LPS mm, n >= 3, the first not repeated.

    Attributes:
        points: The corners.
        referenced_sop_instance_uid: The image instance that the sender named, or empty.
        is_exclusive_or: Of type CLOSEDPLANAR_XOR: combined with its plane's others by exclusive-or.
    """

    points: Points
    referenced_sop_instance_uid: str = ""
    is_exclusive_or: bool = False

    def __post_init__(self) -> None:
        points = np.asarray(self.points, dtype=np.float64)
        if points.ndim != 2 or points.shape[1] != 3 or len(points) < 3:
            raise ValueError(f"a contour needs at least three points, not shape {points.shape}")
        if not np.all(np.isfinite(points)):
            raise ValueError("a contour has a point that is not finite")
        _, _, axes = np.linalg.svd(points - points.mean(axis=0), full_matrices=False)
        off_plane = np.abs((points - points.mean(axis=0)) @ axes[2])
        if off_plane.max() > COPLANARITY_TOLERANCE_MM:
            raise ValueError("the points of a contour do not lie in one plane")
        points.setflags(write=False)
        object.__setattr__(self, "points", points)


@dataclass(frozen=True, slots=True, eq=False)
class Roi:
    """A region of interest of a structure set; `contours` may be empty (not drawn, or a point).

    Attributes:
        lost_contours: How many closed contours do not count in its voxels: on no slice of the CT,
            not planar, or malformed. An ROI with any is not what was drawn.
    """

    number: int
    name: str
    interpreted_type: str
    contours: tuple[Contour, ...]
    lost_contours: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class StructureSet:
    """The regions of interest drawn in one frame of reference; ROI numbers are unique.

    Attributes:
        sop_instance_uid: Of the object that was received.
        frame_of_reference_uid: In which all of `rois` lie.
        label: Structure Set Label.
        rois: Its ROIs, drawn or not.
        frames_elsewhere: Of the object's further ROIs, which lie in other frames of reference and
            are none of `rois`: the frame by ROI number.
    """

    sop_instance_uid: str
    frame_of_reference_uid: str
    label: str
    rois: tuple[Roi, ...]
    frames_elsewhere: Mapping[int, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        numbers = [roi.number for roi in self.rois]
        if len(set(numbers)) != len(numbers):
            raise ValueError("ROI numbers of a structure set must be unique")


@dataclass(frozen=True, slots=True, eq=False)
class DoseGrid:
    """Absorbed dose in Gy on a grid, scaling applied; shape (slices, rows, columns), >= 0."""

    geometry: Geometry
    dose_gy: npt.NDArray[np.float32]
    sop_instance_uid: str = ""
    summation_type: str = "PLAN"

    def __post_init__(self) -> None:
        _lock(self, "dose_gy", np.float32, self.geometry)
        if float(self.dose_gy.min()) < 0:
            raise ValueError("absorbed dose is negative")


@dataclass(frozen=True, slots=True, eq=False)
class Case:
    """One planning CT, the structure set drawn on it, and the MR of the same patient.

    The structure set lies in the CT's frame of reference; each MR series lies in a frame of its own
    or in the CT's (which is no proof that it is aligned).

    Attributes:
        ct: The planning CT.
        structure_set: Drawn on it.
        mr: The MR series.
        dose: In the CT's frame, or None.
        findings: What was noticed when the case was read.
        registrations: Each `ct_from_mr` that was received, of any MR or other CT frame of the case;
            no proof either. Those that were made last come first.
        other_ct: CT of the same patient beside the planning CT, each with its role.
        other_structure_sets: What is drawn on them, by Series Instance UID.
        other_doses: The dose planned on them, likewise.
    """

    ct: Image
    structure_set: StructureSet
    mr: tuple[Image, ...]
    dose: DoseGrid | None = None
    findings: tuple[Finding, ...] = ()
    registrations: tuple[RigidTransform, ...] = ()
    other_ct: tuple[Image, ...] = ()
    other_structure_sets: Mapping[str, StructureSet] = field(default_factory=dict)
    other_doses: Mapping[str, DoseGrid] = field(default_factory=dict)

    def kind_of(self, registration: "Registration") -> str:
        """Return what a registration moves to the planning CT: `mr`, `ct` or `cbct`."""
        for image in self.other_ct:
            if image.series_instance_uid == registration.leading_series_uid:
                return "cbct" if image.role is CtRole.CBCT else "ct"
        return "mr"


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
        _lock(self, "values", np.float32, self.geometry)

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
    """

    name: str
    interpreted_type: str
    mask: Mask
    description: str
    level: VoxelField | None = None


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
    """

    source_roi: Roi
    drawn: Mask
    refinement: Refinement
    refined_roi_name: str | None
    metrics: Mapping[str, float]
    organ_distances_mm: Mapping[str, float]
    derived: tuple[DerivedTarget, ...] = ()


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


def _lock(owner: object, name: str, dtype: type[np.generic], geometry: Geometry) -> None:
    array = np.asarray(getattr(owner, name), dtype=dtype)
    if array.shape != geometry.shape:
        raise ValueError(f"{name} has shape {array.shape}, its grid {geometry.shape}")
    if array.dtype != np.bool_ and not np.all(np.isfinite(array)):
        raise ValueError(f"{name} holds a value that is not finite")
    array.setflags(write=False)
    object.__setattr__(owner, name, array)
