"""The pictures of the review view lie where the patient is, whatever way the CT is stored."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from handlers.geometry import Geometry
from handlers.viewing import ShownVolume
from handlers.viewing.orientation import planes_document
from node.view_files import (
    DOCUMENT_FILE,
    PlaneCut,
    ViewAbsentError,
    read_document,
    read_plane,
    write_view,
)
from tests.grids import grid
from tests.picture_cases import POSITIONS, grid_of

RADIOLOGICAL = {
    "axial": {"left": "R", "right": "L", "top": "A", "bottom": "P"},
    "coronal": {"left": "R", "right": "L", "top": "H", "bottom": "F"},
    "sagittal": {"left": "A", "right": "P", "top": "H", "bottom": "F"},
}


@dataclass
class Shown:
    """A view of volumes alone."""

    volumes: list[ShownVolume]
    document: dict[str, Any] = field(default_factory=dict)
    contours: dict[str, Any] = field(default_factory=dict)


def volume(stored: npt.NDArray[np.int16], start: tuple[int, int, int] = (0, 0, 0)) -> ShownVolume:
    told = {"key": "ct", "start": list(start), "shape": list(stored.shape)}
    return ShownVolume(told, stored)


def numbered(shape: tuple[int, int, int]) -> npt.NDArray[np.int16]:
    """Return voxels that bear their own number, which is never 0."""
    return (np.arange(np.prod(shape)) % 32000 + 1).astype(np.int16).reshape(shape)


def written(folder: Path, shown: ShownVolume) -> Mapping[str, Any]:
    """Write a volume and return what the document says of it."""
    write_view(Shown([shown]), folder)
    (told,) = read_document(folder)["series"]
    found: Mapping[str, Any] = told
    return found


@pytest.mark.parametrize("position", sorted(POSITIONS))
def test_planes_of_a_position_when_told_are_radiological(position: str) -> None:
    """Issue 8: right at the left, front at the top, head at the top, however the patient lay."""
    planes = planes_document(grid_of(position))["planes"]
    assert {name: plane["letters"] for name, plane in planes.items()} == RADIOLOGICAL


@pytest.mark.parametrize("position", sorted(POSITIONS))
@pytest.mark.parametrize("name", ["axial", "sagittal", "coronal"])
def test_pixel_of_a_plane_when_placed_is_the_voxel_there(
    position: str, name: str, tmp_path: Path
) -> None:
    """No flip and no half voxel: a pixel shows the voxel whose centre the document says it is."""
    geometry = grid_of(position)
    small = Geometry(geometry.frame_of_reference_uid, geometry.patient_from_index, (9, 34, 41))
    stored = numbered(small.shape)
    series = written(tmp_path / "view", volume(stored))
    told = planes_document(small)["planes"][name]
    for index in (0, 3, told["count"] - 1):
        shown = read_plane(tmp_path / "view", series, small.shape, PlaneCut.of(told, index))
        assert shown.shape == (told["rows"], told["columns"])
        for row, column in ((0, 0), (1, 2), (told["rows"] - 1, told["columns"] - 1)):
            at_mm = (
                np.array(told["origin_mm"])
                + index * np.array(told["step_mm"])
                + row * np.array(told["row_step_mm"])
                + column * np.array(told["column_step_mm"])
            )
            voxel = small.indices_from_points(at_mm)[0]
            assert np.abs(voxel - np.rint(voxel)).max() < 1e-9
            assert shown[row, column] == stored[tuple(np.rint(voxel).astype(int))]


def test_plane_numbers_when_they_grow_go_to_left_back_and_head() -> None:
    """Scrolling has one sense, whatever way the slices are stored."""
    for position in POSITIONS:
        planes = planes_document(grid_of(position))["planes"]
        for axis, name in enumerate(("sagittal", "coronal", "axial")):
            step = planes[name]["step_mm"]
            assert step[axis] > 0, (position, name)
            assert np.argmax(np.abs(step)) == axis


def test_planes_of_a_tilted_grid_when_told_say_so_and_are_three() -> None:
    """An oblique CT still has three planes, none taken twice."""
    turned = np.eye(4)
    c, s = np.cos(np.deg2rad(44.0)), np.sin(np.deg2rad(44.0))
    turned[:3, :3] = np.array([[1, 0, 0], [0, c, -s], [0, s, c]])
    straight = grid_of("HFS")
    told = planes_document(Geometry("1.2", turned @ straight.patient_from_index, straight.shape))
    assert sorted(plane["axes"][0][0] for plane in told["planes"].values()) == [0, 1, 2]
    assert [told["planes"][name]["is_tilted"] for name in ("axial", "sagittal", "coronal")] == [
        True,
        False,
        True,
    ]
    assert told["planes"]["axial"]["letters"]["top"] == "AF"


@settings(max_examples=30, deadline=None)
@given(
    shape=st.tuples(st.integers(1, 20), st.integers(1, 70), st.integers(1, 70)),
    seed=st.integers(0, 2**32 - 1),
)
def test_planes_of_any_volume_when_read_are_what_was_written(
    shape: tuple[int, int, int], seed: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Whatever the size, and the whole range of the values."""
    random = np.random.default_rng(seed)
    stored = random.integers(-(2**15), 2**15, shape).astype(np.int16)
    stored[random.random(shape) < 0.3] = 0
    folder = tmp_path_factory.mktemp("planes") / "view"
    series = written(folder, volume(stored))
    planes = planes_document(grid((2.0, 1.0, 1.0), shape))["planes"]
    for told in planes.values():
        index = int(random.integers(told["count"]))
        cut = PlaneCut.of(told, index)
        shown = read_plane(folder, series, shape, cut)
        expected = np.take(stored, cut.index, axis=cut.axis)
        # this grid is stored head last: only planes across the slices stand on their head
        assert np.array_equal(shown, expected[::-1] if cut.axis else expected)


