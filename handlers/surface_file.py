"""The signed distance map of a target's surface as a file that viewers of surfaces open.

Legacy VTK text: 3D Slicer, ParaView and PyVista show it as a colored surface, and anybody can read
its numbers. No DICOM object has a number on each part of a surface, and on the voxels of the CT the
map would be coarser than what it tells. Makes the text only; knows no file.

Read first: the VTK file formats, "simple legacy formats".
"""

from collections.abc import Iterable

from handlers.results import SurfaceMap

SCALARS = "signed_distance_mm"
"""What the number of each triangle is called in the file."""

TITLE = (
    "Drawn surface; signed distance of its triangles to the refined surface in mm, positive where "
    "that lies outside. SPACE=LPS"
)
"""Second line of the file, at most 256 characters; 3D Slicer takes the axes from its end."""

DECIMALS = 3
"""Of mm."""


def surface_file_name(number: int) -> str:
    """Return what the file of the `number`-th target of a result is called, counted from 1."""
    return f"SURFACE_{number}.vtk"


def surface_text(surface: SurfaceMap) -> str:
    """Return a surface with the signed distance of each triangle, as text of a VTK file.

    Points are LPS mm in the frame of reference of the planning CT, like those of its DICOM objects.
    """
    points = (_numbers(point) for point in surface.corners_mm.tolist())
    faces = (f"3 {a} {b} {c}" for a, b, c in surface.faces.tolist())
    count = len(surface.faces)
    lines = [
        "# vtk DataFile Version 3.0",
        TITLE,
        "ASCII",
        "DATASET POLYDATA",
        f"POINTS {len(surface.corners_mm)} float",
        *points,
        f"POLYGONS {count} {4 * count}",
        *faces,
        f"CELL_DATA {count}",
        f"SCALARS {SCALARS} float 1",
        "LOOKUP_TABLE default",
        *(_numbers((distance,)) for distance in surface.distance_mm.tolist()),
    ]
    return "\n".join(lines) + "\n"


def _numbers(values: Iterable[float]) -> str:
    return " ".join(f"{value:.{DECIMALS}f}" for value in values)
