"""How long a plane takes to come from a volume, by the size of the bricks; run by hand.

Prints, for 512 x 512 x 200 voxels that look like a CT (a noisy body in air), the bytes on disk, the
time to write, and the time for an axial, sagittal and coronal plane with nothing held in memory
(median and worst of twelve). Usage: python -m tests.bench.review_planes [FOLDER]
"""

import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import numpy.typing as npt

from node import view_files
from node.view_files import PlaneCut, read_plane

SHAPE = (200, 512, 512)
BRICKS = ((8, 32, 32), (16, 32, 32), (8, 16, 16), (16, 16, 16), (8, 64, 64), (32, 32, 32))
SAMPLES = 12


def body_in_air() -> npt.NDArray[np.int16]:
    """Return a body of two tissues with the noise of a CT, in HU."""
    noise = np.random.default_rng(1)
    rows, columns = (np.linspace(-1.0, 1.0, n) for n in SHAPE[1:])
    radius = np.hypot(rows[:, None] / 0.6, columns[None, :] / 0.85)
    plane = np.select([radius < 0.9, radius < 1.0], [40.0, -100.0], -1000.0)
    voxels = np.empty(SHAPE, dtype=np.int16)
    for slice_ in voxels:
        slice_[:] = plane + noise.normal(0.0, np.where(radius < 1.0, 15.0, 4.0))
    return voxels


@contextmanager
def bricks_of(size: tuple[int, int, int]) -> Iterator[None]:
    """Let volumes have bricks of another size."""
    usual = view_files.BRICK
    view_files.BRICK = size
    try:
        yield
    finally:
        view_files.BRICK = usual


def plane_ms(folder: Path, axis: int) -> list[float]:
    """Return how long planes on one axis take, in milliseconds."""
    series = {"key": "ct", "start": [0, 0, 0], "shape": list(SHAPE)}
    first, second = (each for each in range(3) if each != axis)
    spent = []
    for index in np.linspace(0, SHAPE[axis] - 1, SAMPLES).astype(int):
        began = time.perf_counter()
        read_plane(folder, series, SHAPE, PlaneCut(axis, int(index), (first, 1), (second, 1)))
        spent.append(1000 * (time.perf_counter() - began))
    return spent


def main() -> None:
    """Print a line for each size of bricks."""
    voxels = body_in_air()
    with tempfile.TemporaryDirectory(dir=sys.argv[1] if sys.argv[1:] else None) as place:
        path = Path(place) / "ct.bricks"
        for size in BRICKS:
            with bricks_of(size):
                began = time.process_time()
                view_files._write_volume(voxels, path)
                wrote = time.process_time() - began
                told = [f"{wrote:.1f} s to write, {path.stat().st_size / 1e6:.1f} MB"]
                for axis, name in enumerate(("axial", "coronal", "sagittal")):
                    spent = plane_ms(path.parent, axis)
                    told.append(f"{name} {statistics.median(spent):.0f} (worst {max(spent):.0f})")
            print(size, ", ".join(told), "ms")


if __name__ == "__main__":
    main()
