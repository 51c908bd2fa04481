"""Outside judges on our contour metrics: ITK and plastimatch, on clinical contours of others."""

import math
import subprocess
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
import pytest
import SimpleITK

from handlers.contour_metrics import Structure, compare, volumes_cm3
from handlers.decode import CaseDatasets, decode_case
from handlers.geometry import Geometry
from handlers.sampling import itk_mask, mask_from_roi
from handlers.values import Contour, Mask, Roi

SHIFT_MM = (3.0, -2.0, 0.0)
"""In the directions of columns, rows and slices."""

SHRINKING = 0.9

JUDGE_MM = 0.6
"""Voxels on which ITK judges."""


def _read(folder: Path) -> list[pydicom.Dataset]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the publisher's values are longer than their VR allows
        return [pydicom.dcmread(path) for path in sorted(folder.glob("*.dcm"))]


def _drawn_and_moved(patient: Path) -> tuple[Geometry, Structure, Structure]:
    """Return a clinical target, and the same moved and shrunk in its planes: a second opinion."""
    mr = _read(patient / "MR_T1" / "image")
    sets = CaseDatasets(
        _read(patient / "CT" / "image"),
        _read(patient / "CT" / "mask")[0],
        {mr[0].SeriesInstanceUID: mr},
    )
    case = decode_case(sets).case
    geometry, roi = case.ct.geometry, case.structure_set.rois[0]
    middle = np.concatenate([contour.points for contour in roi.contours]).mean(axis=0)
    step = geometry.axes[:, ::-1] @ np.array(SHIFT_MM)
    normal = geometry.axes[:, 0]
    moved = []
    for contour in roi.contours:
        to = contour.points - middle
        along = np.outer(to @ normal, normal)
        moved.append(Contour(middle + along + SHRINKING * (to - along) + step))
    other = Roi(2, "moved", "GTV", tuple(moved))
    pair = [Structure(mask_from_roi(each, geometry), each.contours) for each in (roi, other)]
    return geometry, pair[0], pair[1]


def _fine(mask: Mask) -> SimpleITK.Image:
    """Return a mask on voxels of `JUDGE_MM`: where ITK's distance maps of both sides meet."""
    image = itk_mask(mask)
    inward, outward = (
        SimpleITK.SignedMaurerDistanceMap(
            side, insideIsPositive=True, squaredDistance=False, useImageSpacing=True
        )
        for side in (image, SimpleITK.Equal(image, 0))
    )
    size = [
        int((count - 1) * step / JUDGE_MM)
        for count, step in zip(image.GetSize(), image.GetSpacing(), strict=True)
    ]
    level = SimpleITK.Resample(
        SimpleITK.Subtract(inward, outward),
        size,
        SimpleITK.Transform(),
        SimpleITK.sitkLinear,
        image.GetOrigin(),
        [JUDGE_MM] * 3,
        image.GetDirection(),
        -100.0,
        SimpleITK.sitkFloat32,
    )
    return SimpleITK.Cast(level > 0, SimpleITK.sitkUInt8)


def _by_itk(reference: Mask, evaluated: Mask) -> dict[str, float]:
    """Return overlap by ITK, and distances of the border voxels of finer masks, each counted once.

    Without the finer masks the treads of the steps between slices of 3.3 mm would count: they lie
    at one height in both masks, and so next to each other however far the walls are apart.
    """
    overlap = SimpleITK.LabelOverlapMeasuresImageFilter()
    overlap.Execute(itk_mask(reference), itk_mask(evaluated))
    masks = _fine(reference), _fine(evaluated)
    distances = []
    for here, there in (masks, masks[::-1]):
        away = SimpleITK.SignedMaurerDistanceMap(there, squaredDistance=False, useImageSpacing=True)
        border = SimpleITK.GetArrayFromImage(SimpleITK.LabelContour(here)) > 0
        distances.append(np.abs(SimpleITK.GetArrayFromImage(away)[border]))
    return {
        "dsc": overlap.GetDiceCoefficient(),
        "jaccard": overlap.GetJaccardCoefficient(),
        "hd_mm": max(float(each.max()) for each in distances),
        "hd95_mm": max(float(np.percentile(each, 95)) for each in distances),
        "mean_distance_to_agreement_mm": sum(float(each.mean()) for each in distances) / 2.0,
    }