def test_block_of_a_volume_when_read_lies_in_its_place(tmp_path: Path) -> None:
    """What is there around the target only shows nothing elsewhere."""
    whole, start = (12, 40, 50), (3, 10, 20)
    stored = numbered((4, 5, 6))
    series = written(tmp_path / "view", volume(stored, start))
    expected = np.zeros(whole, dtype=np.int16)
    expected[3:7, 10:15, 20:26] = stored
    for axis in range(3):
        first, second = (each for each in range(3) if each != axis)
        for index in range(whole[axis]):
            cut = PlaneCut(axis, index, (first, 1), (second, 1))
            shown = read_plane(tmp_path / "view", series, whole, cut)
            assert np.array_equal(shown, np.take(expected, index, axis=axis))


@pytest.mark.parametrize("damage", ["short", "empty", "gone", "flipped"])
def test_damaged_volume_when_read_is_refused(damage: str, tmp_path: Path) -> None:
    """A power cut may tear these files, which nobody syncs: never a wrong picture."""
    stored = np.random.default_rng(1).integers(-900, 900, (16, 40, 40)).astype(np.int16)
    series = written(tmp_path / "view", volume(stored))
    path = tmp_path / "view" / "ct.bricks"
    content = path.read_bytes()
    if damage == "gone":
        path.unlink()
    else:
        torn = {"short": content[:-9], "empty": b"", "flipped": b"\xff" * 99 + content[99:]}
        path.write_bytes(torn[damage])
    with pytest.raises(ViewAbsentError) as refused:
        read_plane(tmp_path / "view", series, stored.shape, PlaneCut(0, 1, (1, 1), (2, 1)))
    assert "made again" in refused.value.hint


def test_document_of_another_version_when_read_is_refused(tmp_path: Path) -> None:
    """An upgrade makes pictures again rather than read them wrongly."""
    written(tmp_path / "view", volume(numbered((2, 3, 4))))
    path = tmp_path / "view" / DOCUMENT_FILE
    path.write_text(path.read_text().replace('"version": 1', '"version": 999'))
    with pytest.raises(ViewAbsentError, match="another version"):
        read_document(tmp_path / "view")


def test_view_when_it_cannot_be_finished_leaves_nothing(tmp_path: Path) -> None:
    """Whole, or not at all."""

    class Broken:
        document: dict[str, Any]

        @property
        def stored(self) -> npt.NDArray[np.int16]:
            raise OSError(28, "No space left on device")

    broken: Any = Broken()
    broken.document = {"key": "mr1"}
    with pytest.raises(OSError, match="No space"):
        write_view(Shown([volume(numbered((2, 3, 4))), broken]), tmp_path / "view")
    assert list(tmp_path.iterdir()) == []
