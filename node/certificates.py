"""Reads X.509 certificates from PEM files: fingerprint, time of validity, and files that change.

Judges no certificate: whether one is trusted is decided by OpenSSL in `node.tls`, whether it is a
peer's by `node.admission`. Read RFC 5280 section 4.1 first.
"""

import hashlib
import logging
import re
import ssl
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Generic, TypeVar

from node.config import FINGERPRINT_PREFIX, Peer
from node.errors import NodeError

LOGGER = logging.getLogger(__name__)

_CERTIFICATE = re.compile(r"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)

LARGEST_FILE_BYTES = 1 << 20
"""A bundle of the authorities of the whole world is smaller."""

_UTC_TIME, _GENERALIZED_TIME = 0x17, 0x18
"""Tags of the two forms of a time (X.690 8.26); a two-digit year below 50 is 20xx (RFC 5280)."""

_VERSION = 0xA0
"""Tag of the optional version before the serial number (RFC 5280 4.1)."""

Loaded = TypeVar("Loaded")
_Stamp = tuple[tuple[int, int, int] | None, ...]


class CertificateError(NodeError):
    """A file of certificates or keys that cannot be used."""


@dataclass(frozen=True, slots=True)
class Validity:
    """When a certificate counts; both ends aware, in UTC."""

    not_before: datetime
    not_after: datetime


def read_certificates(path: Path) -> tuple[bytes, ...]:
    """Return every certificate of a PEM file, DER-encoded, in the order of the file.

    Raises:
        CertificateError: The file cannot be read or holds no certificate.
    """
    try:
        with path.open("rb") as file:
            text = file.read(LARGEST_FILE_BYTES).decode("ascii", "replace")
        found = tuple(ssl.PEM_cert_to_DER_cert(block) for block in _CERTIFICATE.findall(text))
        for der in found:
            validity(der)
    except OSError as error:
        raise CertificateError(f"{path}: {error.strerror or 'cannot be read'}") from error
    except ValueError as error:
        raise CertificateError(
            f"{path} holds a damaged certificate", hint="copy the PEM file again"
        ) from error
    if not found:
        raise CertificateError(
            f"{path} holds no certificate",
            hint="a PEM file is wanted: openssl x509 -inform der -in FILE -out FILE.pem",
        )
    return found


def fingerprint(der: bytes) -> str:
    """Return the SHA-256 fingerprint of a certificate, 64 lower-case hexadecimal digits."""
    return hashlib.sha256(der).hexdigest()


def validity(der: bytes) -> Validity:
    """Return when a certificate counts.

    Raises:
        ValueError: These bytes are no certificate.
    """
    try:
        _, certificate, _ = _element(der)
        _, signed_part, _ = _element(certificate)
        tag, _, rest = _element(signed_part)
        skipped = 4 if tag == _VERSION else 3  # version, serial, algorithm, issuer
        for _ in range(skipped - 1):
            _, _, rest = _element(rest)
        _, period, _ = _element(rest)
        first_tag, first, rest = _element(period)
        last_tag, last, _ = _element(rest)
        return Validity(_time(first_tag, first), _time(last_tag, last))
    except IndexError as error:
        raise ValueError("no certificate") from error


def _element(der: bytes) -> tuple[int, bytes, bytes]:
    """Return tag and content of the first element, and what follows it (X.690 8.1)."""
    tag, length, at = der[0], der[1], 2
    if length >= 0x80:  # the long form: so many bytes of length follow
        count = length & 0x7F
        at += count
        length = int.from_bytes(der[2:at], "big")
    if at + length > len(der):
        raise ValueError("an element ends behind its file")
    return tag, der[at : at + length], der[at + length :]


def _time(tag: int, content: bytes) -> datetime:
    text = content.decode("ascii")
    if tag == _UTC_TIME:
        text = ("20" if text < "50" else "19") + text
    elif tag != _GENERALIZED_TIME:
        raise ValueError("no time where one belongs")
    return datetime.strptime(text, "%Y%m%d%H%M%SZ").replace(tzinfo=UTC)


class ReloadedFiles(Generic[Loaded]):
    """What was made from some files, made again when one of them has changed.

    A new state that cannot be used is logged once, and the old one stays in force. May be used
    from several threads.

    Args:
        paths: The files that are looked at.
        load: Makes it; raises `NodeError` if it cannot. Called at once, and that error is passed
            on: nothing starts with unusable files.
    """

    def __init__(self, paths: Sequence[Path], load: Callable[[], Loaded]) -> None:
        self._paths = tuple(paths)
        self._load = load
        self._lock = threading.Lock()
        self._stamp = _stamp(self._paths)
        self._current = load()

    def current(self) -> Loaded:
        """Return what the files say now, or said when they could last be used."""
        with self._lock:
            stamp = _stamp(self._paths)
            if stamp != self._stamp:
                self._stamp = stamp
                names = [path.name for path in self._paths]
                try:
                    self._current = self._load()
                    LOGGER.info("certificates.reloaded", extra={"files": names})
                except NodeError as error:
                    fields = {"files": names, "reason": str(error), "mend": error.hint}
                    LOGGER.error("certificates.not_reloaded", extra=fields)  # noqa: TRY400
            return self._current


def _stamp(paths: Sequence[Path]) -> _Stamp:
    found: list[tuple[int, int, int] | None] = []
    for path in paths:
        try:
            state = path.stat()
        except OSError:
            found.append(None)
        else:
            found.append((state.st_mtime_ns, state.st_size, state.st_ino))
    return tuple(found)


def pinned_fingerprints(peer: Peer) -> frozenset[str]:
    """Return the fingerprints that a peer may present; empty if it has no certificate configured.

    A file may hold several certificates, so that a new one can be entered before the old one ends.

    Raises:
        CertificateError: The peer's file cannot be read or holds no certificate.
    """
    if peer.certificate is None:
        return frozenset()
    if peer.certificate.startswith(FINGERPRINT_PREFIX):
        digits = peer.certificate.removeprefix(FINGERPRINT_PREFIX).replace(":", "")
        return frozenset({digits.lower()})
    return frozenset(map(fingerprint, read_certificates(Path(peer.certificate))))
