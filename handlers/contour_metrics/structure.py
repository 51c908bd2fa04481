"""A structure as it is measured: its voxels, and the contours that say it finer.

Read first: `handlers.contour_metrics.body`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
from scipy import ndimage
from scipy.spatial import cKDTree

from handlers.contour_metrics.body import level_of
from handlers.contour_metrics.stack import Stack, stack_of
from handlers.contour_metrics.surface import Surface, surface_of_level, surface_of_voxels
from handlers.errors import EmptyStructureError, GeometryMismatchError
from handlers.values import Contour, Mask

WHOLE_MM = 60.0
"""Structures up to this size are not worth being cut."""

Array = npt.NDArray[np.float64]
Block = tuple[slice, slice, slice]


@dataclass(frozen=True, eq=False)  # without slots: what is costly is found once and kept
class Structure:
    """A structure on a CT's grid.

    Attributes:
        mask: Its voxels.
        contours: Those that the voxels came from, or that are written from them; empty where only
            voxels are known.
    """

    mask: Mask
    contours: Sequence[Contour] = ()

    @cached_property
    def stack(self) -> Stack | None:
        """Its contours as planes; None where there are none that count."""
        stack = stack_of(self.contours, self.mask.geometry)
        return stack if stack.planes else None

    @cached_property
    def box(self) -> Block:
        """The part of the grid that holds its voxels."""
        block: list[slice] = [slice(None)] * 3
        for axis in range(3):  # each step looks only at what the step before has left
            others = tuple(other for other in range(3) if other != axis)
            at = np.flatnonzero(self.mask.inside[tuple(block)].any(axis=others))
            block[axis] = slice(int(at[0]), int(at[-1]) + 1)
        return block[0], block[1], block[2]

    @cached_property
    def is_empty(self) -> bool:
        """Whether it has no voxel inside."""
        return not self.mask.inside.any()

    @property
    def spacing_mm(self) -> Array:
        """Of its grid."""
        return np.array(self.mask.geometry.spacing_mm)

    @cached_property
    def rim_mm(self) -> Array:
        """Inside voxel centres that have an outside neighbour, mm along the grid's axes."""
        inside = np.pad(self.mask.inside[self.box], 1)
        rim = inside & ~ndimage.binary_erosion(inside)
        start = np.array([part.start for part in self.box])
        return np.asarray((np.argwhere(rim) - 1 + start) * self.spacing_mm, dtype=np.float64)

    @cached_property
    def rim(self) -> cKDTree:
        """`rim_mm`, made ready to be searched."""
        return cKDTree(self.rim_mm)

    @cached_property
    def voxel_surface(self) -> Surface:
        """Its surface from its voxels alone."""
        start = np.array([part.start for part in self.box])
        return surface_of_voxels(
            self.mask.inside[self.box], self.spacing_mm, start * self.spacing_mm
        )

    @cached_property
    def contour_surface(self) -> Surface | None:
        """Its surface from its contours; None where they enclose nothing, or there are none."""
        level = None if self.stack is None else level_of(self.stack)
        return None if level is None else surface_of_level(level)

    def surface_within(self, block: Block, *, least_step_mm: float) -> Surface:
        """Return the surface of its part in a block of the grid that holds some of its voxels.

        Of a small structure, which is asked for again and again, all of it, as fine as it is.

        Args:
            block: The part.
            least_step_mm: How fine, at most, the surface of contours is made.
        """
        size_mm = np.array([part.stop - part.start for part in self.box]) * self.spacing_mm
        if size_mm.max() <= WHOLE_MM and self.contour_surface is not None:
            return self.contour_surface
        low = np.array([part.start for part in block]) * self.spacing_mm
        high = np.array([part.stop - 1 for part in block]) * self.spacing_mm
        level = None
        if self.stack is not None:
            level = level_of(self.stack, (low, high), least_step_mm=least_step_mm)
        if level is not None:
            return surface_of_level(level)
        return surface_of_voxels(self.mask.inside[block], self.spacing_mm, low)


def as_structure(what: Mask | Structure) -> Structure:
    """Return a structure; of a mask one without contours."""
    return Structure(what) if isinstance(what, Mask) else what


def require_same_grid(first: Structure, second: Structure) -> None:
    """Raise GeometryMismatchError if the structures lie on different grids."""
    if not first.mask.geometry.coincides_with(second.mask.geometry):
        raise GeometryMismatchError(
            "two structures on different voxel grids cannot be compared",
            hint="make both masks on the planning CT's grid",
        )


def require_comparable(first: Structure, second: Structure) -> None:
    """Raise if the structures lie on different grids, or one of them is empty."""
    require_same_grid(first, second)
    for structure, which in ((first, "first"), (second, "second")):
        if structure.is_empty:
            raise EmptyStructureError(f"the {which} of two compared structures has no voxel inside")
