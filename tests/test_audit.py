"""The audit trail: what the node tells it, whom it names, and that it hinders nobody."""

import logging
from collections.abc import Iterator
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import pytest
from pydicom import uid
from typer.testing import CliRunner

from node.__main__ import app
from node.answering.keys import STUDY_ROOT_FIND, STUDY_ROOT_GET
from node.audit.events import AuditEvent, Kind
from node.audit.received import tell_of_cut
from node.audit.section import AuditSection
from node.audit.trail import AUDIT_FOLDER, MOST_WAITING, AuditTrail, trail_of
from node.config import Config, NodeSection
from node.errors import NodeError
from node.header import InstanceHeader
from node.index import Index
from node.index.instances import InstanceBook, patient_key_of
from node.index.tables import ASSOCIATIONS
from node.journal import Journal
from node.monitoring.counts import AUDIT_LOST, COUNTS
from node.receiver import StandInReceiver
from node.recovery import Recovery
from tests.answering_node import (
    MR_SERIES,
    PATIENT,
    STUDY,
    answering,
    asking,
    find,
    identifier,
    result,
    taking,
)
from tests.audit_schema import schema_problems, summary, syslog_message
from tests.nodes import wait_for
from tests.owed_results import owing, receiver, status_with
from tests.receiving_node import associated, ct, cut, encoded, running, status_of
from tests.shelf import DAYS, Shelf
from tests.test_filing import Process

LONG_S = 60.0
MARKS = ("MARKED", "4711", "Anna", "19510203")


def now() -> datetime:
    return datetime.now(UTC)


def lines_of(data: Path) -> list[str]:
    """Return the lines of the trail below a data folder."""
    files = sorted((data / AUDIT_FOLDER).rglob("audit-*.log"))
    return [line for path in files for line in path.read_text("utf-8").split("\n") if line]


def told(events: list[AuditEvent]) -> list[tuple[str, str, str]]:
    return [(event.kind, event.actor, event.outcome) for event in events]


@pytest.fixture
def index(tmp_path: Path) -> Iterator[Index]:
    found = Index(f"sqlite:///{tmp_path / 'index.sqlite'}")
    found.create()
    yield found
    found.close()


def trail(index: Index, data: Path, **settings: object) -> AuditTrail:
    section = AuditSection.model_validate(settings)
    return AuditTrail(Config(node=NodeSection(data=data), audit=section), index, now)


# --- what the node tells ----------------------------------------------------------------------


def test_association_tells_one_event_for_each_study_and_none_for_each_object(
    tmp_path: Path,
) -> None:
    """Issue 8, 5: objects in; what was known already is told apart, and so is what was refused."""
    events: list[AuditEvent] = []
    with running(tmp_path, audit=events.append) as node:
        with associated(node) as assoc:
            for number in (1, 2, 3):
                assert status_of(assoc, encoded(ct(number)), ct(number)) == 0
            other = ct(4, StudyInstanceUID="1.2.826.0.9", PatientID="OTHER-1")
            assert status_of(assoc, encoded(other), other) == 0
            assert status_of(assoc, encoded(ct(1)), ct(1)) == 0
            assert status_of(assoc, cut(ct(5)), ct(5)) != 0
        node.wait_for_outcomes("released")
        wait_for(lambda: len(events) >= 4, timeout_s=LONG_S, what="the events")
    assert told(events) == [
        (Kind.RECEIVED, "CT1", "success"),
        (Kind.RECEIVED, "CT1", "success"),
        (Kind.RECEIVED, "CT1", "success"),
        (Kind.RECEIVED, "CT1", "failure"),
    ]
    by_study = [
        (e.what["study"], e.what["event_action"], e.what["sop_classes"]) for e in events[:3]
    ]
    ct_class = uid.CTImageStorage
    assert by_study == [
        ("1.2.826.0.2", "C", f"{ct_class}=3"),
        ("1.2.826.0.9", "C", f"{ct_class}=1"),
        ("1.2.826.0.2", "R", f"{ct_class}=1"),
    ]
    assert all(event.address == "127.0.0.1" for event in events)
    assert not any(mark in str(event) for event in events for mark in MARKS)


