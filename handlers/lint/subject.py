"""What is checked: one object with its name, and all the objects that were given together.

Views that several rules need (contours as points, series as stacks of planes) are made here, once.
"""

from collections import defaultdict
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
from pydicom import Dataset
from pydicom.uid import CTImageStorage, MRImageStorage, PositronEmissionTomographyImageStorage

from handlers.lint.reading import (
    Floats,
    element,
    items,
    items_of,
    number,
    numbers,
    tag_of,
    text,
    vector,
    vr_of,
    whole,
)
from handlers.lint.rule import Place

PLANES = (CTImageStorage, MRImageStorage, PositronEmissionTomographyImageStorage)
"""Objects that are one plane each: many make a series in which a point has a place."""

REFERENCED_INSTANCE = tag_of("ReferencedSOPInstanceUID")
"""The element by which objects name each other."""


@dataclass(frozen=True, slots=True, eq=False)
class DrawnContour:
    """A contour as it was sent.

    Attributes:
        item: Its item in the Contour Sequence.
        place: Of that item.
        roi: ROI Number that it belongs to; None where that is no number.
        kind: Contour Geometric Type.
        count: Number of values in Contour Data; None where they are not all numbers.
        points: Shape (n, 3), LPS mm; None where the values are no points.
        images: SOP Instance UIDs that it refers to.
    """

    item: Dataset
    place: Place
    roi: int | None
    kind: str
    count: int | None
    points: Floats | None
    images: tuple[str, ...]

    @property
    def of_points(self) -> Place:
        """Return the place of Contour Data."""
        return Place((*self.place.steps, *Place.of("ContourData").steps))


class Subject:
    """One object.

    Attributes:
        name: As the user named it.
        ds: Its dataset; only read, through `handlers.lint.reading`.
    """

    def __init__(self, name: str, ds: Dataset) -> None:
        self.name = name
        self.ds = ds

    @cached_property
    def sop_class_uid(self) -> str:
        """Return the SOP Class UID."""
        return text(self.ds, "SOPClassUID")

    @cached_property
    def sop_instance_uid(self) -> str:
        """Return the SOP Instance UID."""
        return text(self.ds, "SOPInstanceUID")

    @cached_property
    def series_uid(self) -> str:
        """Return the Series Instance UID."""
        return text(self.ds, "SeriesInstanceUID")

    @cached_property
    def frame_uid(self) -> str:
        """Return the Frame of Reference UID."""
        return text(self.ds, "FrameOfReferenceUID")

    @cached_property
    def transfer_syntax_uid(self) -> str:
        """Return the transfer syntax; empty where the dataset was not read from a file."""
        meta = getattr(self.ds, "file_meta", None)
        return str(getattr(meta, "TransferSyntaxUID", "") or "")

    @cached_property
    def contours(self) -> tuple[DrawnContour, ...]:
        """Return every contour of a structure set."""
        return tuple(self._contours())

    def _contours(self) -> Iterator[DrawnContour]:
        for i, roi in enumerate(items(self.ds, "ROIContourSequence"), start=1):
            roi_number = whole(roi, "ReferencedROINumber")
            for j, item in enumerate(items(roi, "ContourSequence"), start=1):
                values = numbers(item, "ContourData")
                is_points = (
                    values is not None and values.size % 3 == 0 and bool(np.isfinite(values).all())
                )
                yield DrawnContour(
                    item,
                    Place.of("ROIContourSequence", i, "ContourSequence", j),
                    roi_number,
                    text(item, "ContourGeometricType"),
                    None if values is None else int(values.size),
                    values.reshape(-1, 3) if values is not None and is_points else None,
                    tuple(
                        text(r, "ReferencedSOPInstanceUID")
                        for r in items(item, "ContourImageSequence")
                    ),
                )

    @cached_property
    def listed_images(self) -> Mapping[str, frozenset[str]]:
        """Return which instances a structure set lists, by Series Instance UID."""
        listed: dict[str, set[str]] = defaultdict(set)
        for frame in items(self.ds, "ReferencedFrameOfReferenceSequence"):
            for study in items(frame, "RTReferencedStudySequence"):
                for series in items(study, "RTReferencedSeriesSequence"):
                    listed[text(series, "SeriesInstanceUID")] |= {
                        text(image, "ReferencedSOPInstanceUID")
                        for image in items(series, "ContourImageSequence")
                    }
        return {uid: frozenset(images) for uid, images in listed.items()}

    @cached_property
    def referenced_instances(self) -> tuple[str, ...]:
        """Return every SOP Instance UID that the object refers to, at any depth, once."""
        return tuple(dict.fromkeys(_references(self.ds)))


def _references(ds: Dataset) -> Iterator[str]:
    for tag in list(ds.keys()):
        if tag == REFERENCED_INSTANCE:
            yield text(ds, "ReferencedSOPInstanceUID")
            continue
        found = element(ds, tag)
        if found is None or vr_of(found) != "SQ":
            continue
        for item in items_of(ds, tag):
            yield from _references(item)


