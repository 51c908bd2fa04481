"""Sends the trail to a collector: syslog over TLS (PS3.15 A.6; RFC 5424, RFC 5425).

The files are the spool: a place in them says what has been sent, and is kept beside them. Syslog
knows no acknowledgment; so what was sent within the last seconds before a connection broke is sent
once more. A message may come twice; one is lost only where a collector takes nothing off its line
for longer than that and then dies.
"""

import fcntl
import json
import logging
import os
import socket
import ssl
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from node.audit.files import AuditFiles, Place
from node.audit.section import AuditSyslog
from node.disk import FILE_MODE

LOGGER = logging.getLogger(__name__)

PRIORITY = 85
"""Facility 10 (security), severity 5 (normal but significant): PS3.15 A.6."""

MESSAGE_ID = "DICOM+RFC3881"
"""MSGID of messages that follow PS3.15 A.5."""

APP_NAME = "hilum"

BATCH = 50
"""Messages that are sent at a time."""

DOUBTFUL_S = 10.0
"""What was sent before this is believed to have arrived if the connection still stands."""

TIMEOUT_S = 15.0
POLL_S = 1.0
SHORTEST_PAUSE_S, LONGEST_PAUSE_S = 1.0, 300.0
"""Between attempts to reach the collector; each pause is twice the one before."""

_PLACE_FILE = "sent.json"
_LOCK_FILE = "sent.lock"


def syslog_line(message: str, at: datetime, host: str, process: str) -> str:
    """Return a message with its syslog header (RFC 5424 section 6); it ends without line end."""
    time_text = at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    name = "".join(c for c in host if "!" <= c <= "~")[:255] or "-"
    return f"<{PRIORITY}>1 {time_text} {name} {APP_NAME} {process} {MESSAGE_ID} - \ufeff{message}"


def framed(line: str) -> bytes:
    """Return a line as it goes over TLS: its length, then itself (RFC 5425 section 4.3)."""
    content = line.encode()
    return str(len(content)).encode("ascii") + b" " + content


