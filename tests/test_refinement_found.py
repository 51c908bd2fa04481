"""Structures that nobody contoured: found where they are plain, and never a node.

The scene is drawn from distances: a node in fat beside soft tissue, with tubes of known radius, a
ball, fluid, gas and bone at will. Signals are our own; voxels at an edge hold both sides.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pytest
from scipy import ndimage

from handlers.geometry import Geometry
from handlers.refinement.evidence import Channel, scale
from handlers.refinement.found import FoundStructure, find_structures
from handlers.refinement.region import Region, make_region
from handlers.refinement.settings import RefinementSettings
from handlers.refinement.tubes import tube_response
from handlers.results import MoveCause
from handlers.values import Image, Mask

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
Point = tuple[float, float, float]

SETTINGS = RefinementSettings()
SPACING_MM = (2.5, 0.9, 0.9)
SHAPE = (28, 74, 74)
CENTRE_MM = np.array([34.0, 33.0, 33.0])
NODE_RADIUS_MM = 10.0

# CT in HU, MR in arbitrary units
SIGNALS: Mapping[str, Mapping[str, float]] = {
    "fat": {"CT": -100, "T1": 80, "T2": 560, "DWI": 15, "ADC": 200},
    "soft": {"CT": 70, "T1": 380, "T2": 180, "DWI": 95, "ADC": 1300},
    "node": {"CT": 75, "T1": 330, "T2": 345, "DWI": 420, "ADC": 920},
    "vessel": {"CT": 155, "T1": 700, "T2": 35, "DWI": 7, "ADC": 300},
    "native vessel": {"CT": 42, "T1": 700, "T2": 35, "DWI": 7, "ADC": 300},
    "fluid": {"CT": 8, "T1": 95, "T2": 980, "DWI": 40, "ADC": 3000},
    "necrosis": {"CT": 25, "T1": 130, "T2": 900, "DWI": 130, "ADC": 2300},
    "gas": {"CT": -950, "T1": 4, "T2": 4, "DWI": 2, "ADC": 0},
    "cortex": {"CT": 1000, "T1": 40, "T2": 40, "DWI": 4, "ADC": 200},
    "marrow": {"CT": 190, "T1": 600, "T2": 300, "DWI": 40, "ADC": 450},
}
NOISE = {"CT": 9.0, "T1": 10.0, "T2": 12.0, "DWI": 8.0, "ADC": 60.0}
MR = ("T1", "T2", "DWI", "ADC")


def places_mm() -> Floats:
    """Return where the voxels lie, in mm along slices, rows and columns; shape (..., 3)."""
    return np.asarray(np.moveaxis(np.indices(SHAPE), 0, -1) * np.array(SPACING_MM))


def from_ball(centre_mm: npt.ArrayLike, radius_mm: float) -> Floats:
    """Return the distance of each voxel from a ball's surface in mm, negative inside."""
    return np.asarray(np.linalg.norm(places_mm() - np.asarray(centre_mm), axis=-1) - radius_mm)


def from_tube(through_mm: npt.ArrayLike, along: Point, radius_mm: float) -> Floats:
    """Return the distance of each voxel from the surface of an endless straight tube in mm."""
    axis = np.asarray(along) / np.linalg.norm(along)
    offset = places_mm() - np.asarray(through_mm)
    across = offset - (offset @ axis)[..., None] * axis
    return np.asarray(np.linalg.norm(across, axis=-1) - radius_mm)


def beside(slices_mm: float, rows_mm: float, columns_mm: float) -> Floats:
    """Return a place relative to the node's centre."""
    return np.asarray(CENTRE_MM + np.array((slices_mm, rows_mm, columns_mm)))


@dataclass(frozen=True, slots=True, eq=False)
class Scene:
    """What is painted in which order over fat; the node is drawn 1.5 mm too large."""

    layers: Sequence[tuple[str, Floats]]
    contrasts: Sequence[str] = MR
    noise: float = 1.0
    unlike: Mapping[str, Sequence[str]] = field(default_factory=dict)
    background: str = "fat"
    organs: Mapping[str, Bools] = field(default_factory=dict)

    def image(self, channel: str) -> Floats:
        """Return one image; layers listed in `unlike[channel]` are not there that day."""
        values = np.full(SHAPE, float(SIGNALS[self.background][channel]))
        for tissue, distance_mm in self.layers:
            if tissue in self.unlike.get(channel, ()):
                continue
            cover = np.clip(0.5 - distance_mm / SPACING_MM[1], 0, 1)
            values += cover * (SIGNALS[tissue][channel] - values)
        seed = ("CT", *MR).index(channel)
        noise = np.random.default_rng(seed).normal(0, NOISE[channel], SHAPE)
        return np.asarray(values + self.noise * noise)

    def find(self, drawn: Bools | None = None) -> tuple[Region, tuple[FoundStructure, ...]]:
        """Return the region, and what is found in it."""
        matrix = np.zeros((4, 4))
        matrix[2, 0], matrix[1, 1], matrix[0, 2], matrix[3, 3] = *SPACING_MM, 1.0
        grid = Geometry("1.2.3", matrix, SHAPE)
        if drawn is None:
            drawn = from_ball(CENTRE_MM, NODE_RADIUS_MM + 1.5) < 0
        organs = {name: Mask(grid, inside.copy()) for name, inside in self.organs.items()}
        region = make_region(Mask(grid, drawn), organs, SETTINGS)
        channels = []
        for name in self.contrasts:
            values = scale(self.image(name)[region.block], region.drawn | region.shell)
            channels.append(Channel(name, values, 1.5, np.ones(region.drawn.shape)))
        ct = Image(grid, self.image("CT").astype(np.float32), "CT", "1.2.3.4")
        valid = np.ones(region.drawn.shape, dtype=bool)
        return region, find_structures(region, ct, channels, valid, SETTINGS)


