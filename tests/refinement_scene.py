"""A scene for tests of the refinement: a ball in fat beside liver and vessel, in our signals."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from handlers.geometry import Geometry, RigidTransform
from handlers.refinement import RefinementSettings, refine
from handlers.results import Refinement, Registration, RegistrationStatus, ResampledMr, TargetStatus
from handlers.values import Image, Mask

SETTINGS = RefinementSettings()
SPACING_MM = (2.0, 1.5, 1.5)
SHAPE = (34, 46, 46)

# signals of fat, liver, vessel, node; CT in HU
SIGNALS = {
    "CT": (-100.0, 110.0, 150.0, 70.0),
    "T1": (80.0, 420.0, 700.0, 310.0),
    "T2": (560.0, 170.0, 40.0, 350.0),
    "DWI": (20.0, 100.0, 10.0, 400.0),
    "ADC": (200.0, 1300.0, 400.0, 900.0),
}


@dataclass(frozen=True, slots=True, eq=False)
class Scene:
    """A planner's view of one target, and the truth."""

    truth: Mask
    drawn: Mask
    ct: Image
    mr: tuple[ResampledMr, ...]
    organs: Mapping[str, Mask]


def scene_geometry() -> Geometry:
    matrix = np.eye(4)
    matrix[:3, :3] = np.array([[0.0, 0, 1], [0, 1, 0], [1, 0, 0]]) * np.array(SPACING_MM)
    return Geometry("1.2", matrix, SHAPE)


def registration(
    status: RegistrationStatus = RegistrationStatus.PASS, uncertainty_mm: float = 1.0
) -> Registration:
    reasons = () if status is RegistrationStatus.PASS else ("two engines differ by 7 mm",)
    still = RigidTransform(np.eye(4), "1.2", "1.2")
    return Registration(still, status, reasons, uncertainty_mm, {}, "1.2.9", (), (0.0, 0.0, 0.0))


@cache
def scene_of(seed: int = 1, *, radius_mm: float = 11.0, drawn_mm: float = 3.0) -> Scene:
    """Return a node of `radius_mm`, drawn with a margin of `drawn_mm`, 1.5 mm onto the vessel."""
    grid, rng = scene_geometry(), np.random.default_rng(seed)
    points = grid.points_from_indices(np.indices(SHAPE).reshape(3, -1).T) - grid.centre_mm()
    x, y, _ = points.T.reshape(3, *SHAPE)
    vessel = np.hypot(x - radius_mm - 5.0, y) < 7.0
    ball = np.linalg.norm(points, axis=1).reshape(SHAPE)
    node = (ball < radius_mm) & ~vessel
    liver = (y > radius_mm + 4.0) & ~vessel
    moved = np.linalg.norm(points - (1.5, 0.0, 0.0), axis=1).reshape(SHAPE)
    tissue = np.select([node, vessel, liver], [3, 2, 1], 0)
    images = {
        name: (np.take(levels, tissue) * (1 + 0.05 * rng.standard_normal(SHAPE))).astype(np.float32)
        for name, levels in SIGNALS.items()
    }
    everywhere = np.ones(SHAPE, dtype=bool)
    smooth = {name: ndimage.gaussian_filter(values, 0.5) for name, values in images.items()}
    series = tuple(
        ResampledMr(
            Image(grid, smooth[name], "MR", f"1.2.{number}", contrast=name),
            Mask(grid, everywhere.copy()),
            registration(),
        )
        for number, name in enumerate(("T1", "T2", "DWI", "ADC"), start=1)
    )
    organs = {
        "V_Portal": Mask(grid, vessel),
        "Liver": Mask(grid, liver),
        "External": Mask(grid, everywhere),
        "PTV_High": Mask(grid, moved < radius_mm + 12.0),
    }
    drawn = Mask(grid, moved < radius_mm + drawn_mm)
    return Scene(Mask(grid, node), drawn, Image(grid, smooth["CT"], "CT", "1.2.0"), series, organs)


def run_refine(scene: Scene, settings: RefinementSettings = SETTINGS) -> Refinement:
    return refine(scene.drawn, scene.ct, scene.mr, scene.organs, settings)


def only(scene: Scene, *contrasts: str) -> Scene:
    return replace(scene, mr=tuple(s for s in scene.mr if s.image.contrast in contrasts))


def with_voxels(scene: Scene, voxels: Sequence[npt.NDArray[np.float32]]) -> Scene:
    series = zip(scene.mr, voxels, strict=True)
    return replace(scene, mr=tuple(replace(s, image=replace(s.image, voxels=v)) for s, v in series))


def registered(scene: Scene, registration: Registration) -> Scene:
    return replace(scene, mr=tuple(replace(s, registration=registration) for s in scene.mr))


def dsc(first: Mask, second: Mask) -> float:
    common = np.count_nonzero(first.inside & second.inside)
    return 2.0 * common / (np.count_nonzero(first.inside) + np.count_nonzero(second.inside))


def refined_of(answer: Refinement) -> Mask:
    assert answer.status is TargetStatus.REFINED, answer.reasons
    assert answer.refined is not None
    return answer.refined


def check_bounds(drawn: Mask, refined: Mask, organs: Mapping[str, Mask], outward_mm: float) -> None:
    """Expect the hard limits, measured with our own distance transforms."""
    spacing = drawn.geometry.spacing_mm
    outward = ndimage.distance_transform_edt(~drawn.inside, sampling=spacing)
    assert outward[refined.inside].max() <= outward_mm
    vessels = np.zeros(drawn.inside.shape, dtype=bool)
    for name, organ in organs.items():
        if name.startswith(("V_", "A_", "BileDuct", "Duodenum", "Stomach")):
            vessels |= organ.inside
    assert not (refined.inside & vessels).any()
    remaining = drawn.inside & ~vessels
    depth = ndimage.distance_transform_edt(remaining, sampling=spacing)
    assert refined.inside[depth >= 0.6 * depth.max()].all()
    labels, count = ndimage.label(refined.inside)
    assert all(drawn.inside[labels == piece].any() for piece in range(1, count + 1))
    assert np.array_equal(ndimage.binary_fill_holes(refined.inside) & ~vessels, refined.inside)


def check_abstention(answer: Refinement, *words: str) -> None:
    """Expect no contour, and each of the words in some reason."""
    assert answer.status is TargetStatus.ABSTAINED
    assert answer.refined is None
    for word in words:
        assert any(word in reason for reason in answer.reasons), (word, answer.reasons)
