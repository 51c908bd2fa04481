"""CT beside the planning CT, on its grid: CBCT, and what was planned on earlier."""

from dataclasses import dataclass

import numpy as np

from handlers.displacement import DisplacementField
from handlers.geometry import Geometry, RigidTransform
from handlers.sampling import resample
from handlers.values import CtRole, Image
from handlers.viewing.shown import Scale, ShownVolume, block_document

AIR_HU = -1024.0
"""Nothing in a patient is below."""

SCALE = Scale(AIR_HU, 1.0, int(np.iinfo(np.int16).max))
"""Whole HU."""

WORDS = {CtRole.CBCT: "CBCT", CtRole.PRIOR: "earlier CT"}
"""What people call a CT by its role; any other is a further one."""


@dataclass(frozen=True, slots=True, eq=False)
class MovedCt:
    """A CT beside the planning CT, and where its registration says that it lies.

    Attributes:
        image: As it was taken.
        ct_from_image: From its frame of reference to that of the planning CT.
        deformation: What was added near the targets, or None.
        registration: Number of its registration in the metrics, from 1.
        status: The verdict on that.
    """

    image: Image
    ct_from_image: RigidTransform
    deformation: DisplacementField | None
    registration: int
    status: str


def shown_ct(moved: MovedCt, onto: Geometry, number: int) -> ShownVolume:
    """Return a CT on the grid of the planning CT, in HU.

    Args:
        moved: The CT.
        onto: The grid.
        number: Of the CT beside the planning CT, from 1.
    """
    image, valid = resample(moved.image, onto, moved.ct_from_image, moved.deformation)
    word = word_of(moved.image)
    document = {
        "key": f"other{number}",
        "kind": "other",
        "word": word,
        "label": _label(moved.image, word),
        "registration": moved.registration,
        "status": moved.status,
        "contrast": "",
        "is_leading": True,
        "series_instance_uid": moved.image.series_instance_uid,
        **SCALE.document(),
        "windows": [],
        **block_document((0, 0, 0), onto.shape),
    }
    return ShownVolume(document, SCALE.stored(image.voxels, valid.inside))


def word_of(image: Image) -> str:
    """Return what people call a CT that is not the planning CT."""
    return WORDS.get(image.role or CtRole.FURTHER, "further CT")


def _label(image: Image, word: str) -> str:
    day = image.taken_on
    taken = f" of {day[:4]}-{day[4:6]}-{day[6:]}" if len(day) == len("20250311") else ""
    told = f": {image.description}" if image.description else ""
    return f"{word[0].upper()}{word[1:]}{taken}{told}"