@pytest.mark.parametrize("who", ["itself, started again", "another process"])
def test_association_in_which_the_process_was_killed_is_told_at_recovery(
    who: str, tmp_path: Path
) -> None:
    """Issue 8, 5: objects that were filed, or only promised, when the power went; once."""
    process = Process(tmp_path)
    process.recovery.recover(now())
    book = InstanceBook(process.index)
    receipts = process.promise(ct(1), ct(1), ct(2, StudyInstanceUID="1.2.826.0.9"))
    Recovery(process.store, Journal(process.journal.folder), book, "node").file_for(
        lambda: False, now()
    )
    with process.index.begin() as connection:  # filed, and the association had not ended yet
        connection.execute(ASSOCIATIONS.update().values(closed_at=None, outcome=None))
    receipts += process.promise(ct(3), association="b")  # promised, and not filed yet
    events: list[AuditEvent] = []
    on_cut = partial(tell_of_cut, process.index, events.append)
    for _ in range(2):
        recovery = Recovery(process.store, Journal(process.journal.folder), book, "node", on_cut)
        if who == "another process":
            recovery.file_for(lambda: True, now())
        else:
            recovery.recover(now())
    process.index.close()
    assert told(events) == [
        (Kind.RECEIVED, "CT1", "success"),
        (Kind.RECEIVED, "CT1", "success"),
        (Kind.RECEIVED, "CT1", "success"),
        (Kind.RECEIVED, "CT1", "failure"),
        (Kind.RECEIVED, "CT1", "success"),
        (Kind.RECEIVED, "CT1", "failure"),
    ]
    brought = [(e.what.get("study", ""), e.what.get("sop_classes", "")) for e in events]
    one_ct = f"{uid.CTImageStorage}=1"
    assert brought == [
        ("1.2.826.0.2", one_ct),
        ("1.2.826.0.9", one_ct),
        ("", "=1"),
        ("", ""),
        ("1.2.826.0.2", one_ct),
        ("", ""),
    ]
    assert "was cut" in events[-1].what["reason"]
    assert not any(mark in str(event) for event in events for mark in MARKS)


def test_rejected_association_is_a_security_alert(tmp_path: Path) -> None:
    """Issue 8, 5: an unknown caller stands in the trail, by what it called itself."""
    events: list[AuditEvent] = []
    with running(tmp_path, audit=events.append) as node, associated(node, "STRANGER"):
        pass
    (event,) = events
    assert told([event]) == [(Kind.PEER_REJECTED, "STRANGER", "failure")]
    assert event.what["reason"] == "no peer has this AE title"


def test_query_and_retrieval_tell_what_was_asked_and_what_went_out(tmp_path: Path) -> None:
    """Issue 8, 5: queries and objects out, without the query's values."""
    events: list[AuditEvent] = []
    with answering(tmp_path, audit=events.append) as node:
        node.adopt(result(1), result(2), case_id="case-9")
        with asking(
            node,
            STUDY_ROOT_FIND,
            STUDY_ROOT_GET,
            given=(uid.MRImageStorage,),
            handlers=taking([]),
        ) as assoc:
            find(assoc, STUDY_ROOT_FIND, "STUDY", PatientID="MARKED-4711", StudyInstanceUID="")
            wanted = identifier("SERIES", StudyInstanceUID=STUDY, SeriesInstanceUID=MR_SERIES)
            assert [s.Status for s, _ in assoc.send_c_get(wanted, STUDY_ROOT_GET)][-1] == 0
    assert told(events) == [
        (Kind.QUERY_ANSWERED, "TPS", "success"),
        (Kind.BEGIN_SENDING, "TPS", "success"),
        (Kind.SENT, "TPS", "success"),
    ]
    assert (events[0].what["level"], events[0].what["matches"]) == ("STUDY", "1")
    assert "PatientID" in events[0].what["keys"]
    assert events[2].what["case_id"] == "case-9"
    assert events[2].what["sop_classes"] == f"{uid.MRImageStorage}=2"
    assert not any(mark in str(event) for event in events for mark in MARKS)


