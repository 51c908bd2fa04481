"""The report as Encapsulated PDF: the object, its references, what it tells of the patient."""

import json
import subprocess
from collections.abc import Callable
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from urllib.request import urlopen

import pytest
from pydicom import Dataset, dcmread
from pydicom.uid import EncapsulatedPDFStorage

from handlers.encode import about_result, encode_result_set
from handlers.encode.identity import ResultSet
from handlers.encode.pdf import MIME_TYPE, encode_document
from handlers.lint import Subject, lint
from handlers.pages.document import document_of
from handlers.pages.html import html_of
from handlers.pages.pdf import pdf_of
from tests.archives import fill, orthanc
from tests.encode_cases import (
    CT_SERIES,
    CT_STUDY,
    MR_SERIES,
    MR_SERIES_B,
    PATIENT_NAME,
    SHAPE,
    STRUCTURE_SET,
    EncodeCase,
    build_case,
    bytes_of,
    changed,
    texts_of,
)
from tests.pdf_reader import read_pdf
from tests.test_encode_peers import errors_of

NAME = "PDF.dcm"
ODD, EVEN = b"%PDF-1.4 odd", b"%PDF-1.4 even"


def with_report(case: EncodeCase) -> tuple[bytes, str]:
    """Return the report on a case in both forms."""
    about = about_result(case.result, case.sources, case.authorship, "periportal-sbrt")
    document = document_of(case.result, about)
    return pdf_of(document), html_of(document)


def encoded(case: EncodeCase, document: bytes) -> dict[str, Dataset]:
    """Return the result set as a receiver reads it."""
    objects = encode_result_set(case.result, case.sources, case.authorship, document)
    return {name: dcmread(BytesIO(bytes_of(ds))) for name, ds in objects}


def object_of(case: EncodeCase, document: bytes = EVEN) -> Dataset:
    """Return the object alone, as a receiver reads it."""
    result_set = ResultSet(case.result, case.sources, case.authorship)
    return dcmread(BytesIO(bytes_of(encode_document(result_set, document))))


@pytest.fixture(scope="module")
def case() -> EncodeCase:
    """Two targets, two MR."""
    return build_case()


@pytest.fixture(scope="module")
def pdf(case: EncodeCase) -> bytes:
    """Its report."""
    return with_report(case)[0]


@pytest.fixture(scope="module")
def objects(case: EncodeCase, pdf: bytes) -> dict[str, Dataset]:
    """Its result set with the report."""
    return encoded(case, pdf)


def test_the_document_comes_back_byte_by_byte(objects: dict[str, Dataset], pdf: bytes) -> None:
    ds = objects[NAME]
    assert ds.SOPClassUID == EncapsulatedPDFStorage
    assert ds.MIMETypeOfEncapsulatedDocument == MIME_TYPE == "application/pdf"
    assert ds.EncapsulatedDocument[: ds.EncapsulatedDocumentLength] == pdf
    assert list(objects)[-1] == NAME


@pytest.mark.parametrize("document", [ODD, EVEN], ids=["odd", "even"])
def test_length_is_even_and_the_true_one_is_told(case: EncodeCase, document: bytes) -> None:
    """Handbook A.11: even-length padding."""
    ds = object_of(case, document)
    assert len(ds.EncapsulatedDocument) % 2 == 0
    assert ds.EncapsulatedDocumentLength == len(document)
    assert ds.EncapsulatedDocument.rstrip(b"\x00") == document


def test_it_lies_in_the_study_of_the_ct_in_a_series_of_its_own(
    objects: dict[str, Dataset],
) -> None:
    ds = objects[NAME]
    assert ds.StudyInstanceUID == CT_STUDY
    others = [other.SeriesInstanceUID for name, other in objects.items() if name != NAME]
    assert ds.SeriesInstanceUID not in others
    assert (ds.Modality, ds.ConversionType) == ("DOC", "WSD")
    assert str(ds.PatientName) == PATIENT_NAME
    assert ds.BurnedInAnnotation == "YES"
    assert ds.VerificationFlag == "UNVERIFIED"
    assert "not approved" in ds.DocumentTitle


def test_it_refers_to_everything_that_its_pages_show(
    case: EncodeCase, objects: dict[str, Dataset]
) -> None:
    referenced = [item.ReferencedSOPInstanceUID for item in objects[NAME].SourceInstanceSequence]
    expected = [f"{CT_SERIES}.{at + 1}" for at in range(SHAPE[0])]
    expected += [f"{MR_SERIES}.{at + 1}" for at in range(3)]
    expected += [f"{MR_SERIES_B}.1", STRUCTURE_SET]
    assert referenced == expected
    classes = {ds.SOPInstanceUID: ds.SOPClassUID for ds in case.sources.ct}
    for item in objects[NAME].SourceInstanceSequence[: SHAPE[0]]:
        assert item.ReferencedSOPClassUID == classes[item.ReferencedSOPInstanceUID]


def test_equal_cases_give_equal_bytes() -> None:
    """DESIGN 6: a repeat is harmless."""
    twice = []
    for _ in range(2):
        case = build_case()
        twice.append(bytes_of(object_of(case, with_report(case)[0])))
    assert twice[0] == twice[1]


def test_an_ordinary_report_is_small(pdf: bytes) -> None:
    assert len(pdf) < 2_000_000


