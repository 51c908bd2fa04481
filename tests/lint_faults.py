"""Whole, clean objects and one fault for each rule of the export gate, as issue threads tell them.

A fault is what a program did to a good object; `place` is where `hilum lint` must point. Objects go
through a file's bytes before they are judged, as everything that is sent does.
"""

import copy
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from io import BytesIO

from pydicom import Dataset, dcmread
from pydicom.config import disable_value_validation
from pydicom.datadict import dictionary_VR
from pydicom.dataelem import RawDataElement
from pydicom.dataset import FileMetaDataset
from pydicom.tag import Tag
from pydicom.uid import (
    EncapsulatedPDFStorage,
    ExplicitVRLittleEndian,
    GrayscaleSoftcopyPresentationStateStorage,
)

from handlers.lint import PlanningSystem, Problem, Report, Subject, lint
from node.phantom import PhantomOptions, make_study
from tests.encode_cases import EncodeCase, build_case, bytes_of, written
from tests.test_encode_deformable import with_field


class World(dict[str, Dataset]):
    """Objects by name: a CT with all that a node makes of it, and a dose with its plan.

    An object is copied when it is first asked for; those that nobody asked for are the clean ones.
    """

    def __init__(self, clean: Mapping[str, Dataset]) -> None:
        super().__init__(clean)
        self.untouched = set(clean)

    def __getitem__(self, name: str) -> Dataset:
        if name in self.untouched:
            self[name] = copy.deepcopy(super().__getitem__(name))
        return super().__getitem__(name)

    def __setitem__(self, name: str, ds: Dataset) -> None:
        self.untouched.discard(name)
        super().__setitem__(name, ds)

    def only(self, *names: str) -> "World":
        """Return a world of some of these objects."""
        world = World({})
        for name in names:
            world[name] = self[name]
        return world


SET, REG, DEFREG, SEG, SR = "RTSTRUCT.dcm", "REG_1.dcm", "DEFREG_1.dcm", "SEG.dcm", "SR.dcm"
MR, MR_2, CT, CT_2 = "MR_1/0001.dcm", "MR_1/0002.dcm", "CT/0.dcm", "CT/1.dcm"
DOSE, PLAN, PDF, STATE = "DOSE.dcm", "PLAN.dcm", "PDF.dcm", "STATE.dcm"


@lru_cache(maxsize=1)
def _clean() -> dict[str, Dataset]:
    case: EncodeCase = with_field(build_case())
    world = {f"CT/{i}.dcm": copy.deepcopy(ds) for i, ds in enumerate(case.sources.ct)}
    for index in range(len(case.sources.ct)):
        _complete(world[f"CT/{index}.dcm"])
    results = {n: ds for n, ds in written(case).items() if not n.startswith("MR_2")}
    world |= {name: copy.deepcopy(ds) for name, ds in results.items()}
    world[SET].RTROIObservationsSequence[1].RTROIInterpretedType = "GTV"
    study = make_study(PhantomOptions(seed=5, size="tiny"))
    assert study.dose is not None
    assert study.plan is not None
    world[DOSE], world[PLAN] = copy.deepcopy(study.dose), copy.deepcopy(study.plan)
    world[DOSE].FrameOfReferenceUID = case.sources.ct[0].FrameOfReferenceUID
    world[PDF] = _like(world[SR], EncapsulatedPDFStorage, "DOC")
    world[PDF].ContentDate = world[PDF].ContentTime = world[PDF].AcquisitionDateTime = None
    world[PDF].InstanceNumber, world[PDF].BurnedInAnnotation = 1, "YES"
    world[PDF].ConversionType, world[PDF].DocumentTitle = "SYN", None
    world[PDF].ConceptNameCodeSequence = []
    world[PDF].MIMETypeOfEncapsulatedDocument = "application/pdf"
    world[PDF].EncapsulatedDocument = b"%PDF-1.4 \n"
    world[STATE] = _state(world)
    return world


def _complete(ds: Dataset) -> None:
    """Give a CT header of the case what a CT Image needs besides."""
    ds.ImageType, ds.KVP, ds.AcquisitionNumber = ["ORIGINAL", "PRIMARY", "AXIAL"], "120", 1
    ds.SeriesNumber, ds.PositionReferenceIndicator = 2, None
    ds.RescaleIntercept, ds.RescaleSlope = "-1024", "1"
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 16, 15, 0


