"""Peers that break the protocol: the association ends with the right reason, the node lives on.

Over real sockets against the running node. What must happen is from PS3.8: an A-ABORT of the
service provider (source 2) tells of an unrecognised PDU (1), an unexpected one (2), or an invalid
value (6; table 9-26). `tests.fuzz.associations` does the same at random, by the hundred thousand.
"""

import logging
import random
import struct
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from pydicom import uid

from node.association_request import MOST_ODD_UIDS, MOST_TRANSFER_SYNTAXES, examined
from node.config import NodeSection
from node.pdu_stream import ProtocolError
from tests.hostile_peer import (
    ECHO,
    ECHO_CONTEXT,
    STORE,
    STORE_CONTEXT,
    WHOLE_COMMAND,
    HostilePeer,
    abort_reason,
    association_threads,
    check_unharmed,
    command,
    context,
    damaged,
    echo_command,
    echo_status,
    element,
    item,
    pdv,
    request,
    store_command,
    user,
)
from tests.raw_sender import (
    ABORT,
    ASSOCIATE_AC,
    ASSOCIATE_RJ,
    C_STORE_RQ,
    COMMAND_FRAGMENT,
    DATA_TF,
    LAST_FRAGMENT,
    NO_DATA_SET,
    RELEASE_RP,
    RELEASE_RQ,
    VERIFICATION,
    pdu,
)
from tests.receiving_node import Node, ct, encoded, running

UNRECOGNISED, UNEXPECTED, INVALID = (2, 1), (2, 2), (2, 6)
CT, EXPLICIT = uid.CTImageStorage, uid.ExplicitVRLittleEndian
DATA = encoded(ct())
SHORT_S = 2.0
BEFORE_REQUEST = (0, 0)
"""Source and reason of the A-ABORT that answers what is no association request."""

C_FIND_RQ, C_STORE_RSP, NO_SUCH_COMMAND = 0x0020, 0x8001, 0x7777


def data(*pdvs: bytes) -> bytes:
    """Return a P-DATA-TF PDU."""
    return pdu(DATA_TF, b"".join(pdvs))


def long_pdu(kind: int) -> bytes:
    """Return the header of a PDU that claims a gigabyte."""
    return struct.pack(">BxI", kind, 1 << 30)


WHOLE_DATA = data(pdv(STORE_CONTEXT, LAST_FRAGMENT, DATA))
BEGUN = store_command() + data(pdv(STORE_CONTEXT, 0, DATA[:100]))
STORE_SET = command(C_STORE_RQ)


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    section = NodeSection(port=0, network_timeout_s=30, max_rejections_per_minute=100_000)
    with running(tmp_path_factory.mktemp("node"), section=section) as found:
        yield found


