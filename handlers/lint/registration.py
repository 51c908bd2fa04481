"""Rules on Spatial Registration and Deformable Spatial Registration objects."""

from collections.abc import Iterator

import numpy as np
from pydicom import Dataset
from pydicom.uid import DeformableSpatialRegistrationStorage, SpatialRegistrationStorage

from handlers.lint.reading import Floats, element, items, length_of, numbers, tag_of, text, vector
from handlers.lint.rule import Broken, Level, NotChecked, Place, Rule, looks_for
from handlers.lint.subject import Stack, Subject, Together

_RIGID = (SpatialRegistrationStorage,)
_DEFORMABLE = (DeformableSpatialRegistrationStorage,)

NO_SOURCE = Rule(
    "reg.no-source",
    Level.ERROR,
    "an item names neither a frame of reference nor images: nobody knows what it moves",
    "PS3.3 C.20.2 (type 1C); SlicerRt/SlicerRT#41",
    "write Frame of Reference UID and Referenced Image Sequence",
    _RIGID,
)
MATRIX = Rule(
    "reg.matrix-unusable",
    Level.ERROR,
    "a matrix has not 16 finite numbers",
    "PS3.3 C.20.2",
    "write 4 x 4 numbers, row by row",
    (*_RIGID, *_DEFORMABLE),
)
LAST_ROW = Rule(
    "reg.last-row",
    Level.ERROR,
    "the last row of a matrix is not 0 0 0 1",
    "PS3.3 C.20.2.1.1",
    "write the matrix row by row; the translation stands in the fourth column",
    (*_RIGID, *_DEFORMABLE),
)
NOT_ORTHONORMAL = Rule(
    "reg.not-orthonormal",
    Level.ERROR,
    "a matrix that is told to be RIGID scales or shears",
    "PS3.3 C.20.2.1.2",
    "write a rotation, or tell RIGID_SCALE or AFFINE",
    (*_RIGID, *_DEFORMABLE),
)
COARSE = Rule(
    "reg.coarse",
    Level.WARNING,
    "a RIGID matrix is rounded so that it is not orthonormal to 1e-6",
    "PS3.3 C.20.2.1.2",
    "write more digits (16 characters are allowed)",
    (*_RIGID, *_DEFORMABLE),
)
MIRROR = Rule(
    "reg.mirrors",
    Level.ERROR,
    "a RIGID matrix mirrors (its determinant is -1)",
    "PS3.3 C.20.2.1.2",
    "check the axes: DICOM is LPS, NIfTI and ITK-SNAP may be RAS",
    (*_RIGID, *_DEFORMABLE),
)
SEVERAL = Rule(
    "reg.several-matrices",
    Level.WARNING,
    "an item has several matrices; readers disagree on their order",
    "PS3.3 C.20.2.1.1; Slicer forum 41636",
    "multiply them and write one",
    _RIGID,
)
NO_IDENTITY = Rule(
    "reg.no-identity",
    Level.WARNING,
    "no item stands for the registered frame of reference itself (identity)",
    "IHE-RO MMRO practice",
    "add an item with the object's own Frame of Reference UID and the identity",
    _RIGID,
    is_confirmed=False,
)
OWN_MOVED = Rule(
    "reg.own-frame-moved",
    Level.WARNING,
    "an item moves the object's own frame of reference: that can only mean a correction of single "
    "images, and readers that go by frame apply it to all",
    "PS3.3 C.20.2.1.1",
    "name the images (Referenced Image Sequence), or give the moved series a frame of its own",
    _RIGID,
)
NO_SERIES = Rule(
    "reg.no-series",
    Level.WARNING,
    "the registration names no image of either side",
    "PS3.3 C.12.2, C.20.2; SlicerRt/SlicerRT#41, #42",
    "write Common Instance Reference with both series",
    (*_RIGID, *_DEFORMABLE),
)
FRAME_OF_IMAGES = Rule(
    "reg.frame-of-images",
    Level.ERROR,
    "an item names images that lie in another frame of reference than the item",
    "PS3.3 C.20.2",
    "copy Frame of Reference UID from the images",
    _RIGID,
)
INVERTED = Rule(
    "reg.direction",
    Level.WARNING,
    "the matrix moves the source images out of the registered ones, its inverse moves them in: it "
    "looks inverted",
    "PS3.3 C.20.2.1.1 (source to registered); microsoft/InnerEye-DICOM-RT#6",
    "invert it: ITK and SimpleITK resample with the other direction",
    _RIGID,
)
NO_GRID = Rule(
    "defreg.no-grid",
    Level.ERROR,
    "no item has a deformation grid",
    "PS3.3 C.20.3",
    "write a grid, or use Spatial Registration",
    _DEFORMABLE,
)
GRID_LENGTH = Rule(
    "defreg.grid-length",
    Level.ERROR,
    "Vector Grid Data has not 12 bytes for each point of the grid",
    "PS3.3 C.20.3.1.2",
    "write x, y, z as 32-bit floats, x fastest",
    _DEFORMABLE,
)
GRID_GEOMETRY = Rule(
    "defreg.grid-geometry",
    Level.ERROR,
    "the grid has no positive resolution, or axes that are not orthonormal",
    "PS3.3 C.20.3.1.2",
    "write the spacing in mm and unit vectors",
    _DEFORMABLE,
)
GRID_ELSEWHERE = Rule(
    "defreg.grid-elsewhere",
    Level.WARNING,
    "the grid lies apart from the images in the object's own frame: direction or origin is wrong",
    "PS3.3 C.20.3.1.1 (registered to source)",
    "lay the grid over the registered images and store where each point comes from",
    _DEFORMABLE,
)
PRE_POST = Rule(
    "defreg.matrices",
    Level.WARNING,
    "matrices stand before or after the grid; some importers ignore them",
    "PS3.3 C.20.3.1.1",
    "put the whole displacement into the grid",
    _DEFORMABLE,
    is_confirmed=False,
)