def _like(source: Dataset, sop_class_uid: str, modality: str) -> Dataset:
    """Return the beginnings of another object of the same patient and study."""
    ds = Dataset()
    for keyword in ("SpecificCharacterSet", "PatientName", "PatientID", "PatientBirthDate",
                    "PatientSex", "StudyInstanceUID", "StudyDate", "StudyTime", "StudyID",
                    "AccessionNumber", "ReferringPhysicianName", "Manufacturer"):  # fmt: skip
        ds[keyword] = copy.deepcopy(source[keyword])
    ds.SOPClassUID, ds.Modality = sop_class_uid, modality
    ds.SOPInstanceUID = f"1.2.826.0.9.{len(modality)}.1"
    ds.SeriesInstanceUID, ds.SeriesNumber = f"1.2.826.0.9.{len(modality)}", 1
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    return ds


def _state(world: Mapping[str, Dataset]) -> Dataset:
    ds = _like(world[SR], GrayscaleSoftcopyPresentationStateStorage, "PR")
    ds.InstanceNumber, ds.ContentLabel, ds.ContentDescription = 1, "CONTOURS", None
    ds.ContentCreatorName, ds.PresentationLUTShape = None, "IDENTITY"
    ds.PresentationCreationDate, ds.PresentationCreationTime = "20260101", "120000"
    image, series, area = Dataset(), Dataset(), Dataset()
    image.ReferencedSOPClassUID = world[CT].SOPClassUID
    image.ReferencedSOPInstanceUID = world[CT].SOPInstanceUID
    series.SeriesInstanceUID = world[CT].SeriesInstanceUID
    series.ReferencedImageSequence = [image]
    area.DisplayedAreaTopLeftHandCorner, area.DisplayedAreaBottomRightHandCorner = [1, 1], [40, 48]
    area.PresentationSizeMode, area.PresentationPixelAspectRatio = "SCALE TO FIT", [1, 1]
    ds.ReferencedSeriesSequence, ds.DisplayedAreaSelectionSequence = [series], [area]
    return ds


def clean_world() -> World:
    """Return objects that a test may spoil."""
    return World(_clean())


@lru_cache(maxsize=1)
def _clean_subjects() -> dict[str, Subject]:
    return {name: Subject(name, through_a_file(ds)) for name, ds in _clean().items()}


@contextmanager
def unchecked() -> Iterator[None]:
    """Let pydicom take values that the standard forbids, silently."""
    with warnings.catch_warnings(), disable_value_validation():
        warnings.simplefilter("ignore")
        yield


def through_a_file(ds: Dataset) -> Dataset:
    """Return what a receiver reads."""
    with unchecked():
        return dcmread(BytesIO(bytes_of(ds)))


def judged(world: World, tps: Collection[PlanningSystem] = ()) -> Report:
    """Return what lint says about all objects together."""
    return lint(
        [
            _clean_subjects()[name]
            if name in world.untouched
            else Subject(name, through_a_file(world[name]))
            for name in world
        ],
        tps,
    )


def found(problems: Collection[Problem]) -> set[tuple[str, str, str]]:
    """Return object, rule and place of problems."""
    return {(p.name, p.rule.id, str(p.place)) for p in problems}


@dataclass(frozen=True, slots=True)
class Fault:
    """What a program did to a good object.

    Attributes:
        rule: That must find it.
        name: Of the object at which it is told.
        place: Begin of the place that is told.
        spoil: Does it.
        tps: For which planning system.
        thread: Where it was reported.
    """

    rule: str
    name: str
    place: str
    spoil: Callable[[World], None]
    tps: PlanningSystem | None = None
    thread: str = ""

    def __str__(self) -> str:
        return f"{self.rule} {self.thread}".strip()


def spoiled(fault: "Fault") -> World:
    """Return a world in which one thing is wrong."""
    world = clean_world()
    with unchecked():
        fault.spoil(world)
    return world


def put(name: str, keyword: str, value: object, *path: str | int) -> Callable[[World], None]:
    """Return what writes a value, at the top or in an item (numbered from 1) of a sequence."""

    def spoil(world: World) -> None:
        item_at(world[name], *path).__setattr__(keyword, value)

    return spoil


def drop(name: str, keyword: str, *path: str | int) -> Callable[[World], None]:
    """Return what removes an attribute."""

    def spoil(world: World) -> None:
        delattr(item_at(world[name], *path), keyword)

    return spoil


def put_bytes(name: str, keyword: str, value: bytes, *path: str | int) -> Callable[[World], None]:
    """Return what writes bytes as they are: libraries mend what careless programs write."""

    def spoil(world: World) -> None:
        tag = Tag(keyword)
        element = RawDataElement(tag, dictionary_VR(tag), len(value), value, 0, False, True)
        item_at(world[name], *path)[tag] = element

    return spoil


def item_at(ds: Dataset, *path: str | int) -> Dataset:
    """Return the item to which keywords and numbers lead."""
    for step in path:
        ds = ds[step - 1] if isinstance(step, int) else ds[step].value  # type: ignore[assignment]
    return ds
