"""C-FIND SCU: real archives answer, and odd ones do no harm."""

import logging
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian
from pynetdicom.association import Association
from pynetdicom.dimse_primitives import C_ECHO, C_FIND

from node.config import Peer
from node.errors import DeliveryError, QueryError
from node.query.find import (
    FIND_MODELS,
    MOST_ANSWERS,
    Found,
    InstanceName,
    Questions,
    held_by,
    open_questions,
)
from tests.archives import dcmqrscp, fill, orthanc
from tests.nodes import free_port, write_datasets
from tests.odd_archive import PENDING, Silent, always, encoded, odd_archive, respond
from tests.receiving_node import ct

STUDY, SERIES = "1.2.826.0.2", "1.2.826.0.3"
ARCHIVES = {"orthanc": orthanc, "dcmqrscp": dcmqrscp}
OURS = "HILUM"


def slices(count: int = 5, **changes: Any) -> list[Dataset]:
    """Return slices of a CT with all that an archive wants of them."""
    found = []
    for number in range(1, count + 1):
        usual = {"StudyID": "1", "StudyDate": "20250101", "StudyTime": "120000"}
        usual |= {"AccessionNumber": "", "SeriesNumber": 1, "InstanceNumber": number}
        ds = ct(number, **{**usual, **changes})
        ds.file_meta = FileMetaDataset()
        ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        found.append(ds)
    return found


def ask(peer: Peer, question: Callable[[Questions], Found], timeout_s: float = 20.0) -> Found:
    with open_questions(peer, OURS, timeout_s=timeout_s) as questions:
        return question(questions)


def series_of(questions: Questions) -> Found:
    return questions.series(STUDY, "MARKED-4711", SERIES)


def series_answer(**changes: Any) -> bytes:
    usual = {"QueryRetrieveLevel": "SERIES", "StudyInstanceUID": STUDY, "Modality": "CT"}
    usual |= {"SeriesInstanceUID": SERIES, "NumberOfSeriesRelatedInstances": "5"}
    return encoded(**{**usual, **changes})


@pytest.mark.parametrize("name", ARCHIVES)
def test_archive_when_asked_tells_studies_series_and_images(
    name: str, tmp_path: Path, peer_program: Callable[[str], str]
) -> None:
    """Issue 6, item 7: C-FIND at every level of the study root, against peers of others."""
    files = write_datasets(slices(), tmp_path / "files")
    with ARCHIVES[name](peer_program, tmp_path / name, {OURS: free_port()}) as archive:
        fill(archive, files)
        with open_questions(archive, OURS, timeout_s=20) as questions:
            (study,) = questions.studies("MARKED-4711").matches
            assert questions.studies("MARKED-4712").matches == ()
            (series,) = questions.series(STUDY).matches
            assert questions.series(STUDY, series_uid="1.2.3").matches == ()
            images = questions.images(STUDY, SERIES)
    assert (study["StudyInstanceUID"], study["StudyDate"]) == (STUDY, "20250101")
    assert study["PatientBirthDate"] == "19510203"
    assert (series["SeriesInstanceUID"], series["Modality"]) == (SERIES, "CT")
    assert series.count == (5 if name == "orthanc" else None)  # an optional key
    assert {m["SOPInstanceUID"] for m in images.matches} == {ds.SOPInstanceUID for ds in slices()}
    assert (images.unfit, images.is_cut) == (0, False)


@pytest.mark.parametrize("name", ARCHIVES)
def test_instances_when_asked_for_are_held_or_not(
    name: str, tmp_path: Path, peer_program: Callable[[str], str]
) -> None:
    """Issue 6, item 6: where no commitment comes, C-FIND at IMAGE level tells what is there."""
    files = write_datasets(slices(3), tmp_path / "files")
    with ARCHIVES[name](peer_program, tmp_path / name, {OURS: free_port()}) as archive:
        fill(archive, files)
        named = [
            InstanceName(f"1.2.826.0.1.{number}", series, STUDY, "MARKED-4711")
            for number, series in ((1, SERIES), (3, SERIES), (4, SERIES), (1, "1.2.3"))
        ]
        assert held_by(archive, OURS, named, timeout_s=20) == {"1.2.826.0.1.1", "1.2.826.0.1.3"}
        assert held_by(archive, OURS, named[2:], timeout_s=20) == frozenset()


