"""Grid to grid, distances, ITK: truth by formula and by ITK itself."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import SimpleITK

from handlers.errors import EmptyStructureError, GeometryMismatchError
from handlers.geometry import Geometry, RigidTransform
from handlers.sampling import (
    geometry_from_itk,
    itk_image,
    itk_mask,
    resample,
    resample_mask,
    signed_distance_mm,
)
from handlers.values import Image, Mask
from tests.grids import FACINGS, FRAME, HFS, grid, sphere

# --- grid to grid ---


def moved(
    rotation_deg: Sequence[float] = (0, 0, 0),
    translation_mm: Sequence[float] = (0, 0, 0),
    source: str = FRAME,
) -> RigidTransform:
    return RigidTransform.from_parameters(
        rotation_deg=rotation_deg,
        translation_mm=translation_mm,
        to_frame_uid=FRAME,
        from_frame_uid=source,
    )


def noise(geometry: Geometry) -> Image:
    voxels = np.random.default_rng(3).random(geometry.shape, dtype=np.float32) * 100
    return Image(geometry, voxels, "MR", "1.2.3", "words", "T2")


def test_resample_onto_its_own_grid_changes_nothing() -> None:
    """Identity is exact, covers everything, and what the image says of itself is kept."""
    image = noise(grid())
    result, covered = resample(image, grid(), moved())
    assert np.array_equal(result.voxels, image.voxels)
    assert covered.inside.all()
    assert (result.modality, result.series_instance_uid) == ("MR", "1.2.3")
    assert (result.description, result.contrast) == ("words", "T2")


def test_resample_moves_the_picture_with_the_transform() -> None:
    """A transform by +2 mm in x brings column 5 to column 7; columns 0 and 1 are not covered."""
    image = noise(grid())
    result, covered = resample(image, grid(), moved(translation_mm=(2, 0, 0)))
    assert np.allclose(result.voxels[:, :, 2:], image.voxels[:, :, :-2], atol=1e-4)
    assert np.all(result.voxels[:, :, :2] == 0)
    assert not covered.inside[:, :, :2].any()
    assert covered.inside[:, :, 2:].all()


def test_resample_agrees_with_itk_on_an_oblique_gapped_series() -> None:
    """ITK, told the inverse (its direction), gives the same voxels and the same coverage."""
    onto_from_image = moved((4, -7, 12), (5, -3, 9), source="9.9")
    source = grid((8.0, 1.5, 0.9), (3, 12, 25), FACINGS["oblique"], (0, 0, 0))
    matrix = source.patient_from_index.copy()
    matrix[:3, 3] = onto_from_image.inverse().apply(grid().centre_mm())[0] - source.centre_mm()
    image = noise(Geometry("9.9", matrix, source.shape))
    result, covered = resample(image, grid(), onto_from_image)
    itk_from_onto: Any = SimpleITK.AffineTransform(3)
    inverse = onto_from_image.inverse().matrix
    itk_from_onto.SetMatrix(inverse[:3, :3].ravel().tolist())
    itk_from_onto.SetTranslation(inverse[:3, 3].tolist())
    onto = Image(grid(), np.zeros(grid().shape, dtype=np.float32), "CT", "1")
    expected = SimpleITK.GetArrayFromImage(
        SimpleITK.Resample(
            itk_image(image), itk_image(onto), itk_from_onto, SimpleITK.sitkLinear, -1.0
        )
    )
    assert 0.2 < covered.inside.mean() < 0.9
    assert np.array_equal(covered.inside, expected != -1.0)
    assert np.allclose(result.voxels[covered.inside], expected[covered.inside], atol=1e-3)
    assert np.all(result.voxels[~covered.inside] == 0)


def test_resample_refuses_a_transform_of_other_frames() -> None:
    """An image never crosses frames of reference but by the transform between them."""
    image = noise(grid())
    with pytest.raises(GeometryMismatchError):
        resample(image, grid(), moved(source="9.9"))
    with pytest.raises(GeometryMismatchError):
        resample_mask(
            Mask(grid(), image.voxels > 50), grid(), RigidTransform(np.eye(4), "9.9", FRAME)
        )


def test_resample_mask_keeps_a_sphere() -> None:
    """Onto a finer oblique grid a sphere keeps its volume within 2 %."""
    mask, _ = sphere(grid((2.0, 1.0, 1.0), (20, 40, 40)), 9.0)
    fine = grid((1.0, 1.0, 1.0), (60, 60, 60), FACINGS["oblique"])
    matrix = fine.patient_from_index.copy()
    matrix[:3, 3] += mask.geometry.centre_mm() - fine.centre_mm()
    result = resample_mask(mask, Geometry(FRAME, matrix, fine.shape), moved())
    assert result.volume_cm3 == pytest.approx(mask.volume_cm3, rel=0.02)


# --- distance ---


def test_signed_distance_of_a_flat_border() -> None:
    """Zero lies midway between the centres on both sides, along each axis, with its spacing."""
    geometry = grid((3.0, 2.0, 1.0), (9, 9, 9))
    for axis, spacing in enumerate(geometry.spacing_mm):
        inside = np.ones(geometry.shape, dtype=bool)
        np.moveaxis(inside, axis, 0)[5:] = False
        line = np.moveaxis(signed_distance_mm(Mask(geometry, inside)), axis, 0)[:, 4, 4]
        assert np.allclose(line[4:], (np.arange(5) - 0.5) * spacing)
        assert line[4] == pytest.approx(-spacing / 2)


def test_signed_distance_of_a_sphere() -> None:
    """Near the surface unbiased within 0.05 mm, far from it within 0.4 mm."""
    mask, away = sphere(grid((1.0, 1.0, 1.0), (40, 40, 40)), 10.0)
    error = signed_distance_mm(mask) - away
    assert abs(error[np.abs(away) < 1.0].mean()) < 0.05
    assert abs(error.mean()) < 0.4
    assert np.abs(error).max() < 0.87


def test_signed_distance_counts_beyond_the_grid_as_outside() -> None:
    """A mask that fills its grid has its border at the grid's; an empty one has none."""
    geometry = grid((1.0, 1.0, 1.0), (3, 3, 3))
    distance = signed_distance_mm(Mask(geometry, np.ones((3, 3, 3), dtype=bool)))
    assert distance[1, 1, 1] == pytest.approx(-1.5)
    with pytest.raises(EmptyStructureError):
        signed_distance_mm(Mask(geometry, np.zeros((3, 3, 3), dtype=bool)))


# --- ITK ---


@pytest.mark.parametrize("axes", [*FACINGS.values(), HFS * (-1, 1, 1)])
def test_itk_sees_every_voxel_at_its_place(axes: npt.NDArray[np.float64]) -> None:
    """The same point for the same voxel, for left-handed grids too, and the grid comes back."""
    image = noise(grid((3.0, 2.0, 1.0), (4, 5, 6), axes))
    itk: Any = itk_image(image)
    assert np.allclose(
        itk.TransformIndexToPhysicalPoint((5, 3, 1)),
        image.geometry.points_from_indices([1, 3, 5])[0],
        atol=1e-9,
    )
    assert itk[5, 3, 1] == image.voxels[1, 3, 5]
    assert geometry_from_itk(itk, FRAME).coincides_with(image.geometry)
    mask: Any = itk_mask(Mask(image.geometry, image.voxels > 50))
    assert mask[5, 3, 1] == int(image.voxels[1, 3, 5] > 50)
