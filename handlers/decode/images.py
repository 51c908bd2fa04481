"""An image series -> `values.Image`, or every reason why it cannot be one.

Never interpolates a missing slice, straightens a tilted stack or picks one of several echoes.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from pydicom import Dataset

from handlers.decode.attributes import (
    day_of,
    failure,
    has_failure,
    note,
    number_of,
    tail,
    text_of,
    texts_of,
)
from handlers.decode.compression import compression_findings
from handlers.decode.contrast import contrast_of
from handlers.decode.pixels import PixelDataError
from handlers.decode.planes import DECODE_ERRORS, Plane, planes_of_series
from handlers.decode.stack import check_alike, check_stack, drop_equal_slices, positions_mm
from handlers.geometry import Geometry
from handlers.values import Finding, Image


@dataclass(frozen=True, slots=True, eq=False)
class DecodedSeries:
    """A series and what was found; `image` is None exactly if a finding is a failure.

    `datasets` are in the order of the slices, one for each slice (a multi-frame object once for
    each of its frames).
    """

    image: Image | None
    datasets: tuple[Dataset, ...]
    findings: tuple[Finding, ...]


def decode_series(datasets: Sequence[Dataset], modality: str) -> DecodedSeries:
    """Return a series as an image in HU (CT) or in rescaled arbitrary units (MR).

    Any patient position and any plane: axial, sagittal, coronal, oblique. Slices are sorted along
    row direction x column direction; single-frame objects and enhanced multi-frame objects alike.

    Args:
        datasets: All objects of one series, in any order, with pixel data.
        modality: `CT` or `MR`; what the series must be.
    """
    kind = modality.lower()
    where = _name_series(datasets, modality)
    findings = _check_series(datasets, modality, where)
    planes, flaws = planes_of_series(datasets, kind, where)
    findings += flaws + check_alike(planes, kind, where)
    if has_failure(findings) or not planes:
        return DecodedSeries(None, (), tuple(findings))
    planes = sorted(planes, key=lambda plane: float(plane.position_mm @ planes[0].normal))
    planes, duplicates = drop_equal_slices(planes, kind, where)
    findings += duplicates
    if not has_failure(duplicates):
        findings += check_stack(planes, kind, where)
    if has_failure(findings):
        return DecodedSeries(None, (), tuple(findings))
    voxels, flaws = _read_voxels(planes, kind, where)
    findings += flaws + _notes(planes, kind, where)
    if has_failure(findings):
        return DecodedSeries(None, (), tuple(findings))
    first = planes[0].dataset
    contrast, findings = _contrast(first, kind, where, findings)
    image = Image(
        _geometry(planes, text_of(first, "FrameOfReferenceUID")),
        voxels,
        modality,
        text_of(first, "SeriesInstanceUID"),
        text_of(first, "SeriesDescription"),
        contrast,
        patient_position=text_of(first, "PatientPosition"),
        taken_on=day_of(first),
    )
    return DecodedSeries(image, tuple(plane.dataset for plane in planes), tuple(findings))


def _name_series(datasets: Sequence[Dataset], modality: str) -> str:
    if not datasets:
        return f"{modality} series"
    description = text_of(datasets[0], "SeriesDescription")
    uid = tail(text_of(datasets[0], "SeriesInstanceUID"))
    return (
        f'{modality} series "{description}" ({uid})' if description else f"{modality} series {uid}"
    )


def _check_series(datasets: Sequence[Dataset], modality: str, where: str) -> list[Finding]:
    """Return what is wrong with attributes that the whole series must share."""
    kind, found = modality.lower(), []
    if not datasets:
        return [failure(f"{kind}.no_images", f"{where}: there are no images; send the series")]
    count = Counter(text_of(ds, "Modality") for ds in datasets)
    others = {name or "none": n for name, n in count.items() if name != modality}
    if others:
        listed = ", ".join(f"{n} of modality {name}" for name, n in sorted(others.items()))
        found.append(
            failure(f"{kind}.modality", f"{where}: {listed} where only {modality} is expected")
        )
    if len({text_of(ds, "SeriesInstanceUID") for ds in datasets} - {""}) != 1:
        found.append(
            failure(f"{kind}.several_series", f"{where}: its images do not belong to one series")
        )
    frames = {text_of(ds, "FrameOfReferenceUID") for ds in datasets}
    if "" in frames:
        found.append(
            failure(
                f"{kind}.no_frame_of_reference",
                f"{where}: Frame of Reference UID is absent, so nobody can tell where the images "
                "lie; export the series again with its frame of reference",
            )
        )
    elif len(frames) > 1:
        found.append(
            failure(
                f"{kind}.several_frames_of_reference",
                f"{where}: its images lie in {len(frames)} frames of reference",
                count=len(frames),
            )
        )
    scouts = sum("LOCALIZER" in texts_of(ds, "ImageType") for ds in datasets)
    if scouts:
        found.append(
            failure(
                f"{kind}.localizer",
                f"{where}: {scouts} of {len(datasets)} images are localizers; send the series "
                "without them",
                count=scouts,
            )
        )
    return found


def _geometry(planes: Sequence[Plane], frame_of_reference_uid: str) -> Geometry:
    first, along = planes[0], positions_mm(planes)
    matrix = np.eye(4)
    matrix[:3, 0] = first.normal * (along[-1] - along[0]) / (len(planes) - 1)
    matrix[:3, 1] = first.directions[1] * first.spacing_mm[0]
    matrix[:3, 2] = first.directions[0] * first.spacing_mm[1]
    matrix[:3, 3] = first.position_mm
    return Geometry(frame_of_reference_uid, matrix, (len(planes), *first.size))


def _read_voxels(
    planes: Sequence[Plane], kind: str, where: str
) -> tuple[np.ndarray[tuple[int, ...], np.dtype[np.float32]], list[Finding]]:
    voxels = np.zeros((len(planes), *planes[0].size), dtype=np.float32)
    errors: Counter[str] = Counter()
    for i, plane in enumerate(planes):
        try:
            voxels[i] = plane.real_values()
        except DECODE_ERRORS as error:
            errors[_explain(plane, error)] += 1
    found = [
        failure(
            f"{kind}.pixel_data",
            f"{where}: {reason} in {count} of {len(planes)} slices; send the series again",
            count=count,
        )
        for reason, count in sorted(errors.items())
    ]
    if not errors and not np.all(np.isfinite(voxels)):
        found.append(
            failure(f"{kind}.not_finite", f"{where}: pixel values overflow when they are rescaled")
        )
    elif not errors and voxels.min() == voxels.max():
        found.append(
            failure(
                f"{kind}.constant", f"{where}: every pixel has the same value, {voxels.min():g}"
            )
        )
    return voxels, found


def _explain(plane: Plane, error: Exception) -> str:
    present = {"PixelData", "FloatPixelData", "DoubleFloatPixelData"} & set(plane.dataset.dir())
    if not present:
        return "there is no pixel data"
    meta = getattr(plane.dataset, "file_meta", None)
    if meta is None or "TransferSyntaxUID" not in meta:
        return "the transfer syntax is unknown, so pixel data cannot be decoded,"
    name = meta.TransferSyntaxUID.name
    if isinstance(error, PixelDataError):
        return f"pixel data ({name}) contradict the header ({error})"
    return f"pixel data ({name}) is truncated or cannot be decoded ({type(error).__name__})"


def _notes(planes: Sequence[Plane], kind: str, where: str) -> list[Finding]:
    datasets = [plane.dataset for plane in planes]
    found = compression_findings(datasets, kind, where)
    tilts = {number_of(ds, "GantryDetectorTilt") or 0.0 for ds in datasets} - {0.0}
    if tilts:
        found.append(
            note(
                f"{kind}.tilt_attribute",
                f"{where}: Gantry/Detector Tilt says {max(tilts, key=abs):g} degrees, but the "
                "slices are stacked along their normal; the positions are believed",
            )
        )
    return found


def _contrast(
    ds: Dataset, kind: str, where: str, findings: list[Finding]
) -> tuple[str, list[Finding]]:
    if kind != "mr":
        return "", findings
    contrast, is_from_description = contrast_of(ds)
    if contrast and is_from_description:
        text = f"{where}: taken for {contrast} by its description, since no echo time is given"
        findings = [*findings, note("mr.contrast_from_description", text)]
    return contrast, findings


def slice_index_of_instances(datasets: Sequence[Dataset]) -> Mapping[str, int]:
    """Return the slice of each SOP instance that holds exactly one; multi-frame objects give -1."""
    count = Counter(text_of(ds, "SOPInstanceUID") for ds in datasets)
    return {
        uid: index if count[uid] == 1 else -1
        for index, uid in enumerate(text_of(ds, "SOPInstanceUID") for ds in datasets)
    }