@pytest.mark.parametrize(
    "stream",
    [
        pytest.param(data(pdv(1, 3, b"x")), id="data first"),
        pytest.param(pdu(RELEASE_RQ), id="release first"),
        pytest.param(pdu(ASSOCIATE_AC), id="acceptance first"),
        pytest.param(pdu(0), id="PDU of type 0"),
        pytest.param(pdu(8), id="PDU of type 8"),
        pytest.param(b"GET / HTTP/1.1\r\n\r\n", id="a browser"),
        pytest.param(request(length=1 << 31), id="two gigabytes"),
        pytest.param(pdu(1, b""), id="empty"),
        pytest.param(pdu(1, bytes(200)), id="zeros"),
        pytest.param(request(user_item=user()[:-3]), id="cut"),
        pytest.param(request(user_item=item(0x50, b"", 9)), id="user information lies"),
        pytest.param(request(item(0x20, b"\1", 5)), id="a context lies"),
        pytest.param(request(context(2, CT, EXPLICIT)), id="even context"),
        pytest.param(request(context(0, CT, EXPLICIT)), id="context 0"),
        pytest.param(request(STORE, STORE), id="a context twice"),
        pytest.param(
            request(*[context(1 + 2 * n % 256, CT, EXPLICIT) for n in range(300)]),
            id="300 contexts",
        ),
        pytest.param(request(context(1, CT)), id="no transfer syntax"),
        pytest.param(
            request(item(0x20, b"\1\0\0\0" + item(0x40, EXPLICIT))), id="no abstract syntax"
        ),
        pytest.param(request(context(1, "../../etc", EXPLICIT)), id="UID with ../"),
        pytest.param(request(context(1, "1.2\0.3", EXPLICIT)), id="UID with NUL"),
        pytest.param(request(context(1, "1.2" * 100, EXPLICIT)), id="UID of 300"),
        pytest.param(request(context(1, "", EXPLICIT)), id="empty UID"),
        pytest.param(request(context(1, CT, "1.\xff")), id="transfer syntax"),
        pytest.param(request(calling=b"\xff\xfe"), id="calling AE title"),
        pytest.param(request(called=bytes(16)), id="called AE title"),
        pytest.param(request(user_item=user(1, item(0x54, b"\xff\xff1.2\1\1"))), id="role"),
        pytest.param(request(user_item=user(1, item(0x54, b"\0"))), id="short role"),
        pytest.param(
            request(user_item=user(1, item(0x58, b"\x09\1\0\1a\0\1b"))), id="user identity"
        ),
        pytest.param(
            request(user_item=user(1, *[item(0x54, b"\0\0031.2\1\1")] * 600)), id="600 roles"
        ),
    ],
)
def test_bad_association_request_is_aborted(node: Node, stream: bytes) -> None:
    """Issue 4, point 9; PS3.8 9.2.3, action AA-1: source 0, no reason."""
    with HostilePeer(node.port) as peer:
        peer.send(stream)
        assert abort_reason(peer.ending()) == BEFORE_REQUEST
    check_unharmed(node)


@pytest.mark.parametrize(
    "asked",
    [
        pytest.param(request(user_item=b""), id="no user information"),
        pytest.param(request(user_item=user(1)), id="PDUs of one byte"),
        pytest.param(request(user_item=user(0)), id="PDUs without limit"),
        pytest.param(request(user_item=user(0xFFFFFFFF)), id="PDUs of 4 GB"),
        pytest.param(request(version=0xFFFF), id="later versions, too"),
        pytest.param(request(STORE, ECHO, item(0x77, b"abc")), id="unknown item"),
        pytest.param(request(user_item=user(9, item(0x5F, b"a"))), id="unknown user information"),
        pytest.param(
            request(ECHO, *[context(5 + 2 * n, CT, EXPLICIT) for n in range(125)]), id="many"),
    ],
)  # fmt: skip
def test_odd_association_request_is_served(node: Node, asked: bytes) -> None:
    """PS3.8 9.3.1: unknown items are ignored; what is only odd is no reason to refuse."""
    with HostilePeer(node.port) as peer:
        peer.send(asked)
        assert peer.receive()[0] == ASSOCIATE_AC
        peer.send(echo_command())
        assert element(0x0900, 0) in peer.receive()[1]
        peer.send(pdu(RELEASE_RQ))
        assert [kind for kind, _ in peer.ending()] == [RELEASE_RP]
    check_unharmed(node)


def test_request_of_another_version_is_rejected(node: Node) -> None:
    """PS3.8 9.3.4: permanent, by the service provider (ACSE), protocol version not supported."""
    with HostilePeer(node.port) as peer:
        peer.send(request(version=0))
        (answer,) = peer.ending()
        assert answer == (ASSOCIATE_RJ, bytes((0, 1, 2, 2)))
    check_unharmed(node)


