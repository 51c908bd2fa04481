"""Several senders at once that push distinct objects, and remember what they were answered.

A sender begins with the object that had no answer the last time: so a scanner sends again after a
cut. It ends with the first error of the network, which `errors` keeps. Judges nothing.
"""

import itertools
import threading
import time
from collections.abc import Iterator

from tests.raw_sender import SUCCESS, NotAcceptedError, ObjectMaker, RawAssociation, SentObject

COLUMNS = (64, 128, 512)
"""Of the pictures: 8 kB, 33 kB, 0.5 MB."""
LARGE_EVERY = 16
OBJECTS_PER_ASSOCIATION = 40
LONG_S = 240.0


class SendingLoad:
    """Senders, each with an endless supply of objects of its own.

    Args:
        senders: How many.
        first_number: Of the objects of each; other numbers, other objects.

    Attributes:
        sent: SHA-256 of the data set by SOP Instance UID, of all that was ever begun.
        answered: SOP Instance UIDs that were answered 0x0000.
        message_of: SOP Instance UID by local port, association and message ID.
        refused: Answers other than 0x0000.
        errors: How senders ended that were not told to.
    """

    def __init__(self, senders: int = 4, first_number: int = 0) -> None:
        self.sent: dict[str, str] = {}
        self.answered: set[str] = set()
        self.message_of: dict[tuple[int, int], str] = {}
        self.refused: list[int] = []
        self.errors: list[str] = []
        self._objects = [self._supply(number, first_number) for number in range(senders)]
        self._unanswered: dict[int, SentObject] = {}
        self._stopping = threading.Event()
        self._threads: list[threading.Thread] = []
        self._lock = threading.Lock()

    def _supply(self, sender: int, first_number: int) -> Iterator[SentObject]:
        makers = [ObjectMaker(sender + 1, columns) for columns in COLUMNS]
        for number in itertools.count(first_number):
            kind = 2 if number % LARGE_EVERY == 0 else number % 2
            yield makers[kind].object(sender * 10_000_000 + number)

    def start(self, port: int) -> None:
        """Let every sender connect and push."""
        self._stopping.clear()
        self.errors.clear()
        self._threads = [
            threading.Thread(target=self._push, args=(number, port), daemon=True)
            for number in range(len(self._objects))
        ]
        for thread in self._threads:
            thread.start()

    def wait_for_answers(self, count: int) -> None:
        """Return when so many objects more have been answered, or a sender has ended."""
        wanted, deadline_s = len(self.answered) + count, time.monotonic() + LONG_S
        while len(self.answered) < wanted and not self.errors:
            assert time.monotonic() < deadline_s, "the node does not answer"
            time.sleep(0.01)

    def stop(self) -> None:
        """Let every sender finish its object and release; returns when all have ended."""
        self._stopping.set()
        self.join()

    def join(self) -> None:
        """Return when every sender has ended, as they do when the node is gone."""
        for thread in self._threads:
            thread.join(timeout=LONG_S)
            assert not thread.is_alive(), "a sender hangs"

    def _push(self, sender: int, port: int) -> None:
        try:
            while not self._stopping.is_set():
                with RawAssociation(port) as assoc:
                    self._push_some(sender, assoc)
        except (OSError, NotAcceptedError) as error:
            self.errors.append(f"{type(error).__name__}: {error}")

    def _push_some(self, sender: int, assoc: RawAssociation) -> None:
        for message_id in range(1, OBJECTS_PER_ASSOCIATION + 1):
            if self._stopping.is_set():
                return
            one = self._unanswered.get(sender) or next(self._objects[sender])
            self._unanswered[sender] = one
            with self._lock:
                self.sent[one.sop_instance_uid] = one.sha256
                self.message_of[assoc.local_port, message_id] = one.sop_instance_uid
            status = assoc.store(one, message_id)
            if status == SUCCESS:
                self.answered.add(one.sop_instance_uid)
            else:
                self.refused.append(status)
            del self._unanswered[sender]
