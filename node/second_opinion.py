"""Organ contours from TotalSegmentator, as a second opinion: off by default, never required.

The program and its weights are the operator's: nothing of it is shipped, imported or downloaded
here. It runs as a process of its own (`node.confined`) on a NIfTI copy of one image that holds no
identifier, only when the weights of every task it needs are in place. Its masks must come back on
the very grid of the image; they are refused otherwise, never resampled.

What a model outlines is no clinician's contour. Its names say so, it stands in only where nobody
drew the organ, and it takes nothing from a drawn target unless that is asked for.

Deliberately not done: no MR mask is brought to the CT, no task that needs a licence is used, and
whether an outline is right is not judged.

Read first: Wasserthal et al. 2023, Radiology: Artificial Intelligence 5(5):e230024.
"""

import gzip
import json
import math
import os
import resource
import signal
import struct
import tempfile
import zlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import SimpleITK

from handlers.errors import GeometryMismatchError
from handlers.roi_names import matches
from handlers.sampling import geometry_from_itk, itk_image
from handlers.values import Case, Finding, Image, Mask, Severity, StructureSet
from node.confined import Ended, run_confined
from node.outline_program import (
    ORGANS,
    PROGRAM,
    TASKS,
    Organ,
    SecondOpinionError,
    SecondOpinionSettings,
    Task,
    check,
    find_program,
    unready,
)

__all__ = [
    "ORGANS",
    "SecondOpinionError",
    "SecondOpinionSettings",
    "check",
    "consult",
    "second_opinion",
    "undrawn_organs",
    "with_second_opinion",
]

GRID_TOLERANCE_MM = 0.02
"""NIfTI keeps its matrix in 32 bits: a corner a metre from the origin is off by less than this."""

MR_SCALE = 10_000.0
"""Largest magnitude of an MR's copy: the program rounds to whole numbers, and MR units are free."""

_IMAGE_FILE = "image.nii"
_MASK_FOLDER = "masks"
_HOME_FOLDER = "home"
_HEADER_BYTES, _AT_BITS, _AT_START = 348, 72, 108
"""NIfTI-1 header: its size, and where it tells bits per voxel and the offset of the first."""

_PART_BYTES = 1 << 20

_PASSED_ON = ("PATH", "HOME", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "CUDA_VISIBLE_DEVICES")


def consult(
    case: Case,
    targets: Iterable[Mask],
    settings: SecondOpinionSettings,
    *,
    ignore_patterns: Sequence[str],
    context_fraction: float = math.inf,
    may_take_from_targets: bool = False,
) -> tuple[dict[str, Mask], tuple[Finding, ...]]:
    """Return outlines of the organs that nobody drew on the planning CT, and what to tell of them.

    Never fails for want of an opinion: then there are no outlines, and a finding says why. The
    program is not started where every organ is drawn. For the arguments see `with_second_opinion`.
    """
    wanted = undrawn_organs(case.structure_set, ignore_patterns)
    if not wanted:
        return {}, ()
    try:
        opinion = second_opinion(case.ct, settings, organs=wanted)
    except SecondOpinionError as error:
        text = f"no second opinion on the organs: {error} ({error.hint})"
        return {}, (Finding("second_opinion.none", Severity.WARNING, text),)
    organs = with_second_opinion(
        case.structure_set,
        opinion,
        targets,
        ignore_patterns=ignore_patterns,
        context_fraction=context_fraction,
        may_take_from_targets=may_take_from_targets,
    )
    text = f"outlined by {PROGRAM}, not reviewed by anybody: {', '.join(organs) or 'nothing'}"
    return organs, (Finding("second_opinion.used", Severity.INFO, text),)


def second_opinion(
    image: Image, settings: SecondOpinionSettings, *, organs: Sequence[Organ] = ORGANS
) -> Mapping[str, Mask]:
    """Return what the program outlines on an image, by a name that says where it comes from.

    Args:
        image: A CT in HU, or an MR.
        settings: Program, weights, limits.
        organs: What is asked for; at least one.

    Returns:
        Masks on the image's grid, `Liver_TS` of a CT, `Liver_TM` of an MR; organs that were not
        found are left out.

    Raises:
        SecondOpinionError: Program or weights are missing, or it failed, took too long, or left
            something else than the masks that were asked for. The text may stand in results: it
            names no path, and not what the program printed, which may quote anything.
    """
    task = TASKS.get((image.modality, settings.is_fast))
    if task is None:
        raise SecondOpinionError(
            f"there is no task for images of modality {image.modality}", hint="ask about CT or MR"
        )
    problem = unready(task, settings)
    if problem:
        raise SecondOpinionError(
            problem,
            hint="`hilum doctor` names the files and how to fetch them; or leave out the section "
            "[second_opinion]: it is optional",
        )
    try:
        # a short path: the program puts sockets there, whose names have a limit
        with tempfile.TemporaryDirectory(prefix="hilum-") as temporary:
            folder = Path(temporary)
            _prepare(image, folder)
            ended = run_confined(
                _command(find_program(settings), task, settings, folder, organs),
                folder,
                environment=_environment(settings, folder),
                timeout_s=settings.timeout_s,
                memory_bytes=_memory_bytes(settings),
            )
            _require_success(ended, settings)
            masks = {
                organ.name + task.suffix: _read_mask(organ.label, image, folder) for organ in organs
            }
    except OSError as error:
        raise SecondOpinionError(
            f"the temporary folder of {PROGRAM} fails: {error.strerror or type(error).__name__}",
            hint="make room in the folder for temporary files (TMPDIR)",
        ) from error
    return {name: mask for name, mask in masks.items() if mask.inside.any()}


