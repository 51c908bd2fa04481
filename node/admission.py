"""Decides who may connect and who may associate; does nothing about it but log who is shut out.

The allow-list: a caller is a peer by its calling AE title **and** its address; a peer that has a
certificate configured must moreover present that certificate, and may then have `host = "*"`, so
that AE title and certificate alone tell who it is. A peer with a username must give that, with
the passcode if it has one. Knows no sockets and no pynetdicom. May be used from several threads.
Read PS3.8 section 9.3.4 first.
"""

import hashlib
import hmac
import ipaddress
import logging
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from pathlib import Path

from node.certificates import CertificateError, ReloadedFiles, fingerprint, pinned_fingerprints
from node.config import ANY_AE_TITLE, FINGERPRINT_PREFIX, Config, Peer
from node.errors import ConfigError

LOGGER = logging.getLogger(__name__)

CALLED_AE_UNKNOWN = (1, 1, 7)
CALLING_AE_UNKNOWN = (1, 1, 3)
LOCAL_LIMIT_EXCEEDED = (2, 3, 2)
"""Result, source and reason of an A-ASSOCIATE-RJ (PS3.8 table 9-21)."""

USER_IDENTITY_REFUSED = (1, 2, 1)
"""A refused user identity: permanent, by the ACSE service provider, no reason given (PS3.7
D.3.3.7)."""

WINDOW_S = 60
"""Rejections are counted over this time, in whole seconds."""

MAX_ADDRESSES = 4096
"""Addresses whose rejections are counted; the one longest without a rejection is forgotten."""

IPV6_SITE_BITS = 64
"""One caller may use any address of its IPv6 network: they count as one."""


