"""Storage commitment that senders ask of us, over sockets, on both transports (issue 6, 6)."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from io import BytesIO
from pathlib import Path
from ssl import SSLContext
from typing import Any

import pytest
from pydicom import Dataset, uid
from pynetdicom import AE, evt
from pynetdicom.association import Association
from pynetdicom.dimse_primitives import N_ACTION

from node.config import NodeSection, Role
from node.conformance import STORAGE_COMMITMENT, STORAGE_COMMITMENT_INSTANCE
from node.index.promises import MOST_OWED, PromiseBook
from tests.answering_node import AnsweringNode, Transport, answering, asking, peer
from tests.nodes import NodeProcess, free_port, wait_for
from tests.receiving_node import ct

BOTH = pytest.mark.parametrize("transport", ["fast", "plain"])
LONG_S = 60.0
CLASSES = (STORAGE_COMMITMENT, uid.CTImageStorage)


class Sender:
    """A peer that sends, asks for commitment and takes reports, also over its own listener."""

    def __init__(self) -> None:
        self.reports: list[tuple[int, Dataset, bool]] = []
        self.news = threading.Condition()
        self.status = 0x0000
        self.port = free_port()

    def take(self, event: Any) -> tuple[int, None]:
        """Take a report; remember whether it came over an association of the node's own."""
        with self.news:
            is_own = event.assoc.is_acceptor
            self.reports.append((event.event_type, event.event_information, is_own))
            self.news.notify_all()
        return self.status, None

    @property
    def handlers(self) -> tuple[Any, ...]:
        return ((evt.EVT_N_EVENT_REPORT, self.take),)

    def wait(self, count: int = 1, timeout_s: float = LONG_S) -> tuple[int, Dataset, bool]:
        with self.news:
            assert self.news.wait_for(lambda: len(self.reports) >= count, timeout_s), "no report"
        return self.reports[count - 1]

    @contextmanager
    def listening(self, ssl_context: SSLContext | None = None) -> Iterator[None]:
        ae = AE("SCANNER")
        ae.add_supported_context(STORAGE_COMMITMENT, scu_role=True, scp_role=True)
        server = ae.start_server(
            ("127.0.0.1", self.port),
            block=False,
            ssl_context=ssl_context,
            evt_handlers=list(self.handlers),
        )
        try:
            yield
        finally:
            server.shutdown()

    def peers(self, *, is_reachable: bool = True) -> tuple[Any, ...]:
        port = self.port if is_reachable else None
        return (peer("scanner", Role.SEND, port=port), peer("tps", Role.RECEIVE, port=1))


def store(assoc: Association, *objects: Dataset) -> None:
    for ds in objects:
        ds.ensure_file_meta()
        ds.file_meta.TransferSyntaxUID = uid.ExplicitVRLittleEndian
        assert assoc.send_c_store(ds).Status == 0


def wanted(*references: tuple[str, str], transaction: str = "1.2.826.0.5.1") -> Dataset:
    ds = Dataset()
    ds.TransactionUID = transaction
    items = []
    for sop_class, instance in references:
        item = Dataset()
        item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = sop_class, instance
        items.append(item)
    ds.ReferencedSOPSequence = items
    return ds


def named(ds: Dataset) -> tuple[str, str]:
    return ds.SOPClassUID, ds.SOPInstanceUID


def ask(assoc: Association, ds: Dataset | None, action: int = 1) -> int:
    status, _ = assoc.send_n_action(ds, action, STORAGE_COMMITMENT, STORAGE_COMMITMENT_INSTANCE)
    return int(status.Status)


@BOTH
def test_what_was_sent_is_committed_over_the_same_association(
    transport: Transport, tmp_path: Path
) -> None:
    """PS3.4 J.3: a sender that stays gets its report at once, without a listener of its own."""
    sender = Sender()
    one, two = ct(1), ct(2)
    with (
        answering(tmp_path, transport, sender.peers(is_reachable=False)) as node,
        asking(node, *CLASSES, calling_ae="SCANNER", handlers=sender.handlers) as assoc,
    ):
        store(assoc, one, two)
        assert ask(assoc, wanted(named(one), named(two))) == 0
        event_type, report, is_own = sender.wait()
        assert (event_type, is_own) == (1, False)
        assert report.TransactionUID == "1.2.826.0.5.1"
        assert [i.ReferencedSOPInstanceUID for i in report.ReferencedSOPSequence] == [
            one.SOPInstanceUID,
            two.SOPInstanceUID,
        ]
        assert "FailedSOPSequence" not in report
        store(assoc, ct(3))  # the association goes on