def with_second_opinion(
    structure_set: StructureSet,
    opinion: Mapping[str, Mask],
    targets: Iterable[Mask],
    *,
    ignore_patterns: Sequence[str],
    context_fraction: float = math.inf,
    may_take_from_targets: bool = False,
) -> dict[str, Mask]:
    """Return the outlines that stand in for organs which nobody drew.

    Args:
        structure_set: What was drawn on the planning CT.
        opinion: From `second_opinion`, on the grid of `targets`.
        targets: The drawn targets.
        ignore_patterns: ROI names that are no organ for the refinement (targets, margins, bags):
            `RefinementSettings.ignore_patterns`.
        context_fraction: An outline that holds at least this part of a target is what the target
            lies in (`RefinementSettings.context_fraction`), takes nothing from it, and stays whole:
            cut out, a liver would bar all growth of a target within. By default none is.
        may_take_from_targets: Whether an outline may overlap a drawn target, and thereby take
            something from it. By default the overlap is cut out of the outline: it then bars
            growth, and the clinician's contour stands.

    Returns:
        Organs for the refinement, by name; empty ones are left out.

    Raises:
        GeometryMismatchError: An outline does not lie on the grid of the targets.
    """
    undrawn = undrawn_organs(structure_set, ignore_patterns)
    targets = tuple(targets)
    organs = {}
    for name, mask in opinion.items():
        if name.rpartition("_")[0] not in {organ.name for organ in undrawn}:
            continue
        if not all(mask.geometry.coincides_with(target.geometry) for target in targets):
            raise GeometryMismatchError(
                f"{name} does not lie on the grid of the targets", hint="bring it to the CT first"
            )
        inside = mask.inside
        for target in () if may_take_from_targets else targets:
            held = np.count_nonzero(mask.inside & target.inside)
            if held < context_fraction * np.count_nonzero(target.inside):
                inside = inside & ~target.inside
        if inside.any():
            organs[name] = Mask(mask.geometry, inside)
    return organs


def undrawn_organs(
    structure_set: StructureSet, ignore_patterns: Sequence[str]
) -> tuple[Organ, ...]:
    """Return the organs of which no ROI with a contour bears the name, in any usual spelling."""
    drawn = [
        roi.name
        for roi in structure_set.rois
        if roi.contours and not matches(roi.name, ignore_patterns)
    ]
    return tuple(
        organ for organ in ORGANS if not any(matches(name, organ.drawn_as) for name in drawn)
    )


def _memory_bytes(settings: SecondOpinionSettings) -> int:
    wanted = int(settings.memory_mib * 1024 * 1024)
    _, allowed = resource.getrlimit(resource.RLIMIT_AS)
    if allowed != resource.RLIM_INFINITY and allowed < wanted:
        raise SecondOpinionError(
            f"{PROGRAM} is to have {settings.memory_mib:.0f} MiB of memory, but this process may "
            f"give no more than {allowed / 1024 / 1024:.0f}",
            hint="lower second_opinion.memory_mib, or raise the limit under which the node runs "
            "(ulimit -v)",
        )
    return wanted


def _prepare(image: Image, folder: Path) -> None:
    """Write the image, and the settings by which the program tells nobody that it ran."""
    itk = itk_image(image)
    if image.modality == "MR":
        largest = float(np.abs(image.voxels).max())
        itk = itk * (MR_SCALE / largest) if largest > 0 else itk
    try:
        SimpleITK.WriteImage(itk, str(folder / _IMAGE_FILE))
    except RuntimeError as error:
        raise SecondOpinionError(
            f"the image for {PROGRAM} cannot be written",
            hint="make room in the folder for temporary files (TMPDIR)",
        ) from error
    (folder / _MASK_FOLDER).mkdir()
    (folder / _HOME_FOLDER).mkdir()
    quiet = {
        "totalseg_id": "totalseg_hilum",
        "send_usage_stats": False,
        "prediction_counter": 0,
        "statistics_disclaimer_shown": True,
    }
    (folder / _HOME_FOLDER / "config.json").write_text(json.dumps(quiet), encoding="utf-8")


