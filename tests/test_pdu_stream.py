"""How long a connection may take: silence ends it, slowness does not (PS3.8 9.1.5)."""

import socket
import threading
import time

import pytest

from node.pdu_stream import LineEndedError, PduStream

SILENCE_S = 2.0


def test_large_pdu_when_its_reader_is_slow_is_sent_whole() -> None:
    """A peer that announces no limit gets an object in one PDU, however long that takes."""
    ours, theirs = socket.socketpair()
    content = bytes(4 << 20)
    received = 0

    def read() -> None:
        nonlocal received
        while received < len(content):
            time.sleep(SILENCE_S / 10)
            received += len(theirs.recv(200_000))

    with ours, theirs:
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65_536)
        reader = threading.Thread(target=read)
        reader.start()
        start_s = time.monotonic()
        PduStream(ours, SILENCE_S).send(content)
        assert time.monotonic() - start_s > SILENCE_S, "slow enough to tell"
        reader.join(60)
    assert received == len(content)


def test_reader_when_it_takes_nothing_ends_the_sending() -> None:
    """Nobody is waited for without end."""
    ours, theirs = socket.socketpair()
    with ours, theirs, pytest.raises(TimeoutError):
        PduStream(ours, SILENCE_S).send(bytes(16 << 20))


def test_deadline_when_it_is_set_ends_a_sending_that_goes_on() -> None:
    """A limit for the whole counts, however well it goes."""
    ours, theirs = socket.socketpair()
    stopped = threading.Event()

    def read() -> None:
        while not stopped.is_set():
            time.sleep(SILENCE_S / 10)
            theirs.recv(1000)

    with ours, theirs:
        reader = threading.Thread(target=read)
        reader.start()
        stream = PduStream(ours, 20.0)
        stream.set_deadline(SILENCE_S)
        with pytest.raises(TimeoutError):
            stream.send(bytes(16 << 20))
        stopped.set()
        reader.join(60)


def test_peer_that_says_nothing_ends_the_reading() -> None:
    """Silence counts for a reader, too; what came before can be read."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        stream = PduStream(ours, SILENCE_S)
        theirs.sendall(b"abc")
        assert stream.read(2) == b"ab"
        with pytest.raises(TimeoutError):
            stream.read(2)


def test_reading_when_another_thread_wakes_it_ends() -> None:
    """A node that stops does not wait until the peer says something."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        stream = PduStream(ours, 60.0)
        waker = threading.Timer(SILENCE_S / 10, stream.wake)
        waker.start()
        with pytest.raises(LineEndedError):
            stream.next_pdu()
        waker.join(60)
