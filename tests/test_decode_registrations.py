"""Spatial Registration objects of others: every way to say one thing, and what is refused."""

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import pytest
from pydicom import Dataset
from pydicom.uid import DeformableSpatialRegistrationStorage

from handlers.values import Severity
from tests import datasets
from tests.datasets import registration as reg
from tests.datasets import registration_item as item
from tests.decoding import codes, decode

CT, MR = datasets.CT_FRAME, datasets.MR_FRAME
THIRD = "1.2.826.0.1.9"
Matrix = npt.NDArray[np.float64]

# a quarter turn about z, x -> y, then a shift: the CT point of MR (1, 2, 3) is (98, 21, -27)
CT_FROM_MR = np.array([[0, -1, 0, 100], [1, 0, 0, 20], [0, 0, 1, -30], [0, 0, 0, 1]], dtype=float)
MR_FROM_CT = np.array([[0, 1, 0, -20], [-1, 0, 0, 100], [0, 0, 1, 30], [0, 0, 0, 1]], dtype=float)
MR_POINT, CT_POINT = (1.0, 2.0, 3.0), (98.0, 21.0, -27.0)
NOTHING = np.eye(4)


CT_IMAGES = [f"{datasets.CT_SERIES}.{i}" for i in (1, 2, 3, 4)]
MR_IMAGES = [f"{datasets.MR_SERIES}.{i}" for i in (1, 2, 3, 4)]


def check_read(
    *objects: Dataset,
    frame: str = MR,
    expected: Mapping[str, Severity] | None = None,
    points: Sequence[Sequence[float]] = (CT_POINT,),
) -> None:
    """Check where the maps that were read send `MR_POINT`, and the findings' codes."""
    series = datasets.series(modality="MR", FrameOfReferenceUID=frame)
    decoded = decode(mr={datasets.MR_SERIES: series}, registrations=objects)
    maps = decoded.case.registrations
    assert all((m.from_frame_uid, m.to_frame_uid) == (frame, CT) for m in maps)
    sent = [m.apply(MR_POINT)[0] for m in maps]
    np.testing.assert_allclose(np.reshape(sent, (-1, 3)), np.reshape(points, (-1, 3)), atol=1e-6)
    assert codes(decoded) == ({"reg.used": Severity.INFO} if expected is None else expected)


SCALED = np.diag([1.02, 1.02, 1.02, 1.0])
SHEARED = np.array([[1, 0.05, 0, 3], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])


def skewed(by: float) -> Matrix:
    """Return `CT_FROM_MR` off a rotation by so much: the largest entry of R Rt - I."""
    return np.asarray(CT_FROM_MR @ np.diag([1 + by / 2, 1, 1, 1.0]))


TO_THIRD = np.array([[1, 0, 0, 7], [0, 0, -1, 8], [0, 1, 0, 9], [0, 0, 0, 1]], dtype=float)


@pytest.mark.parametrize(
    "sent",
    [
        reg(CT, item(CT, NOTHING), item(MR, CT_FROM_MR)),
        reg(CT, item(MR, CT_FROM_MR)),
        reg(CT, item(MR, CT_FROM_MR, images=["1.2.3"])),
        reg(CT, item(None, CT_FROM_MR, images=MR_IMAGES)),
        reg(CT, item(MR, CT_FROM_MR, kind="AFFINE")),
        reg(CT, item(CT, TO_THIRD, images=["1.2.3"]), item(MR, CT_FROM_MR)),
        reg(MR, item(MR, NOTHING), item(CT, MR_FROM_CT)),
        reg(MR, item(CT, MR_FROM_CT)),
        reg(MR, item(None, MR_FROM_CT, images=CT_IMAGES[:1])),
        reg(THIRD, item(CT, TO_THIRD), item(MR, TO_THIRD @ CT_FROM_MR)),
    ],
)
def test_registration_is_read_when_either_image_is_the_registered_one(sent: Dataset) -> None:
    """PS3.3 C.20.2: items map to the object's own frame, whichever frame that is."""
    check_read(sent)


def test_registration_is_read_when_its_rotation_is_rounded_within_the_tolerance() -> None:
    """Handbook A.6: readers should tolerate a rotation off by 1e-4, and no more."""
    series = datasets.series(modality="MR")
    decoded = decode(
        mr={datasets.MR_SERIES: series}, registrations=[reg(CT, item(MR, skewed(0.8e-4)))]
    )
    (only,) = decoded.case.registrations
    np.testing.assert_allclose(only.apply(MR_POINT)[0], CT_POINT, atol=0.01)