def _command(
    program: Path,
    task: Task,
    settings: SecondOpinionSettings,
    folder: Path,
    organs: Sequence[Organ],
) -> list[str]:
    return [
        str(program),
        *("-i", str(folder / _IMAGE_FILE)),
        *("-o", str(folder / _MASK_FOLDER)),
        *("--task", task.name),
        *("--device", settings.device),
        *(("--fast",) if settings.is_fast else ()),
        *("--nr_thr_saving", "1", "--quiet"),
        *("--roi_subset", *(organ.label for organ in organs)),
    ]


def _environment(settings: SecondOpinionSettings, folder: Path) -> dict[str, str]:
    private = ("TMPDIR", "XDG_CACHE_HOME", "MPLCONFIGDIR")
    return {
        **{name: os.environ[name] for name in _PASSED_ON if name in os.environ},
        **dict.fromkeys(private, str(folder)),
        "TOTALSEG_HOME_DIR": str(folder / _HOME_FOLDER),
        "TOTALSEG_WEIGHTS_PATH": str(settings.weights.absolute()),
    }


def _require_success(ended: Ended, settings: SecondOpinionSettings) -> None:
    if ended.start_error:
        raise SecondOpinionError(
            f"{PROGRAM} cannot be started: {ended.start_error}",
            hint="run it by hand as the node's user; name its path in second_opinion.program",
        )
    if ended.code is None:
        raise SecondOpinionError(
            f"{PROGRAM} took longer than {settings.timeout_s:.0f} s and was stopped",
            hint="raise second_opinion.timeout_s, or set second_opinion.fast",
        )
    if ended.code != 0:
        how = (
            f"with code {ended.code}"
            if ended.code > 0
            else f"by {signal.Signals(-ended.code).name}"
        )
        raise SecondOpinionError(
            f"{PROGRAM} ended {how}",
            hint="run it by hand on any image to see why; it may need more than "
            f"second_opinion.memory_mib = {settings.memory_mib:.0f}",
        )


def _read_mask(label: str, image: Image, folder: Path) -> Mask:
    """Return one mask on the image's own grid.

    Raises:
        SecondOpinionError: There is none, or it is no mask on that grid.
    """
    path = folder / _MASK_FOLDER / f"{label}.nii.gz"
    if not path.is_file():
        raise _unfit(label, "was not written")
    reader: Any = SimpleITK.ImageFileReader()  # its methods tell no types
    reader.SetFileName(str(path))
    try:
        reader.ReadImageInformation()
        if reader.GetDimension() != 3 or reader.GetNumberOfComponents() != 1:
            raise _unfit(label, "is no volume of single numbers")
        geometry = geometry_from_itk(reader, image.geometry.frame_of_reference_uid)
    except (RuntimeError, ValueError) as error:
        raise _unfit(label, "is no NIfTI image with a regular grid") from error
    # before the voxels are read: a header may claim any size
    if not geometry.coincides_with(image.geometry, tolerance_mm=GRID_TOLERANCE_MM):
        raise _unfit(label, "does not lie on the grid of the image")
    if not _is_whole(path, math.prod(geometry.shape)):
        raise _unfit(label, "is cut off")
    try:
        voxels: npt.NDArray[np.generic] = SimpleITK.GetArrayFromImage(reader.Execute())
    except RuntimeError as error:
        raise _unfit(label, "cannot be read") from error
    inside = voxels == 1
    if not np.all(inside | (voxels == 0)):
        raise _unfit(label, "holds other values than 0 and 1")
    return Mask(image.geometry, inside)


def _is_whole(path: Path, voxel_count: int) -> bool:
    """Tell whether a compressed NIfTI-1 file has all its voxels; ITK fills up what is cut off."""
    try:
        with gzip.open(path) as file:
            header = file.read(_HEADER_BYTES)
            order = "<" if header[:2] == _HEADER_BYTES.to_bytes(2, "little") else ">"
            (bits,) = struct.unpack_from(f"{order}h", header, _AT_BITS)
            (start,) = struct.unpack_from(f"{order}f", header, _AT_START)
            end = int(start) + voxel_count * bits // 8
            length = len(header)
            while length <= end and (part := file.read(_PART_BYTES)):
                length += len(part)
    except (OSError, EOFError, ValueError, zlib.error, struct.error):
        return False
    return bool(length == end)


def _unfit(label: str, what: str) -> SecondOpinionError:
    return SecondOpinionError(
        f"the mask {label} of {PROGRAM} {what}",
        hint="see that its version and weights belong together (written for version 2.18)",
    )
