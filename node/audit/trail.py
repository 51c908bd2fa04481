"""Keeps the audit trail: takes events at once, writes them behind the work that they tell of.

A thread with a bounded queue makes messages of events and appends them to the files, many with one
sync. Whoever tells an event never waits and never fails: where the queue is full the event is lost,
counted, and the log says so.
"""

import getpass
import logging
import os
import queue
import socket
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import datetime, timedelta

from node.audit.events import AuditEvent, Tell, untold
from node.audit.files import AuditFiles
from node.audit.message import AuditSource, Subject, audit_message
from node.audit.subjects import Subjects, installation_secret
from node.audit.syslog import SyslogSender, syslog_line
from node.config import Config
from node.errors import NodeError
from node.index import Index
from node.monitoring.counts import AUDIT_LOST, AUDIT_MESSAGES, COUNTS
from node.monitoring.vitals import Measured, too_old

LOGGER = logging.getLogger(__name__)

AUDIT_FOLDER = "audit"
"""In the data folder; each machine has a folder of its own in it."""

MOST_WAITING = 10_000
"""Events that wait to be written; some 10 MB."""

BATCH = 200
RETRY_S = 2.0
"""Pause after a disk that refused."""

LOSS_TOLD_EVERY_S = 60.0
CLEANED_EVERY_S = 3600.0
STOP_LIMIT_S = 10.0

_Waiting = tuple[datetime, AuditEvent]


class AuditTrail:
    """The trail of one process.

    Args:
        config: Whether and where it is kept.
        index: Whom cases and objects belong to.
        clock: The time, aware.

    Raises:
        OSError: The secret of the pseudonyms cannot be made.
    """

    def __init__(self, config: Config, index: Index, clock: Callable[[], datetime]) -> None:
        self._config = config
        self._clock = clock
        section, data = config.audit, config.node.data
        self.source = own_source(config)
        folder = data / AUDIT_FOLDER / self.source.host
        self._files = AuditFiles(folder)
        self._subjects = Subjects(index, section.patients, installation_secret(data))
        self._queue: queue.Queue[_Waiting | None] = queue.Queue(MOST_WAITING)
        self._lost = 0
        self._loss_told_s = self._cleaned_s = float("-inf")
        self._came_round_s = time.monotonic()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="audit", daemon=True)
        self._sender: SyslogSender | None = None
        if section.syslog is not None:
            self._sender = SyslogSender(section.syslog, self._files, folder)

    def start(self) -> None:
        """Begin to write."""
        self._thread.start()
        if self._sender is not None:
            self._sender.start()

    def tell(self, event: AuditEvent) -> None:
        """Take an event; returns at once, whatever becomes of it."""
        try:
            self._queue.put_nowait((self._clock(), event))
        except queue.Full:
            self._lost += 1
            COUNTS.add(AUDIT_LOST)
            if time.monotonic() - self._loss_told_s > LOSS_TOLD_EVERY_S:
                self._loss_told_s = time.monotonic()
                LOGGER.error("audit.lost", extra={"events": self._lost})  # noqa: TRY400 - no bug

    def write(self, event: AuditEvent) -> None:
        """Write an event now, where no thread was started; returns when it survives a power cut.

        Raises:
            OSError: The disk refuses.
        """
        now = self._clock()
        self._files.append([self._line(now, event)], now)

    def stop(self) -> None:
        """Write what was told, within a limit; send what can be sent."""
        if self._thread.is_alive():
            self._stopping.set()
            with suppress(queue.Full):  # then it looks for the end by itself
                self._queue.put_nowait(None)
            self._thread.join(STOP_LIMIT_S)
        if self._sender is not None:
            self._sender.stop(STOP_LIMIT_S)

    def why_stuck(self, limit_s: float) -> str:
        """Return that nobody writes any more, or an empty text."""
        if self._stopping.is_set():
            return ""
        if not self._thread.is_alive():
            return "the thread that writes the audit trail has ended"
        if self._queue.empty():
            return ""
        return too_old(time.monotonic() - self._came_round_s, limit_s, "no audit message written")

    def measures(self) -> list[Measured]:
        """Return what is measured of the trail."""

        def of_sender(
            read: Callable[[SyslogSender], float],
        ) -> Callable[[], dict[tuple[str, ...], float]]:
            return lambda: {} if self._sender is None else {(): float(read(self._sender))}

        return [
            Measured(
                "hilum_audit_waiting", "Events that wait to be written.", (),
                lambda: {(): float(self._queue.qsize())},
            ),
            Measured(
                "hilum_audit_unsent_bytes", "What the syslog collector has not got.", (),
                of_sender(lambda sender: sender.unsent_bytes()),
            ),
            Measured(
                "hilum_audit_connected", "Whether the syslog collector is connected.", (),
                of_sender(lambda sender: sender.is_connected),
            ),
        ]  # fmt: skip

    # --- the thread ----------------------------------------------------------------------------

    def _run(self) -> None:
        while batch := self._next_batch():
            lines = [self._line(at, event) for at, event in batch]
            while not self._append(lines):
                if self._stopping.wait(RETRY_S):
                    break
            self._clean_up()

    def _next_batch(self) -> list[_Waiting]:
        """Wait for events; nothing means that the thread is to end."""
        while True:
            try:
                first = self._queue.get(timeout=0.01 if self._stopping.is_set() else RETRY_S)
            except queue.Empty:
                self._came_round_s = time.monotonic()
                if self._stopping.is_set():
                    return []
                continue
            self._came_round_s = time.monotonic()
            batch = [] if first is None else [first]
            while len(batch) < BATCH:
                try:
                    item = self._queue.get_nowait()
                except queue.Empty:
                    break
                if item is not None:
                    batch.append(item)
            if batch or self._stopping.is_set():
                return batch

    def _line(self, at: datetime, event: AuditEvent) -> str:
        try:
            subject = self._subjects.subject_of(event.what)
        except Exception:
            # the index is not needed to know that something happened
            LOGGER.exception("audit.subject_unknown")
            subject = Subject(studies=tuple(event.what.get("study", "").split()))
        try:
            message = audit_message(event, at, self.source, subject)
        except Exception:
            # that it happened is told all the same, without its particulars
            LOGGER.exception("audit.message_failed", extra={"kind": event.kind})
            bare = AuditEvent(event.kind, outcome=event.outcome)
            message = audit_message(bare, at, self.source, Subject())
        return syslog_line(message, at, self.source.host, self.source.process)

    def _append(self, lines: Sequence[str]) -> bool:
        self._came_round_s = time.monotonic()
        try:
            self._files.append(lines, self._clock())
        except OSError as error:
            LOGGER.warning("audit.not_written", extra={"reason": error.strerror})
            return False
        COUNTS.add(AUDIT_MESSAGES, amount=len(lines))
        if self._sender is not None:
            self._sender.notice()
        return True

    def _clean_up(self) -> None:
        """Remove files whose time is over, now and then."""
        if time.monotonic() - self._cleaned_s < CLEANED_EVERY_S:
            return
        self._cleaned_s = time.monotonic()
        try:
            keep_from = (self._clock() - timedelta(days=self._config.audit.keep_days)).date()
            removed = self._files.remove_before(keep_from)
        except OSError as error:
            LOGGER.warning("audit.not_removed", extra={"reason": error.strerror})
            return
        if removed:
            LOGGER.info("audit.removed", extra={"files": removed})


