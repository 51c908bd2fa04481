"""What a computation answered, read from the objects it wrote: the maps, the verdict, the contours.

Reads REG, DEFREG, RTSTRUCT and `metrics.json` as a TPS and a script would. Compares nothing.

Read first: DICOM PS3.3 C.20.2 and C.20.3 (Spatial and Deformable Spatial Registration).
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pydicom
from pydicom import Dataset
from scipy import ndimage

from handlers.decode.deformations import written_grid
from handlers.geometry import Geometry, Points, RigidTransform
from node.compute_job import METRICS_FILE
from node.errors import NodeError

BACK_STEPS = 60
"""Steps in which a deformation is undone; one that needs more is too steep to be undone."""


@dataclass(frozen=True, slots=True, eq=False)
class WrittenGrid:
    """The vectors of a DEFREG: the MR point of a CT point x on the grid is x + vector."""

    geometry: Geometry
    vectors_mm: npt.NDArray[np.float64]

    def jacobian_bounds(self) -> tuple[float, float]:
        """Return smallest and largest determinant of the map's derivative, central differences."""
        slopes = np.stack([np.gradient(self.vectors_mm, axis=k) for k in range(3)], axis=-1)
        index_from_patient = np.linalg.inv(self.geometry.patient_from_index[:3, :3])
        found = np.linalg.det(slopes @ index_from_patient + np.eye(3))
        return float(found.min()), float(found.max())


@dataclass(frozen=True, slots=True, eq=False)
class FoundRegistration:
    """One registration as it was written.

    Attributes:
        ct_from_mr: From the Spatial Registration object.
        grid: From the Deformable Spatial Registration object, or None.
        told: Its entry in `metrics.json`.
    """

    ct_from_mr: RigidTransform
    grid: WrittenGrid | None
    told: Mapping[str, Any]

    @property
    def status(self) -> str:
        """The verdict."""
        return str(self.told["status"])

    @property
    def uncertainty_mm(self) -> float:
        """The uncertainty that is stated."""
        return float(self.told["uncertainty_mm"])

    @property
    def leading_series_uid(self) -> str:
        """The series that was registered."""
        return str(self.told["leading_series_uid"])

    @property
    def told_ct_from_mr(self) -> RigidTransform:
        """The map as `metrics.json` has it."""
        frames = self.ct_from_mr.to_frame_uid, self.ct_from_mr.from_frame_uid
        return RigidTransform(np.array(self.told["ct_from_mr"]), *frames)

    def mr_points(self, ct_points: npt.ArrayLike, series_uid: str = "") -> Points:
        """Return where a series (none named: the leading one) is said to show points of the CT."""
        at = np.asarray(ct_points, dtype=np.float64).reshape(-1, 3)
        found = self.ct_from_mr.inverse().apply(at)
        if self.grid is not None:
            geometry = self.grid.geometry
            index = geometry.indices_from_points(at)
            inside = np.all((index >= 0) & (index <= np.array(geometry.shape) - 1.0), axis=1)
            moved = [
                ndimage.map_coordinates(self.grid.vectors_mm[..., k], index[inside].T, order=1)
                for k in range(3)
            ]
            found[inside] = at[inside] + np.stack(moved, axis=1)
        shift = self.told.get("series_shifts_mm", {}).get(series_uid)
        if shift is not None:
            found = self.ct_from_mr.inverse().apply(self.ct_from_mr.apply(found) - np.array(shift))
        return found

    def in_ct_axes(self, mr_vectors: Points) -> Points:
        """Return vectors of the MR's frame along the axes of the CT's frame."""
        return np.asarray(mr_vectors @ self.ct_from_mr.matrix[:3, :3].T)

    def forth_and_back_mm(self, ct_points: Points) -> float:
        """Return how far CT points lie from themselves after a way to the MR and back, at worst.

        Forth by the written objects, back by the map that `metrics.json` tells or, where a
        deformation was written, by undoing it.
        """
        wanted = self.mr_points(ct_points)
        if self.grid is None:
            return float(np.abs(self.told_ct_from_mr.apply(wanted) - ct_points).max())
        at = self.told_ct_from_mr.apply(wanted)
        for _ in range(BACK_STEPS):
            at = at + self.in_ct_axes(wanted - self.mr_points(at))
        return float(np.abs(at - ct_points).max())


@dataclass(frozen=True, slots=True, eq=False)
class FoundResult:
    """A whole result set.

    Attributes:
        folder: Where it lies.
        metrics: Content of `metrics.json`.
        registrations: In its order, those of MR.
    """

    folder: Path
    metrics: Mapping[str, Any]
    registrations: tuple[FoundRegistration, ...]

    @property
    def only(self) -> FoundRegistration:
        """The registration of a case with one MR frame of reference.

        Raises:
            NodeError: There are several, or there is none.
        """
        if len(self.registrations) != 1:
            raise NodeError(
                f"{len(self.registrations)} MR frames of reference were registered, not one",
                hint="give the MR of one visit to the scanner",
            )
        return self.registrations[0]


def read_result(folder: Path) -> FoundResult:
    """Return the result set that `process` left in a folder.

    Raises:
        NodeError: A registration object is not what it should be.
    """
    metrics = json.loads((folder / METRICS_FILE).read_text(encoding="utf-8"))
    found = []
    for number, told in enumerate(metrics["registrations"], start=1):
        if told.get("kind", "mr") != "mr":
            continue
        ct_from_mr = _rigid(pydicom.dcmread(folder / f"REG_{number}.dcm"), told)
        deformable = folder / f"DEFREG_{number}.dcm"
        grid = _grid(pydicom.dcmread(deformable)) if deformable.exists() else None
        if (grid is not None) != bool(told.get("deformation", {}).get("accepted")):
            raise NodeError("metrics.json and the written objects disagree about a deformation")
        found.append(FoundRegistration(ct_from_mr, grid, told))
    return FoundResult(folder, metrics, tuple(found))


def _rigid(ds: Dataset, told: Mapping[str, Any]) -> RigidTransform:
    frame = str(told["frame_of_reference_uid"])
    # where both share a frame of reference, the item of the CT comes first and holds the identity
    items = [i for i in ds.RegistrationSequence if i.FrameOfReferenceUID == frame]
    if not items:
        raise NodeError("a Spatial Registration does not name the MR's frame of reference")
    (matrix,) = items[-1].MatrixRegistrationSequence[0].MatrixSequence
    values = [float(v) for v in matrix.FrameOfReferenceTransformationMatrix]
    return RigidTransform(np.reshape(values, (4, 4)), str(ds.FrameOfReferenceUID), frame)


def _grid(ds: Dataset) -> WrittenGrid:
    geometry, vectors = written_grid(ds)
    return WrittenGrid(geometry, vectors.astype(np.float64))
