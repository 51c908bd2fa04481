"""The invariants that constructors of values check."""

import dataclasses

import numpy as np
import pytest

from handlers.displacement import DisplacementField
from handlers.geometry import Geometry, RigidTransform
from handlers.results import Refinement, Registration, RegistrationStatus, TargetStatus
from handlers.values import Contour, DoseGrid, Image, Mask, Roi, StructureSet

GRID = Geometry("1.2", np.diag([3.0, 2.0, 1.0, 1.0]), (2, 3, 4))


def test_volume_of_a_mask() -> None:
    """Two voxels of 6 mm3 are 0.012 cm3."""
    inside = np.zeros(GRID.shape, dtype=bool)
    inside[0, 0, :2] = True
    assert Mask(GRID, inside).volume_cm3 == pytest.approx(0.012)


def test_figures_of_a_deformation() -> None:
    """By hand: one point moves 1 mm along x between points 1.5 mm apart: 1 +- 1 / 1.5."""
    matrix = np.eye(4)
    matrix[:3, :3] = np.diag([3.0, 2.0, 1.5])[::-1]
    vectors = np.zeros((5, 5, 5, 3), dtype=np.float32)
    vectors[2, 2, 2, 0] = 1.0
    same = RigidTransform(np.eye(4), "1.2", "1.3")
    rigid = Registration(same, RegistrationStatus.PASS, (), 2.0, {}, "1.4", ("1.4",), (0.0,) * 3)
    assert rigid.deformation_figures == {}
    field = DisplacementField(Geometry("1.2", matrix, (5, 5, 5)), vectors)
    figures = dataclasses.replace(rigid, deformation=field).deformation_figures
    assert figures == {
        "largest_displacement_mm": 1.0,
        "jacobian_min": pytest.approx(1 - 2 / 3),
        "jacobian_max": pytest.approx(1 + 2 / 3),
    }


def test_arrays_are_locked() -> None:
    """Values never change."""
    image = Image(GRID, np.zeros(GRID.shape, dtype=np.float32), "CT", "1.2.3")
    with pytest.raises(ValueError, match="read-only"):
        image.voxels[0, 0, 0] = 1
    with pytest.raises(dataclasses.FrozenInstanceError):
        image.modality = "MR"  # type: ignore[misc]


@pytest.mark.parametrize("fault", ["shape", "not finite"])
def test_image_refuses_other_shapes_and_infinite_values(fault: str) -> None:
    """An image fills its grid with finite numbers."""
    voxels = np.zeros((2, 3, 5) if fault == "shape" else GRID.shape, dtype=np.float32)
    if fault == "not finite":
        voxels[0, 0, 0] = np.nan
    with pytest.raises(ValueError, match=fault):
        Image(GRID, voxels, "MR", "1.2.3")


def test_dose_refuses_negative_values() -> None:
    """Absorbed dose is not negative."""
    with pytest.raises(ValueError, match="negative"):
        DoseGrid(GRID, np.full(GRID.shape, -0.1, dtype=np.float32))


@pytest.mark.parametrize(
    ("points", "fault"),
    [
        ([[0, 0, 0], [1, 0, 0]], "three points"),
        ([[0, 0, 0], [1, 0, 0], [0, np.inf, 0]], "finite"),
        ([[0, 0, 0], [10, 0, 0], [10, 10, 0], [0, 10, 3]], "plane"),
    ],
)
def test_contour_refuses_what_is_no_planar_polygon(points: list[list[float]], fault: str) -> None:
    """PS3.3 C.8.8.6.3: a closed planar contour has at least three coplanar points."""
    with pytest.raises(ValueError, match=fault):
        Contour(np.array(points, dtype=float))


def test_structure_set_refuses_equal_roi_numbers() -> None:
    """ROI Number is unique within a structure set."""
    with pytest.raises(ValueError, match="unique"):
        StructureSet("1", "2", "x", (Roi(1, "A", "", ()), Roi(1, "B", "", ())))


def test_refinement_has_a_mask_exactly_if_refined() -> None:
    """An abstention never carries a contour."""
    mask = Mask(GRID, np.ones(GRID.shape, dtype=bool))
    assert Refinement(TargetStatus.REFINED, mask, ()).refined is mask
    with pytest.raises(ValueError, match="abstention"):
        Refinement(TargetStatus.ABSTAINED, mask, ())
    with pytest.raises(ValueError, match="mask"):
        Refinement(TargetStatus.REFINED, None, ())


def test_translation_of_a_registration_is_told_at_the_centre_of_the_targets() -> None:
    """The MR point that ends at (100, 0, 0) began at (0, -100, 0): it moved by (100, 100, 0)."""
    turn = RigidTransform.from_parameters(
        rotation_deg=(0, 0, 90), translation_mm=(0, 0, 0), to_frame_uid="ct", from_frame_uid="mr"
    )
    registration = Registration(
        turn, RegistrationStatus.PASS, (), 1.0, {}, "1", ("1",), (100.0, 0.0, 0.0)
    )
    assert registration.translation_mm == pytest.approx((100.0, 100.0, 0.0))