@pytest.mark.parametrize(
    ("status", "is_retryable", "words"),
    [
        (0xA700, True, "out of resources"),
        (0xA900, False, "does not fit its model"),
        (0xC000, True, "unable to process"),
        (0xC123, True, "unable to process"),
        (0x0122, False, "does not offer this service"),
        (0x0124, False, "not authorized"),
        (0xFE00, True, "canceled"),
        (0xBEEF, True, "does not name"),
    ],
)
def test_failure_when_answered_is_told_with_a_mend(
    status: int, is_retryable: bool, words: str
) -> None:
    """Every status ends in an error that says what it means and whether another try may help."""
    serve = always((PENDING, series_answer()), (status, None))
    with odd_archive(serve) as peer, pytest.raises(QueryError, match=words) as caught:
        ask(peer, series_of)
    assert f"0x{status:04X}" in str(caught.value)
    assert caught.value.is_retryable is is_retryable
    assert caught.value.hint


@pytest.mark.parametrize(
    "raw",
    [
        None,
        b"\xff" * 40,
        series_answer()[:-3],
        series_answer(QueryRetrieveLevel="IMAGE"),
        series_answer(SeriesInstanceUID="1.2.3"),
        series_answer(StudyInstanceUID="1.2.3"),
        series_answer(SeriesInstanceUID=""),
        series_answer().replace(SERIES.encode(), b"../../etc/x"),
        encoded(QueryRetrieveLevel="SERIES"),
    ],
    ids=[
        *("no identifier", "garbage", "cut", "other level", "other series"),
        *("other study", "no uid", "no legal uid", "nothing but the level"),
    ],
)
def test_answer_when_it_is_none_is_counted_and_left_out(raw: bytes | None) -> None:
    """What cannot be read, or answers another question, is never taken for a match."""
    answers = ((PENDING, raw), (PENDING, series_answer()), (PENDING, series_answer()))
    with odd_archive(always(*answers, (0, None))) as peer:
        found = ask(peer, series_of)
    assert [(m["SeriesInstanceUID"], m.count) for m in found.matches] == [(SERIES, 5)]
    assert found.unfit == 1


@pytest.mark.parametrize("told", ["", "many", "-3", "1e3", "99999999999"])
def test_count_when_it_is_no_number_is_unknown(told: str) -> None:
    """A malformed count is no count: the images are listed instead."""
    raw = series_answer(NumberOfSeriesRelatedInstances="5").replace(b"5 ", b"  ")
    if told:
        raw = series_answer().replace(
            b"\x20\x00\x09\x12IS\x02\x005 ",
            b"\x20\x00\x09\x12IS"
            + bytes([len(told) + len(told) % 2, 0])
            + told.encode()
            + b" " * (len(told) % 2),
        )
    with odd_archive(always((PENDING, raw), (0, None))) as peer:
        (match,) = ask(peer, series_of).matches
    assert match.count is None


@pytest.mark.filterwarnings("ignore:Found unknown escape sequence")  # of pydicom: as wanted
@pytest.mark.parametrize(
    ("charset", "raw_name"),
    [
        (b"ISO_IR 100", "Müller^Ann".encode("latin-1")),
        (b"ISO_IR 192", "Müller^Ann".encode()),
        (b"ISO_IR 192", "Müller^Ann".encode("latin-1")),
        (b"NO SUCH", b"\x80\x81\xff^\x1b$B"),
    ],
)
def test_name_when_its_character_set_is_wrong_harms_nobody(charset: bytes, raw_name: bytes) -> None:
    """Names are read as far as they can be; a wrong character set is no reason to fail."""
    answer = encoded(
        SpecificCharacterSet="ISO_IR 100",
        QueryRetrieveLevel="STUDY",
        PatientName="N" * 20,
        PatientID="MARKED-4711",
        StudyInstanceUID=STUDY,
    )
    answer = answer.replace(b"ISO_IR 100", charset.ljust(10)).replace(b"N" * 20, raw_name.ljust(20))
    with odd_archive(always((PENDING, answer), (0, None))) as peer:
        (match,) = ask(peer, lambda questions: questions.studies("MARKED-4711")).matches
    assert match["StudyInstanceUID"] == STUDY
    assert (match["PatientName"] == "Müller^Ann") is (
        charset.decode() == "ISO_IR 100" or raw_name == "Müller^Ann".encode()
    )


def test_studies_when_they_are_of_another_patient_id_are_left_out() -> None:
    """A peer that overlooks the Patient ID answers with everybody's studies."""
    answers = [
        (PENDING, encoded(QueryRetrieveLevel="STUDY", PatientID=pid, StudyInstanceUID=uid))
        for pid, uid in (("MARKED-4711", "1.1"), ("OTHER", "1.2"), ("MARKED", "1.3"))
    ]
    with odd_archive(always(*answers, (0, None))) as peer:
        found = ask(peer, lambda questions: questions.studies("MARKED-4711"))
    assert [match["StudyInstanceUID"] for match in found.matches] == ["1.1"]
    assert found.unfit == 2


