"""C-GET and storage commitment over TLS, asked by us and asked of us; nobody listens in plain."""

import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydicom import Dataset, uid
from pydicom.uid import CTImageStorage
from pynetdicom.association import Association

from node.answering.keys import STUDY_ROOT_GET
from node.config import NodeSection, Peer, Role, TlsSection
from node.errors import DeliveryError
from node.index.states import CaseState
from node.query.dialog import ReceivedObject
from node.query.retrieve import Line, Wanted, get
from node.scp import StoreScp
from node.storage import ObjectStore
from tests.answering_node import STUDY as RESULT_STUDY
from tests.answering_node import answering, asking, identifier, peer, result, taking
from tests.authority import Authority
from tests.committing_peer import Behavior, CommittingPeer
from tests.odd_archive import odd_archive, respond, send_on_line
from tests.owed_results import owing, receiver
from tests.receiving_node import ct
from tests.receiving_node import encoded as data_set_of
from tests.test_commitment_scp import CLASSES, Sender, ask, named, store, wanted
from tests.test_query_find import OURS, SERIES, STUDY, slices

pytestmark = pytest.mark.peers

LONG_S = 60.0


@pytest.fixture(scope="module")
def authority(
    tmp_path_factory: pytest.TempPathFactory, peer_program: Callable[[str], str]
) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"), peer_program("openssl"))


@pytest.fixture(scope="module")
def ours(authority: Authority) -> TlsSection:
    """Return what the node shows and trusts; it listens encrypted only."""
    return authority.settings(authority.issue("hilum"), require=True)


@pytest.fixture(scope="module")
def theirs(authority: Authority) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """Return how a peer listens, and how it calls; either way both sides show a certificate."""
    own, trusted = authority.issue("peer"), str(authority.certificate)
    listens = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=trusted)
    listens.verify_mode = ssl.CERT_REQUIRED
    calls = ssl.create_default_context(cafile=trusted)
    for context in (listens, calls):
        context.load_cert_chain(own.certificate, own.key)
    return listens, calls


def over_tls(one: Peer) -> Peer:
    """Return a peer that is called over TLS, if it is called at all."""
    return one.model_copy(update={"tls": one.port is not None})


def test_objects_when_got_from_an_archive_over_tls_are_taken(
    ours: TlsSection, theirs: tuple[ssl.SSLContext, ssl.SSLContext]
) -> None:
    """Issue 6, item 7: C-GET on an encrypted line; a caller in plain gets nothing."""
    got: list[ReceivedObject] = []

    def serve(assoc: Association, request: Any, context_id: int) -> None:
        for number, ds in enumerate(slices(2), start=1):
            uid = str(ds.SOPInstanceUID)
            send_on_line(assoc, CTImageStorage, uid, data_set_of(ds), number)
        respond(assoc, request, context_id, 0, None, Completed=2)

    def keep(received: ReceivedObject) -> tuple[int, str]:
        got.append(received)
        return 0, ""

    whole = Wanted(STUDY, SERIES, patient_id="MARKED-4711")
    with odd_archive(serve, ssl_context=theirs[0]) as archive:
        with pytest.raises(DeliveryError):
            get(Line(archive, OURS, 2.0), whole, store=keep)
        assert got == []
        found = get(Line(over_tls(archive), OURS, LONG_S, ours), whole, store=keep)
    assert [one.data_set for one in got] == [data_set_of(ds) for ds in slices(2)]
    assert (found.completed, found.failed) == (2, 0)


def test_results_when_got_from_the_node_over_tls_are_whole(
    ours: TlsSection, theirs: tuple[ssl.SSLContext, ssl.SSLContext], tmp_path: Path
) -> None:
    """Issue 6, item 7: a planning system pulls over TLS what it would pull in plain."""
    taken: list[Dataset] = []
    peers = (peer("tps", Role.RECEIVE, port=1),)
    with answering(tmp_path, "fast", peers, tls=ours) as node:
        node.adopt(*(result(n) for n in range(1, 4)))
        with asking(
            node,
            STUDY_ROOT_GET,
            given=(uid.MRImageStorage,),
            handlers=taking(taken),
            tls_args=(theirs[1], "127.0.0.1"),
        ) as assoc:
            asked = identifier("STUDY", StudyInstanceUID=RESULT_STUDY)
            answers = list(assoc.send_c_get(asked, STUDY_ROOT_GET))
    assert answers[-1][0].Status == 0
    sent = {ds.SOPInstanceUID: bytes(ds.PixelData) for ds in taken}
    assert sent == {r.SOPInstanceUID: bytes(r.PixelData) for r in map(result, range(1, 4))}


@pytest.mark.parametrize("stays", [True, False])
def test_what_was_sent_over_tls_is_committed_over_tls(
    ours: TlsSection,
    theirs: tuple[ssl.SSLContext, ssl.SSLContext],
    tmp_path: Path,
    stays: bool,
) -> None:
    """Issue 6, item 6: the report on the sender's line, or on one of ours to its listener."""
    sender, image = Sender(), ct(1)
    peers = tuple(over_tls(one) for one in sender.peers(is_reachable=not stays))
    with (
        sender.listening(theirs[0]),
        answering(tmp_path, "fast", peers, tls=ours) as node,
    ):
        with asking(
            node,
            *CLASSES,
            calling_ae="SCANNER",
            handlers=sender.handlers,
            tls_args=(theirs[1], "127.0.0.1"),
        ) as assoc:
            store(assoc, image)
            assert ask(assoc, wanted(named(image))) == 0
            if stays:
                sender.wait()
        event_type, report, is_own = sender.wait()
    assert (event_type, is_own) == (1, not stays)
    (item,) = report.ReferencedSOPSequence
    assert item.ReferencedSOPInstanceUID == image.SOPInstanceUID


@pytest.mark.parametrize("reports", ["same", "new"])
def test_commitment_when_asked_for_over_tls_delivers(
    ours: TlsSection,
    theirs: tuple[ssl.SSLContext, ssl.SSLContext],
    tmp_path: Path,
    reports: str,
) -> None:
    """Issue 6, item 6: N-ACTION over TLS; the report on that line, or over our listener."""
    committing = CommittingPeer("TPS", Behavior(reports=reports))  # type: ignore[arg-type]
    committing.ssl_context, calls = theirs
    committing.tls_args = (calls, "127.0.0.1")
    with (
        committing,
        owing(tmp_path, over_tls(receiver("tps", committing.port, Role.COMMIT)), tls=ours) as node,
    ):
        section = NodeSection(port=0, network_timeout_s=10.0)
        scp = StoreScp(
            node.config.model_copy(update={"node": section}),
            ObjectStore(tmp_path / "received", 0),
            node.index,
            node.clock,
            services=(node.desk.service(),),
        )
        committing.node_port = scp.start()
        try:
            results = node.owe()
            node.run_due()
            assert committing.wait_for_answers(1) == [0x0000]
            node.run_due()
        finally:
            scp.stop()
        case = node.case()
    assert case.state is CaseState.DELIVERED
    assert case.delivery_findings == ()
    assert sorted(committing.stored) == sorted(results)