ORTHONORMAL = 1e-4
"""Largest departure of R RT from the identity that a reader should bear."""

FINE = 1e-6
"""Departure that six written decimals stay below."""

IDENTITY = 1e-6


@looks_for(NO_SOURCE, NO_IDENTITY, OWN_MOVED, SEVERAL, NO_SERIES)
def sources(subject: Subject, _together: Together) -> Iterator[Broken | NotChecked]:
    """Look at what each item moves."""
    has_identity = False
    entries = items(subject.ds, "RegistrationSequence")
    for index, item in enumerate(entries, start=1):
        place = Place.of("RegistrationSequence", index)
        frame, images = text(item, "FrameOfReferenceUID"), items(item, "ReferencedImageSequence")
        if not frame and not images:
            yield Broken(place, rule=NO_SOURCE)
        is_identity = all(
            m is not None and np.abs(m - np.eye(4)).max() <= IDENTITY for _, _, m in _rigid(item)
        )
        if frame == subject.frame_uid and is_identity:
            has_identity = True
        elif frame == subject.frame_uid:
            yield Broken(place, rule=OWN_MOVED)
        for here, told in _matrix_items(item, place):
            if len(told) > 1:
                yield Broken(here, f"{len(told)} matrices", SEVERAL)
    if entries and not has_identity:
        yield Broken(Place.of("RegistrationSequence"), rule=NO_IDENTITY)
    if not subject.referenced_instances:
        yield Broken(Place.of("ReferencedSeriesSequence"), rule=NO_SERIES)


