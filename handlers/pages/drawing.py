"""Nouns of a drawing: pictures, lines, areas and words in millimetres, y downwards.

Lines and words stay lines and words in every form, so that they are sharp at any size.
"""

import io
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image

Floats: TypeAlias = npt.NDArray[np.float64]
Rgb: TypeAlias = tuple[int, int, int]

JPEG_QUALITY = 90
"""At this quality no block is seen; contours and words are not part of the picture."""

NEAR_MM = 0.06
"""Corners of a line nearer than this to the one before say nothing on paper."""

BLACK: Rgb = (0, 0, 0)
WHITE: Rgb = (255, 255, 255)


@dataclass(frozen=True, slots=True)
class Box:
    """A rectangle in mm."""

    left: float
    top: float
    width: float
    height: float


@dataclass(frozen=True, slots=True)
class Raster:
    """A picture in a box, as JPEG."""

    box: Box
    jpeg: bytes


@dataclass(frozen=True, slots=True, eq=False)
class Stroke:
    """A polyline.

    Attributes:
        points: Shape (n, 2), as (x, y).
        color: Of the line.
        width_mm: Likewise.
        dash_mm: Lengths of stroke and gap by turns; empty: solid.
        halo_mm: Width of the dark seam at both sides, for bright grounds.
        is_closed: The last point joins the first.
    """

    points: Floats
    color: Rgb
    width_mm: float
    dash_mm: tuple[float, ...] = ()
    halo_mm: float = 0.0
    is_closed: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class Area:
    """A polygon with a thin edge; `fill` None: hollow."""

    points: Floats
    edge: Rgb
    fill: Rgb | None
    width_mm: float = 0.2


@dataclass(frozen=True, slots=True)
class Words:
    """One line of text.

    Attributes:
        text: What it says.
        x: Where its anchor is.
        y: Of its baseline.
        size_mm: Of the font.
        color: Of the letters.
        anchor: `start`, `middle` or `end`.
        is_bold: Whether in bold letters.
        halo_mm: As in `Stroke`.
    """

    text: str
    x: float
    y: float
    size_mm: float
    color: Rgb = BLACK
    anchor: str = "start"
    is_bold: bool = False
    halo_mm: float = 0.0


@dataclass(frozen=True, slots=True)
class Clip:
    """Parts of which only what lies in a box is seen."""

    box: Box
    parts: "tuple[Raster | Stroke | Area | Words, ...]"


Part: TypeAlias = Raster | Stroke | Area | Words | Clip


@dataclass(frozen=True, slots=True)
class Drawing:
    """Parts on a sheet of a size, the first at the bottom."""

    width_mm: float
    height_mm: float
    parts: tuple[Part, ...]


def raster(box: Box, pixels: npt.NDArray[np.uint8]) -> Raster:
    """Return pixels, shape (rows, columns) or (rows, columns, 3), as a picture in a box."""
    stream = io.BytesIO()
    # color in full: half of it would blur the borders of a fused picture
    Image.fromarray(pixels).save(stream, "JPEG", quality=JPEG_QUALITY, subsampling=0)
    return Raster(box, stream.getvalue())


def thinned(points: Floats) -> Floats:
    """Return a polyline without the corners that cannot be seen; its ends stay."""
    if len(points) < 3:
        return points
    way = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(points, axis=0), axis=1))])
    cell = np.floor(way / NEAR_MM)
    kept = np.concatenate([[True], np.diff(cell) > 0])
    kept[-1] = True
    return np.asarray(points[kept])


def rectangle(box: Box) -> Floats:
    """Return the corners of a box."""
    x, y = (box.left, box.left + box.width), (box.top, box.top + box.height)
    return np.array([(x[0], y[0]), (x[1], y[0]), (x[1], y[1]), (x[0], y[1])])