NODE = ("node", from_ball(CENTRE_MM, NODE_RADIUS_MM))
SOFT = ("soft", places_mm()[..., 1] - 12.0)
"""Soft tissue fills the first rows, well away from the node."""


def inside_of(found: Sequence[FoundStructure], start: str) -> Bools | None:
    """Return the mask of the structure whose name begins so, or None."""
    masks = [each.inside for each in found if each.name.startswith(start)]
    assert len(masks) < 2
    return masks[0] if masks else None


def check_found(
    scene: Scene, start: str, distance_mm: Floats, *, recall: float, precision: float
) -> FoundStructure:
    """Assert that a structure lies where it was painted, to one voxel, and spares the node."""
    region, found = scene.find()
    inside = inside_of(found, start)
    assert inside is not None, [each.name for each in found]
    near = region.distance_mm <= SETTINGS.shell_mm - SPACING_MM[0]
    truth = (distance_mm < 0)[region.block]
    voxel = np.ones((3, 3, 3))
    hit = truth & ndimage.binary_dilation(inside, voxel) & near
    right = inside & ndimage.binary_dilation(truth, voxel)
    assert hit.sum() >= recall * (truth & near).sum()
    assert right.sum() >= precision * inside.sum()
    check_node_spared(region, found, truth)
    return next(each for each in found if each.name.startswith(start))


def check_node_spared(
    region: Region, found: Sequence[FoundStructure], other: Bools | None = None
) -> None:
    """Assert that less than 1 % of the node's voxels are taken, none twice."""
    node = (NODE[1] < 0)[region.block]
    if other is not None:
        node &= ~other
    times = np.sum([each.inside for each in found], axis=0)
    assert np.count_nonzero(times[node]) < 0.01 * node.sum()
    assert times.max() <= 1


ALONG = {"through the slices": (1.0, 0.1, 0.0), "in the slice": (0.05, 0.2, 1.0)}


@pytest.mark.parametrize("radius_mm", [2.0, 3.0, 5.0, 8.0])
@pytest.mark.parametrize("along", ALONG)
def test_vessel_when_with_contrast_is_found(radius_mm: float, along: str) -> None:
    """Arteries to portal vein, in and out of plane, in voxels of 0.9 x 0.9 x 2.5 mm."""
    place = beside(0.0, NODE_RADIUS_MM + radius_mm + 0.4, 0.0)
    tube = from_tube(place, ALONG[along], radius_mm)
    found = check_found(
        Scene([SOFT, NODE, ("vessel", tube)]), "zVessel", tube, recall=0.9, precision=0.9
    )
    assert found.cause is MoveCause.VESSEL
    assert found.confidence > 0.8


def test_vessel_when_only_the_ct_shows_it_is_found_there() -> None:
    """No MR is needed where the CT has contrast; the name tells where it was seen."""
    tube = from_tube(beside(0.0, 14.5, 0.0), (1.0, 0.1, 0.0), 4.0)
    scene = Scene([SOFT, NODE, ("vessel", tube)], contrasts=())
    found = check_found(scene, "zVessel", tube, recall=0.9, precision=0.9)
    assert found.name == "zVessel_CT"
    assert found.confidence < 0.7


def test_vessel_when_the_ct_is_native_is_found_on_mr() -> None:
    """Two MR contrasts show a vessel that the CT does not."""
    tube = from_tube(beside(0.0, 15.4, 0.0), (1.0, 0.1, 0.0), 5.0)
    scene = Scene([SOFT, NODE, ("native vessel", tube)])
    found = check_found(scene, "zVessel", tube, recall=0.9, precision=0.9)
    assert found.name == "zVessel_MR"