def test_request_full_of_bad_uids_costs_one_line(
    node: Node, caplog: pytest.LogCaptureFixture
) -> None:
    """A stranger must not fill the log: pynetdicom alone writes ninety thousand lines of this."""
    bad = request(*[context(1 + 2 * n, CT, *["../../x"] * 140) for n in range(128)])
    odd = request(*[context(1 + 2 * n, CT, *["1.02.3"] * 40) for n in range(128)])
    for asked in (bad, odd):
        caplog.clear()
        with caplog.at_level(logging.WARNING), HostilePeer(node.port) as peer:
            peer.send(asked)
            assert abort_reason(peer.ending()) == BEFORE_REQUEST
        assert association_threads() == []
        assert len(caplog.records) == 1
        assert "../" not in caplog.text


@pytest.mark.parametrize(
    ("asked", "rejection"),
    [
        (request(application=b""), (1, 1, 2)),
        (request(application=item(0x10, b"1.2.840.10008.3.1.1.2")), (1, 1, 2)),
        (request(version=2), (1, 2, 2)),
    ],
)
def test_other_protocol_is_rejected(
    node: Node, asked: bytes, rejection: tuple[int, int, int]
) -> None:
    """PS3.8 table 9-21: application context name, protocol version."""
    with HostilePeer(node.port) as peer:
        peer.send(asked)
        kind, content = peer.receive()
        assert (kind, tuple(content[1:4])) == (ASSOCIATE_RJ, rejection)
    check_unharmed(node)