@dataclass(frozen=True, slots=True, eq=False)
class Stack:
    """A series of planes that share one orientation, in the order of their positions.

    Attributes:
        along_row: Unit vector along which the columns are counted.
        along_column: Unit vector along which the rows are counted.
        positions: Centre of the first voxel of each plane, LPS mm.
        at_mm: Position of each plane along the normal, growing.
        spacing_mm: Of rows and of columns.
        shape: Rows, columns.
    """

    subjects: tuple[Subject, ...]
    along_row: Floats
    along_column: Floats
    positions: Floats
    at_mm: Floats
    spacing_mm: Floats
    shape: tuple[int, int]

    @property
    def normal(self) -> Floats:
        """Return the unit vector along which the planes lie."""
        return np.cross(self.along_row, self.along_column)

    @property
    def centre(self) -> Floats:
        """Return the middle of the box, LPS mm."""
        return np.asarray(self._points([0.5, 0.5]).mean(axis=0))

    def _points(self, part: Sequence[float]) -> Floats:
        across = (self.shape[1] - 1) * self.spacing_mm[1] * part[0] * self.along_row
        down = (self.shape[0] - 1) * self.spacing_mm[0] * part[1] * self.along_column
        return np.asarray(self.positions[[0, -1]] + across + down)

    def in_plane_mm(self, points: Floats) -> Floats:
        """Return how far points lie from the first voxel along a row and along a column."""
        apart = points - self.positions[0]
        return np.stack([apart @ self.along_row, apart @ self.along_column], axis=-1)

    def is_inside(self, points: Floats, margin_mm: float) -> npt.NDArray[np.bool_]:
        """Return for each point whether it lies in the box, widened by a margin."""
        across = self.in_plane_mm(points)
        size = np.array([self.shape[1] - 1, self.shape[0] - 1]) * self.spacing_mm[::-1]
        depth = points @ self.normal
        return np.asarray(
            (across >= -margin_mm).all(axis=-1)
            & (across <= size + margin_mm).all(axis=-1)
            & (depth >= self.at_mm[0] - margin_mm)
            & (depth <= self.at_mm[-1] + margin_mm)
        )


class Together:
    """All objects that were given together, found by their UIDs."""

    def __init__(self, subjects: Sequence[Subject]) -> None:
        self.subjects = tuple(subjects)
        self.clean: set[Hashable] = set()
        """What a check was told of a sequence, and the bytes it was sent as, where it found no
        fault: the images of a series repeat hundreds of references, which are read once."""

    @cached_property
    def by_instance(self) -> Mapping[str, tuple[Subject, ...]]:
        """Return objects by SOP Instance UID."""
        return self._by("sop_instance_uid")

    @cached_property
    def by_series(self) -> Mapping[str, tuple[Subject, ...]]:
        """Return objects by Series Instance UID."""
        return self._by("series_uid")

    def _by(self, attribute: str) -> Mapping[str, tuple[Subject, ...]]:
        found: dict[str, list[Subject]] = defaultdict(list)
        for subject in self.subjects:
            uid = getattr(subject, attribute)
            if uid:
                found[uid].append(subject)
        return {uid: tuple(those) for uid, those in found.items()}

    @cached_property
    def stacks(self) -> Mapping[str, Stack]:
        """Return the series that are stacks of planes, by Series Instance UID."""
        found = {}
        for uid, subjects in self.by_series.items():
            stack = _stack([s for s in subjects if s.sop_class_uid in PLANES])
            if stack is not None:
                found[uid] = stack
        return found

    def of_class(self, *sop_class_uids: str) -> Iterator[Subject]:
        """Return the objects of some SOP classes."""
        return (s for s in self.subjects if s.sop_class_uid in sop_class_uids)

    def leads(self, subject: Subject) -> bool:
        """Return whether this is the first object of its series: there a series is judged."""
        return self.by_series.get(subject.series_uid, (subject,))[0] is subject


def _stack(subjects: Sequence[Subject]) -> Stack | None:
    planes = []
    for subject in subjects:
        position = vector(subject.ds, "ImagePositionPatient", 3)
        orientation = vector(subject.ds, "ImageOrientationPatient", 6)
        if position is not None and orientation is not None:
            planes.append((subject, position, orientation))
    if not planes:
        return None
    orientation = planes[0][2]
    if any(np.abs(o - orientation).max() > 1e-3 for _, _, o in planes):
        return None
    along_row, along_column = orientation[:3], orientation[3:]
    spacing = vector(planes[0][0].ds, "PixelSpacing", 2)
    rows, columns = (number(planes[0][0].ds, k) for k in ("Rows", "Columns"))
    if spacing is None or rows is None or columns is None:
        return None
    normal = np.cross(along_row, along_column)
    order = sorted(range(len(planes)), key=lambda i: float(planes[i][1] @ normal))
    positions = np.array([planes[i][1] for i in order])
    return Stack(
        tuple(planes[i][0] for i in order),
        along_row,
        along_column,
        positions,
        positions @ normal,
        spacing,
        (int(rows), int(columns)),
    )
