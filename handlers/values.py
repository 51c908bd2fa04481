"""The nouns of what comes in: images, structures, dose, the case; and the finding.

All values are frozen and compared by identity (arrays have no useful equality); grids are compared
with `Geometry.coincides_with`. A constructor checks shape and range and locks its array without a
copy: the caller gives the array away. Altered copies come from `dataclasses.replace`. What becomes
of a case stands in `results`.

Nothing here knows a file, a state, an attempt or a DICOM dataset.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

import numpy as np
import numpy.typing as npt

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
        taken_on: Date of acquisition (else of the series, else of the study) as YYYYMMDD, for
            intervals; empty if not told.
    """

    geometry: Geometry
    voxels: npt.NDArray[np.float32]
    modality: str
    series_instance_uid: str
    description: str = ""
    contrast: str = ""
    role: CtRole | None = None
    patient_position: str = ""
    taken_on: str = ""

    def __post_init__(self) -> None:
        lock_array(self, "voxels", np.float32, self.geometry)


@dataclass(frozen=True, slots=True, eq=False)
class Mask:
    """A structure as the voxels whose centres lie inside it; bool, shape of the grid."""

    geometry: Geometry
    inside: npt.NDArray[np.bool_]

    def __post_init__(self) -> None:
        lock_array(self, "inside", np.bool_, self.geometry)

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


class DoseKind(StrEnum):
    """What the numbers of a dose are."""

    PHYSICAL = "physical"
    EFFECTIVE = "effective"
    """Already corrected for its biological effect: never converted, never compared with limits."""


@dataclass(frozen=True, slots=True, eq=False)
class DoseGrid:
    """Dose in Gy on a grid, scaling applied; shape (slices, rows, columns), >= 0.

    Attributes:
        geometry: Its grid.
        dose_gy: float32.
        sop_instance_uid: Of the object that was received; empty for a sum.
        summation_type: Dose Summation Type.
        kind: Physical or effective.
        plan_uids: SOP Instance UIDs of the RT Plans that it refers to.
    """

    geometry: Geometry
    dose_gy: npt.NDArray[np.float32]
    sop_instance_uid: str = ""
    summation_type: str = "PLAN"
    kind: DoseKind = DoseKind.PHYSICAL
    plan_uids: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        lock_array(self, "dose_gy", np.float32, self.geometry)
        if float(self.dose_gy.min()) < 0:
            raise ValueError("absorbed dose is negative")


LOW_PART = 0.9
"""A dose whose hottest voxel has less than this part of the prescription is not believed whole."""


@dataclass(frozen=True, slots=True)
class PlannedTarget:
    """A dose that a plan is to give: one item of its Dose Reference Sequence of type TARGET.

    Attributes:
        roi_number: ROI in the structure set of the CT that the plan stands with; None: the plan
            names a site, a point or nothing, or was made for another structure set.
        prescription_gy: Target Prescription Dose.
    """

    roi_number: int | None
    prescription_gy: float


@dataclass(frozen=True, slots=True)
class Plan:
    """What a RT Plan tells of its dose.

    Attributes:
        sop_instance_uid: Of the object.
        label: RT Plan Label.
        structure_set_uid: SOP Instance UID of the structure set that it was made for; may be empty.
        approval: Approval Status; may be empty.
        targets: Its prescribed doses; those at points only where there are no others.
        fractions: Fractions planned, if one number holds for every beam; None: not told, or several
            fraction groups.
        planned_on: RT Plan Date as YYYYMMDD; empty if not told.
        fraction_groups: How many it has; with several, no number that others tell holds for it.
    """

    sop_instance_uid: str
    label: str
    structure_set_uid: str = ""
    approval: str = ""
    targets: tuple[PlannedTarget, ...] = ()
    fractions: int | None = None
    planned_on: str = ""
    fraction_groups: int = 1

    @property
    def has_several_groups(self) -> bool:
        """Whether parts of its dose are given in numbers of fractions of their own."""
        return self.fraction_groups > 1

    @property
    def largest_prescription_gy(self) -> float:
        """Of all its targets; 0 if it prescribes nothing."""
        return max((target.prescription_gy for target in self.targets), default=0.0)


@dataclass(frozen=True, slots=True, eq=False)
class PlanDose:
    """The whole dose of one plan.

    Attributes:
        dose: Of all its fractions; beams summed where it came beam by beam.
        dose_uids: SOP Instance UIDs of the RT Doses that it is made of.
        plan: None: no plan came with the dose.
    """

    dose: DoseGrid
    dose_uids: tuple[str, ...]
    plan: Plan | None = None

    @property
    def is_too_low(self) -> bool:
        """Whether no voxel comes near what its plan prescribes: it may be of one fraction only."""
        if self.plan is None:
            return False
        return float(self.dose.dose_gy.max()) < LOW_PART * self.plan.largest_prescription_gy


@dataclass(frozen=True, slots=True, eq=False)
class Case:
    """One planning CT, the structure set drawn on it, and the MR of the same patient.

    The structure set lies in the CT's frame of reference; each MR series lies in a frame of its own
    or in the CT's (which is no proof that it is aligned).

    Attributes:
        ct: The planning CT.
        structure_set: Drawn on it.
        mr: The MR series.
        findings: What was noticed when the case was read.
        registrations: Each `ct_from_mr` that was received, of any MR or other CT frame of the case;
            no proof either. Those that were made last come first.
        other_ct: CT of the same patient beside the planning CT, each with its role.
        other_structure_sets: What is drawn on them, by Series Instance UID.
        plan_doses: What was planned on the planning CT, in its frame: the plans of this structure
            set first, then by Plan Date, newest first.
        other_plan_doses: What was planned on the other CT, by Series Instance UID.
    """

    ct: Image
    structure_set: StructureSet
    mr: tuple[Image, ...]
    findings: tuple[Finding, ...] = ()
    registrations: tuple[RigidTransform, ...] = ()
    other_ct: tuple[Image, ...] = ()
    other_structure_sets: Mapping[str, StructureSet] = field(default_factory=dict)
    plan_doses: tuple[PlanDose, ...] = ()
    other_plan_doses: Mapping[str, tuple[PlanDose, ...]] = field(default_factory=dict)


def lock_array(owner: object, name: str, dtype: type[np.generic], geometry: Geometry) -> None:
    """Check that an array of a frozen value fits its grid, and make it read-only."""
    array = np.asarray(getattr(owner, name), dtype=dtype)
    if array.shape != geometry.shape:
        raise ValueError(f"{name} has shape {array.shape}, its grid {geometry.shape}")
    if array.dtype != np.bool_ and not np.all(np.isfinite(array)):
        raise ValueError(f"{name} holds a value that is not finite")
    array.setflags(write=False)
    object.__setattr__(owner, name, array)
