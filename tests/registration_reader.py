"""A reader of Spatial and Deformable Spatial Registration, written from the text of the standard.

It shares no code with `handlers` and takes nothing from it but files: what it returns is what a
stranger would make of them. PS3.3 C.20.2: an item of Registration Sequence sends coordinates of its
source to the registered coordinate system, which is that of the object's own Frame of Reference
UID; of several matrices in one item the order is the order of multiplication. C.20.3: a coordinate
of the registered system, after the pre-deformation matrix, plus the vector of the grid, after the
post-deformation matrix, is one of the source.
"""

from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pydicom
from pydicom import Dataset

Array = npt.NDArray[np.float64]


class UnreadableRegistrationError(Exception):
    """The object does not say what is asked, or says it in two ways."""


@dataclass(frozen=True)
class SpatialRegistration:
    """The matrices of one object, by what they move."""

    registered_frame: str
    matrix_of_image: dict[str, Array]
    matrix_of_frame: dict[str, Array]

    def registered_points(self, points: Array, *, image_uid: str, frame_uid: str) -> Array:
        """Return where points, as an image of a frame of reference holds them, are registered.

        The item that lists the image counts; else the one that speaks of its whole frame.
        """
        matrix = self.matrix_of_image.get(image_uid, self.matrix_of_frame.get(frame_uid))
        if matrix is None:
            if frame_uid != self.registered_frame:
                raise UnreadableRegistrationError("nothing is said about that image")
            return points
        return _sent(matrix, points)


def read_registration(file: Path | bytes) -> SpatialRegistration:
    """Return what a Spatial Registration object says."""
    ds = pydicom.dcmread(BytesIO(file) if isinstance(file, bytes) else file)
    images: dict[str, Array] = {}
    frames: dict[str, Array] = {}
    for item in ds[0x00700308].value:
        if len(item[0x00700309].value) != 1:
            raise UnreadableRegistrationError("Matrix Registration Sequence has not one item")
        matrix = np.eye(4)
        for each in item[0x00700309].value[0][0x0070030A].value:
            matrix = matrix @ _matrix(each)
        listed = item[0x00081140].value if 0x00081140 in item else []
        for image in listed:
            uid = str(image[0x00081155].value)
            if uid in images and not np.array_equal(images[uid], matrix):
                raise UnreadableRegistrationError("an image is moved in two ways")
            images[uid] = matrix
        if not listed:
            frames[str(item[0x00200052].value)] = matrix
    return SpatialRegistration(str(ds[0x00200052].value), images, frames)


def source_points(file: Path | bytes, registered: Array) -> Array:
    """Return where the source of a deformable registration holds points of the registered frame.

    The vectors are taken linearly between the centres of the grid's voxels. Points off the grid are
    refused: the standard defines nothing there.
    """
    ds = pydicom.dcmread(BytesIO(file) if isinstance(file, bytes) else file)
    (item,) = ds[0x00640002].value
    (grid,) = item[0x00640005].value
    size = [int(n) for n in grid[0x00640007].value]
    step = [float(n) for n in grid[0x00640008].value]
    cosines = np.array([float(v) for v in grid[0x00200037].value])
    along = np.array([cosines[:3], cosines[3:], np.cross(cosines[:3], cosines[3:])])
    first = np.array([float(v) for v in grid[0x00200032].value])
    vectors = np.frombuffer(grid[0x00640009].value, "<f4").reshape(*size[::-1], 3)
    at = (registered - first) @ along.T / step
    if np.any(at < 0) or np.any(at > np.array(size) - 1):
        raise UnreadableRegistrationError("a point lies beyond the grid")
    cell = np.minimum(at.astype(int), np.array(size) - 2)
    x, y, z = (at - cell).T[:, :, None]
    i, j, k = cell.T
    low, high = (
        (1 - y) * ((1 - x) * vectors[m, j, i] + x * vectors[m, j, i + 1])
        + y * ((1 - x) * vectors[m, j + 1, i] + x * vectors[m, j + 1, i + 1])
        for m in (k, k + 1)
    )
    before, after = (
        _matrix(item[tag].value[0]) if tag in item else np.eye(4)
        for tag in (0x0064000F, 0x00640010)
    )
    return _sent(after, _sent(before, registered) + (1 - z) * low + z * high)


def _matrix(item: Dataset) -> Array:
    """Return Frame of Reference Transformation Matrix: sixteen decimals, row by row."""
    matrix = np.array([float(v) for v in item[0x300600C6].value]).reshape(4, 4)
    if not np.array_equal(matrix[3], [0, 0, 0, 1]):
        raise UnreadableRegistrationError("the last row of a matrix is not 0 0 0 1")
    return matrix


def _sent(matrix: Array, points: Array) -> Array:
    homogeneous = np.column_stack((points, np.ones(len(points))))
    return np.asarray((homogeneous @ matrix.T)[:, :3])