@pytest.mark.real_data
@pytest.mark.filterwarnings("ignore:The value length")
@pytest.mark.parametrize("patient", ["STS_002", "STS_006"])
def test_itk_agrees_on_a_sarcoma(real_data: Path, patient: str) -> None:
    """Overlap to the last digit; distances within half a voxel of ITK's, which counts voxels.

    Slanted surfaces and flat ends have more border voxels than area; ITK's means are lower for it.
    """
    _, drawn, moved = _drawn_and_moved(real_data / "sarcoma-ct-mr" / patient)
    judged = _by_itk(drawn.mask, moved.mask)
    for name, pair in (("contours", (drawn, moved)), ("voxels", (drawn.mask, moved.mask))):
        ours = compare(*pair)
        print(name, {key: (round(ours[key], 3), round(value, 3)) for key, value in judged.items()})
        assert ours["dsc"] == pytest.approx(judged["dsc"], abs=1e-9)
        assert ours["jaccard"] == pytest.approx(judged["jaccard"], abs=1e-9)
        for key in ("hd_mm", "hd95_mm", "mean_distance_to_agreement_mm"):
            assert ours[key] == pytest.approx(judged[key], abs=JUDGE_MM / 2), (name, key)


@pytest.mark.real_data
@pytest.mark.peers
@pytest.mark.filterwarnings("ignore:The value length")
def test_plastimatch_agrees_on_a_sarcoma(
    real_data: Path, tmp_path: Path, peer_program: Callable[[str], str]
) -> None:
    """Dice, Hausdorff and mean distance of the borders as plastimatch measures them."""
    geometry, drawn, moved = _drawn_and_moved(real_data / "sarcoma-ct-mr" / "STS_002")
    for name, structure in (("drawn", drawn), ("moved", moved)):
        SimpleITK.WriteImage(itk_mask(structure.mask), str(tmp_path / f"{name}.mha"))
    told = subprocess.run(
        [peer_program("plastimatch"), "dice", "--all", "drawn.mha", "moved.mha"],
        cwd=tmp_path,
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    words = [line.replace("=", ":").rsplit(":", 1) for line in told.splitlines()]
    said = {word[0].strip(): float(word[1]) for word in words if len(word) == 2}
    ours = compare(drawn, moved)
    pixel_mm = max(geometry.spacing_mm[1:])
    print(said, {key: round(value, 3) for key, value in ours.items()})
    assert ours["dsc"] == pytest.approx(said["DICE"], abs=1e-6)
    assert ours["sensitivity"] == pytest.approx(said["SE"], abs=1e-6)
    assert ours["hd_mm"] == pytest.approx(
        said["Hausdorff distance (boundary)"], abs=pixel_mm * math.sqrt(2)
    )
    assert ours["mean_distance_to_agreement_mm"] == pytest.approx(
        said["Avg average Hausdorff distance (boundary)"], abs=pixel_mm / 2
    )


@pytest.mark.real_data
@pytest.mark.filterwarnings("ignore:The value length")
def test_volumes_of_clinical_targets_agree_whichever_way_they_are_counted(real_data: Path) -> None:
    """By voxels, by slices and within the surface: within 1.5 % of each other."""
    for patient in sorted((real_data / "sarcoma-ct-mr").glob("STS_00*")):
        _, drawn, _ = _drawn_and_moved(patient)
        volumes = volumes_cm3(drawn)
        print(patient.name, {way: round(value, 2) for way, value in volumes.items()})
        for way in ("voxels", "mesh"):
            assert volumes[way] == pytest.approx(volumes["slices"], rel=0.015), (patient.name, way)