@pytest.mark.parametrize("contrasts", [(), ("T1",), ("DWI", "ADC")])
def test_vessel_when_hardly_seen_is_not_found(contrasts: tuple[str, ...]) -> None:
    """A native CT with no MR, or one contrast of it, is no sound evidence of a vessel."""
    tube = from_tube(beside(0.0, 15.4, 0.0), (1.0, 0.1, 0.0), 5.0)
    _, found = Scene([SOFT, NODE, ("native vessel", tube)], contrasts=contrasts).find()
    assert inside_of(found, "zVessel") is None


@pytest.mark.parametrize("contrasts", [(), MR])
def test_ball_when_as_bright_as_the_vessel_it_touches_is_left(contrasts: tuple[str, ...]) -> None:
    """A node that enhances like blood is no tube: of 12 mm, at a vessel of 6 mm."""
    tube = from_tube(beside(0.0, 13.5, 0.0), (1.0, 0.0, 0.0), 3.0)
    ball = from_ball(beside(0.0, 13.5, 9.0), 6.0)
    scene = Scene([SOFT, NODE, ("vessel", tube), ("vessel", ball)], contrasts=contrasts)
    region, found = scene.find()
    inside = inside_of(found, "zVessel")
    assert inside is not None
    core = (ball < -1.0)[region.block] & ~(tube < 2.0)[region.block]
    assert np.count_nonzero(inside & core) < 0.05 * core.sum()


def test_target_when_it_enhances_like_blood_is_left() -> None:
    """Nothing is taken from a target that is as bright as a vessel on every image."""
    for radius_mm in (6.0, 10.0):
        ball = from_ball(CENTRE_MM, radius_mm)
        region, found = Scene([SOFT, ("vessel", ball)]).find(ball < 1.0)
        assert inside_of(found, "zVessel") is None
        inner = (ball < -SPACING_MM[1])[region.block]
        assert not any((each.inside & inner).any() for each in found)


def test_bone_when_it_has_marrow_is_no_vessel() -> None:
    """Cortex and marrow are bright on CT and tubes."""
    through = beside(0.0, 17.5, 0.0)
    shaft = from_tube(through, (1.0, 0.0, 0.0), 7.0), from_tube(through, (1.0, 0.0, 0.0), 4.0)
    scene = Scene([SOFT, NODE, ("cortex", shaft[0]), ("marrow", shaft[1])], contrasts=("T1",))
    _, found = scene.find()
    assert inside_of(found, "zVessel") is None


def test_vessel_when_contoured_is_not_found_again() -> None:
    """What the clinician contoured keeps the clinician's contour."""
    tube = from_tube(beside(0.0, 15.4, 0.0), (1.0, 0.1, 0.0), 5.0)
    scene = Scene([SOFT, NODE, ("vessel", tube)], organs={"V_Portal": tube < 0.5})
    region, found = scene.find()
    inside = inside_of(found, "zVessel")
    assert inside is None or not (inside & (tube < 0.5)[region.block]).any()


@pytest.mark.parametrize("radius_mm", [2.5, 4.0])
def test_duct_when_bright_on_t2_is_found(radius_mm: float) -> None:
    """Bile duct: fluid on T2 and ADC, as dark as water on CT."""
    tube = from_tube(beside(0.0, 11.0 + radius_mm, 0.0), (1.0, 0.1, 0.1), radius_mm)
    scene = Scene([SOFT, NODE, ("fluid", tube)])
    found = check_found(scene, "zDuct", tube, recall=0.85, precision=0.95)
    assert found.cause is MoveCause.DUCT


def test_duct_when_there_is_no_t2_is_not_found() -> None:
    """Water density alone could be a cyst or a necrotic node."""
    tube = from_tube(beside(0.0, 14.0, 0.0), (1.0, 0.1, 0.1), 3.0)
    _, found = Scene([SOFT, NODE, ("fluid", tube)], contrasts=("T1", "DWI", "ADC")).find()
    assert inside_of(found, "zDuct") is None


def test_necrosis_when_within_the_target_is_left() -> None:
    """Dead tissue in the middle of a node looks like fluid and is node."""
    scene = Scene([SOFT, NODE, ("necrosis", from_ball(CENTRE_MM, 5.0))])
    region, found = scene.find()
    check_node_spared(region, found)


def test_gas_when_in_the_body_is_found_and_air_is_not() -> None:
    """Gas in bowel, with fluid below it; the air around the patient is neither."""
    bubble = from_ball(beside(0.0, 0.0, 17.0), 5.0)
    pool = from_ball(beside(0.0, 0.0, 16.0), 6.0)
    air = places_mm()[..., 1] - 8.0
    scene = Scene([SOFT, NODE, ("fluid", pool), ("gas", bubble), ("gas", air)])
    region, found = scene.find()
    gas = inside_of(found, "zGas_CT")
    assert gas is not None
    deep = (bubble < -SPACING_MM[1])[region.block] & (region.distance_mm <= SETTINGS.shell_mm)
    assert gas[deep].all()
    assert not (gas & (air < 1.0)[region.block]).any()
    assert not (gas & (NODE[1] < 0)[region.block]).any()


