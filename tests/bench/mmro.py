"""The MMRO self-test, all of it registered; by hand: `python -m tests.bench.mmro`.

Positions {HFS, HFP, FFS, FFP} x MR planes {axial, sagittal, coronal, oblique} x {other, same} frame
of reference: 32 cells, each about 12 s. `tests/test_mmro.py` runs four of them.
"""

import time
from typing import get_args

from node.phantom.options import MrPlane
from tests.test_mmro import REGISTERED_MM, Frame, error_of_found_mm


def main() -> None:
    """Print one line for each cell, and how many are beyond the bound."""
    errors_mm: list[float] = []
    missed: list[str] = []
    for position in ("HFS", "HFP", "FFS", "FFP"):
        for plane in get_args(MrPlane):
            for frame in get_args(Frame):
                start_s = time.monotonic()
                cell = f"{position} {plane:8} {frame:5}"
                try:
                    errors_mm.append(error_of_found_mm(position, plane, frame))
                except AssertionError as error:
                    missed.append(cell)
                    print(f"{cell}  refused: {error}", flush=True)
                    continue
                seconds = time.monotonic() - start_s
                print(f"{cell}  {errors_mm[-1]:.3f} mm  {seconds:.0f} s", flush=True)
    beyond = sum(error > REGISTERED_MM for error in errors_mm)
    print(
        f"{len(errors_mm)} cells registered, worst {max(errors_mm):.3f} mm, "
        f"{beyond} beyond {REGISTERED_MM} mm, {len(missed)} refused"
    )


if __name__ == "__main__":
    main()
