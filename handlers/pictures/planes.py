"""Planes through a grid along its axes, as square pictures with square pixels.

An axial plane is shown as the CT's slice is stored; sagittal and coronal planes have the head at
the top. What is left and right is never assumed: the letters come from the grid's own axes.

Read first: DICOM PS3.3 C.7.6.1.1.1 (letters of patient directions).
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from handlers.geometry import Geometry

Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]

SECOND_LETTER = 0.26
"""Part of a direction along an axis from which that axis gets a letter: 15 degrees off the others.
"""

TILTED = 0.02
"""A plane whose normal is farther off an axis of the patient (about 1 degree) is called tilted."""

_LETTERS = (("L", "R"), ("P", "A"), ("H", "F"))
"""Letters of the growing and falling coordinate x, y, z (LPS), as DICOM has them: head and foot."""

_NAMES = ("sagittal", "coronal", "axial")
"""Name of a plane by the patient's axis to which its normal is nearest."""

_UPWARDS = np.array([0.001, -0.01, 1.0])
"""What should be at the top of a plane that is not shown as stored: head, else front, else left."""


@dataclass(frozen=True, slots=True, eq=False)
class Plane:
    """One plane of a grid, and the picture of it.

    Attributes:
        geometry: The grid.
        axis: Axis of the array that stands on the plane.
        index: Where on that axis.
        across: Axis of the array from left to right, and +1 or -1 for its sense.
        down: Axis of the array from top to bottom, likewise.
        centre: Slice, row and column index (fractional) at the middle of the picture.
        size: Rows and columns of the picture.
        pixel_mm: Distance of its pixels.
    """

    geometry: Geometry
    axis: int
    index: int
    across: tuple[int, int]
    down: tuple[int, int]
    centre: tuple[float, float, float]
    size: int
    pixel_mm: float

    @classmethod
    def through(
        cls,
        geometry: Geometry,
        axis: int,
        index: int,
        *,
        centre: tuple[float, float, float],
        size: int,
        pixel_mm: float,
    ) -> "Plane":
        """Return the plane on an axis of the array at an index, the right way up."""
        across, down = ((2, 1), (1, 1)) if axis == 0 else ((3 - axis, 1), (0, 1))
        if axis == 0:
            across = (2, 1)
        elif float(geometry.axes[:, 0] @ _UPWARDS) > 0:
            down = (0, -1)
        return cls(geometry, axis, index, across, down, centre, size, pixel_mm)

    @property
    def name(self) -> str:
        """Axial, sagittal or coronal; tilted where it is not along the patient's axes."""
        normal = self.geometry.axes[:, self.axis]
        nearest = int(np.argmax(np.abs(normal)))
        tilted = "tilted " if abs(normal[nearest]) < 1.0 - TILTED**2 / 2 else ""
        return f"{tilted}{_NAMES[nearest]}"

    @property
    def position(self) -> tuple[str, float]:
        """Coordinate that its normal is nearest to (x, y or z), and its value in the middle, mm."""
        normal = self.geometry.axes[:, self.axis]
        nearest = int(np.argmax(np.abs(normal)))
        at = list(self.centre)
        at[self.axis] = float(self.index)
        return "xyz"[nearest], float(self.geometry.points_from_indices([at])[0, nearest])

    @property
    def letters(self) -> tuple[str, str, str, str]:
        """Directions of the patient at the left, right, top and bottom of the picture."""
        axes = self.geometry.axes
        right = axes[:, self.across[0]] * self.across[1]
        bottom = axes[:, self.down[0]] * self.down[1]
        return (
            direction_letters(-right),
            direction_letters(right),
            direction_letters(-bottom),
            direction_letters(bottom),
        )

    def cut(self, array: npt.NDArray[np.generic]) -> npt.NDArray[np.generic]:
        """Return the plane out of an array of the grid: its lower axis first."""
        plane: npt.NDArray[np.generic] = np.take(array, self.index, axis=self.axis)
        return plane

    def sample(self, array: npt.NDArray[np.generic]) -> tuple[Floats, Bools]:
        """Return the picture of an array, linear between voxels, and where there are voxels."""
        plane = np.asarray(self.cut(array))
        first, second = (axis for axis in range(3) if axis != self.axis)
        low_a, part_a, has_a = self._along(first)
        low_b, part_b, has_b = self._along(second)
        block = plane[low_a.min() : low_a.max() + 2, low_b.min() : low_b.max() + 2]
        block = np.pad(block.astype(np.float64), ((0, 1), (0, 1)), mode="edge")
        low_a, low_b = low_a - low_a.min(), low_b - low_b.min()
        rows = block[low_a] * (1 - part_a)[:, None] + block[low_a + 1] * part_a[:, None]
        values = rows[:, low_b] * (1 - part_b) + rows[:, low_b + 1] * part_b
        has = has_a[:, None] & has_b
        return (values.T, has.T) if self.down[0] == second else (values, has)

    def _along(self, axis: int) -> tuple[npt.NDArray[np.intp], Floats, Bools]:
        """Return for each pixel along an array axis the voxel below, the part to the next, is in.

        Half a voxel beyond the outermost centres still belongs to the image.
        """
        sense = self.across[1] if axis == self.across[0] else self.down[1]
        offset = (np.arange(self.size) - (self.size - 1) / 2) * self.pixel_mm
        at = self.centre[axis] + sense * offset / self.geometry.spacing_mm[axis]
        last = self.geometry.shape[axis] - 1
        has = (at >= -0.5) & (at <= last + 0.5)
        at = np.clip(at, 0.0, last)
        low = np.floor(at).astype(np.intp)
        return low, at - low, has

    def pixels_from_indices(self, rings: Floats) -> Floats:
        """Return pixels (x, y), centres whole, for in-plane indices (n, 2): its lower axis first.

        In-plane indices are those of the array `cut` returns.
        """
        axes = [axis for axis in range(3) if axis != self.axis]
        columns = []
        for axis, sense in (self.across, self.down):
            index = rings[:, axes.index(axis)]
            mm = (index - self.centre[axis]) * self.geometry.spacing_mm[axis] * sense
            columns.append(mm / self.pixel_mm + (self.size - 1) / 2)
        return np.stack(columns, axis=-1)


def direction_letters(direction: npt.ArrayLike) -> str:
    """Return the letters of a patient direction (unit vector, LPS), the nearest axis first.

    Example:
        >>> direction_letters([1, 0, 0]), direction_letters([0.0, -0.8, 0.6])
        ('L', 'AH')
    """
    parts = np.asarray(direction, dtype=np.float64)
    order = sorted(range(3), key=lambda axis: -abs(parts[axis]))
    letters = [_LETTERS[axis][0 if parts[axis] > 0 else 1] for axis in order]
    return letters[0] + "".join(
        letter
        for letter, axis in zip(letters[1:], order[1:], strict=True)
        if abs(parts[axis]) >= SECOND_LETTER
    )
