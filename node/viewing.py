"""Leaves what a page shows of a case beside its result set; runs in a child process.

A case never fails for it: what cannot be shown is shown later, or never.
"""

import json
from collections.abc import Sequence
from pathlib import Path

import pydicom

from handlers.decode import DecodedCase
from handlers.decode.images import slice_index_of_instances
from handlers.decode.structures import decode_structures
from handlers.errors import HandlerError
from handlers.results import CaseResult, RegistrationStatus
from handlers.viewing import MovedCt, OnCt, View, view_of
from node.compute_job import METRICS_FILE

RTSTRUCT_FILE = "RTSTRUCT.dcm"
"""The structure set of a result set that holds the ROIs of the planning CT."""


def on_ct_of_result(result: CaseResult) -> tuple[OnCt, ...]:
    """Return the MR of a result on the CT's grid, each with the number of its registration."""
    numbers = {id(each): n for n, each in enumerate(result.registrations, start=1)}
    return tuple(
        OnCt(each.image, each.valid, numbers[id(each.registration)]) for each in result.resampled
    )


def moved_ct_of_result(result: CaseResult) -> tuple[MovedCt, ...]:
    """Return the CT beside the planning CT whose registration did not fail."""
    images = {image.series_instance_uid: image for image in result.case.other_ct}
    return tuple(
        MovedCt(
            images[each.leading_series_uid],
            each.ct_from_series(each.leading_series_uid),
            each.deformation,
            number,
            str(each.status),
        )
        for number, each in enumerate(result.registrations, start=1)
        if each.leading_series_uid in images and each.status is not RegistrationStatus.FAIL
    )


def view_of_result_set(
    decoded: DecodedCase, on_ct: Sequence[OnCt], others: Sequence[MovedCt], out: Path
) -> View:
    """Return what is shown of a case whose result set lies in `out`.

    Raises:
        HandlerError: The result set is not whole.
        OSError: Its files cannot be read.
    """
    geometry = decoded.case.ct.geometry
    dataset = pydicom.dcmread(out / RTSTRUCT_FILE)
    decoded_set = decode_structures(dataset, geometry, slice_index_of_instances(decoded.ct))
    if decoded_set.structure_set is None:
        raise HandlerError("the structure set of the result has no contour")
    metrics = json.loads((out / METRICS_FILE).read_text(encoding="utf-8"))
    return view_of(decoded.case, on_ct, others, decoded_set.structure_set, metrics)