class IdentityType(IntEnum):
    """User-Identity-Type (PS3.7 table D.3-14) of those that a passcode can be compared with."""

    USERNAME = 1
    USERNAME_AND_PASSCODE = 2


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks for an association, by its own word and by what the network shows.

    Attributes:
        calling_ae: Without the padding spaces.
        called_ae: Likewise.
        address: Its IP address.
        certificate: What it presented, DER-encoded; None over a plain connection.
        username: The primary field of its user identity, as it was sent; None: it sent none.
        passcode: The secondary field.
        identity_type: The User-Identity-Type that it sent.
    """

    calling_ae: str
    called_ae: str
    address: str
    certificate: bytes | None = field(default=None, repr=False)
    username: bytes | None = field(default=None, repr=False)
    passcode: bytes | None = field(default=None, repr=False)
    identity_type: int | None = None


@dataclass(frozen=True, slots=True)
class Rejection:
    """An A-ASSOCIATE-RJ (PS3.8 table 9-21); `why` is for our log, the caller is not told."""

    result: int
    source: int
    reason: int
    why: str

    @property
    def is_transient(self) -> bool:
        """Whether the same caller may be admitted later."""
        return self.result == LOCAL_LIMIT_EXCEEDED[0]


class Admission:
    """The door: asked once for each connection and once for each association request.

    Args:
        config: Peers and limits.
        clock: Seconds that never go back.

    Raises:
        ConfigError: A certificate or passcode file of a peer cannot be used; all are named.
    """

    def __init__(self, config: Config, clock: Callable[[], float] = time.monotonic) -> None:
        self._node = config.node
        # the most telling first: a certificate, then a title of its own
        self._peers = sorted(
            config.peer, key=lambda p: (p.certificate is None, p.ae_title == ANY_AE_TITLE)
        )
        self._rejections = _RejectionCounts(clock)
        problems: list[str] = []
        self._pinned: dict[str, ReloadedFiles[frozenset[str]]] = {}
        self._identities: dict[str, tuple[bytes, bytes | None]] = {}
        for peer in config.peer:
            try:
                self._pinned[peer.name] = _watched(peer)
            except CertificateError as error:
                problems.append(f"peer {peer.name!r}: certificate {error}")
            try:
                if peer.username is not None:
                    passcode = peer.read_passcode()
                    secret = None if passcode is None else _digest(passcode.encode())
                    self._identities[peer.name] = _digest(peer.username.encode()), secret
            except ConfigError as error:
                problems += error.problems
        if problems:
            raise ConfigError(problems)

    def may_connect(self, address: str) -> bool:
        """Tell whether a new connection is worth reading; if not, it is closed unread.

        It is not if its address collected more than `max_rejections_per_minute` rejections within
        the last minute. Connections that are closed unread do not count.
        """
        return self._rejections.of(address) <= self._node.max_rejections_per_minute

    def count_rejection(self, address: str) -> None:
        """Count a rejection; also one made elsewhere: a failed TLS handshake, or no request."""
        count = self._rejections.add(address)
        if count == self._node.max_rejections_per_minute + 1:
            LOGGER.warning("address.shut_out", extra={"address": address, "rejections": count})

    def admit(self, caller: Caller, open_by_peer: Mapping[str, int]) -> Peer | Rejection:
        """Return the peer behind an association request, or why it is rejected.

        A permanent rejection counts against the address. A transient one does not: it meets a
        peer that we know, and that must be able to come back when one of its associations ends.

        Args:
            caller: Who asks.
            open_by_peer: How many associations each peer has open, by its name, without this one.
        """
        answer = self._judged(caller, open_by_peer)
        if isinstance(answer, Rejection) and not answer.is_transient:
            self.count_rejection(caller.address)
        return answer

    def _judged(self, caller: Caller, open_by_peer: Mapping[str, int]) -> Peer | Rejection:
        if caller.called_ae != self._node.ae_title:
            return Rejection(*CALLED_AE_UNKNOWN, "called AE title is not ours")
        peer = self._peer_of(caller)
        if isinstance(peer, str):
            return Rejection(*CALLING_AE_UNKNOWN, peer)
        if peer.name in self._identities and not self._has_identity(caller, peer):
            is_missing = caller.username is None
            why = "the peer's user identity is missing" if is_missing else "another user identity"
            return Rejection(*USER_IDENTITY_REFUSED, why)
        limit = self._node.max_associations_per_peer
        if limit is not None and open_by_peer.get(peer.name, 0) >= limit:
            return Rejection(*LOCAL_LIMIT_EXCEEDED, "too many associations of this peer")
        if sum(open_by_peer.values()) >= self._node.max_associations:
            return Rejection(*LOCAL_LIMIT_EXCEEDED, "too many associations")
        return peer

    def _peer_of(self, caller: Caller) -> Peer | str:
        """Return the peer, or why there is none: what is wrong with the one that comes nearest."""
        titled = [peer for peer in self._peers if peer.is_titled(caller.calling_ae)]
        why = "no peer has this AE title"
        shown = fingerprint(caller.certificate) if caller.certificate else None
        for peer in titled:
            if not peer.is_at(caller.address):
                why = "no peer has this AE title and address"
                continue
            if peer.certificate is None or shown in self._pinned[peer.name].current():
                return peer
            why = "the peer's certificate is missing" if shown is None else "another certificate"
        return why

    def _has_identity(self, caller: Caller, peer: Peer) -> bool:
        """Compare in a time that tells nothing about where a wrong identity differs."""
        username, passcode = self._identities[peer.name]
        is_user = hmac.compare_digest(_digest(caller.username or b""), username)
        is_passcode = hmac.compare_digest(_digest(caller.passcode or b""), passcode or _digest(b""))
        if passcode is None:
            return is_user and caller.identity_type in tuple(IdentityType)
        return (
            is_user and is_passcode and caller.identity_type == IdentityType.USERNAME_AND_PASSCODE
        )


class _RejectionCounts:
    """Rejections of each address within the last minute, in bounded memory."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        # seconds and their counts, the newest last; at most WINDOW_S for an address
        self._counts: OrderedDict[str, deque[list[int]]] = OrderedDict()

    def add(self, address: str) -> int:
        """Count one more; return how many there are now."""
        second, caller = int(self._clock()), _caller_of(address)
        with self._lock:
            counts = self._counts.setdefault(caller, deque(maxlen=WINDOW_S))
            self._counts.move_to_end(caller)
            if counts and counts[-1][0] == second:
                counts[-1][1] += 1
            else:
                counts.append([second, 1])
            if len(self._counts) > MAX_ADDRESSES:
                self._counts.popitem(last=False)
            return _within(counts, second)

    def of(self, address: str) -> int:
        """Return how many there are."""
        second, caller = int(self._clock()), _caller_of(address)
        with self._lock:
            found = _within(self._counts.get(caller, ()), second)
            if not found:
                self._counts.pop(caller, None)
            return found


def _within(counts: Iterable[list[int]], now: int) -> int:
    return sum(count for second, count in counts if second > now - WINDOW_S)


def _caller_of(address: str) -> str:
    """Return what an address is counted under."""
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(found, ipaddress.IPv6Address):
        if found.ipv4_mapped is not None:
            return str(found.ipv4_mapped)
        return str(ipaddress.ip_network((int(found), IPV6_SITE_BITS), strict=False))
    return str(found)


def _watched(peer: Peer) -> ReloadedFiles[frozenset[str]]:
    is_file = peer.certificate is not None and not peer.certificate.startswith(FINGERPRINT_PREFIX)
    paths = [Path(peer.certificate or "")] if is_file else []
    return ReloadedFiles(paths, lambda: pinned_fingerprints(peer))


def _digest(secret: bytes) -> bytes:
    """Return what is compared instead of a secret: of the same length for all."""
    return hashlib.sha256(secret).digest()
