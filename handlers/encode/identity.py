"""Who an object is: its UIDs, and the attributes that every object of a result set shares.

UIDs are derived, never drawn at random: the same inputs, settings and algorithm version give the
same UIDs, so a case computed twice is harmless to its receivers. Patient and study are copied from
the planning CT and never invented; an absent type 2 attribute is written empty.

Dates and times that we write are UTC. Timezone Offset From UTC is left out on purpose: it would
also speak for the copied study time, whose zone we do not know.

Knows no object in particular: modules, sequences and pixel data are its siblings' part.
"""

import copy
import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.sequence import Sequence as ItemSequence
from pydicom.sr.coding import Code
from pydicom.uid import UID, ExplicitVRLittleEndian
from pydicom.valuerep import DSfloat

from handlers.encode.text import LO_LENGTH, SH_LENGTH, character_sets_of, legal_text
from handlers.errors import EncodingError
from handlers.results import CaseResult, Registration

MANUFACTURER = "Hilum"
"""Manufacturer (0008,0070) of all our objects; by it the node recognises its own."""

CREATOR_NAME = f"{MANUFACTURER}^"
"""Content Creator's Name (0070,0084): the family name of nobody but the software."""

MODEL_NAME = "Hilum"
"""Manufacturer's Model Name (0008,1090)."""

DEVICE_SERIAL_NUMBER = "HILUM-SOFTWARE"
"""Device Serial Number (0018,1000): software has none, some modules demand one."""

IMPLEMENTATION_VERSION_NAME = "HILUM"
"""Implementation Version Name (0002,0013), at most 16 characters."""

UUID_ROOT = "2.25"
"""Root of UIDs made from a 128 bit integer (PS3.5 B.2)."""

SERIES_NUMBER_MR = 9000
SERIES_NUMBER_REG = 9100
SERIES_NUMBER_DEFREG = 9150
SERIES_NUMBER_SEG = 9201
SERIES_NUMBER_PSEG = 9210
SERIES_NUMBER_PM = 9250
SERIES_NUMBER_RTSTRUCT = 9301
SERIES_NUMBER_RTDOSE = 9350
SERIES_NUMBER_SR = 9401
SERIES_NUMBER_PDF = 9451
SERIES_NUMBER_OVERVIEW = 9500
SERIES_NUMBER_BLENDING = 9600
SERIES_NUMBER_CONTOURS = 9700
"""Series Numbers: a high block that scanners do not use; all but SEG, RTSTRUCT, SR and PDF are
counted upwards."""

PATIENT_KEYWORDS = {
    "PatientName": True,
    "PatientID": True,
    "IssuerOfPatientID": False,
    "PatientBirthDate": True,
    "PatientSex": True,
    "PatientIdentityRemoved": False,
    "DeidentificationMethod": False,
    "DeidentificationMethodCodeSequence": False,
}
"""Patient attributes copied from the CT; True: type 2, so empty if the CT has none."""

STUDY_KEYWORDS = {
    "StudyDate": True,
    "StudyTime": True,
    "AccessionNumber": True,
    "ReferringPhysicianName": True,
    "StudyID": True,
    "StudyDescription": False,
}
"""Study attributes copied from the CT, besides the UID; True: type 2."""


SHORT_LABELS = ("StudyID", "AccessionNumber")
"""Labels of the study that are left empty where the CT's are longer than their VR allows: real CTs
have such, a strict receiver refuses them, and the study is identified by its UID."""

UNPAIRED_BODY_PARTS = frozenset(
    [
        "ABDOMEN",
        "BLADDER",
        "BRAIN",
        "CHEST",
        "COLON",
        "CSPINE",
        "DUODENUM",
        "ESOPHAGUS",
        "HEAD",
        "HEADNECK",
        "HEART",
        "LIVER",
        "LSPINE",
        "NECK",
        "PANCREAS",
        "PELVIS",
        "PROSTATE",
        "RECTUM",
        "SPINE",
        "SPLEEN",
        "SSPINE",
        "STOMACH",
        "TSPINE",
        "UTERUS",
        "WHOLEBODY",
    ]
)
"""Values of Body Part Examined for which Laterality must be absent (PS3.16 Annex L, in part)."""


