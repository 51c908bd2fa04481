"""DICOM over TLS: both ends show a certificate, only current protocols and ciphers are spoken.

Claims the BCP 195 RFC 8996, 9325 TLS Secure Transport Connection Profile (PS3.15 B.12): TLS 1.3
where the other end has it, otherwise TLS 1.2 with an ephemeral key exchange and an AEAD cipher.
The Modified profile (B.13) is not claimed: it demands ciphers that OpenSSL leaves out by default.
There is no way back to plain text on a connection, no renegotiation, compression or early data,
and no session ticket, so that a withdrawn authority counts from the next connection on.

Shakes no hands and closes no connection: the thread of the association does, under its own time
limit. Whether a trusted certificate is the one of a peer is the business of `node.admission`.
"""

import ssl
from collections.abc import Callable, Mapping
from pathlib import Path
from socket import socket
from typing import NamedTuple

from node.certificates import (
    CertificateError,
    ReloadedFiles,
    fingerprint,
    pinned_fingerprints,
    read_certificates,
)
from node.config import Peer, TlsSection
from node.errors import ConfigError, NodeError

TLS_1_2_SUITES = "ECDHE+AESGCM:ECDHE+CHACHA20:!aNULL:!PSK:!SRP:@SECLEVEL=2"
"""In OpenSSL's words: ephemeral elliptic curves, AEAD only, RSA keys of 2048 bits and more (RFC
9325 4.2). What TLS 1.3 has is all of that kind."""

_OPTIONS = (
    ssl.OP_NO_RENEGOTIATION
    | ssl.OP_NO_COMPRESSION
    | ssl.OP_NO_TICKET
    | ssl.OP_CIPHER_SERVER_PREFERENCE
    | ssl.OP_SINGLE_ECDH_USE
    # a connection that ends without a word can still be told why: PDUs say where they end
    | ssl.OP_IGNORE_UNEXPECTED_EOF
)


class ServerTls:
    """Makes TLS of incoming connections; changed files count from the next connection on.

    Associations that are open keep what they began with. Files that cannot be used are logged
    once, and the last usable ones stay in force. May be used from several threads.

    Args:
        settings: Our certificate and key, and whom we trust.

    Raises:
        ConfigError: Some of the files cannot be used; every problem is named.
    """

    def __init__(self, settings: TlsSection) -> None:
        files = (settings.certificate, settings.key, settings.peer_authorities)
        self._context = ReloadedFiles(files, lambda: _server_context(settings))

    def wrap(self, line: socket) -> ssl.SSLSocket:
        """Return the connection as TLS server; nothing is read or written yet.

        The caller sets a time limit and calls `do_handshake`. `line` itself is closed by this.

        Raises:
            OSError: The connection is gone already.
        """
        return self._context.current().wrap_socket(
            line, server_side=True, do_handshake_on_connect=False
        )


class CallingContext(ssl.SSLContext):
    """What a peer is called with.

    Attributes:
        pinned: The fingerprints of which the peer must present one; empty: its host name must be
            in its certificate instead.
        failure: Why the connection cannot be used, once it cannot.
    """

    pinned: frozenset[str] = frozenset()
    failure: OSError | None = None


class WrongCertificateError(ConnectionError):
    """A peer presents a certificate that is trusted but not the one configured for it."""


class _CallingLine(ssl.SSLSocket):
    """A connection to a peer that looks at its certificate and remembers why it failed."""

    context: CallingContext

    def do_handshake(self, block: bool = False) -> None:
        context = self.context
        try:
            super().do_handshake(block)
            der = self.getpeercert(binary_form=True) or b""
            if context.pinned and fingerprint(der) not in context.pinned:
                raise WrongCertificateError
        except OSError as error:
            context.failure = error
            raise ConnectionAbortedError("no TLS connection") from error

    def recv(self, buflen: int = 1024, flags: int = 0) -> bytes:
        try:
            return super().recv(buflen, flags)
        except ssl.SSLError as error:
            # in TLS 1.3 a server refuses our certificate after the handshake ended for us
            self.context.failure = error
            raise ConnectionAbortedError("no TLS connection") from error


def client_context(peer: Peer, settings: TlsSection | None) -> CallingContext:
    """Return what one connection to `peer` is made with; the files are read now.

    The peer's certificate must be issued by a trusted authority and be in force. It must also be
    one of those configured for the peer, or where none is, hold the peer's host.

    Raises:
        ConfigError: There is no section `[tls]`, or files cannot be used; all problems are named.
    """
    if settings is None:
        raise ConfigError([f"peer {peer.name!r}: tls needs the section [tls]"])
    problems: list[str] = []
    context = CallingContext(ssl.PROTOCOL_TLS_CLIENT)
    context.sslsocket_class = _CallingLine
    try:
        context.pinned = pinned_fingerprints(peer)
    except CertificateError as error:
        problems.append(_told(f"peer {peer.name!r}: certificate", error))
    context.check_hostname = not context.pinned
    problems += _configure(context, settings)
    if problems:
        raise ConfigError(problems)
    return context