@BOTH
def test_object_that_crosses_with_a_report_is_taken(transport: Transport, tmp_path: Path) -> None:
    """A scanner may send its next image before it has answered a report (PS3.7 7.5.2)."""
    sender = Sender()
    stored = threading.Event()

    def take(event: Any) -> tuple[int, None]:
        assert stored.wait(LONG_S)
        return sender.take(event)

    with (
        answering(tmp_path, transport, sender.peers(is_reachable=False)) as node,
        asking(
            node, *CLASSES, calling_ae="SCANNER", handlers=((evt.EVT_N_EVENT_REPORT, take),)
        ) as assoc,
    ):
        begun = threading.Event()
        assoc.bind(evt.EVT_DIMSE_RECV, lambda event: _note_report(event, begun))
        store(assoc, ct(1))
        assert ask(assoc, wanted(named(ct(1)))) == 0
        assert begun.wait(LONG_S), "the report is under way, and its answer is not"
        if transport == "fast":
            store(assoc, ct(2))
            stored.set()
        else:  # taken when the report is answered
            threading.Timer(0.5, stored.set).start()
            store(assoc, ct(2))
        assert sender.wait()[0] == 1
        store(assoc, ct(3))
        promises = PromiseBook(node.index)
        wait_for(lambda: not promises.owed_to("scanner"), timeout_s=LONG_S, what="the answer")


def _note_report(event: Any, begun: threading.Event) -> None:
    if type(event.message).__name__ == "N_EVENT_REPORT_RQ":
        begun.set()


@BOTH
def test_sender_that_releases_at_once_is_called(transport: Transport, tmp_path: Path) -> None:
    """PS3.4 J.3.3: over an association of our own, with the roles reversed."""
    sender = Sender()
    one = ct(1)
    with sender.listening(), answering(tmp_path, transport, sender.peers()) as node:
        with asking(node, *CLASSES, calling_ae="SCANNER", handlers=sender.handlers) as assoc:
            store(assoc, one)
            assert ask(assoc, wanted(named(one))) == 0
        event_type, report, is_own = sender.wait()
        assert (event_type, is_own) == (1, True)
        assert report.ReferencedSOPSequence[0].ReferencedSOPInstanceUID == one.SOPInstanceUID
        owed = PromiseBook(node.index)
        wait_for(lambda: not owed.owed_to("scanner"), timeout_s=60, what="the promise to be kept")
    assert len(sender.reports) == 1


@BOTH
def test_roles_that_a_sender_proposes_itself_are_accepted(
    transport: Transport, tmp_path: Path
) -> None:
    """PS3.7 D.3.3.4: with role selection, as some archives propose it, and without."""
    sender = Sender()
    one = ct(1)
    with answering(tmp_path, transport, sender.peers(is_reachable=False)) as node:
        with asking(node, uid.CTImageStorage, calling_ae="SCANNER") as assoc:
            store(assoc, one)
        with asking(
            node,
            STORAGE_COMMITMENT,
            calling_ae="SCANNER",
            reports=True,
            handlers=sender.handlers,
        ) as assoc:
            (context,) = assoc.accepted_contexts
            assert (context.as_scu, context.as_scp) == (True, True)
            assert ask(assoc, wanted(named(one))) == 0
            assert sender.wait()[0] == 1