@pytest.mark.parametrize(
    ("sent", "words"),
    [
        (item(MR, SCALED, kind="RIGID_SCALE"), "scales, shears or mirrors (RIGID_SCALE"),
        (item(MR, SHEARED, kind="AFFINE"), "scales, shears or mirrors (AFFINE"),
        (item(MR, np.diag([1.0, 1, -1, 1])), "scales, shears or mirrors (RIGID"),
        (item(MR, CT_FROM_MR.T), "the last row of its matrix is not 0 0 0 1"),
        (item(MR, CT_FROM_MR, NOTHING), "2 matrices, whose order programs read differently"),
    ],
)
def test_refused_registration_says_what_is_wrong_with_it(sent: Dataset, words: str) -> None:
    """The physicist reads why, and that the object is not used."""
    series = datasets.series(modality="MR")
    decoded = decode(mr={datasets.MR_SERIES: series}, registrations=[reg(CT, sent)])
    (told,) = (f.text for f in decoded.case.findings if f.code.startswith("reg."))
    assert words in told
    assert told.endswith("not used")


def test_chain_through_a_third_frame_is_read_within_one_object_only() -> None:
    """Objects of others are never composed: each must relate MR and CT by itself."""
    to_ct = np.linalg.inv(TO_THIRD)
    check_read(reg(THIRD, item(CT, TO_THIRD), item(MR, TO_THIRD @ CT_FROM_MR)))
    check_read(
        reg(THIRD, item(MR, TO_THIRD @ CT_FROM_MR), SOPInstanceUID="1.2.1"),
        reg(CT, item(THIRD, to_ct), SOPInstanceUID="1.2.2"),
        expected={"reg.unrelated": Severity.INFO},
        points=[],
    )


def test_registration_is_read_when_it_says_that_two_frames_coincide() -> None:
    """An identity from one frame to another is a statement too."""
    check_read(reg(CT, item(MR, NOTHING)), points=[MR_POINT])
    check_read(reg(MR, item(CT, NOTHING)), points=[MR_POINT])


@pytest.mark.parametrize(
    "sent",
    [
        reg(CT, item(CT, NOTHING, images=CT_IMAGES), item(CT, CT_FROM_MR, images=MR_IMAGES)),
        reg(CT, item(CT, CT_FROM_MR, images=MR_IMAGES[2:])),
        reg(CT, item(CT, MR_FROM_CT, images=CT_IMAGES), item(CT, NOTHING, images=MR_IMAGES)),
        reg(CT, item(CT, MR_FROM_CT, images=CT_IMAGES)),
    ],
)
def test_registration_is_read_when_a_shared_frame_is_told_apart_by_images(sent: Dataset) -> None:
    """PS3.3 C.20.2: Referenced Image Sequence tells which images of one frame are moved."""
    check_read(sent, frame=CT)


@pytest.mark.parametrize(
    ("sent", "code", "severity"),
    [
        (reg(CT, item(CT, NOTHING), item(THIRD, CT_FROM_MR)), "unrelated", Severity.INFO),
        (reg(THIRD, item(MR, CT_FROM_MR)), "unrelated", Severity.INFO),
        (reg(MR, item(THIRD, CT_FROM_MR)), "unrelated", Severity.INFO),
        (reg(CT), "unrelated", Severity.INFO),
        (reg(CT, item(MR, CT_FROM_MR), PatientID="OTHER"), "other_patient", Severity.INFO),
        (
            reg(CT, SOPClassUID=DeformableSpatialRegistrationStorage),
            "deformable",
            Severity.INFO,
        ),
        (reg(CT, item(MR, CT_FROM_MR, NOTHING)), "several_matrices", Severity.WARNING),
        (reg(MR, item(CT, MR_FROM_CT, NOTHING)), "several_matrices", Severity.WARNING),
        (reg(CT, item(MR)), "malformed", Severity.WARNING),
        (reg(CT, item(MR, CT_FROM_MR[:3])), "malformed", Severity.WARNING),
        (reg(CT, item(MR, CT_FROM_MR.T)), "malformed", Severity.WARNING),
        (reg(CT, item(MR, np.diag([1.01, 1, 1, 1]))), "not_rigid", Severity.WARNING),
        (reg(CT, item(MR, SCALED, kind="RIGID_SCALE")), "not_rigid", Severity.WARNING),
        (reg(CT, item(MR, SHEARED, kind="AFFINE")), "not_rigid", Severity.WARNING),
        (reg(CT, item(MR, skewed(3e-4))), "not_rigid", Severity.WARNING),
        (reg(CT, item(MR, np.diag([1.0, 1, -1, 1]))), "not_rigid", Severity.WARNING),
        (reg(MR, item(CT, np.diag([1.0, 1.001, 1, 1]))), "not_rigid", Severity.WARNING),
        (reg(CT, item(CT, CT_FROM_MR), item(MR, NOTHING)), "contradiction", Severity.WARNING),
        (reg(MR, item(MR, CT_FROM_MR), item(CT, NOTHING)), "contradiction", Severity.WARNING),
        (reg(CT, item(THIRD, CT_FROM_MR, images=MR_IMAGES)), "contradiction", Severity.WARNING),
        (reg(CT, item(None, CT_FROM_MR, images=["1.2.3"])), "unrelated", Severity.INFO),
    ],
)
def test_registration_is_left_out_when_it_cannot_be_used(
    sent: Dataset, code: str, severity: Severity
) -> None:
    """Not this case's, not rigid, or open to two readings: a finding, never a guess."""
    check_read(sent, expected={f"reg.{code}": severity}, points=[])


