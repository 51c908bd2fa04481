"""Senders that stall, fall silent, give up, send again, or send in no order: over plain sockets."""

import random
import socket
import threading
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

import pytest

from node.config import NodeSection
from node.index.tables import INSTANCES
from tests.nodes import wait_for
from tests.raw_sender import (
    SUCCESS,
    ObjectMaker,
    RawAssociation,
    SentObject,
    associate_request,
    pdu,
    store_pdus,
)
from tests.receiving_node import Node, running

CALLING_AE = "MR1"
TIMEOUT_S = 2.0
"""Of the node, where it is tested; the others are long."""
LONG_S = 60.0
MARGIN_S = 40.0
"""How much later the node may act on a busy machine."""


def send_all(node: Node, objects: list[SentObject]) -> None:
    """Send objects over one association; all must be answered with success."""
    with RawAssociation(node.port, calling_ae=CALLING_AE) as assoc:
        statuses = [assoc.store(one, at + 1) for at, one in enumerate(objects)]
    assert statuses == [SUCCESS] * len(objects)


def check_kept(node: Node, expected: list[SentObject]) -> None:
    """Compare what is indexed and stored with what was sent, and find no part of anything else."""
    wait_for(lambda: len(node.rows(INSTANCES)) >= len(expected), timeout_s=LONG_S, what="the index")
    uids = Counter(row.sop_instance_uid for row in node.rows(INSTANCES))
    assert uids == Counter(one.sop_instance_uid for one in expected)
    assert sorted(node.stored_data_sets()) == sorted(one.data_set for one in expected)
    wait_for(lambda: not parts_in(node.root), timeout_s=LONG_S, what="no part of an object to stay")


def parts_in(root: Path) -> list[Path]:
    """Return files on their way that hold something."""
    return [p for p in (root / "spare").rglob("*") if p.is_file() and p.stat().st_size]


def seconds_until_closed(line: socket.socket) -> float:
    """Return after what time the node ended a connection on which we are silent."""
    began = time.monotonic()
    line.settimeout(TIMEOUT_S + MARGIN_S)
    with suppress(ConnectionResetError):  # an end as good as any
        while line.recv(4096):
            continue  # an A-ABORT comes before the end
    return time.monotonic() - began


@pytest.mark.parametrize(
    "stall",
    [
        pytest.param((0, 3), id="in the head of a PDU"),
        pytest.param((0, 40), id="in the command"),
        pytest.param((1, 0), id="between command and data set"),
        pytest.param((1, 5000), id="in the first fragment"),
        pytest.param((2, 0), id="between two fragments"),
        pytest.param((2, 9000), id="in a later fragment"),
    ],
)
def test_sender_when_it_stalls_is_cut_off_and_no_part_stays(
    stall: tuple[int, int], tmp_path: Path
) -> None:
    """Issue 4, point 5: a stall in the middle of a fragment ends with the network time-out."""
    section = NodeSection(port=0, network_timeout_s=TIMEOUT_S)
    maker = ObjectMaker(columns=256)
    whole_pdus, bytes_more = stall
    with running(tmp_path, section=section) as node:
        send_all(node, [maker.object(1)])
        assoc = RawAssociation(node.port, calling_ae=CALLING_AE)
        pdus = store_pdus(maker.object(2), 1, 16384)
        assoc.line.sendall(b"".join(pdus[:whole_pdus]) + pdus[whole_pdus][:bytes_more])
        assert TIMEOUT_S * 0.7 < seconds_until_closed(assoc.line) < TIMEOUT_S + MARGIN_S
        assoc.line.close()
        check_kept(node, [maker.object(1)])
        send_all(node, [maker.object(3)])
        check_kept(node, [maker.object(1), maker.object(3)])


@pytest.mark.parametrize("said", [b"", b"\x01", "half"], ids=["nothing", "a byte", "half"])
def test_connection_when_it_never_negotiates_is_closed(said: bytes | str, tmp_path: Path) -> None:
    """Issue 4, point 5: a half-open association ends with the time for negotiation."""
    section = NodeSection(port=0, negotiation_timeout_s=TIMEOUT_S, network_timeout_s=LONG_S)
    request = associate_request(CALLING_AE, "HILUM", ObjectMaker().object(1).sop_class_uid)
    with running(tmp_path, section=section) as node:
        with socket.create_connection(("127.0.0.1", node.port)) as line:
            line.sendall(request[: len(request) // 2] if isinstance(said, str) else said)
            assert TIMEOUT_S * 0.7 < seconds_until_closed(line) < TIMEOUT_S + MARGIN_S
        send_all(node, [ObjectMaker().object(1)])


@pytest.mark.parametrize("how", ["A-ABORT", "connection closed", "connection reset"])
def test_object_when_sent_again_after_an_abort_is_kept_once(how: str, tmp_path: Path) -> None:
    """Issue 4, point 5: an association that ends in an object; then everything comes again."""
    maker = ObjectMaker(columns=256)
    objects = [maker.object(number) for number in range(4)]
    with running(tmp_path) as node:
        assoc = RawAssociation(node.port, calling_ae=CALLING_AE)
        assert [assoc.store(one, at + 1) for at, one in enumerate(objects[:2])] == [SUCCESS] * 2
        pdus = store_pdus(objects[2], 3, assoc.max_pdu_bytes)
        assoc.line.sendall(pdus[0] + pdus[1][:-1])
        if how == "A-ABORT":  # inside a fragment it can only be taken for data
            assoc.line.sendall(pdus[1][-1:] if len(pdus) > 2 else b"")
            assoc.abort()
        else:
            if how == "connection reset":
                assoc.line.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, bytes([1, *bytes(7)]))
            assoc.line.close()
        check_kept(node, objects[:2])
        send_all(node, objects)
        check_kept(node, objects)


def test_studies_when_interleaved_over_parallel_associations_are_all_kept(tmp_path: Path) -> None:
    """Issue 4, point 5: out of order, two studies mixed, three associations at once."""
    first, second = ObjectMaker(series=1, columns=64), ObjectMaker(series=2, columns=64)
    objects = [first.object(n) for n in range(60)] + [second.object(100 + n) for n in range(60)]
    random.Random(5).shuffle(objects)
    with running(tmp_path) as node:
        threads = [
            threading.Thread(target=send_all, args=(node, objects[part::3])) for part in range(3)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(LONG_S)
        check_kept(node, objects)
        of_series = Counter(row.series for row in node.rows(INSTANCES))
        assert sorted(of_series.values()) == [60, 60]


def test_sender_when_it_sends_an_unknown_pdu_is_aborted(tmp_path: Path) -> None:
    """PS3.8 9.3.8: the node answers with A-ABORT and goes on for others."""
    with running(tmp_path) as node:
        assoc = RawAssociation(node.port, calling_ae=CALLING_AE)
        assoc.line.sendall(pdu(0x77, bytes(10)))
        assert seconds_until_closed(assoc.line) < MARGIN_S
        assoc.line.close()
        send_all(node, [ObjectMaker().object(1)])