@looks_for(NO_SERIES, PRE_POST, NO_GRID, GRID_LENGTH, GRID_GEOMETRY, GRID_ELSEWHERE)
def grids(subject: Subject, together: Together) -> Iterator[Broken | NotChecked]:
    """Look at the grids of a deformable registration."""
    if subject.sop_class_uid not in _DEFORMABLE:
        return
    if not subject.referenced_instances:
        yield Broken(Place.of("ReferencedSeriesSequence"), rule=NO_SERIES)
    count = 0
    for index, item in enumerate(items(subject.ds, "DeformableRegistrationSequence"), start=1):
        place = Place.of("DeformableRegistrationSequence", index)
        for keyword in _PRE_POST:
            if items(item, keyword):
                yield Broken(Place((*place.steps, *Place.of(keyword).steps)), rule=PRE_POST)
        for grid in items(item, "DeformableRegistrationGridSequence"):
            count += 1
            here = Place((*place.steps, *Place.of("DeformableRegistrationGridSequence", 1).steps))
            yield from _grid(grid, here, subject, together)
    if not count:
        yield Broken(Place.of("DeformableRegistrationSequence"), rule=NO_GRID)


_PRE_POST = (
    "PreDeformationMatrixRegistrationSequence",
    "PostDeformationMatrixRegistrationSequence",
)


def _grid(
    grid: Dataset, place: Place, subject: Subject, together: Together
) -> Iterator[Broken | NotChecked]:
    size, step = vector(grid, "GridDimensions", 3), vector(grid, "GridResolution", 3)
    found = element(grid, tag_of("VectorGridData"))
    if size is not None and found is not None and length_of(found) != int(size.prod()) * 12:
        here = place.element(tag_of("VectorGridData"))
        yield Broken(here, f"{length_of(found)} bytes, {int(size.prod())} points", GRID_LENGTH)
    axes = vector(grid, "ImageOrientationPatient", 6)
    origin = vector(grid, "ImagePositionPatient", 3)
    if step is None or (step <= 0).any() or axes is None or not _is_orthonormal(axes):
        yield Broken(place, rule=GRID_GEOMETRY)
        return
    if size is None or origin is None:
        return
    row, column = axes[:3], axes[3:]
    extent = np.stack([row, column, np.cross(row, column)], axis=1) * (step * (size - 1))
    corners = origin + np.array(np.meshgrid(*[[0, 1]] * 3)).reshape(3, -1).T @ extent.T
    stacks = [s for s in together.stacks.values() if s.subjects[0].frame_uid == subject.frame_uid]
    if not stacks:
        yield NotChecked("the grid beside the registered images: give the CT too")
    elif not any(_overlap(corners, stack) for stack in stacks):
        yield Broken(place, rule=GRID_ELSEWHERE)


@looks_for(MATRIX, LAST_ROW, NOT_ORTHONORMAL, COARSE, MIRROR)
def matrices(subject: Subject, _together: Together) -> Iterator[Broken | NotChecked]:
    """Look at each matrix."""
    for place, told, matrix in _matrices(subject):
        kind = text(told, "FrameOfReferenceTransformationMatrixType")
        if matrix is None:
            yield Broken(place, rule=MATRIX)
            continue
        if np.abs(matrix[3] - [0, 0, 0, 1]).max() > IDENTITY:
            yield Broken(place, rule=LAST_ROW)
            continue
        if kind != "RIGID":
            continue
        rotation = matrix[:3, :3]
        off = float(np.abs(rotation @ rotation.T - np.eye(3)).max())
        if off > ORTHONORMAL:
            yield Broken(place, f"off by {off:.2g}", NOT_ORTHONORMAL)
        elif off > FINE:
            yield Broken(place, f"off by {off:.2g}", COARSE)
        if np.linalg.det(rotation) < 0:
            yield Broken(place, rule=MIRROR)