def test_fluid_when_it_lies_at_gas_is_bowel() -> None:
    """A lumen is told from a duct by its gas."""
    bubble = from_ball(beside(0.0, -2.0, 17.0), 4.0)
    pool = from_ball(beside(0.0, 7.0, 17.0), 5.0)
    region, found = Scene([NODE, ("fluid", pool), ("gas", bubble)]).find()
    lumen = inside_of(found, "zBowel_MR")
    assert lumen is not None
    assert (lumen & (pool < 0)[region.block]).any()
    assert inside_of(found, "zDuct") is None


def test_gas_when_the_mr_shows_the_target_in_its_place_is_left() -> None:
    """Gas moves: a bubble over the node on the CT's day hides node, it does not replace it."""
    bubble = from_ball(beside(0.0, 0.0, 8.0), 5.0)
    scene = Scene([SOFT, NODE, ("gas", bubble)], unlike=dict.fromkeys(MR, ("gas",)))
    region, found = scene.find()
    node = (NODE[1] < -SPACING_MM[1])[region.block]
    taken = np.zeros_like(node)
    for each in found:
        taken |= each.inside
    assert np.count_nonzero(taken & node) < 0.01 * node.sum()


def test_gas_when_the_node_is_partly_dead_is_still_found() -> None:
    """A core of two tissues looks like either, not like all that lies between them."""
    bubble = from_ball(beside(0.0, 0.0, 18.0), 5.0)
    pool = from_ball(beside(0.0, 0.0, 18.0), 7.0)
    dead = from_ball(CENTRE_MM, 6.0)
    scene = Scene([SOFT, NODE, ("necrosis", dead), ("fluid", pool), ("gas", bubble)])
    region, found = scene.find()
    gas = inside_of(found, "zGas_CT")
    assert gas is not None
    deep = (bubble < -SPACING_MM[1])[region.block] & (region.distance_mm <= SETTINGS.shell_mm)
    assert gas[deep].mean() > 0.95
    check_node_spared(region, found)


def test_fat_when_around_is_found_and_not_in_a_fatty_target() -> None:
    """Fat is known by its HU; a target that is fatty itself keeps its own."""
    region, found = Scene([SOFT, NODE], contrasts=()).find()
    fat = inside_of(found, "zFat_CT")
    assert fat is not None
    plain = (NODE[1] > 1.5)[region.block] & (SOFT[1] > 1.5)[region.block]
    plain &= region.distance_mm <= SETTINGS.shell_mm
    assert np.count_nonzero(fat & plain) > 0.97 * plain.sum()
    check_node_spared(region, found)
    fatty = Scene([NODE, ("fat", from_ball(CENTRE_MM, 7.0))], contrasts=())
    region, found = fatty.find()
    fat = inside_of(found, "zFat_CT")
    assert fat is None or not (fat & (NODE[1] < -1.0)[region.block]).any()


@pytest.mark.parametrize("contrasts", [(), MR])
def test_nothing_when_there_is_only_soft_tissue_is_found(contrasts: tuple[str, ...]) -> None:
    """No sound evidence, no structure: noise is none."""
    scene = Scene([NODE], contrasts=contrasts, background="soft", noise=2.0)
    assert scene.find()[1] == ()


def test_tube_response_when_the_tube_fits_is_its_brightness() -> None:
    """A long tube answers with its brightness and radius; a ball and a sheet do not."""
    where = np.zeros(SHAPE, dtype=bool)
    middle = tuple(round(c / s) for c, s in zip(CENTRE_MM, SPACING_MM, strict=True))
    where[middle] = True
    centre = np.array(middle) * np.array(SPACING_MM)
    answers = {}
    for name, distance_mm in {
        "through": from_tube(centre, (1, 0, 0), 5.7),
        "within": from_tube(centre, (0, 0, 1), 5.7),
        "ball": from_ball(centre, 5.7),
        "sheet": np.abs(places_mm()[..., 1] - centre[1]) - 3.0,
    }.items():
        bright = np.clip(0.5 - distance_mm / SPACING_MM[1], 0, 1).astype(np.float32)
        response, radius_mm = tube_response(bright, SPACING_MM, where)
        answers[name] = float(response[middle]), float(radius_mm[middle])
        assert np.count_nonzero(response) <= 1
    for name in ("through", "within"):
        assert answers[name][0] == pytest.approx(1.0, abs=0.08)
        assert answers[name][1] == pytest.approx(5.7, abs=0.1)
    assert answers["ball"][0] < 0.3
    assert answers["sheet"][0] < 0.1
