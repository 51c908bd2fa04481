"""The files that a page reads its pictures from: volumes in bricks, quick in all three planes.

A volume is cut into bricks of 8 x 32 x 32 voxels, each deflated on its own: any plane touches few
of them. They follow one another in one file, bricks of nothing but zeros taking no room; the
sizes of all stand at its end. Nothing is kept in memory between two planes.

The folder is no result: it lies beside the result set, is sent nowhere, and may be removed at any
time. So nothing of it is synced; what a power cut tears is noticed when it is read.
"""

import gzip
import json
import os
import shutil
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from node.errors import NodeError

VIEW_FOLDER = "view"
"""Beside the result set's own folder."""

DOCUMENT_FILE = "view.json"
CONTOURS_FILE = "contours.json.gz"

VIEW_VERSION = 1
"""Of documents and files; what bears another one is made again."""

BRICK = (8, 32, 32)
"""Slices, rows and columns of a brick. Of 512 x 512 x 200 voxels an axial plane touches 256 bricks,
a sagittal or coronal one 400; see `tests/bench/review_planes.py` for what others cost."""

DEFLATE_LEVEL = 1
"""Higher levels win 3 % of the room for three times the time."""

_SIZE = np.dtype("<u4")
_VOXEL = np.dtype("<i2")


class ViewAbsentError(NodeError):
    """The files for viewing are not there, or cannot be read."""


class _Volume(Protocol):
    """A volume to be written: `handlers.viewing.ShownVolume`."""

    @property
    def document(self) -> dict[str, Any]: ...

    @property
    def stored(self) -> npt.NDArray[np.int16]: ...


class _View(Protocol):
    """What is to be written: `handlers.viewing.View`."""

    @property
    def document(self) -> dict[str, Any]: ...

    @property
    def contours(self) -> dict[str, Any]: ...

    @property
    def volumes(self) -> Any: ...