@BOTH
def test_what_is_not_held_is_not_committed(transport: Transport, tmp_path: Path) -> None:
    """Handbook A.3: each failure reason, and the objects that are held beside them."""
    sender = Sender()
    held, lost, cut = ct(1), ct(2), ct(3)
    with (
        answering(tmp_path, transport, sender.peers(is_reachable=False)) as node,
        asking(node, *CLASSES, calling_ae="SCANNER", handlers=sender.handlers) as assoc,
    ):
        store(assoc, held, lost, cut)
        assert node.scp.wait_until_filed(LONG_S)
        for path in (node.root / "objects").rglob("*.dcm"):
            content = path.read_bytes()
            if lost.SOPInstanceUID.encode() + b"\0" in content:
                path.unlink()
            elif cut.SOPInstanceUID.encode() + b"\0" in content:
                path.write_bytes(content[:-2])
        conflict = (uid.MRImageStorage, held.SOPInstanceUID)
        ultrasound = ("1.2.840.10008.5.1.4.1.1.6", "1.2.3")
        references = (named(held), named(lost), named(cut), (uid.CTImageStorage, "1.2.4"))
        assert ask(assoc, wanted(*references, conflict, ultrasound)) == 0
        event_type, report, _ = sender.wait()
    assert event_type == 2
    assert [i.ReferencedSOPInstanceUID for i in report.ReferencedSOPSequence] == [
        held.SOPInstanceUID
    ]
    failed = {
        (i.ReferencedSOPClassUID, i.ReferencedSOPInstanceUID): i.FailureReason
        for i in report.FailedSOPSequence
    }
    assert failed == {
        named(lost): 0x0112,
        named(cut): 0x0112,
        (uid.CTImageStorage, "1.2.4"): 0x0112,
        conflict: 0x0119,
        ultrasound: 0x0122,
    }


@BOTH
def test_object_sent_a_moment_ago_is_committed(transport: Transport, tmp_path: Path) -> None:
    """What is promised by the journal is held, whether or not the index has it yet."""
    sender = Sender()
    objects = [ct(n) for n in range(1, 80)]
    with (
        answering(tmp_path, transport, sender.peers(is_reachable=False)) as node,
        asking(node, *CLASSES, calling_ae="SCANNER", handlers=sender.handlers) as assoc,
    ):
        store(assoc, *objects)
        assert ask(assoc, wanted(*map(named, objects))) == 0
        event_type, report, _ = sender.wait()
    assert event_type == 1
    assert len(report.ReferencedSOPSequence) == 79


@BOTH
def test_same_request_again_is_one_and_another_under_its_uid_fails(
    transport: Transport, tmp_path: Path
) -> None:
    """Handbook A.3: 0x0131 for a transaction UID that is in use; a repetition is harmless."""
    sender = Sender()
    one = ct(1)
    with answering(tmp_path, transport, sender.peers()) as node:
        with asking(node, *CLASSES, calling_ae="SCANNER") as assoc:
            store(assoc, one)
            for _ in range(2):  # nobody listens, so that both are in progress
                assert ask(assoc, wanted(named(one))) == 0
            assert ask(assoc, wanted((uid.CTImageStorage, "1.2.9"))) == 0
        assert len(PromiseBook(node.index).owed_to("scanner")) == 2
        with sender.listening():
            sender.wait(2)
    assert sorted(event_type for event_type, _, _ in sender.reports) == [1, 2]
    (failed,) = next(r for t, r, _ in sender.reports if t == 2).FailedSOPSequence
    assert failed.FailureReason == 0x0131


def raw(assoc: Association, content: bytes | None) -> int:
    """Ask with bytes as they are."""
    request = N_ACTION()
    request.MessageID, request.ActionTypeID = 5, 1
    request.RequestedSOPClassUID = STORAGE_COMMITMENT
    request.RequestedSOPInstanceUID = STORAGE_COMMITMENT_INSTANCE
    if content is not None:
        request.ActionInformation = BytesIO(content)
    context = next(cx for cx in assoc.accepted_contexts if cx.abstract_syntax == STORAGE_COMMITMENT)
    assoc._reactor_checkpoint.clear()
    assoc.dimse.send_msg(request, context.context_id or 0)
    _, answer = assoc.dimse.get_msg(block=True)
    assoc._reactor_checkpoint.set()
    assert isinstance(answer, N_ACTION)
    return int(answer.Status or 0)


