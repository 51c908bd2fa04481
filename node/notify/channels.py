"""The two ways to tell somebody: electronic mail, and a request to another program.

Each sends one message or says why not. A request follows no redirection: it is signed for the
place that was configured.
"""

import hashlib
import hmac
import http.client
import json
import smtplib
import ssl
from contextlib import closing
from datetime import datetime
from email.message import EmailMessage
from email.utils import format_datetime
from pathlib import Path
from typing import Protocol
from urllib.parse import urlsplit

from node.errors import NodeError
from node.notify.digest import Digest
from node.notify.section import MailSection, WebhookSection

TIMEOUT_S = 10.0
"""For every step of an exchange."""

MOST_ANSWER_BYTES = 1 << 16

MAIL, WEBHOOK = "mail", "webhook"
"""Names of the channels."""


class NotToldError(NodeError):
    """A message was not taken."""


class Channel(Protocol):
    """A way to tell somebody."""

    name: str
    receiver: str
    """Where it leads, for people."""

    def send(self, digest: Digest, now: datetime) -> tuple[str, ...]:
        """Return when the message was taken, with the receivers who did not get it all the same.

        Raises:
            NotToldError: It was not.
        """
        ...


class MailChannel:
    """Sends mail through a server.

    Args:
        section: Which server, from whom, to whom.
    """

    name = MAIL

    def __init__(self, section: MailSection) -> None:
        self._section = section
        self.receiver = f"{', '.join(section.to)} by {section.host}:{section.port}"

    def send(self, digest: Digest, now: datetime) -> tuple[str, ...]:
        """Return when the server took the message, for some; errors as of `Channel`."""
        section = self._section
        message = EmailMessage()
        message["From"], message["To"] = section.sender, ", ".join(section.to)
        message["Subject"] = digest.headline
        message["Date"] = format_datetime(now)
        message["Message-ID"] = f"<{digest.message_id}@{section.sender.rpartition('@')[2]}>"
        message["Auto-Submitted"] = "auto-generated"  # RFC 3834: nobody's machine should answer
        message.set_content(digest.text)
        try:
            with self._connected() as server:
                refused = server.send_message(message)
        except (smtplib.SMTPException, OSError) as error:
            raise NotToldError(
                f"the mail server {section.host} did not take the message ({_told(error)})",
                hint="look at notify.mail and at the server's log",
            ) from error
        return tuple(refused)  # the others have it: to send it again would tell them again

    def _connected(self) -> smtplib.SMTP:
        section = self._section
        if section.security == "tls":
            context = _context(section.authorities)
            server: smtplib.SMTP = smtplib.SMTP_SSL(
                section.host, section.port, timeout=TIMEOUT_S, context=context
            )
        else:
            server = smtplib.SMTP(section.host, section.port, timeout=TIMEOUT_S)
        try:
            if section.security == "starttls":
                server.starttls(context=_context(section.authorities))
            if section.username is not None and section.password_file is not None:
                server.login(section.username, _secret(section.password_file))
        except BaseException:
            server.close()
            raise
        return server


class WebhookChannel:
    """Posts a signed JSON document.

    Args:
        section: Where to, and the secret.
    """

    name = WEBHOOK

    def __init__(self, section: WebhookSection) -> None:
        self._section = section
        self.receiver = urlsplit(section.url).netloc  # what follows may be a key

    def send(self, digest: Digest, now: datetime) -> tuple[str, ...]:
        """Return when the receiver answered that it took the document; errors as of `Channel`."""
        body = json.dumps(digest.to_json()).encode()
        try:
            status = self._post(body, {
                "Content-Type": "application/json",
                "User-Agent": "hilum",
                "X-Hilum-Id": digest.message_id,
                "X-Hilum-Signature": signature(_secret(self._section.secret_file), body, now),
            })  # fmt: skip
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise NotToldError(
                f"the webhook did not take the message ({_told(error)})",
                hint="look at notify.webhook and at what listens there",
            ) from error
        if not 200 <= status < 300:
            redirected = "; redirections are not followed" if 300 <= status < 400 else ""
            raise NotToldError(
                f"the webhook answered {status}{redirected}",
                hint="look at notify.webhook and at what listens there",
            )
        return ()

    def _post(self, body: bytes, headers: dict[str, str]) -> int:
        parts = urlsplit(self._section.url)
        host, path = parts.hostname or "", parts.path or "/"
        target = f"{path}?{parts.query}" if parts.query else path
        if parts.scheme == "https":
            context = _context(self._section.authorities)
            line: http.client.HTTPConnection = http.client.HTTPSConnection(
                host, parts.port, timeout=TIMEOUT_S, context=context
            )
        else:
            line = http.client.HTTPConnection(host, parts.port, timeout=TIMEOUT_S)
        with closing(line):
            line.request("POST", target, body=body, headers=headers)
            answer = line.getresponse()
            answer.read(MOST_ANSWER_BYTES)
            return answer.status


def signature(secret: str, body: bytes, at: datetime) -> str:
    """Return the signature of a document: time, and HMAC-SHA256 of time, dot and document."""
    seconds = str(int(at.timestamp()))
    signed = hmac.new(secret.encode(), f"{seconds}.".encode() + body, hashlib.sha256)
    return f"t={seconds},v1={signed.hexdigest()}"


def _context(authorities: Path | None) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=None if authorities is None else str(authorities))
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


def _secret(path: Path) -> str:
    """Return what a file holds.

    Raises:
        NotToldError: Nothing, or it cannot be read.
    """
    try:
        text = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise NotToldError(f"{path} cannot be read", hint="see its place and rights") from error
    if not text:
        raise NotToldError(f"{path} is empty", hint="write the secret into it, and nothing else")
    return text


def _told(error: Exception) -> str:
    """Return what went wrong; the other side's words are left out."""
    if isinstance(error, smtplib.SMTPResponseException):
        return f"status {error.smtp_code}"
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate does not hold: {error.verify_message}"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return type(error).__name__
