"""Histograms of a clinical plan against those that its planning system put into the RTDOSE.

The system ends structures on their end contours. Its DVH Data are in Gy; its DVH Maximum, Minimum
and Mean Dose are called Gy and hold percent of the 14 Gy prescribed.
"""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pydicom
import pytest
from pydicom import Dataset

from handlers.dose_results import Dvh, EndCap
from handlers.dosimetry.histogram import histogram
from handlers.dosimetry.solids import solid_from_contours
from handlers.geometry import Geometry
from handlers.values import Contour, DoseGrid

Floats = npt.NDArray[np.float64]

PRESCRIBED_GY = 14.0
LEVELS = np.linspace(0.01, 0.99, 99)
"""Parts of the volume at which doses are compared."""

EXPLAINED = {
    "BODY": "its embedded curve has a mean of 0.48 Gy, the object itself says 3.30 % = 0.46 Gy as "
    "we find; 5 % of the volume, all of it below 0.2 Gy, is missing from the curve",
    "Scar": "ribbons of 0.5 cm3, thinner than 3 mm: the embedded volume is a third below the sum "
    "of the contours' areas",
}


@pytest.fixture(scope="module")
def plan(real_data: Path) -> tuple[Dataset, Dataset, DoseGrid]:
    structures = pydicom.dcmread(real_data / "rt-dose-plan" / "rtss.dcm")
    ds = pydicom.dcmread(real_data / "rt-dose-plan" / "rtdose.dcm")
    offsets = [float(z) for z in ds.GridFrameOffsetVector]
    matrix = np.eye(4)
    steps = (offsets[1] - offsets[0], *(float(side) for side in ds.PixelSpacing))
    matrix[:3, :3] = np.eye(3)[:, ::-1] * steps
    matrix[:3, 3] = ds.ImagePositionPatient
    values = ds.pixel_array * float(ds.DoseGridScaling)
    geometry = Geometry("1.2", matrix, values.shape)
    return structures, ds, DoseGrid(geometry, values.astype(np.float32))


def contours_of(structures: Dataset, number: int) -> list[Contour]:
    for item in structures.ROIContourSequence:
        if item.ReferencedROINumber == number:
            drawn = [np.array(c.ContourData, dtype=np.float64) for c in item.ContourSequence]
            return [Contour(values.reshape(-1, 3)) for values in drawn]
    return []


def embedded(item: Dataset) -> tuple[Floats, Floats]:
    """Return dose in Gy and the part of the volume that gets at least that much."""
    steps = np.array(item.DVHData, dtype=np.float64).reshape(-1, 2)
    widths = steps[:, 0] * float(item.DVHDoseScaling)
    return np.cumsum(widths) - widths, steps[:, 1] / steps[0, 1]


def farthest_gy(ours: Dvh, theirs: tuple[Floats, Floats]) -> float:
    """Return how far the curves are apart in dose, at the worst of all parts of the volume."""
    dose, part = theirs
    expected = np.interp(-LEVELS, -part, dose)
    found = np.array([ours.dose_to_cm3(level * ours.structure_cm3) for level in LEVELS])
    return float(np.abs(found - expected).max())


@pytest.mark.real_data
@pytest.mark.filterwarnings("ignore:The value length")
def test_clinical_histograms_agree_with_the_embedded(
    plan: tuple[Dataset, Dataset, DoseGrid],
) -> None:
    structures, ds, dose = plan
    names = {int(r.ROINumber): str(r.ROIName) for r in structures.StructureSetROISequence}
    apart, means = {}, {}
    for item in ds.DVHSequence:
        number = int(item.DVHReferencedROISequence[0].ReferencedROINumber)
        solid = solid_from_contours(contours_of(structures, number), dose.geometry, EndCap.NONE)
        dvh = histogram(solid, dose)
        assert dvh is not None
        assert dvh.covered_fraction > 0.999
        apart[names[number]] = farthest_gy(dvh, embedded(item)) / PRESCRIBED_GY
        means[names[number]] = dvh.mean_gy / PRESCRIBED_GY - float(item.DVHMeanDose) / 100.0
    assert len(apart) == 9
    assert {name for name, part in apart.items() if part > 0.01} == set(EXPLAINED), apart
    assert all(abs(off) < 0.001 for name, off in means.items() if name != "Scar"), means


@pytest.mark.real_data
@pytest.mark.filterwarnings("ignore:The value length")
def test_embedded_curve_of_the_body_contradicts_the_mean_beside_it(
    plan: tuple[Dataset, Dataset, DoseGrid],
) -> None:
    """The explanation of `BODY`, without our engine."""
    _, ds, _ = plan
    dose, part = embedded(ds.DVHSequence[0])
    own_mean = float((-np.diff(part, append=0.0) * (dose + 0.005)).sum())
    said = float(ds.DVHSequence[0].DVHMeanDose) / 100.0 * PRESCRIBED_GY
    assert (own_mean, said) == (pytest.approx(0.483, abs=0.002), pytest.approx(0.462, abs=0.002))