@BOTH
def test_request_that_says_nothing_usable_is_refused(transport: Transport, tmp_path: Path) -> None:
    """PS3.7 10.1.4.1.10: malformed, incomplete, another action, another instance, another role."""
    with answering(tmp_path, transport) as node:
        with asking(
            node,
            STORAGE_COMMITMENT,
            calling_ae="SCANNER",
            syntaxes=(uid.ImplicitVRLittleEndian,),
        ) as assoc:
            some = (uid.CTImageStorage, "1.2.3")
            assert raw(assoc, b"\x08\x00\x95\x11\xff\xff\x00\x00garbage") == 0x0115
            assert raw(assoc, None) == 0x0115
            no_uid = wanted(some)
            del no_uid.TransactionUID
            assert ask(assoc, no_uid) == 0x0120
            assert ask(assoc, wanted()) == 0x0120
            assert ask(assoc, wanted(some), action=2) == 0x0123
            empty = Dataset()
            bad = wanted(some)
            bad.ReferencedSOPSequence.append(empty)
            assert ask(assoc, bad) == 0x0115
            status, _ = assoc.send_n_action(wanted(some), 1, STORAGE_COMMITMENT, "1.2.3.4")
            assert status.Status == 0x0112
            assert not PromiseBook(node.index).owed_to("scanner")
        with asking(node, STORAGE_COMMITMENT, calling_ae="TPS") as assoc:
            assert ask(assoc, wanted(some)) == 0x0124


@pytest.mark.slow
def test_ten_thousand_objects_are_answered(tmp_path: Path) -> None:
    """Issue 6: a long request is one request; beyond the limit it is refused, not cut."""
    sender = Sender()
    one = ct(1)
    many = [(uid.CTImageStorage, f"1.2.3.{n}") for n in range(10_000)]
    too_many = wanted(
        *((uid.CTImageStorage, f"1.2.4.{n}") for n in range(20_001)), transaction="1.2.9"
    )
    patient = NodeSection(port=0, data=tmp_path, network_timeout_s=240)
    peers = sender.peers(is_reachable=False)
    with (
        answering(tmp_path, "fast", peers, section=patient) as node,
        asking(node, *CLASSES, calling_ae="SCANNER", handlers=sender.handlers) as assoc,
    ):
        # pynetdicom encodes and decodes 10,000 items slowly
        assoc.dimse_timeout = assoc.network_timeout = 240
        store(assoc, one)
        assert ask(assoc, wanted(named(one), *many)) == 0
        event_type, report, _ = sender.wait(timeout_s=240)
        assert event_type == 2
        assert len(report.FailedSOPSequence) == 10_000
        assert len(report.ReferencedSOPSequence) == 1
        assert ask(assoc, too_many) == 0x0213


def test_peer_that_takes_no_reports_is_bounded(tmp_path: Path) -> None:
    """A flood of requests fills no disk: what one peer may be owed is limited."""
    with answering(tmp_path, "fast", Sender().peers()) as node:
        book, now = PromiseBook(node.index), datetime.now(UTC)
        later = now + timedelta(hours=1)
        times = {"now": now, "next_try_at": later, "give_up_at": later}
        for n in range(MOST_OWED):
            book.accept("scanner", f"1.2.{n}", [(uid.CTImageStorage, "1.2.3")], **times)
        with asking(node, STORAGE_COMMITMENT, calling_ae="SCANNER") as assoc:
            assert ask(assoc, wanted((uid.CTImageStorage, "1.2.3"))) == 0x0213


def test_report_that_is_refused_comes_again(tmp_path: Path) -> None:
    """A report is owed until its peer took it with success; then no more."""
    sender = Sender()
    sender.status = 0x0110
    with sender.listening(), answering(tmp_path, "fast", sender.peers()) as node:
        with asking(node, STORAGE_COMMITMENT, calling_ae="SCANNER") as assoc:
            assert ask(assoc, wanted((uid.CTImageStorage, "1.2.3"))) == 0
        sender.wait(2)
        sender.status = 0x0000
        owed = PromiseBook(node.index)
        wait_for(lambda: not owed.owed_to("scanner"), timeout_s=60, what="the report to be taken")