def test_request_within_the_bounds_passes_unchanged() -> None:
    """The bounds are beyond what an honest peer proposes."""
    many = [EXPLICIT] * (MOST_TRANSFER_SYNTAXES // 128)
    largest = request(*[context(1 + 2 * n, CT, *many) for n in range(128)])[6:]
    assert examined(largest) == largest
    odd = request(context(1, CT, *["1.02.3"] * MOST_ODD_UIDS))[6:]
    assert examined(odd) == odd
    for beyond in (
        request(*[context(1 + 2 * n, CT, EXPLICIT, *many) for n in range(128)]),
        request(context(1, CT, *["1.02.3"] * (MOST_ODD_UIDS + 1))),
    ):
        with pytest.raises(ProtocolError):
            examined(beyond[6:])


@pytest.mark.parametrize(
    ("stream", "reason"),
    [
        pytest.param(request(), UNEXPECTED, id="a second request"),
        pytest.param(pdu(ASSOCIATE_AC), UNEXPECTED, id="an acceptance"),
        pytest.param(pdu(ASSOCIATE_RJ), UNEXPECTED, id="a rejection"),
        pytest.param(pdu(RELEASE_RP), UNEXPECTED, id="the answer to a release"),
        pytest.param(pdu(8), UNRECOGNISED, id="PDU of type 8"),
        pytest.param(BEGUN + pdu(0xFF), UNRECOGNISED, id="PDU of type 255 within a data set"),
        pytest.param(long_pdu(DATA_TF), INVALID, id="data PDU of a gigabyte"),
        pytest.param(long_pdu(RELEASE_RQ), INVALID, id="release of a gigabyte"),
        pytest.param(long_pdu(ABORT), INVALID, id="abort of a gigabyte"),
        pytest.param(struct.pack(">BxI", DATA_TF, 3), INVALID, id="PDU shorter than a PDV header"),
        pytest.param(data(pdv(1, 3, b"", 0)), INVALID, id="PDV of length 0"),
        pytest.param(data(pdv(1, 3, b"", 1)), INVALID, id="PDV of length 1"),
        pytest.param(data(pdv(1, 3, b"abc", 400)), INVALID, id="PDV beyond its PDU"),
        pytest.param(data(pdv(1, 3, b"abc", 0xFFFFFFFF)), INVALID, id="PDV of 4 GB"),
        pytest.param(data(pdv(1, 1, STORE_SET[:20]) + b"\0\0"), INVALID, id="PDU with a rest"),
        pytest.param(data(pdv(5, 3, STORE_SET)), INVALID, id="unknown context"),
        pytest.param(data(pdv(0, 3, STORE_SET)), INVALID, id="context 0"),
        pytest.param(BEGUN + data(pdv(5, 0, DATA)), INVALID, id="data in unknown context"),
        pytest.param(BEGUN + data(pdv(3, 0, DATA)), INVALID, id="data in another context"),
        pytest.param(WHOLE_DATA, INVALID, id="data without a command"),
        pytest.param(data(pdv(1, 2, b"")), INVALID, id="no data without a command"),
        pytest.param(store_command() * 2, INVALID, id="command after a command"),
        pytest.param(BEGUN + store_command(), INVALID, id="command within a data set"),
        pytest.param(BEGUN + data(pdv(1, 1, b"")), INVALID, id="no command within a data set"),
        pytest.param(data(pdv(1, 1, STORE_SET[:20]), pdv(3, 3, STORE_SET[20:])), INVALID,
                     id="command in two contexts"),
        pytest.param(data(pdv(1, COMMAND_FRAGMENT, bytes(9000))) * 2, INVALID,
                     id="command without end"),
        pytest.param(data(pdv(1, 3, b"")), INVALID, id="empty command"),
        pytest.param(data(pdv(1, 3, STORE_SET[:-3])), INVALID, id="command cut"),
        pytest.param(data(pdv(1, 3, element(0x100, 1, 0xFFFFFFFF))), INVALID, id="element of 4 GB"),
        pytest.param(data(pdv(1, 3, b"\x08" + STORE_SET[1:])), INVALID, id="group 8"),
        pytest.param(data(pdv(1, 3, command(NO_SUCH_COMMAND))), INVALID, id="no such command"),
        pytest.param(store_command(data=None), INVALID, id="no data set type"),
        pytest.param(echo_command(data=1) + data(pdv(3, 0, bytes(100_000))) * 50, INVALID,
                     id="C-ECHO with 5 MB"),
        pytest.param(data(pdv(1, 3, command(C_FIND_RQ, data=NO_DATA_SET))), (0, 0), id="C-FIND"),
        pytest.param(
            data(pdv(1, 3, command(C_FIND_RQ, data=NO_DATA_SET)), pdv(1, 3, STORE_SET)), (0, 0),
            id="C-FIND and more in its PDU"),
        pytest.param(echo_command(sop_class=b"1.2.34"), (0, 0), id="C-ECHO of another class"),
    ],
)  # fmt: skip
def test_broken_protocol_is_aborted(node: Node, stream: bytes, reason: tuple[int, int]) -> None:
    """Issue 4, point 9; PS3.8 9.3.8: one A-ABORT, at once, then the connection is closed."""
    with HostilePeer(node.port) as peer:
        peer.associate()
        peer.send(stream)
        ending = peer.ending()
        assert abort_reason(ending) == reason
        assert [kind for kind, _ in ending].count(ABORT) == 1
    check_unharmed(node)


@pytest.mark.parametrize(
    ("stream", "status"),
    [
        pytest.param(store_command(instance=b"../../../etc/passwd\0") + WHOLE_DATA, 0xA900,
                     id="SOP Instance UID with ../"),
        pytest.param(store_command(instance=b"1.2\0.3\0") + WHOLE_DATA, 0xA900, id="with NUL"),
        pytest.param(store_command(instance=b"1.2" * 100) + WHOLE_DATA, 0xA900, id="of 300"),
        pytest.param(store_command(instance=b"1.\xff\xfe") + WHOLE_DATA, 0xA900, id="no ASCII"),
        pytest.param(store_command(sop_class=uid.MRImageStorage.encode()) + WHOLE_DATA, 0xA900,
                     id="another class"),
        pytest.param(store_command() + data(pdv(1, 2, b"")), 0xC000, id="empty data set"),
        pytest.param(store_command() + data(pdv(1, 2, b"\xff" * 999)), 0xC000, id="garbage"),
        pytest.param(store_command() + data(pdv(1, 2, DATA[:-9])), 0xC000, id="cut"),
        pytest.param(data(pdv(3, 3, STORE_SET)) + data(pdv(3, 2, DATA)), 0xC000,
                     id="in the context of C-ECHO"),
    ],
)  # fmt: skip
def test_bad_object_is_refused_and_the_association_lives(
    node: Node, stream: bytes, status: int
) -> None:
    """Issue 4, point 9: a status, no abort, and no file."""
    with HostilePeer(node.port) as peer:
        peer.associate()
        for _ in range(2):
            peer.send(stream)
            assert element(0x0900, status) in peer.receive()[1]
        peer.send(echo_command() + pdu(RELEASE_RQ))
        assert [kind for kind, _ in peer.ending()] == [DATA_TF, RELEASE_RP]
    check_unharmed(node)


@pytest.mark.parametrize(
    "stream",
    [
        pytest.param(data() * 3000, id="PDUs without PDV"),
        pytest.param(data(pdv(1, COMMAND_FRAGMENT, b"")) * 3000, id="command fragments of nothing"),
        pytest.param(store_command(message=None) + WHOLE_DATA, id="C-STORE without message ID"),
        pytest.param(store_command(instance=None) + WHOLE_DATA, id="C-STORE without instance"),
        pytest.param(data(pdv(1, 3, command(C_STORE_RSP, data=NO_DATA_SET) + element(0x120, 1)
                              + element(0x900, 0))), id="an answer to nothing"),
    ],
)  # fmt: skip
def test_what_asks_for_nothing_is_passed_over(node: Node, stream: bytes) -> None:
    """What cannot be answered does no harm."""
    with HostilePeer(node.port) as peer:
        peer.associate()
        peer.send(stream + echo_command() + pdu(RELEASE_RQ))
        assert [kind for kind, _ in peer.ending()] == [DATA_TF, RELEASE_RP]
    check_unharmed(node)


def tiny(size: int, *, empty: int = 0) -> bytes:
    """Return a data set in fragments of one size, with empty ones before them."""
    parts = [DATA[at : at + size] for at in range(0, len(DATA), size)]
    pdvs = [pdv(1, 0, b"")] * empty + [pdv(1, 0, one) for one in parts] + [pdv(1, 2, b"")]
    return b"".join(data(*pdvs[at : at + 700]) for at in range(0, len(pdvs), 700))


@pytest.mark.parametrize(
    "fragments",
    [
        pytest.param(tiny(1), id="one byte each"),
        pytest.param(tiny(2048, empty=5000), id="five thousand empty ones first"),
        pytest.param(data(pdv(1, 0xFE & ~1, DATA)), id="reserved control bits set"),
    ],
)
def test_odd_fragments_are_put_together(tmp_path: Path, fragments: bytes) -> None:
    """PS3.8 E.2, annex D: fragments may have any size; what is kept is what was sent."""
    with running(tmp_path) as node:
        with HostilePeer(node.port) as peer:
            peer.associate()
            peer.send(store_command() + fragments)
            assert element(0x0900, 0) in peer.receive()[1]
            peer.send(pdu(RELEASE_RQ))
            peer.ending()
        assert node.stored_data_sets() == [DATA]


@pytest.mark.parametrize(
    ("end", "kinds"),
    [
        pytest.param(pdu(RELEASE_RQ), [RELEASE_RP], id="release"),
        pytest.param(pdu(RELEASE_RQ, b""), [RELEASE_RP], id="release without content"),
        pytest.param(pdu(RELEASE_RQ) * 2 + BEGUN, [RELEASE_RP], id="release and more"),
        pytest.param(pdu(ABORT), [], id="abort"),
        pytest.param(pdu(ABORT, b""), [], id="abort without content"),
        pytest.param(pdu(ABORT, b"\0\0\2\0"), [], id="abort by the provider"),
        pytest.param(pdu(ABORT, b"\0\0\2\3"), [], id="abort for a reserved reason"),
        pytest.param(pdu(ABORT, b"\0\0\2\xff"), [], id="abort for no reason of PS3.8"),
    ],
)
def test_ending_within_a_data_set_leaves_nothing(
    node: Node, caplog: pytest.LogCaptureFixture, end: bytes, kinds: list[int]
) -> None:
    """PS3.8 9.2.2: a release is answered in any case; a half object is no object."""
    for begun in (BEGUN, store_command(), data(pdv(1, 1, STORE_SET[:20]))):
        with HostilePeer(node.port) as peer:
            peer.associate()
            peer.send(begun + end)
            assert [kind for kind, _ in peer.ending()] == kinds
    check_unharmed(node)
    # nothing went wrong here
    assert [r for r in caplog.records if r.levelno >= logging.WARNING] == []


def test_silent_peers_are_ended_in_time(tmp_path: Path) -> None:
    """Issue 4, points 5 and 10: every wait has an end, wherever a peer stops."""
    section = NodeSection(port=0, negotiation_timeout_s=SHORT_S, network_timeout_s=SHORT_S)
    with running(tmp_path, section=section) as node:
        with ExitStack() as open_lines:
            befores = (b"", b"\1", request()[:6], request()[:50])
            withins = (b"", b"\4\0", BEGUN, BEGUN + b"\4", BEGUN + data(pdv(1, 2, DATA))[:-9])
            early = [open_lines.enter_context(HostilePeer(node.port)) for _ in befores]
            for peer, before in zip(early, befores, strict=True):
                peer.send(before)
            late = []
            for within in withins:
                late.append(open_lines.enter_context(HostilePeer(node.port)))
                late[-1].associate()
                late[-1].send(within)
            assert all(abort_reason(peer.ending()) in ((0, 0), None) for peer in early)
            assert all(abort_reason(peer.ending()) == (0, 0) for peer in late)
        check_unharmed(node)


def test_trickling_request_is_ended_in_time(tmp_path: Path) -> None:
    """A byte now and then does not keep a negotiation alive."""
    section = NodeSection(port=0, negotiation_timeout_s=SHORT_S)
    with running(tmp_path, section=section) as node, HostilePeer(node.port) as peer:
        peer.line.settimeout(SHORT_S / 5)
        answer: bytes | None = None
        for byte in request()[:-1]:
            peer.send(bytes([byte]))
            try:
                answer = peer.line.recv(100)
            except TimeoutError:
                continue
            except ConnectionResetError:  # an end as good as any
                answer = b""
            break
        assert answer in (b"", pdu(ABORT))


def test_peers_that_vanish_anywhere_leave_nothing(node: Node) -> None:
    """Issue 4, point 5: connections that end at any byte."""
    stream = request() + store_command() + WHOLE_DATA[:300]
    for length in range(0, len(stream), 7):
        with HostilePeer(node.port) as peer:
            peer.send(stream[:length])
    check_unharmed(node)


def test_random_damage_does_no_harm(node: Node) -> None:
    """A short run of what `tests.fuzz.associations` does."""
    whole = [request(), echo_command(), store_command(instance=b"1.9\0") + WHOLE_DATA]
    for seed in range(150):
        rng = random.Random(seed)
        stream = damaged(rng, b"".join(rng.choices(whole, k=3)))
        with HostilePeer(node.port) as peer:
            if rng.random() < 0.7:
                peer.associate()
            peer.send(stream)
            peer.finish()
            assert [kind for kind, _ in peer.ending()].count(ABORT) <= 1, seed
    check_unharmed(node)


def test_echo_is_answered_in_its_own_context_only(node: Node) -> None:
    """The judge itself: an honest peer is served."""
    assert echo_status(node.port)
    with HostilePeer(node.port) as peer:
        peer.associate()
        echo = command(0x30, sop_class=VERIFICATION.encode() + b"\0", data=NO_DATA_SET)
        peer.send(data(pdv(ECHO_CONTEXT, WHOLE_COMMAND, echo)))
        assert element(0x0900, 0) in peer.receive()[1]