def file_problems(settings: TlsSection) -> list[str]:
    """Return what is wrong with the files of `[tls]`, each with its key and what to do."""
    return _configure(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), settings)


def _server_context(settings: TlsSection) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    problems = _configure(context, settings)
    if problems:
        raise ConfigError(problems)
    context.num_tickets = 0
    return context


def _configure(context: ssl.SSLContext, settings: TlsSection) -> list[str]:
    """Set up a context of either end; return what is wrong with the files."""
    _restrict(context)
    context.verify_mode = ssl.CERT_REQUIRED
    # each certificate in the file is trusted by itself, even if it was issued by another
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    problems = own_problems(context, settings.certificate, settings.key, "tls")
    try:
        _load_authorities(context, settings.peer_authorities)
    except CertificateError as error:
        problems.append(_told("tls.peer_authorities", error))
    return problems


def serving_context() -> ssl.SSLContext:
    """Return a context of a server that speaks what this module speaks, and asks nobody who calls.

    It has no certificate yet.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    _restrict(context)
    return context


def _restrict(context: ssl.SSLContext) -> None:
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= _OPTIONS
    context.set_ciphers(TLS_1_2_SUITES)


def own_problems(context: ssl.SSLContext, certificate: Path, key: Path, section: str) -> list[str]:
    """Load our certificate and its key; return what is wrong with them, each with its key.

    Args:
        context: Gets them, if nothing is wrong.
        certificate: PEM file; its intermediate authorities may follow.
        key: PEM file.
        section: Of the configuration, which names both.
    """
    problems = []
    files: tuple[tuple[str, Callable[[Path], object], Path], ...] = (
        ("certificate", read_certificates, certificate),
        ("key", _read_key, key),
    )
    for name, read, path in files:
        try:
            read(path)
        except CertificateError as error:
            problems.append(_told(f"{section}.{name}", error))
    if not problems:
        try:
            _load_own(context, certificate, key, section)
        except CertificateError as error:
            problems.append(_told(f"{section}.key", error))
    return problems


def _told(key: str, error: NodeError) -> str:
    return f"{key}: {error}" + (f": {error.hint}" if error.hint else "")


def _load_authorities(context: ssl.SSLContext, path: Path) -> None:
    read_certificates(path)
    try:
        context.load_verify_locations(path)
    except ssl.SSLError as error:
        raise CertificateError(f"{path} holds a damaged certificate") from error


def _read_key(path: Path) -> None:
    try:
        text = path.read_bytes()
    except OSError as error:
        raise CertificateError(f"{path}: {error.strerror or 'cannot be read'}") from error
    if b"PRIVATE KEY-----" not in text or b"ENCRYPTED" in text:
        raise CertificateError(f"{path} holds no unencrypted key in PEM form", hint=_OPEN_KEY)


def _load_own(context: ssl.SSLContext, certificate: Path, key: Path, section: str) -> None:
    try:
        # a passphrase, though there is none: OpenSSL would otherwise ask at the terminal
        context.load_cert_chain(certificate, key, password="")
    except OSError as error:
        reason = error.reason if isinstance(error, ssl.SSLError) else error.strerror
        # the last: a key of another kind
        if reason in ("KEY_VALUES_MISMATCH", "KEY_TYPE_MISMATCH", "NO_CERTIFICATE_ASSIGNED"):
            raise CertificateError(
                f"{key} does not belong to {section}.certificate",
                hint="name the key that the certificate was made with",
            ) from error
        if reason in ("EE_KEY_TOO_SMALL", "CA_MD_TOO_WEAK"):
            raise CertificateError(f"{section}.certificate is too weak: {_STRONG}") from error
        raise CertificateError(f"{key} holds no key that can be used", hint=_OPEN_KEY) from error


class Failure(NamedTuple):
    """Why there is no TLS connection, and what the operator may do."""

    what: str
    mend: str


_TRUST = "add its authority, or its own certificate if it is self-signed, to tls.peer_authorities"
_HOST = "correct host, or name its certificate in [[peer]] certificate"
_STRONG = "make one with an RSA key of at least 2048 bits or P-256, and SHA-256"
_OPEN_KEY = "openssl pkey -in FILE -out FILE.pem makes one"
_ASK = "give its administrator our certificate or the authority that issued it"
_SPEAK = "it must speak TLS 1.2 or 1.3 with ECDHE and AES-GCM or ChaCha20 (BCP 195)"

_CERTIFICATE_FAULTS: Mapping[int, Failure] = {
    # X509_V_ERR_... of OpenSSL, x509_vfy.h
    9: Failure("its certificate is not in force yet", "check both clocks"),
    10: Failure("its certificate has expired", "let its administrator renew it"),
    18: Failure("its certificate is self-signed and not trusted", _TRUST),
    19: Failure("its certificate is signed by no authority that we trust", _TRUST),
    20: Failure("its certificate is signed by no authority that we trust", _TRUST),
    21: Failure("its certificate is signed by no authority that we trust", _TRUST),
    26: Failure(
        "its certificate is not made for this use",
        "Extended Key Usage must allow serverAuth for who is called, clientAuth for who calls",
    ),
    62: Failure("its certificate is for another host name", _HOST),
    64: Failure("its certificate is for another address", _HOST),
    66: Failure("its certificate has too short a key", _STRONG),
    67: Failure("its authority has too short a key", _STRONG),
    68: Failure("its certificate has a weak signature", _STRONG),
}

_PROTOCOL_FAULTS: Mapping[str, Failure] = {
    # reasons of OpenSSL, sslerr.h; an ALERT is what the other end says of us
    "PEER_DID_NOT_RETURN_A_CERTIFICATE": Failure(
        "it shows no certificate", "let it call with its certificate (mutual authentication)"
    ),
    "UNSUPPORTED_PROTOCOL": Failure("it speaks an outdated version of TLS", _SPEAK),
    "UNKNOWN_PROTOCOL": Failure("it speaks an outdated version of TLS", _SPEAK),
    "VERSION_TOO_LOW": Failure("it speaks an outdated version of TLS", _SPEAK),
    "NO_SHARED_CIPHER": Failure("it offers weak ciphers only", _SPEAK),
    "NO_SHARED_GROUP": Failure("it offers weak key exchanges only", _SPEAK),
    "NO_SUITABLE_SIGNATURE_ALGORITHM": Failure("it offers weak signatures only", _SPEAK),
    "WRONG_VERSION_NUMBER": Failure("it does not speak TLS", "check port and tls on both sides"),
    "HTTP_REQUEST": Failure("it does not speak TLS", "check port and tls on both sides"),
    "RECORD_LAYER_FAILURE": Failure("it does not speak TLS", "check port and tls on both sides"),
    "PACKET_LENGTH_TOO_LONG": Failure("it does not speak TLS", "check port and tls on both sides"),
    "TLSV1_ALERT_UNKNOWN_CA": Failure("it does not trust our certificate", _ASK),
    "SSLV3_ALERT_CERTIFICATE_UNKNOWN": Failure("it does not take our certificate", _ASK),
    "SSLV3_ALERT_BAD_CERTIFICATE": Failure("it does not take our certificate", _ASK),
    "SSLV3_ALERT_UNSUPPORTED_CERTIFICATE": Failure(
        "our certificate is not made for this use",
        "Extended Key Usage of tls.certificate must allow serverAuth and clientAuth",
    ),
    "SSLV3_ALERT_CERTIFICATE_EXPIRED": Failure(
        "our certificate has expired", "renew tls.certificate"
    ),
    "SSLV3_ALERT_CERTIFICATE_REVOKED": Failure(
        "our certificate is revoked", "renew tls.certificate"
    ),
    "TLSV13_ALERT_CERTIFICATE_REQUIRED": Failure("it wants a certificate of ours", _ASK),
    "TLSV1_ALERT_ACCESS_DENIED": Failure("it denies us access", _ASK),
    "TLSV1_ALERT_PROTOCOL_VERSION": Failure("it refuses TLS 1.2 and 1.3", _SPEAK),
    "SSLV3_ALERT_HANDSHAKE_FAILURE": Failure("it refuses our ciphers or certificate", _SPEAK),
    "TLSV1_ALERT_INSUFFICIENT_SECURITY": Failure("it refuses our ciphers", _SPEAK),
}


def why_no_tls(error: OSError) -> Failure:
    """Return in words why a TLS connection did not come about; "it" is the other end.

    Args:
        error: What `do_handshake`, or the first reading after it, raised.
    """
    if isinstance(error, WrongCertificateError):
        return Failure(
            "its certificate is not the one configured for it",
            "if it was renewed on purpose, correct [[peer]] certificate",
        )
    if isinstance(error, ssl.SSLCertVerificationError):
        return _CERTIFICATE_FAULTS.get(
            error.verify_code,
            Failure(f"its certificate is not valid: {error.verify_message}", "look at it"),
        )
    if isinstance(error, TimeoutError):
        return Failure("it does not end the TLS handshake", "is it a TLS port? look into its log")
    reason = error.reason if isinstance(error, ssl.SSLError) else None
    if reason is None or isinstance(error, ssl.SSLEOFError):
        return Failure("it breaks off the TLS handshake", "look into its log")
    if reason in _PROTOCOL_FAULTS:
        return _PROTOCOL_FAULTS[reason]
    return Failure(f"TLS fails: {reason.lower().replace('_', ' ')}", "look into its log")