@pytest.mark.parametrize(
    ("sent", "code"),
    [
        (reg(CT, item(CT, CT_FROM_MR)), "contradiction"),
        (reg(CT, item(CT, NOTHING), item(CT, CT_FROM_MR)), "contradiction"),
        (reg(CT, item(CT, NOTHING)), "unrelated"),
        (reg(CT, item(CT, NOTHING, images=CT_IMAGES)), "unrelated"),
        (reg(CT, item(CT, CT_FROM_MR, images=["1.2.3"])), "unrelated"),
    ],
)
def test_registration_is_left_out_when_nothing_tells_ct_and_mr_apart(
    sent: Dataset, code: str
) -> None:
    """In a shared frame of reference an item without known images moves nobody knows what."""
    severity = Severity.WARNING if code == "contradiction" else Severity.INFO
    check_read(sent, frame=CT, expected={f"reg.{code}": severity}, points=[])


def test_newest_registration_comes_first_when_several_differ() -> None:
    """As sent, one of several must count: the newest; people are told that there are others."""
    shifted = CT_FROM_MR.copy()
    shifted[0, 3] += 5
    old = reg(CT, item(MR, CT_FROM_MR), SOPInstanceUID="1.2.9")
    new = reg(CT, item(MR, shifted), SOPInstanceUID="1.2.1", ContentTime="130000")
    same = reg(MR, item(CT, MR_FROM_CT), SOPInstanceUID="1.2.3", ContentDate="20250101")
    check_read(
        *(old, same, new),
        expected={"reg.used": Severity.INFO, "reg.several": Severity.WARNING},
        points=[(103.0, 21.0, -27.0), CT_POINT],
    )
    check_read(old, same)


def test_other_items_count_when_one_is_refused() -> None:
    """One unfit matrix does not spoil what the same object says of another MR."""
    series = datasets.series(modality="MR", SeriesInstanceUID="1.2.77", FrameOfReferenceUID=THIRD)
    for i, ds in enumerate(series):
        ds.SOPInstanceUID = f"1.2.77.{i}"
    sent = reg(CT, item(MR, np.diag([1.1, 1, 1, 1])), item(THIRD, CT_FROM_MR))
    mr = {datasets.MR_SERIES: datasets.series(modality="MR"), "1.2.77": series}
    decoded = decode(mr=mr, registrations=[sent])
    (only,) = decoded.case.registrations
    assert only.from_frame_uid == THIRD
    assert set(codes(decoded)) == {"reg.used", "reg.not_rigid"}


def test_rounded_rotation_becomes_exact_about_the_middle_of_the_mr() -> None:
    """Four decimals are within the standard's tolerance; nothing of the MR moves by 0.01 mm."""
    angle = np.deg2rad(10.0)
    exact = np.eye(4)
    exact[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    exact[:3, 3] = (300.0, -200.0, 1000.0)
    far = datasets.series(modality="MR", origin_mm=(900.0, -800.0, 1500.0))
    sent = reg(CT, item(MR, np.round(exact, 4)))
    (only,) = decode(mr={datasets.MR_SERIES: far}, registrations=[sent]).case.registrations
    rotation = only.matrix[:3, :3]
    np.testing.assert_allclose(rotation @ rotation.T, np.eye(3), atol=1e-14)
    at = (906.0, -790.0, 1506.0)
    rounded = np.round(exact, 4) @ (*at, 1.0)
    np.testing.assert_allclose(only.apply(at)[0], rounded[:3], atol=0.01)