def write_view(view: _View, folder: Path) -> None:
    """Write what a page needs into a new folder; whole, or not at all.

    Raises:
        OSError: No room, or the folder is there already.
    """
    folder.mkdir()
    try:
        series = []
        for volume in view.volumes:
            _write_volume(volume.stored, folder / _file_of(volume.document["key"]))
            series.append(volume.document)
        with gzip.open(folder / CONTOURS_FILE, "wb", compresslevel=6) as file:
            file.write(json.dumps(view.contours, separators=(",", ":")).encode())
        text = json.dumps({"version": VIEW_VERSION, **view.document, "series": series})
        (folder / DOCUMENT_FILE).write_text(text, encoding="utf-8")
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def read_document(folder: Path) -> dict[str, Any]:
    """Return the document of a folder.

    Raises:
        ViewAbsentError: There is none, or it is one of another version.
    """
    try:
        document: dict[str, Any] = json.loads((folder / DOCUMENT_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ViewAbsentError(
            "the pictures of this revision are not there", hint="have them made again"
        ) from error
    if document.get("version") != VIEW_VERSION:
        raise ViewAbsentError(
            "the pictures of this revision were made by another version of the program",
            hint="have them made again",
        )
    return document


def read_contours(folder: Path) -> bytes:
    """Return the outlines: JSON, compressed by gzip.

    Raises:
        ViewAbsentError: They are not there.
    """
    try:
        return (folder / CONTOURS_FILE).read_bytes()
    except OSError as error:
        raise ViewAbsentError(
            "the outlines of this revision are not there", hint="have the pictures made again"
        ) from error


@dataclass(frozen=True, slots=True)
class PlaneCut:
    """Which plane of a volume, and how it is laid out.

    Attributes:
        axis: Array axis that it stands on.
        index: Where on that axis.
        down: Array axis from top to bottom, and +1 or -1 for its sense.
        across: Array axis from left to right, likewise.
    """

    axis: int
    index: int
    down: tuple[int, int]
    across: tuple[int, int]

    @classmethod
    def of(cls, plane: Mapping[str, Any], index: int) -> "PlaneCut":
        """Return plane number `index` of a plane that the document tells."""
        (axis, sense), down, across = plane["axes"]
        at = index if sense > 0 else int(plane["count"]) - 1 - index
        return cls(axis, at, (down[0], down[1]), (across[0], across[1]))


def read_plane(
    folder: Path, series: Mapping[str, Any], whole: Sequence[int], cut: PlaneCut
) -> npt.NDArray[np.int16]:
    """Return one plane of a volume, little-endian int16, rows from the top; 0 beyond its block.

    Args:
        folder: Of the view.
        series: What the document says of the volume.
        whole: Shape of the CT's grid.
        cut: The plane; its index lies in the grid.

    Raises:
        ViewAbsentError: The file is not there, or is damaged.
    """
    start, shape = series["start"], series["shape"]
    first, second = (axis for axis in range(3) if axis != cut.axis)
    plane = np.zeros((whole[first], whole[second]), dtype=_VOXEL)
    at = cut.index - start[cut.axis]
    if 0 <= at < shape[cut.axis]:
        try:
            block = _read_block(folder / _file_of(series["key"]), shape, cut.axis, at)
        except (OSError, ValueError, zlib.error) as error:
            raise ViewAbsentError(
                "a file with pictures is missing or damaged", hint="have the pictures made again"
            ) from error
        rows, columns = (slice(start[a], start[a] + shape[a]) for a in (first, second))
        plane[rows, columns] = block
    if cut.down[0] == second:
        plane = plane.T
    return np.ascontiguousarray(plane[:: cut.down[1], :: cut.across[1]])


def _file_of(key: str) -> str:
    return f"{key}.bricks"


def _counts(shape: Sequence[int]) -> tuple[int, int, int]:
    """Return how many bricks a volume has along each axis."""
    slices, rows, columns = (-(-n // size) for n, size in zip(shape, BRICK, strict=True))
    return slices, rows, columns


def _write_volume(stored: npt.NDArray[np.int16], path: Path) -> None:
    sizes = []
    with path.open("wb") as file:
        for begin in range(0, stored.shape[0], BRICK[0]):
            slab = stored[begin : begin + BRICK[0]]
            slab = np.pad(slab, [(0, -n % m) for n, m in zip(slab.shape, BRICK, strict=True)])
            _, rows, columns = _counts(slab.shape)
            bricks = slab.reshape(BRICK[0], rows, BRICK[1], columns, BRICK[2])
            for brick in bricks.transpose(1, 3, 0, 2, 4).reshape(-1, *BRICK):
                content = b""
                if brick.any():
                    content = zlib.compress(brick.astype(_VOXEL).tobytes(), DEFLATE_LEVEL)
                file.write(content)
                sizes.append(len(content))
        file.write(np.array(sizes, dtype=_SIZE).tobytes())


def _read_block(path: Path, shape: Sequence[int], axis: int, at: int) -> npt.NDArray[np.int16]:
    """Return the plane at `at` on `axis` of a whole volume: its lower axis first."""
    counts = _counts(shape)
    first, second = (each for each in range(3) if each != axis)
    numbers = np.arange(int(np.prod(counts))).reshape(counts)
    wanted = np.take(numbers, at // BRICK[axis], axis=axis)
    plane = np.zeros((counts[first] * BRICK[first], counts[second] * BRICK[second]), dtype=_VOXEL)
    inside = at % BRICK[axis]
    with path.open("rb") as file:
        sizes_at = file.seek(0, os.SEEK_END) - numbers.size * _SIZE.itemsize
        sizes = np.frombuffer(os.pread(file.fileno(), numbers.size * 4, max(sizes_at, 0)), _SIZE)
        ends = np.cumsum(sizes, dtype=np.int64)
        if sizes_at < 0 or len(ends) != numbers.size or int(ends[-1]) != sizes_at:
            raise ValueError("the sizes of the bricks do not fit their file")
        for (i, j), number in np.ndenumerate(wanted):
            size = int(sizes[number])
            if size == 0:
                continue
            content = zlib.decompress(os.pread(file.fileno(), size, int(ends[number]) - size))
            brick = np.frombuffer(content, _VOXEL).reshape(BRICK)
            rows = slice(i * BRICK[first], (i + 1) * BRICK[first])
            columns = slice(j * BRICK[second], (j + 1) * BRICK[second])
            plane[rows, columns] = np.take(brick, inside, axis=axis)
    return plane[: shape[first], : shape[second]]