def test_pages_bear_the_identity_that_the_objects_bear(case: EncodeCase, pdf: bytes) -> None:
    about = about_result(case.result, case.sources, case.authorship, "p")
    assert about.patient_name == "Müller, Jürgen"
    assert (about.patient_id, about.birth_date, about.sex) == ("4711", "1950-01-02", "M")
    assert about.study_date == "2026-03-01"
    assert (about.created_date, about.created_time) == ("2026-03-04", "05:06:07")
    assert about.fingerprint == case.authorship.uid_seed
    assert [source.uid for source in about.sources] == [
        CT_SERIES,
        STRUCTURE_SET,
        MR_SERIES,
        MR_SERIES_B,
    ]
    assert "Müller, Jürgen, ID 4711" in read_pdf(pdf).pages[-1]


def test_new_objects_are_named_by_the_uids_that_they_get(objects: dict[str, Dataset]) -> None:
    case = build_case()
    about = about_result(case.result, case.sources, case.authorship, "p")
    made = {proposal.uid for proposal in about.proposals}
    wanted = ("RTSTRUCT.dcm", "REG_1.dcm", "REG_2.dcm")
    assert made == {objects[name].SOPInstanceUID for name in wanted}


@pytest.mark.parametrize(
    ("character_sets", "name", "expected"),
    [
        (["ISO_IR 192"], "王^小东=王^小东", "王, 小东"),
        (["", "ISO 2022 IR 87"], "Yamada^Tarou=山田^太郎", "Yamada, Tarou"),
        (["ISO_IR 144"], "Люкceмбypг", "Люкceмбypг"),
        (None, "Doe^John^Adams^Rev.^B.A.", "Doe, John Adams B.A."),
        (None, "", ""),
        (None, "^Only^Given", "Only Given"),
    ],
)
def test_names_are_read_in_their_character_set(
    case: EncodeCase, character_sets: list[str] | None, name: str, expected: str
) -> None:
    ct = tuple(changed(ds, character_sets, name) for ds in case.sources.ct)
    sources = replace(case.sources, ct=ct)
    about = about_result(case.result, sources, case.authorship, "p")
    assert about.patient_name == expected
    document = document_of(case.result, about)
    assert (expected or "unnamed") in html_of(document)
    assert read_pdf(pdf_of(document)).pages


def test_odd_attributes_of_the_patient_are_told_as_they_are(case: EncodeCase) -> None:
    ct = []
    for ds in case.sources.ct:
        copy = changed(ds, ["ISO_IR 100"], PATIENT_NAME)
        copy.PatientBirthDate = ""
        copy.PatientID = None
        del copy.PatientSex
        ct.append(copy)
    sources = replace(case.sources, ct=tuple(ct))
    about = about_result(case.result, sources, case.authorship, "p")
    assert (about.patient_id, about.birth_date, about.sex) == ("", "", "")
    assert "ID not told" in html_of(document_of(case.result, about))


def test_a_face_may_be_seen_on_planes_of_a_head(case: EncodeCase) -> None:
    """As with the overview: a sagittal plane of a head may show a profile."""
    ct = []
    for ds in case.sources.ct:
        copy = changed(ds, ["ISO_IR 100"], PATIENT_NAME)
        copy.BodyPartExamined = "HEAD"
        ct.append(copy)
    head = replace(case, sources=replace(case.sources, ct=tuple(ct)))
    assert object_of(head).RecognizableVisualFeatures == "YES"
    assert "RecognizableVisualFeatures" not in object_of(case)


def test_our_own_gate_finds_nothing(objects: dict[str, Dataset]) -> None:
    subject = Subject(NAME, objects[NAME])
    assert not lint([subject], [], only=[subject]).problems


def test_pages_and_structured_report_say_the_same_numbers(
    case: EncodeCase, objects: dict[str, Dataset], pdf: bytes
) -> None:
    """What the SR says in full stands rounded on the page; the abstention's reason in both."""
    text = read_pdf(pdf).text
    assert "Dicecoefficient(DSC)0.734" in text
    assert "Jaccardindexnotanumber" in text
    reason = "".join(["its", "neighbours", "could", "not", "be", "told", "from", "it"])
    assert reason in text
    assert any("could not be told from it" in words for words in texts_of(objects["SR.dcm"]))


@pytest.mark.peers
def test_judges_accept_the_object(
    objects: dict[str, Dataset],
    pdf: bytes,
    tmp_path: Path,
    peer_program: Callable[[str], str],
) -> None:
    """Dciodvfy finds no error, DCMTK takes the document out as it was, Orthanc shows it."""
    path = tmp_path / NAME
    path.write_bytes(bytes_of(objects[NAME]))
    assert errors_of(peer_program("dciodvfy"), path) == set()
    out = tmp_path / "out.pdf"
    subprocess.run([peer_program("dcm2pdf"), path, out], check=True, timeout=60)
    assert out.read_bytes().rstrip(b"\x00") == pdf
    with orthanc(peer_program, tmp_path / "orthanc", {}) as archive:
        fill(archive, [path])
        settings = json.loads((tmp_path / "orthanc" / "orthanc.json").read_text())
        address = f"http://127.0.0.1:{settings['HttpPort']}/instances"
        (instance,) = json.load(urlopen(address, timeout=30))
        shown = urlopen(f"{address}/{instance}/pdf", timeout=30).read()  # noqa: S310 - likewise
    assert shown.rstrip(b"\x00") == pdf