def derive_uid(seed: str, role: str, index: int = 0) -> str:
    """Return the UID that `seed` gives to the object, series or thing of that role and index."""
    digest = hashlib.sha256(f"{seed}\n{role}\n{index}".encode()).digest()
    return f"{UUID_ROOT}.{int.from_bytes(digest[:16], 'big')}"


IMPLEMENTATION_CLASS_UID = derive_uid(MANUFACTURER, "implementation class")
"""Implementation Class UID (0002,0012) of this encoder."""

DEVICE_UID = derive_uid(MANUFACTURER, "device observer")
"""Device Observer UID of the report: the software, not one installation of it."""


@dataclass(frozen=True, slots=True, eq=False)
class Sources:
    """The datasets from which attributes are copied; their pixel data are not needed.

    Attributes:
        ct: The planning CT, in the slice order of the case's CT geometry, slice index 0 first.
        structure_set: The structure set of the case.
        mr: By Series Instance UID: the slices in order, or one enhanced multi-frame dataset.
        other_ct: By Series Instance UID: the slices of CT beside the planning CT.
        radiotherapy: RT Doses and RT Plans, of the planning CT and of others.
    """

    ct: tuple[Dataset, ...]
    structure_set: Dataset
    mr: Mapping[str, tuple[Dataset, ...]]
    other_ct: Mapping[str, tuple[Dataset, ...]] = field(default_factory=dict)
    radiotherapy: tuple[Dataset, ...] = ()

    def moved(self, series_uid: str) -> tuple[Dataset, ...]:
        """Return the datasets of an MR or other CT series."""
        return self.mr[series_uid] if series_uid in self.mr else self.other_ct[series_uid]


@dataclass(frozen=True, slots=True, eq=False)
class Authorship:
    """When, by which version and with which settings the result was made.

    Attributes:
        created: Aware; every date and time that we write comes from it.
        software_version: Version of the algorithm.
        uid_seed: Fingerprint of inputs, settings and algorithm version; all UIDs derive from it.
        parameters: The settings as short text.
    """

    created: datetime
    software_version: str
    uid_seed: str
    parameters: str

    @property
    def date(self) -> str:
        """The date of creation as DA, UTC."""
        return self.created.astimezone(UTC).strftime("%Y%m%d")

    @property
    def time(self) -> str:
        """The time of creation as TM, UTC."""
        return self.created.astimezone(UTC).strftime("%H%M%S.%f")

    @property
    def date_time(self) -> str:
        """Date and time of creation as DT, with its offset."""
        return f"{self.date}{self.time}+0000"


@dataclass(frozen=True, slots=True)
class Reference:
    """An instance as others name it."""

    sop_class_uid: str
    sop_instance_uid: str
    series_instance_uid: str
    study_instance_uid: str

    @classmethod
    def of(cls, ds: Dataset) -> "Reference":
        """Return the reference to a dataset."""
        return cls(
            str(ds.SOPClassUID),
            str(ds.SOPInstanceUID),
            str(ds.SeriesInstanceUID),
            str(ds.StudyInstanceUID),
        )

    def item(self) -> Dataset:
        """Return a sequence item with the SOP Instance Reference macro."""
        item = Dataset()
        item.ReferencedSOPClassUID = self.sop_class_uid
        item.ReferencedSOPInstanceUID = self.sop_instance_uid
        return item