def trail_of(config: Config, index: Index, clock: Callable[[], datetime]) -> AuditTrail | None:
    """Return the trail of this process, not yet started; None: none is to be kept.

    Raises:
        NodeError: It cannot be kept.
    """
    if not config.audit.enabled:
        return None
    try:
        return AuditTrail(config, index, clock)
    except OSError as error:
        raise NodeError(
            f"the audit trail cannot be kept: {error.strerror}",
            hint="give this user the right to write in the data folder, or audit.enabled = false",
        ) from error


def own_source(config: Config) -> AuditSource:
    """Return how this process is named in messages."""
    host = socket.gethostname() or "localhost"
    name = f"{config.node.ae_title}@{host}"
    return AuditSource(name, config.audit.site, config.node.ae_title, host, str(os.getpid()))


def tell_from_command(config: Config, index: Index, clock: Callable[[], datetime]) -> Tell:
    """Return what a command tells its events to: each is written at once, beside a running node.

    The actor of an event without one is whoever runs the command. A trail that cannot be written
    is told to the log and holds nobody up.
    """
    if not config.audit.enabled:
        return untold

    def tell(event: AuditEvent) -> None:
        try:
            actor = event.actor or _who_runs_this()
            AuditTrail(config, index, clock).write(replace(event, actor=actor))
        except OSError as error:
            LOGGER.warning("audit.not_written", extra={"reason": error.strerror})

    return tell


def _who_runs_this() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a container without a name for its user
        return f"uid {os.getuid()}"
