"""Where the patient lay, in the axes of the treatment machine: by hand, for every position."""

from dataclasses import replace

import numpy as np
import pytest

from handlers.daily_position import daily_position, organs_of_the_day
from handlers.geometry import Geometry, RigidTransform
from handlers.results import Registration, RegistrationStatus
from handlers.values import Contour, CtRole, Image, Roi, StructureSet

PLANNED_MM = (12.0, -30.0, 45.0)
"""Centre of the targets."""


def image(position: str, frame: str = "1.1", role: CtRole = CtRole.PLANNING) -> Image:
    matrix = np.diag([2.0, 2.0, 2.0, 1.0])[[2, 1, 0, 3]]
    matrix[:3, 3] = (-20.0, -60.0, 20.0)
    geometry = Geometry(frame, matrix, (24, 30, 32))
    voxels = np.zeros(geometry.shape, dtype=np.float32)
    return Image(geometry, voxels, "CT", f"series {role}", role=role, patient_position=position)


def registration(cbct_from_ct: RigidTransform) -> Registration:
    return Registration(
        cbct_from_ct.inverse(), RegistrationStatus.PASS, (), 2.0, {}, "1.2", ("1.2",), PLANNED_MM
    )


def lying(
    shift_mm: tuple[float, float, float], turned_deg: tuple[float, float, float] = (0.0, 0.0, 0.0)
) -> Registration:
    """Return the registration of a CBCT for which the patient lay shifted (LPS) and turned.

    Turned about the centre of the targets, which therefore lies off by the shift alone.
    """
    return registration(
        RigidTransform.from_parameters(
            rotation_deg=turned_deg,
            translation_mm=shift_mm,
            centre_mm=PLANNED_MM,
            to_frame_uid="1.1",
            from_frame_uid="1.1",
        )
    )


@pytest.mark.parametrize(
    ("position", "shift_mm", "turned_deg", "iec_mm", "iec_deg"),
    [
        # x left, y back, z head; X to the right of one who faces the gantry, Z up
        ("HFS", (3.0, 0, 0), (5.0, 0, 0), (3.0, 0, 0), (5.0, 0, 0)),
        ("HFS", (0, 4.0, 0), (0, 5.0, 0), (0, 0, -4.0), (0, 0, -5.0)),
        ("HFS", (0, 0, 7.0), (0, 0, 5.0), (0, 7.0, 0), (0, 5.0, 0)),
        ("HFP", (3.0, 0, 0), (5.0, 0, 0), (-3.0, 0, 0), (-5.0, 0, 0)),
        ("HFP", (0, 4.0, 0), (0, 5.0, 0), (0, 0, 4.0), (0, 0, 5.0)),
        ("HFP", (0, 0, 7.0), (0, 0, 5.0), (0, 7.0, 0), (0, 5.0, 0)),
        ("FFS", (3.0, 0, 0), (5.0, 0, 0), (-3.0, 0, 0), (-5.0, 0, 0)),
        ("FFS", (0, 4.0, 0), (0, 5.0, 0), (0, 0, -4.0), (0, 0, -5.0)),
        ("FFS", (0, 0, 7.0), (0, 0, 5.0), (0, -7.0, 0), (0, -5.0, 0)),
        ("FFP", (3.0, 0, 0), (5.0, 0, 0), (3.0, 0, 0), (5.0, 0, 0)),
        ("FFP", (0, 4.0, 0), (0, 5.0, 0), (0, 0, 4.0), (0, 0, 5.0)),
        ("FFP", (0, 0, 7.0), (0, 0, 5.0), (0, -7.0, 0), (0, -5.0, 0)),
    ],
)
def test_patient_who_lies_off_is_told_in_axes_of_the_machine(
    position: str,
    shift_mm: tuple[float, float, float],
    turned_deg: tuple[float, float, float],
    iec_mm: tuple[float, float, float],
    iec_deg: tuple[float, float, float],
) -> None:
    """Issue 3: IEC 61217; positive where the patient lies too far along the axis."""
    found = daily_position(
        lying(shift_mm, turned_deg), image(position), image(position, role=CtRole.CBCT), {}
    )
    assert not isinstance(found, str)
    assert found.shift_mm == pytest.approx(iec_mm, abs=1e-9)
    assert found.rotation_deg == pytest.approx(iec_deg, abs=1e-9)
    assert (found.patient_position, found.is_frame_shared) == (position, True)


@pytest.mark.parametrize(("planned", "daily"), [("HFDL", "HFDL"), ("", ""), ("HFS", "FFS")])
def test_nothing_is_told_when_positions_are_unknown_or_differ(planned: str, daily: str) -> None:
    """Never guess which way is up."""
    found = daily_position(lying((1.0, 0, 0)), image(planned), image(daily), {})
    assert isinstance(found, str)


def test_frame_of_its_own_is_told() -> None:
    """Equal coordinates of two frames are not known to be one place in the room."""
    moved = RigidTransform(np.eye(4), "1.9", "1.1")
    found = daily_position(registration(moved), image("HFS"), image("HFS", "1.9"), {})
    assert not isinstance(found, str)
    assert not found.is_frame_shared


def test_organs_of_the_day_lie_where_the_registration_puts_them() -> None:
    """A square of 8 x 12 mm on one slice, 4 mm off to the left and 6 mm to the head that day."""
    corners = np.array([[3.0, -39.0], [11.0, -39.0], [11.0, -27.0], [3.0, -27.0]])
    points = np.column_stack([corners, np.full(4, 44.0)])
    roi = Roi(1, "Duodenum", "ORGAN", (Contour(points),))
    structure_set = StructureSet("1.5", "1.1", "day", (roi, replace(roi, number=2, contours=())))
    there = image("HFS", role=CtRole.CBCT)
    organs = organs_of_the_day(structure_set, there, image("HFS"), lying((4.0, 0, 6.0)))
    (mask,) = organs.values()
    at = mask.geometry.points_from_indices(np.argwhere(mask.inside))
    assert len(at) == 4 * 6
    np.testing.assert_allclose(at.mean(axis=0), (7.0 - 4.0, -33.0, 44.0 - 6.0))
