"""Rules on who an object says it is: instance, file, patient; alone and beside the others."""

from collections.abc import Iterator

from handlers.lint.reading import characters, text
from handlers.lint.rule import Broken, Level, NotChecked, Place, Rule, looks_for
from handlers.lint.subject import Subject, Together

OTHER_FILE = Rule(
    "file.other-instance",
    Level.ERROR,
    "the file's header names another SOP class or instance than the object in it",
    "PS3.10 7.1",
    "write the file header from the object",
)
NOT_UNIQUE = Rule(
    "uid.not-unique",
    Level.ERROR,
    "two objects have the same SOP Instance UID",
    "PS3.5 9; pytrip/pytrip#254",
    "give every new object a UID of its own",
)
SHARED = Rule(
    "uid.shared-by-levels",
    Level.ERROR,
    "study, series and instance share a UID: importers that index by UID mix them up",
    "PS3.3 C.7.2.1, C.7.3.1, C.12.1; pytrip/pytrip#254",
    "make a new UID for each level",
)
SERIES_MIXED = Rule(
    "series.mixed",
    Level.ERROR,
    "objects of one series are of another study, modality or patient",
    "PS3.3 A.1.2.3, C.7.3.1",
    "give each series its own Series Instance UID",
)
BLANK = Rule(
    "patient.blank",
    Level.WARNING,
    "the patient has neither name nor ID: importers refuse it or merge patients",
    "microsoft/InnerEye-DICOM-RT#6; pytrip/pytrip#266",
    "copy patient, study and frame of reference from the planning CT",
)
OTHER_PATIENT = Rule(
    "patient.differs",
    Level.ERROR,
    "an object refers to one of another patient",
    "PS3.3 A.1.2; pytrip/pytrip#266",
    "copy the patient from the referenced images, or give the right images",
)
SPELLED = Rule(
    "patient.spelled-differently",
    Level.WARNING,
    "name, birth date or sex differ from those of the referenced object: importers ask, or make "
    "a second patient",
    "PS3.3 C.7.1.1; microsoft/InnerEye-DICOM-RT#6",
    "copy patient attributes byte for byte from the referenced images",
)

SAME_OF_PATIENT = ("PatientName", "PatientBirthDate", "PatientSex")
"""What else must agree where the Patient ID does."""


@looks_for(OTHER_FILE)
def file_header(subject: Subject, _together: Together) -> Iterator[Broken | NotChecked]:
    """Compare file meta information with the object."""
    meta = getattr(subject.ds, "file_meta", None)
    for keyword, own in (
        ("MediaStorageSOPInstanceUID", "SOPInstanceUID"),
        ("MediaStorageSOPClassUID", "SOPClassUID"),
    ):
        told = str(getattr(meta, keyword, "") or "").rstrip("\0 ")
        if told and told != text(subject.ds, own):
            yield Broken(Place.of(own))


@looks_for(NOT_UNIQUE, SHARED, SERIES_MIXED)
def uids(subject: Subject, together: Together) -> Iterator[Broken | NotChecked]:
    """Look for UIDs that stand for two things."""
    uid = subject.sop_instance_uid
    if uid and together.by_instance.get(uid, (subject,))[0] is not subject:
        yield Broken(Place.of("SOPInstanceUID"), rule=NOT_UNIQUE)
    levels = [u for u in (text(subject.ds, "StudyInstanceUID"), subject.series_uid, uid) if u]
    if len(set(levels)) < len(levels):
        yield Broken(Place.of("SOPInstanceUID"), rule=SHARED)
    first = together.by_series.get(subject.series_uid, (subject,))[0]
    for keyword in ("StudyInstanceUID", "Modality", "PatientID"):
        if text(first.ds, keyword) != text(subject.ds, keyword):
            yield Broken(Place.of(keyword), rule=SERIES_MIXED)


@looks_for(BLANK, OTHER_PATIENT, SPELLED)
def patient(subject: Subject, together: Together) -> Iterator[Broken | NotChecked]:
    """Look at the patient, and at the patients of the objects that this one refers to."""
    if together.leads(subject) and not (
        text(subject.ds, "PatientID") or text(subject.ds, "PatientName")
    ):
        yield Broken(Place.of("PatientID"), rule=BLANK)
    for other in _referenced_series(subject, together):
        if characters(other.ds, "PatientID") != characters(subject.ds, "PatientID"):
            yield Broken(Place.of("PatientID"), rule=OTHER_PATIENT)
            return
        for keyword in SAME_OF_PATIENT:
            if characters(subject.ds, keyword) != characters(other.ds, keyword):
                yield Broken(Place.of(keyword), rule=SPELLED)
                return


def _referenced_series(subject: Subject, together: Together) -> Iterator[Subject]:
    """Return one object of each series that this object refers to and that was given."""
    if len(together.subjects) == 1 or not together.leads(subject):
        return
    seen = {subject.series_uid}
    for uid in subject.referenced_instances:
        for other in together.by_instance.get(uid, ()):
            if other.series_uid not in seen:
                seen.add(other.series_uid)
                yield other