@looks_for(FRAME_OF_IMAGES, INVERTED)
def beside_images(subject: Subject, together: Together) -> Iterator[Broken | NotChecked]:
    """Compare a registration with the images that it joins, as far as they were given."""
    series = _referenced_stacks(subject, together)
    fixed = [s for s in together.stacks.values() if s.subjects[0].frame_uid == subject.frame_uid]
    if not fixed:
        yield NotChecked("the registration beside its images: give both series too")
    for index, item in enumerate(items(subject.ds, "RegistrationSequence"), start=1):
        place = Place.of("RegistrationSequence", index)
        frame = text(item, "FrameOfReferenceUID")
        named = {
            text(i, "ReferencedSOPInstanceUID") for i in items(item, "ReferencedImageSequence")
        }
        own = [s for s in series if any(p.sop_instance_uid in named for p in s.subjects)]
        if frame and any(s.subjects[0].frame_uid != frame for s in own):
            here = place.element(tag_of("FrameOfReferenceUID"))
            yield Broken(here, rule=FRAME_OF_IMAGES)
            continue
        if frame == subject.frame_uid or not fixed:
            continue
        moved = own or [s for s in together.stacks.values() if s.subjects[0].frame_uid == frame]
        for here, _, matrix in _rigid(item, place):
            if matrix is None or np.abs(matrix[3] - [0, 0, 0, 1]).max() > IDENTITY:
                continue
            if (
                abs(np.linalg.det(matrix)) > IDENTITY
                and moved
                and _is_inverted(matrix, moved, fixed)
            ):
                yield Broken(here, rule=INVERTED)


def _is_inverted(matrix: Floats, moved: list[Stack], fixed: list[Stack]) -> bool:
    def moves_in(m: Floats) -> bool:
        return any(
            f.is_inside((m[:3, :3] @ s.centre + m[:3, 3])[None], 0.0)[0]
            for s in moved
            for f in fixed
        )

    return not moves_in(matrix) and moves_in(np.asarray(np.linalg.inv(matrix)))


def _referenced_stacks(subject: Subject, together: Together) -> list[Stack]:
    uids = dict.fromkeys(
        other.series_uid
        for uid in subject.referenced_instances
        for other in together.by_instance.get(uid, ())
    )
    return [together.stacks[uid] for uid in uids if uid in together.stacks]


def _matrices(subject: Subject) -> Iterator[tuple[Place, Dataset, Floats | None]]:
    for index, item in enumerate(items(subject.ds, "RegistrationSequence"), start=1):
        yield from _rigid(item, Place.of("RegistrationSequence", index))
    for index, item in enumerate(items(subject.ds, "DeformableRegistrationSequence"), start=1):
        for keyword in _PRE_POST:
            for number, told in enumerate(items(item, keyword), start=1):
                place = Place.of("DeformableRegistrationSequence", index, keyword, number)
                yield _matrix(told, place)


def _rigid(
    item: Dataset, place: Place | None = None
) -> Iterator[tuple[Place, Dataset, Floats | None]]:
    for here, told in _matrix_items(item, place or Place()):
        for number, each in enumerate(told, start=1):
            yield _matrix(each, here.item(number))


def _matrix_items(item: Dataset, place: Place) -> Iterator[tuple[Place, tuple[Dataset, ...]]]:
    for number, registration in enumerate(items(item, "MatrixRegistrationSequence"), start=1):
        here = Place((*place.steps, *Place.of("MatrixRegistrationSequence", number).steps))
        told = tuple(items(registration, "MatrixSequence"))
        yield here.element(tag_of("MatrixSequence")), told


def _matrix(told: Dataset, place: Place) -> tuple[Place, Dataset, Floats | None]:
    values = numbers(told, "FrameOfReferenceTransformationMatrix")
    here = place.element(tag_of("FrameOfReferenceTransformationMatrix"))
    is_whole = values is not None and values.size == 16 and bool(np.isfinite(values).all())
    return here, told, values.reshape(4, 4) if values is not None and is_whole else None


def _is_orthonormal(axes: Floats) -> bool:
    both = axes.reshape(2, 3)
    return bool(np.abs(both @ both.T - np.eye(2)).max() <= ORTHONORMAL)


def _overlap(corners: Floats, stack: Stack) -> bool:
    if stack.is_inside(corners, 0.0).any():
        return True
    low, high = corners.min(axis=0), corners.max(axis=0)
    return bool((stack.centre >= low).all() and (stack.centre <= high).all())