def test_report_is_given_up_when_its_time_is_over(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """`node.commitment_timeout_h` bounds how long a peer that is away is called."""
    caplog.set_level("INFO")
    section = NodeSection(port=0, data=tmp_path, commitment_timeout_h=0.0001, network_timeout_s=5)
    with answering(tmp_path, "fast", Sender().peers(), section=section) as node:
        with asking(node, STORAGE_COMMITMENT, calling_ae="SCANNER") as assoc:
            assert ask(assoc, wanted((uid.CTImageStorage, "1.2.3"))) == 0
        owed = PromiseBook(node.index)
        wait_for(lambda: not owed.owed_to("scanner"), timeout_s=60, what="the report's end")
    assert "commitment.given_up" in [r.message for r in caplog.records]


@BOTH
def test_sender_that_comes_back_gets_what_it_is_owed(transport: Transport, tmp_path: Path) -> None:
    """A sender without a listener gets its report over its next association, restart or not."""
    sender = Sender()
    one = ct(1)
    peers = sender.peers(is_reachable=False)
    with (
        answering(tmp_path, transport, peers) as node,
        asking(node, *CLASSES, calling_ae="SCANNER") as assoc,
    ):
        store(assoc, one)
        assert ask(assoc, wanted(named(one))) == 0
        assoc.abort()
    assert not sender.reports
    with (
        answering(tmp_path, transport, peers) as node,
        asking(node, STORAGE_COMMITMENT, calling_ae="SCANNER", handlers=sender.handlers),
    ):
        assert sender.wait()[0] == 1
        owed = PromiseBook(node.index)
        wait_for(lambda: not owed.owed_to("scanner"), timeout_s=60, what="the report's end")


def test_report_is_sent_after_kill(tmp_path: Path) -> None:
    """Issue 6: the request survives kill -9 right behind its answer."""
    sender = Sender()
    one = ct(1)
    node = NodeProcess(tmp_path / "node", {})
    text = node.config.read_text(encoding="utf-8")
    port = f'ae_title = "SCANNER"\nport = {sender.port}\n'
    text = text.replace('ae_title = "SCANNER"\n', port).replace("destinations = []", "")
    node.config.write_text(text, encoding="utf-8")
    known = AnsweringNodeAt(node.port)
    with node, asking(known, *CLASSES, calling_ae="SCANNER") as assoc:
        store(assoc, one)
        assert ask(assoc, wanted(named(one))) == 0
        node.kill()
    assert not sender.reports
    with sender.listening(), node:
        event_type, report, is_own = sender.wait()
        assert (event_type, is_own) == (1, True)
        assert report.ReferencedSOPSequence[0].ReferencedSOPInstanceUID == one.SOPInstanceUID


class AnsweringNodeAt(AnsweringNode):
    """A node in another process: only its port is known."""

    def __init__(self, port: int) -> None:
        self.port = port


def test_listener_without_the_reversed_role_is_told_in_the_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A peer whose listener takes no reports: the reason names what to configure there."""
    caplog.set_level("INFO")
    sender = Sender()
    ae = AE("SCANNER")
    ae.add_supported_context(uid.CTImageStorage)
    server = ae.start_server(("127.0.0.1", sender.port), block=False)
    try:
        with answering(tmp_path, "fast", sender.peers()) as node:
            with asking(node, STORAGE_COMMITMENT, calling_ae="SCANNER") as assoc:
                assert ask(assoc, wanted((uid.CTImageStorage, "1.2.3"))) == 0

            def reasons() -> list[str]:
                off = [r for r in caplog.records if r.message == "commitment.put_off"]
                return [vars(r)["reason"] for r in off]

            wait_for(reasons, timeout_s=60, what="the attempt")
            assert "Storage Commitment" in reasons()[0]
    finally:
        server.shutdown()


def test_node_that_stops_waits_for_no_silent_taker_of_reports(tmp_path: Path) -> None:
    """A stop takes seconds; the report stays owed."""
    sender = Sender()
    begun, go_on = threading.Event(), threading.Event()

    def take(event: Any) -> tuple[int, None]:
        begun.set()
        go_on.wait(4 * LONG_S)
        return sender.take(event)

    ae = AE("SCANNER")
    ae.add_supported_context(STORAGE_COMMITMENT, scu_role=True, scp_role=True)
    handlers: list[Any] = [(evt.EVT_N_EVENT_REPORT, take)]
    server = ae.start_server(("127.0.0.1", sender.port), block=False, evt_handlers=handlers)
    try:
        with answering(tmp_path, "fast", sender.peers()) as node:
            with asking(node, *CLASSES, calling_ae="SCANNER") as assoc:
                assert ask(assoc, wanted(named(ct(1)))) == 0
            assert begun.wait(LONG_S)
            node.answering.stop()
            node.scp.stop()
            thread = node.answering._reports._thread
            thread.join(LONG_S)
            assert not thread.is_alive(), "it ended, and was not left behind"
            assert not go_on.is_set()
            assert len(PromiseBook(node.index).owed_to("scanner")) == 1
    finally:
        go_on.set()
        server.shutdown()
