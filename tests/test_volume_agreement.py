"""The volumes that contour measures and dose measures tell of one structure are one volume.

Each step has a sum of slices of its own (no step imports another); here they are held together.
"""

from collections.abc import Callable, Sequence

import numpy.typing as npt
import pytest

from handlers.contour_metrics.stack import slice_sum_cm3, stack_of
from handlers.dose_results import EndCap
from handlers.dosimetry.solids import slice_sum_cm3 as sum_of_dose
from handlers.dosimetry.solids import solid_from_contours
from handlers.geometry import Geometry
from handlers.values import Contour
from tests.drawn_shapes import ball, drawn, rectangle
from tests.grids import FACINGS, grid

Ring = npt.ArrayLike


def at(geometry: Geometry, *planes: tuple[float, Sequence[Ring]]) -> list[Contour]:
    """Return rings (row, column) in mm on planes at some places, in slices."""
    step = geometry.spacing_mm[0]
    return [drawn(geometry, place * step, ring) for place, rings in planes for ring in rings]


OUTER, INNER = rectangle((10, 10), (40, 36)), rectangle((18, 16), (30, 28))
ISLAND = rectangle((44, 44), (52, 50))
KEYHOLE = [(10, 10), (10, 36), (24, 36), (24, 28), (18, 28), (18, 16), (30, 16), (30, 28),
           (24, 28), (24, 36), (40, 36), (40, 10)]  # fmt: skip
BOW = [(10, 10), (30, 40), (30, 10), (10, 40)]

SHAPES: dict[str, Callable[[Geometry], Sequence[Contour]]] = {
    "ball": lambda g: ball(g, (24.3, 27.0, 28.0), 11.0).contours,
    "small ball": lambda g: ball(g, (24.9, 27.0, 28.0), 4.0).contours,
    "hole": lambda g: at(g, *((n, (OUTER, INNER)) for n in range(4, 9))),
    "keyhole": lambda g: at(g, *((n, (KEYHOLE,)) for n in range(4, 9))),
    "island on one plane": lambda g: at(
        g, *((n, (OUTER, ISLAND) if n == 6 else (OUTER,)) for n in range(4, 9))
    ),
    "two parts": lambda g: at(g, *((n, (OUTER,)) for n in (2, 3, 4, 9, 10))),
    "every second slice": lambda g: at(g, *((n, (OUTER,)) for n in range(2, 12, 2))),
    "one plane": lambda g: at(g, (5, (OUTER,))),
    "between slices": lambda g: at(g, *((n + 0.4, (OUTER,)) for n in range(4, 9))),
    "uneven planes": lambda g: at(g, *((n, (OUTER,)) for n in (2, 3, 4, 4.7, 6.1))),
    "ring that crosses itself": lambda g: at(g, *((n, (BOW,)) for n in range(4, 9))),
}


@pytest.mark.parametrize("cap", [EndCap.HALF_SLICE, EndCap.NONE])
@pytest.mark.parametrize("facing", ["head first supine", "oblique"])
@pytest.mark.parametrize("shape", SHAPES)
def test_sums_of_slices_agree(shape: str, facing: str, cap: EndCap) -> None:
    """By both steps within 0.3 %; by the body that dose is measured in, ended alike, within 1 %."""
    geometry = grid((2.5, 1.0, 1.0), (20, 60, 60), FACINGS[facing])
    contours = SHAPES[shape](geometry)
    told = slice_sum_cm3(stack_of(contours, geometry), cap)
    assert sum_of_dose(contours, geometry, cap) == pytest.approx(told, rel=3e-3)
    if cap is EndCap.HALF_SLICE:
        solid = solid_from_contours(contours, geometry, cap)
        assert solid.volume_cm3 == pytest.approx(told, rel=1e-2)
