"""The patient as both scanners find it: anatomy, look, and the maps between CT and MR.

Only here the maps are put together: what the CT sees is the plain anatomy in the patient's own
shape; what the MR sees has moved besides. Paints nothing and makes no DICOM.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from handlers.geometry import Points, RigidTransform
from node.phantom.anatomy import Anatomy, make_anatomy
from node.phantom.look import Look, plain_look, varied_look
from node.phantom.motion import (
    Warp,
    echo_planar_distortion,
    organ_motion,
    personal_shape,
    plain_breathing,
)
from node.phantom.options import MR_AXES, MR_CONTRASTS, PhantomOptions
from node.phantom.solids import Point, Solid, as_point


@dataclass(frozen=True, slots=True, eq=False)
class Patient:
    """One patient in the CT's frame of reference.

    Attributes:
        anatomy: In the plain form.
        look: How its tissues look.
        shape: From the patient to the plain form, or None.
        changes: By MR contrast: from the patient as the MR sees it, placed rigidly in the CT's
            frame, to the patient in the CT; to be followed in this order.
    """

    anatomy: Anatomy
    look: Look
    shape: Warp | None
    changes: Mapping[str, tuple[Warp, ...]]

    @property
    def ct_warps(self) -> tuple[Warp, ...]:
        """From the CT to the plain form."""
        return (self.shape,) if self.shape else ()

    def mr_warps(self, contrast: str) -> tuple[Warp, ...]:
        """Return the maps from the MR, placed rigidly in the CT's frame, to the plain form."""
        return (*self.changes[contrast], *self.ct_warps)

    def in_ct(self, solid: Solid) -> Solid:
        """Return a solid of the plain form as it lies in the CT."""
        return self.shape.of(solid) if self.shape else solid

    @property
    def centre(self) -> Point:
        """The node's centre, LPS mm in the CT's frame."""
        plain = self.anatomy.centre
        return as_point(self.shape.after(plain)[0]) if self.shape else plain

    def tissues_at(self, ct_points: npt.ArrayLike) -> list[str]:
        """Return what lies at points (n, 3) of the CT: the tissue that is painted there last."""
        points = np.asarray(ct_points, dtype=np.float64).reshape(-1, 3).astype(np.float32)
        x, y, z = points.T
        for warp in self.ct_warps:
            x, y, z = warp.before(x, y, z)
        found = np.full(len(points), "air", dtype="<U24")
        for layer in (*self.anatomy.layers, *self.anatomy.ct_gas):
            distance = layer.solid.distance(x, y, z)
            for tissue, begins_mm in layer.coats:
                found[distance < begins_mm] = tissue
        return [str(tissue) for tissue in found]

    def seen_in_mr(self, ct_points: npt.ArrayLike, contrast: str) -> Points:
        """Return where an MR, placed rigidly, sees points (n, 3) of the CT; LPS mm, CT's frame."""
        points = np.asarray(ct_points, dtype=np.float64).reshape(-1, 3)
        for warp in reversed(self.changes[contrast]):
            points = warp.after(points)
        return points


def make_patient(options: PhantomOptions, ct_from_mr: RigidTransform) -> Patient:
    """Return the patient that the options describe."""
    variety = options.variety
    anatomy = make_anatomy(
        options.seed,
        node_diameter_mm=options.node_diameter_mm,
        is_prone=options.patient_position.endswith("P"),
        variety=variety,
    )
    if variety is None:
        breathing = (plain_breathing(options.breathing_mm),) if options.breathing_mm else ()
        changes = dict.fromkeys(MR_CONTRASTS, breathing)
        return Patient(anatomy, plain_look(options.seed), None, changes)
    shape = personal_shape(options.seed, variety)
    _, column = MR_AXES[options.mr_plane]
    along = ct_from_mr.matrix[:3, :3] @ np.array(column)
    distortion = echo_planar_distortion(options.seed, variety, as_point(along))
    shifts = {
        "T1": (0.0, 0.0, 0.0),
        "T2": variety.t2_shift_mm,
        **dict.fromkeys(("DWI", "ADC"), variety.dwi_shift_mm),
    }
    moved = {
        contrast: organ_motion(options.seed, variety, shape, options.breathing_mm, shift)
        for contrast, shift in shifts.items()
    }
    return Patient(
        anatomy=anatomy,
        look=varied_look(options.seed, variety),
        shape=shape,
        changes={
            contrast: (distortion, warp) if contrast in ("DWI", "ADC") else (warp,)
            for contrast, warp in moved.items()
        },
    )
