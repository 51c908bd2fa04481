"""Makes the pictures of an earlier result set again, from the objects that it came from.

Runs in a child process: `python -m node.view_job FOLDER ROOT MEMORY_MIB PARENT`. It has neither
database nor network, computes nothing anew, and touches nothing but the pictures. What it cannot do
it says as its last line: a JSON object with the reason.
"""

import json
import os
import re
import resource
import shutil
import sys
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pydicom

from handlers.decode import DecodedCase, decode_case
from handlers.decode.deformations import decode_deformation
from handlers.errors import HandlerError
from handlers.geometry import RigidTransform
from handlers.results import RegistrationStatus
from handlers.values import Image, Mask
from handlers.viewing import MovedCt, OnCt
from node.compute import datasets_of, die_with_parent
from node.compute_job import METRICS_FILE, OUTPUT_FOLDER, Job
from node.view_files import VIEW_FOLDER, write_view
from node.viewing import view_of_result_set

JOB_FILE = "job.json"

ABANDONED_S = 3600.0
"""Half-made pictures that are older than this belong to a process that is no more."""

_REAL_FROM_STORED = re.compile(r"source value = stored value \* (\S+) \+ (\S+);")
"""How a resampled MR tells its own values (`handlers.encode.image`)."""


def make_again(folder: Path, root: str) -> None:
    """Write the pictures of the result set in `folder`, in place of any that are there.

    Args:
        folder: Of the revision: holds its job and `out/`.
        root: Folder to which the job's paths are relative.

    Raises:
        HandlerError: The objects are not there any more, or are unfit.
        OSError: Files cannot be read or written.
    """
    job = Job.model_validate_json((folder / JOB_FILE).read_text(encoding="utf-8"))
    job = job.model_copy(update={"root": root})
    decoded = decode_case(datasets_of(job))
    out = folder / OUTPUT_FOLDER
    metrics = json.loads((out / METRICS_FILE).read_text(encoding="utf-8"))
    on_ct = tuple(_on_ct(decoded, metrics, out))
    others = tuple(moved_ct_of_metrics(decoded, metrics, out))
    _clear(folder)
    fresh = folder / f"{VIEW_FOLDER}.{os.getpid()}"
    write_view(view_of_result_set(decoded, on_ct, others, out), fresh)
    try:
        _put_in_place(fresh, folder / VIEW_FOLDER)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def _put_in_place(fresh: Path, place: Path) -> None:
    if place.exists():
        worn = fresh.with_suffix(f"{fresh.suffix}.old")
        place.rename(worn)
        shutil.rmtree(worn, ignore_errors=True)
    try:
        fresh.rename(place)
    except OSError:
        if not place.exists():  # else another process was as quick, with the same pictures
            raise


def _clear(folder: Path) -> None:
    """Remove what was left half made long ago."""
    for left in folder.glob(f"{VIEW_FOLDER}.*"):
        if time.time() - left.stat().st_mtime > ABANDONED_S:
            shutil.rmtree(left, ignore_errors=True)


def _on_ct(decoded: DecodedCase, metrics: Mapping[str, Any], out: Path) -> Iterator[OnCt]:
    """Yield the MR of a result set on the CT's grid, in the order of its folders."""
    images = {image.series_instance_uid: image for image in decoded.case.mr}
    shown = [
        (number, each["series_instance_uid"])
        for number, registration in enumerate(metrics["registrations"], start=1)
        for each in registration["series"]
        if registration.get("kind", "mr") == "mr" and each["covers_ct_fraction"] is not None
    ]
    for folder_number, (number, series_uid) in enumerate(shown, start=1):
        if series_uid not in images:
            raise HandlerError("an MR series of the result is not there any more")
        image, valid = _resampled(images[series_uid], decoded, out / f"MR_{folder_number}")
        yield OnCt(image, valid, number)


def moved_ct_of_metrics(
    decoded: DecodedCase, metrics: Mapping[str, Any], out: Path
) -> Iterator[MovedCt]:
    """Yield the CT beside the planning CT as the metrics and the written objects place them."""
    images = {image.series_instance_uid: image for image in decoded.case.other_ct}
    frame = decoded.case.ct.geometry.frame_of_reference_uid
    for number, told in enumerate(metrics["registrations"], start=1):
        series_uid = told.get("leading_series_uid", "")
        if told.get("kind", "mr") == "mr" or told["status"] == RegistrationStatus.FAIL:
            continue
        if series_uid not in images:
            raise HandlerError("a CT series of the result is not there any more")
        matrix = np.array(told["ct_from_mr"])
        pose = RigidTransform(matrix, frame, told["frame_of_reference_uid"])
        field = None
        if told.get("deformation", {}).get("accepted"):
            field = decode_deformation(pydicom.dcmread(out / f"DEFREG_{number}.dcm"), pose)
        yield MovedCt(images[series_uid], pose, field, number, told["status"])


def _resampled(source: Image, decoded: DecodedCase, folder: Path) -> tuple[Image, Mask]:
    """Return a resampled MR as its files hold it, in the MR's own values where they tell them."""
    geometry = decoded.case.ct.geometry
    voxels = np.zeros(geometry.shape, dtype=np.float32)
    inside = np.zeros(geometry.shape, dtype=np.bool_)
    for index in range(geometry.shape[0]):
        ds = pydicom.dcmread(folder / f"{index + 1:04d}.dcm")
        stored = ds.pixel_array
        told = _REAL_FROM_STORED.search(str(ds.get("DerivationDescription", "")))
        slope, intercept = (1.0, 0.0) if told is None else (float(told[1]), float(told[2]))
        inside[index] = stored != int(ds.PixelPaddingValue)
        voxels[index] = np.where(inside[index], stored * slope + intercept, 0.0)
    image = Image(
        geometry, voxels, "MR", source.series_instance_uid, source.description, source.contrast
    )
    return image, Mask(geometry, inside)


def main(arguments: Sequence[str]) -> int:
    """Make the pictures of the folder that the first argument names."""
    folder, root, memory_mib, parent = arguments
    die_with_parent(int(parent))
    limit = int(float(memory_mib) * 1024 * 1024)
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    warnings.simplefilter("ignore")
    try:
        make_again(Path(folder), root)
    except HandlerError as error:
        return _fail(str(error))
    except MemoryError:
        return _fail(f"making the pictures needs more than {float(memory_mib):.0f} MiB of memory")
    except OSError as error:
        return _fail(error.strerror or "the disk refuses")
    return 0


def _fail(reason: str) -> int:
    sys.stdout.write(json.dumps({"reason": reason}) + "\n")
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