@dataclass(frozen=True, slots=True, eq=False)
class ResultSet:
    """One result with all it is written from: answers every question that two objects share."""

    result: CaseResult
    sources: Sources
    authorship: Authorship

    @property
    def ct(self) -> Dataset:
        """The CT slice from which patient, study and frame of reference are copied."""
        return self.sources.ct[0]

    @property
    def character_sets(self) -> list[str]:
        """Specific Character Set of the CT and of our objects; empty: the default repertoire."""
        return character_sets_of(self.ct)

    def uid(self, role: str, index: int = 0) -> str:
        """Return the UID of that role and index in this result set."""
        return derive_uid(self.authorship.uid_seed, role, index)

    def tracking_uid(self, target_index: int, *, is_refined: bool) -> str:
        """Return the UID under which a target, drawn or refined, is tracked through the objects."""
        return self.uid("refined target" if is_refined else "drawn target", target_index)

    def reference(self, sop_class_uid: str, role: str, index: int = 0) -> Reference:
        """Return the reference to an object of this result set, written or not yet."""
        return Reference(
            str(sop_class_uid),
            self.uid(role, index),
            self.uid(f"{role} series", index),
            str(self.ct.StudyInstanceUID),
        )

    def ct_references(self) -> list[Reference]:
        """Return the references to the slices of the planning CT, in slice order."""
        return [Reference.of(ds) for ds in self.sources.ct]

    def moved_references(self, series_uids: Iterable[str]) -> list[Reference]:
        """Return the references to the instances of MR or other CT series, in order."""
        return [Reference.of(ds) for uid in series_uids for ds in self.sources.moved(uid)]

    def registration_index(self, registration: Registration) -> int:
        """Return the place of a registration in the result.

        Raises:
            EncodingError: It is not one of the result's.
        """
        for index, candidate in enumerate(self.result.registrations):
            if candidate is registration:
                return index
        raise EncodingError("a resampled MR names a registration that the result does not hold")

    def text(self, value: str, length: int) -> str:
        """Return a text as one value of at most `length` characters of our character set."""
        return legal_text(value, length, self.character_sets)

    def dataset(
        self,
        *,
        sop_class_uid: str,
        role: str,
        index: int = 0,
        modality: str,
        series_number: int,
        series_description: str,
        transfer_syntax_uid: str = ExplicitVRLittleEndian,
    ) -> Dataset:
        """Return a new object with its SOP common, patient, study, series and equipment modules.

        Its SOP and series UID are those of `role` and `index`; see `stamp` for the rest.
        """
        reference = self.reference(sop_class_uid, role, index)
        ds = Dataset()
        ds.SOPClassUID = UID(reference.sop_class_uid)
        ds.SOPInstanceUID = UID(reference.sop_instance_uid)
        ds.SeriesInstanceUID = UID(reference.series_instance_uid)
        ds.Modality = modality
        ds.SeriesNumber = series_number
        ds.SeriesDescription = self.text(series_description, LO_LENGTH)
        ds.InstanceNumber = 1
        ds.file_meta = FileMetaDataset()
        ds.file_meta.TransferSyntaxUID = UID(transfer_syntax_uid)
        self.stamp(ds)
        return ds

    def stamp(self, ds: Dataset) -> None:
        """Give a dataset the CT's patient and study, our equipment and dates, and its file meta."""
        if self.character_sets:
            ds.SpecificCharacterSet = self.character_sets
        elif "SpecificCharacterSet" in ds:
            del ds.SpecificCharacterSet
        for keyword, is_type_2 in (PATIENT_KEYWORDS | STUDY_KEYWORDS).items():
            _copy_element(ds, self.ct, keyword, is_type_2=is_type_2)
        for keyword in SHORT_LABELS:
            if len(str(ds.get(keyword) or "")) > SH_LENGTH:
                setattr(ds, keyword, None)
        ds.StudyInstanceUID = self.ct.StudyInstanceUID
        ds.Manufacturer = MANUFACTURER
        ds.ManufacturerModelName = MODEL_NAME
        ds.DeviceSerialNumber = DEVICE_SERIAL_NUMBER
        ds.SoftwareVersions = self.text(self.authorship.software_version, LO_LENGTH)
        ds.SeriesDate = ds.ContentDate = ds.InstanceCreationDate = self.authorship.date
        ds.SeriesTime = ds.ContentTime = ds.InstanceCreationTime = self.authorship.time
        syntax = ds.file_meta.TransferSyntaxUID
        ds.file_meta = FileMetaDataset()
        ds.file_meta.FileMetaInformationVersion = b"\x00\x01"
        ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID
        ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
        ds.file_meta.TransferSyntaxUID = syntax
        ds.file_meta.ImplementationClassUID = UID(IMPLEMENTATION_CLASS_UID)
        ds.file_meta.ImplementationVersionName = IMPLEMENTATION_VERSION_NAME

    def add_frame_of_reference(self, ds: Dataset) -> None:
        """Give a dataset the CT's Frame of Reference module."""
        ds.FrameOfReferenceUID = self.ct.FrameOfReferenceUID
        _copy_element(ds, self.ct, "PositionReferenceIndicator", is_type_2=True)

    def add_body_part(self, ds: Dataset) -> None:
        """Give a dataset the CT's Body Part Examined and Laterality (General Series module).

        Laterality is left out for parts known to be unpaired and empty where the CT is silent.
        """
        part = str(self.ct.get("BodyPartExamined", "") or "")
        if part:
            ds.BodyPartExamined = part
        if part not in UNPAIRED_BODY_PARTS:
            _copy_element(ds, self.ct, "Laterality", is_type_2=True)

    def add_instance_references(self, ds: Dataset, references: Iterable[Reference]) -> None:
        """Give a dataset the Common Instance Reference module (PS3.3 C.12.2)."""
        by_study: dict[str, dict[str, list[Dataset]]] = {}
        for reference in references:
            series = by_study.setdefault(reference.study_instance_uid, {})
            series.setdefault(reference.series_instance_uid, []).append(reference.item())
        own = by_study.pop(str(ds.StudyInstanceUID), None)
        if own:
            ds.ReferencedSeriesSequence = _series_items(own)
        others = []
        for study_uid, series in by_study.items():
            item = Dataset()
            item.StudyInstanceUID = study_uid
            item.ReferencedSeriesSequence = _series_items(series)
            others.append(item)
        if others:
            ds.StudiesContainingOtherReferencedInstancesSequence = others

    def stand_in(self, source: Dataset) -> Dataset:
        """Return a bare, valid dataset that stands for a source where highdicom asks for one.

        It names the instance and where it lies, and holds nothing of the patient: highdicom refuses
        or logs identifiers that it finds odd. The true ones are stamped on the finished object.
        """
        ds = Dataset()
        for keyword in (*PATIENT_KEYWORDS, *STUDY_KEYWORDS):
            if (PATIENT_KEYWORDS | STUDY_KEYWORDS)[keyword]:
                setattr(ds, keyword, "")
        for keyword in _STAND_IN_KEYWORDS:
            if keyword in source:
                ds[keyword] = copy.deepcopy(source[keyword])
        if source.SOPClassUID == self.ct.SOPClassUID and not ds.get("SliceThickness"):
            # type 2: it may be absent or empty, and highdicom asks for it
            ds.SliceThickness = DSfloat(
                self.result.case.ct.geometry.spacing_mm[0], auto_format=True
            )
        if source.get("FrameOfReferenceUID") == self.ct.get("FrameOfReferenceUID"):
            _copy_element(ds, self.ct, "PositionReferenceIndicator", is_type_2=True)
        return ds