def test_answers_when_they_never_end_are_cut_and_canceled() -> None:
    """A peer that answers without end is told to stop, and listened to no longer."""
    canceled: list[int] = []

    def serve(assoc: Association, request: Any, context_id: int) -> None:
        if not isinstance(request, C_FIND):
            return
        for number in range(4 * MOST_ANSWERS):
            raw = encoded(QueryRetrieveLevel="IMAGE", SOPInstanceUID=f"1.2.{number}")
            respond(assoc, request, context_id, PENDING, raw)
            if assoc.dimse.cancel_req or not assoc.is_established:
                break
        # all may be on its way before the request to stop is read
        deadline_s = time.monotonic() + 60
        while not assoc.dimse.cancel_req and time.monotonic() < deadline_s:
            time.sleep(0.02)
        canceled.extend(assoc.dimse.cancel_req)
        respond(assoc, request, context_id, 0xFE00)

    with odd_archive(serve) as peer:
        found = ask(peer, lambda questions: questions.images(STUDY, SERIES))
    assert found.is_cut
    assert len(found.matches) == MOST_ANSWERS
    assert canceled


@pytest.mark.parametrize("ending", ["silence", "abort", "other message"])
def test_peer_when_it_stops_in_the_middle_ends_in_an_error(ending: str) -> None:
    """No hang: silence is timed out, a broken line is noticed at once."""

    def serve(assoc: Association, request: Any, context_id: int) -> None:
        if isinstance(request, C_FIND):
            respond(assoc, request, context_id, PENDING, series_answer())
        if ending == "abort":
            assoc.abort()
        elif ending == "other message":
            echo = C_ECHO()
            echo.MessageIDBeingRespondedTo, echo.Status = request.MessageID, 0
            echo.AffectedSOPClassUID = "1.2.840.10008.1.1"
            assoc.dimse.send_msg(echo, context_id)

    start_s = time.monotonic()
    with odd_archive(serve) as peer, pytest.raises(QueryError) as caught:
        ask(peer, series_of, timeout_s=6.0)
    assert time.monotonic() - start_s < 60
    assert caught.value.is_retryable
    words = {
        "silence": "did not answer within 6 s",
        "abort": "broke off the association",
        "other message": "no answer to the question",
    }
    assert words[ending] in str(caught.value)


def test_peer_when_it_knows_the_patient_root_only_is_asked_with_the_patient_id() -> None:
    """The patient root is the fallback; its questions name the patient at every level."""
    asked: list[bytes] = []

    def serve(assoc: Association, request: Any, context_id: int) -> None:
        asked.append(request.Identifier.getvalue())
        respond(assoc, request, context_id, PENDING, series_answer())
        respond(assoc, request, context_id, 0)

    with odd_archive(serve, FIND_MODELS[1:]) as peer:
        assert len(ask(peer, series_of).matches) == 1
        with pytest.raises(QueryError, match="without a Patient ID"):
            ask(peer, lambda questions: questions.series(STUDY))
    assert len(asked) == 1
    assert b"MARKED-4711" in asked[0]


def test_peer_when_it_takes_no_questions_is_told_from_one_that_fails() -> None:
    """A storage-only peer ends in an error that says what to change, not in a retry."""
    verification = ["1.2.840.10008.1.1"]
    with (
        odd_archive(Silent(), verification) as peer,
        pytest.raises(DeliveryError, match="no question") as caught,
    ):
        ask(peer, series_of)
    assert not caught.value.is_retryable
    assert "query" in caught.value.hint


@pytest.mark.parametrize("patient_id", ["", "A*", "A?1", "A\\B"])
def test_patient_id_when_it_would_match_others_is_not_asked_for(patient_id: str) -> None:
    """Wildcards in a Patient ID would match other patients."""
    silent = Silent()
    with odd_archive(silent) as peer, pytest.raises(QueryError) as caught:
        ask(peer, lambda questions: questions.studies(patient_id))
    assert not silent.asked.is_set()
    assert not caught.value.is_retryable
    assert not patient_id or patient_id not in str(caught.value)


def test_patient_when_asked_for_appears_in_no_log(caplog: pytest.LogCaptureFixture) -> None:
    """Questions and answers hold identifiers; the log holds none."""
    caplog.set_level(logging.DEBUG, logger="node")
    answer = encoded(
        QueryRetrieveLevel="STUDY",
        PatientName="MARKEDNAME^Anna",
        PatientID="MARKED-4711",
        PatientBirthDate="19510203",
        StudyInstanceUID=STUDY,
    )
    serve = always((PENDING, answer), (0xC000, answer))
    with odd_archive(serve) as peer, pytest.raises(QueryError) as caught:
        ask(peer, lambda questions: questions.studies("MARKED-4711"))
    told = caplog.text + repr(caught.value) + str(caught.value)
    assert not re.search("MARKED|19510203", told)