def test_delivery_tells_what_was_begun_taken_and_refused(tmp_path: Path) -> None:
    """A.5.3.3 and A.5.3.7: intent and completion; one message for each outcome."""
    events: list[AuditEvent] = []
    statuses = iter([0x0000, 0xC000])

    def status_for(_uid: str, _times: int) -> object:
        return status_with(next(statuses, 0x0000))

    with (
        StandInReceiver(tmp_path / "tps", "TPS", status_for=status_for) as tps,
        owing(tmp_path / "n", receiver("tps", tps.port), audit=events.append) as node,
    ):
        count = len(node.owe())
        node.run_due()
    assert told(events) == [
        (Kind.BEGIN_SENDING, "", "success"),
        (Kind.SENT, "", "success"),
        (Kind.SENT, "", "failure"),
    ]
    assert [event.what["sop_classes"] for event in events] == [f"={count}", f"={count - 1}", "=1"]
    assert {event.what["case_id"] for event in events} == {"c1"}


def test_peer_that_cannot_be_reached_is_a_failed_transfer(tmp_path: Path) -> None:
    """What was begun and not done is told, too."""
    events: list[AuditEvent] = []
    with owing(tmp_path, receiver("tps", 1), audit=events.append) as node:
        node.owe()
        node.run_due()
    assert told(events) == [(Kind.BEGIN_SENDING, "", "success"), (Kind.SENT, "", "failure")]


def test_retention_tells_which_studies_went_and_which_results(index: Index, tmp_path: Path) -> None:
    """A.5.3.8: whole studies; results are objects of a study that may stay (A.5.3.6, D)."""
    events: list[AuditEvent] = []
    shelf = Shelf(tmp_path, index)
    shelf.delivered("A", "a")
    shelf.clock.advance(days=DAYS + 1)
    shelf.store("NEW", "1")
    shelf.retention(audit=events.append).run()
    results, objects = events
    assert (results.kind, results.what["case_id"]) == (Kind.ACCESSED, "a")
    assert results.what["event_action"] == "D"
    assert (objects.kind, objects.what["study"]) == (Kind.STUDY_DELETED, "1.0.A")
    assert objects.what["patient_key"] == patient_key_of(shelf.header("A", "1"))
    assert objects.what["sop_classes"] == "=2"


# --- whom it names ----------------------------------------------------------------------------


def header() -> InstanceHeader:
    return InstanceHeader(
        sop_instance_uid="1.2.1",
        sop_class_uid=uid.CTImageStorage,
        transfer_syntax_uid=uid.ExplicitVRLittleEndian,
        modality="CT",
        study_instance_uid="1.2.2",
        series_instance_uid="1.2.3",
        patient_id=PATIENT["PatientID"],
        patient_name=PATIENT["PatientName"],
    )


@pytest.mark.parametrize("named", ["pseudonym", "identifier"])
def test_patient_is_named_only_where_the_operator_asks_for_it(named: str, tmp_path: Path) -> None:
    """Invariant 6: by default a pseudonym that is the same for the same patient."""
    with running(tmp_path) as node:
        with associated(node) as assoc:
            assert status_of(assoc, encoded(ct()), ct()) == 0
        node.wait_for_outcomes("released")
        found = trail(node.index, tmp_path, patients=named)
        key = patient_key_of(header())
        what = {"patient_key": key, "study": "1.2.826.0.2"}
        found.write(AuditEvent(Kind.ACCESSED, "anna", "10.0.0.1", what=what))
        found.write(AuditEvent(Kind.EXPORTED, "anna", "10.0.0.1", what=what))
    first, second = lines_of(tmp_path)
    told_patients = {
        part.split('ParticipantObjectID="')[1].split('"')[0]
        for line in (first, second)
        for part in line.split("<ParticipantObjectIdentification")
        if "Patient Number" in part
    }
    assert len(told_patients) == 1
    assert ("MARKED-4711" in first) is (named == "identifier")
    assert ("MARKEDNAME^Anna" in first) is (named == "identifier")
    assert key not in first


def test_case_leads_to_its_patient_and_study(tmp_path: Path) -> None:
    """Who tells of a case need not know whose it is."""
    with owing(tmp_path, receiver("tps", 1)) as node:
        node.owe()
        found = trail(node.index, tmp_path)
        found.write(AuditEvent(Kind.CASE_CHANGED, "anna", what={"case_id": "c1", "action": "x"}))
        pseudonym = found._subjects.pseudonym("patient c1")
    (line,) = lines_of(tmp_path)
    assert f'ParticipantObjectID="{pseudonym}"' in line
    assert schema_problems(syslog_message(line).message) == []