_STAND_IN_KEYWORDS = (
    "SOPClassUID",
    "SOPInstanceUID",
    "SeriesInstanceUID",
    "StudyInstanceUID",
    "FrameOfReferenceUID",
    "Modality",
    "Rows",
    "Columns",
    "ImagePositionPatient",
    "ImageOrientationPatient",
    "PixelSpacing",
    "SliceThickness",
)


def code_item(code: Code) -> Dataset:
    """Return the sequence item of a code."""
    item = Dataset()
    item.CodeValue = code.value
    item.CodingSchemeDesignator = code.scheme_designator
    item.CodeMeaning = code.meaning
    return item


def _series_items(series: Mapping[str, list[Dataset]]) -> list[Dataset]:
    items = []
    for series_uid, instances in series.items():
        item = Dataset()
        item.SeriesInstanceUID = series_uid
        item.ReferencedInstanceSequence = ItemSequence(instances)
        items.append(item)
    return items


def _copy_element(ds: Dataset, source: Dataset, keyword: str, *, is_type_2: bool) -> None:
    if keyword in source:
        element: Any = source[keyword]
        ds[keyword] = copy.deepcopy(element)
    elif is_type_2:
        setattr(ds, keyword, None)
    elif keyword in ds:
        delattr(ds, keyword)