class SyslogSender:
    """Follows the files and sends what is new, in a thread of its own.

    Args:
        section: Where the collector is.
        files: The trail.
        folder: Where the place is kept.
    """

    def __init__(self, section: AuditSyslog, files: AuditFiles, folder: Path) -> None:
        self._section = section
        self._files = files
        self._folder = folder
        self._stopping = threading.Event()
        self._news = threading.Event()
        self._line: ssl.SSLSocket | None = None
        self._sent_up_to: Place | None = None
        self._arrived_up_to: Place | None = None
        """What is sent again if the connection breaks lies behind this."""
        self._doubtful: deque[tuple[float, Place]] = deque()
        """When was sent up to which place, of late."""
        self.is_connected = False
        self._thread = threading.Thread(target=self._run, name="audit-syslog", daemon=True)

    def start(self) -> None:
        """Begin to send."""
        self._thread.start()

    def notice(self) -> None:
        """Look at once whether there is something new."""
        self._news.set()

    def stop(self, timeout_s: float) -> None:
        """Send what can be sent within the time; the rest is sent after the next start."""
        self._stopping.set()
        self._news.set()
        if self._thread.is_alive():
            self._thread.join(timeout_s)

    def unsent_bytes(self) -> int:
        """Return how much of the trail the collector has not got, as far as is known here."""
        return self._files.bytes_after(self._sent_up_to or _read_place(self._folder))

    # --- the thread ----------------------------------------------------------------------------

    def _run(self) -> None:
        pause_s = SHORTEST_PAUSE_S
        with _turn(self._folder, self._stopping) as has_turn:
            if not has_turn:
                return
            self._sent_up_to = self._arrived_up_to = _read_place(self._folder)
            while True:
                try:
                    self._catch_up()
                    pause_s = SHORTEST_PAUSE_S
                except (OSError, ValueError) as error:
                    self._disconnect(error)
                    if self._stopping.wait(pause_s):
                        break
                    pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
                    continue
                if self._stopping.is_set():
                    break
                self._news.wait(POLL_S)
                self._news.clear()
            self._close()

    def _catch_up(self) -> None:
        """Send all that is new.

        Raises:
            OSError: The collector cannot be reached, or does not take it.
        """
        while True:
            if self._line is not None and _is_closed(self._line):
                raise ConnectionResetError("the collector closed the connection")
            self._believe(time.monotonic() - DOUBTFUL_S)
            found = list(self._files.lines_after(self._sent_up_to, BATCH))
            if not found:
                return
            if self._line is None:
                self._line = self._connected()
            block = b"".join(framed(line) for line, _ in found if line)
            self._line.sendall(block)
            self._sent_up_to = found[-1][1]
            self._doubtful.append((time.monotonic(), self._sent_up_to))

    def _believe(self, up_to_s: float) -> None:
        """Take what was sent before a time for arrived, and keep that."""
        arrived = None
        while self._doubtful and self._doubtful[0][0] <= up_to_s:
            _, arrived = self._doubtful.popleft()
        if arrived is not None:
            self._arrived_up_to = arrived
            _keep_place(self._folder, arrived)

    def _connected(self) -> ssl.SSLSocket:
        section = self._section
        context = ssl.create_default_context(cafile=str(section.authorities))
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        if section.certificate is not None and section.key is not None:
            context.load_cert_chain(section.certificate, section.key)
        plain = socket.create_connection((section.host, section.port), timeout=TIMEOUT_S)
        try:
            line = context.wrap_socket(plain, server_hostname=section.host)
        except BaseException:
            plain.close()
            raise
        self.is_connected = True
        LOGGER.info("audit.connected", extra={"host": section.host, "port": section.port})
        return line

    def _disconnect(self, error: Exception) -> None:
        if self.is_connected or self._line is None:
            reason = getattr(error, "strerror", None) or type(error).__name__
            fields = {"host": self._section.host, "port": self._section.port, "reason": reason}
            LOGGER.warning("audit.not_sent", extra=fields)
        self._doubtful.clear()
        self._sent_up_to = self._arrived_up_to
        self._close()

    def _close(self) -> None:
        self.is_connected = False
        line, self._line = self._line, None
        if line is None:
            return
        try:
            line.settimeout(1.0)
            line.unwrap()  # says that nothing was cut off (RFC 5425 section 4.4)
        except (OSError, ValueError):
            pass
        else:  # the collector said so, too: it has read all that came before
            self._believe(time.monotonic())
        line.close()


def _is_closed(line: ssl.SSLSocket) -> bool:
    """Tell whether the collector hung up; it never says anything else."""
    line.setblocking(False)
    try:
        return not line.recv(1)
    except (ssl.SSLWantReadError, BlockingIOError):
        return False
    except OSError:
        return True
    finally:
        line.settimeout(TIMEOUT_S)


def _read_place(folder: Path) -> Place | None:
    """Return up to where the trail was sent; None: nothing of it, or nobody knows."""
    try:
        told = json.loads((folder / _PLACE_FILE).read_text(encoding="utf-8"))
        return Place(str(told["file"]), int(told["offset"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _keep_place(folder: Path, place: Place) -> None:
    draft = folder / f"{_PLACE_FILE}.new"
    draft.write_text(json.dumps({"file": place.file, "offset": place.offset}), encoding="utf-8")
    draft.replace(folder / _PLACE_FILE)


@contextmanager
def _turn(folder: Path, stopping: threading.Event) -> Iterator[bool]:
    """Give the turn to send, which one process of the machine has; False: the node stops."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o750)
    descriptor = os.open(folder / _LOCK_FILE, os.O_RDWR | os.O_CREAT, FILE_MODE)
    try:
        while not (has_turn := _locked(descriptor)):
            if stopping.wait(POLL_S):
                break
        yield has_turn
    finally:
        os.close(descriptor)


def _locked(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