def test_command_of_an_operator_stands_in_the_trail(tmp_path: Path) -> None:
    """`hilum peers resume` writes beside a running node, in the name of whoever runs it."""
    config = tmp_path / "hilum.toml"
    config.write_text(
        '[node]\ndata = "data"\n[[peer]]\nname = "tps"\nae_title = "TPS"\nhost = "127.0.0.1"\n'
        'port = 4242\nroles = ["receive"]\n[[protocol]]\nname = "p"\ntargets = ["GTV*"]\n'
    )
    found = Index(f"sqlite:///{tmp_path / 'data' / 'index.sqlite'}")
    found.create()
    found.close()
    answer = CliRunner().invoke(app, ["peers", "resume", "tps", "--config", str(config)])
    assert answer.exit_code == 0, answer.output
    (line,) = lines_of(tmp_path / "data")
    assert summary(syslog_message(line).message) == ("Security Alert", "E", "0")


# --- it hinders nobody ------------------------------------------------------------------------


def test_events_when_written_are_in_order_and_complete(index: Index, tmp_path: Path) -> None:
    """Stopped, the trail has all that it was told."""
    found = trail(index, tmp_path)
    found.start()
    for number in range(500):
        found.tell(AuditEvent(Kind.LOGIN, f"user{number}", "10.0.0.1"))
    found.stop()
    lines = lines_of(tmp_path)
    assert [f'UserID="user{n}"' in line for n, line in enumerate(lines)] == [True] * 500
    assert all(schema_problems(syslog_message(line).message) == [] for line in lines[:5])


def test_queue_when_full_loses_events_counts_them_and_says_so(
    index: Index, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Issue 8, 5: the work goes on, the loss is counted and said."""
    found = trail(index, tmp_path)  # not started: nobody writes
    before = COUNTS.numbers(AUDIT_LOST).get((), 0)
    with caplog.at_level(logging.ERROR):
        for _ in range(MOST_WAITING + 7):
            found.tell(AuditEvent(Kind.LOGOUT, "anna"))
    assert COUNTS.numbers(AUDIT_LOST)[()] - before == 7
    assert [record.message for record in caplog.records] == ["audit.lost"]


def test_disk_when_it_refuses_is_tried_again_until_it_takes_the_events(
    index: Index, tmp_path: Path
) -> None:
    """A full disk delays the trail; it neither ends its thread nor loses what was told."""
    found = trail(index, tmp_path)
    obstacle = tmp_path / AUDIT_FOLDER
    obstacle.write_text("a file where the folder should be")
    found.start()
    found.tell(AuditEvent(Kind.LOGIN, "anna", "10.0.0.1"))
    wait_for(lambda: found._queue.empty(), timeout_s=LONG_S, what="the event to be taken up")
    assert found.why_stuck(60) == ""
    obstacle.unlink()
    wait_for(lambda: lines_of(tmp_path), timeout_s=LONG_S, what="the line")
    found.stop()


def test_index_when_it_cannot_be_read_keeps_no_event_from_the_trail(
    index: Index, tmp_path: Path
) -> None:
    """That something happened is told even where nobody can tell to whom."""
    found = trail(index, tmp_path)
    with index.begin() as connection:
        connection.exec_driver_sql("DROP TABLE cases")
    found.write(AuditEvent(Kind.CASE_CHANGED, "anna", what={"case_id": "c1"}))
    (line,) = lines_of(tmp_path)
    assert "unknown" in line
    assert schema_problems(syslog_message(line).message) == []


def test_trail_when_it_is_off_or_cannot_be_kept(index: Index, tmp_path: Path) -> None:
    """`audit.enabled = false` keeps nothing; a folder that cannot be is said at the start."""
    config = Config(node=NodeSection(data=tmp_path), audit=AuditSection(enabled=False))
    assert trail_of(config, index, now) is None
    file = tmp_path / "file"
    file.write_text("")
    with pytest.raises(NodeError, match="audit trail cannot be kept") as caught:
        trail_of(Config(node=NodeSection(data=file)), index, now)
    assert "audit.enabled" in caught.value.hint
