"""Admission: who may connect and associate, who may not, and what each is told."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from node.admission import (
    CALLED_AE_UNKNOWN,
    CALLING_AE_UNKNOWN,
    LOCAL_LIMIT_EXCEEDED,
    MAX_ADDRESSES,
    USER_IDENTITY_REFUSED,
    Admission,
    Caller,
    Rejection,
)
from node.certificates import fingerprint
from node.config import Config, NodeSection, Peer, TlsSection
from node.errors import ConfigError
from tests.authority import Authority

OWN, OTHER = b"the peer's certificate", b"another certificate"
TLS = TlsSection(
    certificate=Path("hilum.pem"), key=Path("hilum.key"), peer_authorities=Path("ca.pem")
)
SCANNER = {"name": "ct", "ae_title": "CT1", "host": "10.0.0.1", "roles": ("send",)}
PINNED = {**SCANNER, "certificate": f"sha256:{fingerprint(OWN)}"}
ROAMING = {**PINNED, "name": "mr", "ae_title": "MR1", "host": "*"}
KNOWN = {**SCANNER, "username": "scanner", "passcode": "geheim"}
NAMED = {**SCANNER, "username": "scänner"}
CALLER = Caller("CT1", "HILUM", "10.0.0.1")


class Seconds:
    """A clock that a test sets."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


def admission(*peers: Mapping[str, object], clock: Seconds | None = None, **node: Any) -> Admission:
    config = Config(
        node=NodeSection.model_validate(node),
        tls=TLS,
        peer=tuple(Peer.model_validate(peer) for peer in peers),
    )
    return Admission(config, clock or Seconds())


def check_told(
    answer: Peer | Rejection, expected: str | tuple[int, int, int], why: str = ""
) -> None:
    """A peer's name, or result, source and reason of a rejection with a word of why."""
    if isinstance(answer, Peer):
        assert answer.name == expected
        return
    assert (answer.result, answer.source, answer.reason) == expected
    assert why in answer.why
    for word in ("CT1", "10.0.0", "scanner", "geheim"):
        assert word not in answer.why, "why holds nothing that the caller sent"


@pytest.mark.parametrize(
    ("caller", "expected", "why"),
    [
        (CALLER, "ct", ""),
        (replace(CALLER, address="::ffff:10.0.0.1"), "ct", ""),
        (replace(CALLER, certificate=OTHER), "ct", ""),
        (replace(CALLER, called_ae="PACS"), CALLED_AE_UNKNOWN, "called AE title"),
        (replace(CALLER, called_ae="hilum"), CALLED_AE_UNKNOWN, "called AE title"),
        (replace(CALLER, called_ae="PACS", calling_ae="X"), CALLED_AE_UNKNOWN, "called AE title"),
        (replace(CALLER, calling_ae="CT2"), CALLING_AE_UNKNOWN, "no peer has this AE title"),
        (replace(CALLER, calling_ae="*"), CALLING_AE_UNKNOWN, "no peer has this AE title"),
        (replace(CALLER, calling_ae=""), CALLING_AE_UNKNOWN, "no peer has this AE title"),
        (replace(CALLER, address="10.0.0.2"), CALLING_AE_UNKNOWN, "and address"),
        (replace(CALLER, address="127.0.0.1"), CALLING_AE_UNKNOWN, "and address"),
        (replace(CALLER, username=b"root", passcode=b"", identity_type=2), "ct", ""),
    ],
)
def test_peer_is_told_by_ae_title_and_address(
    caller: Caller, expected: str | tuple[int, int, int], why: str
) -> None:
    """Issue 4, 11: both must fit; an identity nobody asked for changes nothing."""
    check_told(admission(SCANNER, PINNED | {"name": "b"}).admit(caller, {}), expected, why)


@pytest.mark.parametrize(
    ("caller", "expected", "why"),
    [
        (replace(CALLER, certificate=OWN), "ct", ""),
        (CALLER, CALLING_AE_UNKNOWN, "certificate is missing"),
        (replace(CALLER, certificate=b""), CALLING_AE_UNKNOWN, "certificate is missing"),
        (replace(CALLER, certificate=OTHER), CALLING_AE_UNKNOWN, "another certificate"),
        (replace(CALLER, certificate=OWN, address="10.0.0.2"), CALLING_AE_UNKNOWN, "and address"),
        (Caller("MR1", "HILUM", "203.0.113.9", OWN), "mr", ""),
        (Caller("MR1", "HILUM", "2001:db8::1", OWN), "mr", ""),
        (Caller("MR1", "HILUM", "203.0.113.9", OTHER), CALLING_AE_UNKNOWN, "another certificate"),
        (Caller("MR1", "HILUM", "203.0.113.9"), CALLING_AE_UNKNOWN, "certificate is missing"),
        (Caller("XX1", "HILUM", "203.0.113.9", OWN), CALLING_AE_UNKNOWN, "no peer has this AE"),
    ],
)
def test_peer_with_a_certificate_must_present_it(
    caller: Caller, expected: str | tuple[int, int, int], why: str
) -> None:
    """Issue 4, 11: a certificate in place of the address where the host is "*", else besides."""
    check_told(admission(PINNED, ROAMING).admit(caller, {}), expected, why)


def test_peers_of_one_ae_title_are_told_apart_by_what_they_show() -> None:
    """The certificate decides before the address does, whatever the order in the file."""
    plain = {**SCANNER, "name": "plain"}
    door = admission(plain, PINNED)
    check_told(door.admit(replace(CALLER, certificate=OWN), {}), "ct")
    check_told(door.admit(CALLER, {}), "plain")


def test_loopback_peer_for_any_ae_title_comes_last() -> None:
    """A named peer keeps its roles."""
    anyone = {"name": "any", "ae_title": "*", "host": "127.0.0.1", "roles": ("send",)}
    door = admission(anyone, {**SCANNER, "host": "localhost"})
    check_told(door.admit(replace(CALLER, address="127.0.0.1"), {}), "ct")
    check_told(door.admit(Caller("X", "HILUM", "127.0.0.1"), {}), "any")
    check_told(door.admit(Caller("X", "HILUM", "10.0.0.1"), {}), CALLING_AE_UNKNOWN)


def with_identity(
    username: bytes | None, passcode: bytes | None, identity_type: int | None
) -> Caller:
    return replace(CALLER, username=username, passcode=passcode, identity_type=identity_type)


@pytest.mark.parametrize(
    ("peer", "caller", "is_admitted"),
    [
        (KNOWN, with_identity(b"scanner", b"geheim", 2), True),
        (KNOWN, with_identity(b"scanner", b"geheim", 1), False),
        (KNOWN, with_identity(b"scanner", b"geheim", 3), False),
        (KNOWN, with_identity(b"scanner", b"geheim", 5), False),
        (KNOWN, with_identity(b"scanner", b"Geheim", 2), False),
        (KNOWN, with_identity(b"scanner", b"geheim\0", 2), False),
        (KNOWN, with_identity(b"scanner", b"", 2), False),
        (KNOWN, with_identity(b"scanner", None, 2), False),
        (KNOWN, with_identity(b"scanner", None, 1), False),
        (KNOWN, with_identity(b"Scanner", b"geheim", 2), False),
        (KNOWN, with_identity(b"", b"geheim", 2), False),
        (KNOWN, with_identity(b"\xff\xfe", b"\xff", 2), False),
        (KNOWN, with_identity(None, None, None), False),
        (NAMED, with_identity("scänner".encode(), None, 1), True),
        (NAMED, with_identity("scänner".encode(), b"whatever", 2), True),
        (NAMED, with_identity("scänner".encode("latin-1"), None, 1), False),
        (NAMED, with_identity("scänner".encode(), None, 4), False),
        (NAMED, with_identity(None, None, None), False),
    ],
)
def test_user_identity_when_one_is_configured(
    peer: Mapping[str, object], caller: Caller, is_admitted: bool
) -> None:
    """PS3.7 D.3.3.7: username and passcode in UTF-8; a refusal is permanent, by the ACSE provider.

    Without a configured passcode the username alone decides, with either identity type.
    """
    expected = "ct" if is_admitted else USER_IDENTITY_REFUSED
    check_told(admission(peer).admit(caller, {}), expected)


def test_passcode_is_read_from_its_file_without_the_line_end(tmp_path: Path) -> None:
    """STYLE 4.6: secrets are paths to files."""
    path = tmp_path / "passcode"
    path.write_bytes(b"geh eim \r\n")
    peer = {**SCANNER, "username": "scanner", "passcode_file": path}
    door = admission(peer)
    check_told(door.admit(with_identity(b"scanner", b"geh eim ", 2), {}), "ct")
    check_told(door.admit(with_identity(b"scanner", b"geh eim", 2), {}), USER_IDENTITY_REFUSED)


def test_every_unusable_file_is_named_at_the_start(tmp_path: Path) -> None:
    """All problems at once; nobody is admitted by half a configuration."""
    (tmp_path / "empty").write_bytes(b"\n")
    peers = (
        {**SCANNER, "name": "a", "username": "u", "passcode_file": tmp_path / "absent"},
        {**SCANNER, "name": "b", "username": "u", "passcode_file": tmp_path / "empty"},
        {**SCANNER, "name": "c", "certificate": str(tmp_path / "absent.pem")},
    )
    with pytest.raises(ConfigError) as refused:
        admission(*peers)
    a, b, c = refused.value.problems
    assert "peer 'a': passcode_file" in a
    assert "No such file" in a
    assert "peer 'b': passcode_file" in b
    assert "is empty" in b
    assert "peer 'c': certificate" in c
    assert "No such file" in c


@pytest.mark.peers
def test_renewed_certificate_of_a_peer_counts_without_a_restart(
    tmp_path: Path, peer_program: Callable[[str], str]
) -> None:
    """Issue 4, 12: certificate per peer, reload. While both are in the file, both count."""
    authority = Authority(tmp_path, peer_program("openssl"))
    old, new = (authority.self_signed(name).certificate for name in ("old", "new"))
    configured = tmp_path / "ct.pem"
    configured.write_text(old.read_text())
    door = admission({**SCANNER, "certificate": str(configured)})

    def is_admitted(path: Path) -> bool:
        return isinstance(door.admit(replace(CALLER, certificate=authority.der(path)), {}), Peer)

    assert (is_admitted(old), is_admitted(new)) == (True, False)
    configured.write_text(old.read_text() + new.read_text())
    assert (is_admitted(old), is_admitted(new)) == (True, True)
    configured.write_text(new.read_text())
    assert (is_admitted(old), is_admitted(new)) == (False, True)
    configured.unlink()
    assert (is_admitted(old), is_admitted(new)) == (False, True)


# Limits


@pytest.mark.parametrize(
    ("limits", "open_by_peer", "expected"),
    [
        ({}, {"ct": 24}, "ct"),
        ({}, {"ct": 25}, LOCAL_LIMIT_EXCEEDED),
        ({}, {"mr": 20, "ct": 4}, "ct"),
        ({}, {"mr": 20, "ct": 5}, LOCAL_LIMIT_EXCEEDED),
        ({"max_associations_per_peer": 2}, {"ct": 1, "mr": 9}, "ct"),
        ({"max_associations_per_peer": 2}, {"ct": 2}, LOCAL_LIMIT_EXCEEDED),
        ({"max_associations_per_peer": 2}, {"ct": 3}, LOCAL_LIMIT_EXCEEDED),
        ({"max_associations": 1}, {}, "ct"),
        ({"max_associations": 1}, {"mr": 1}, LOCAL_LIMIT_EXCEEDED),
    ],
)
def test_associations_are_limited(
    limits: Mapping[str, Any],
    open_by_peer: Mapping[str, int],
    expected: str | tuple[int, int, int],
) -> None:
    """Issue 4, 10: in total and for each peer; transient, "local limit exceeded"."""
    check_told(admission(SCANNER, **limits).admit(CALLER, open_by_peer), expected, "too many")


def test_stranger_learns_nothing_of_the_load() -> None:
    """An unknown caller is told that it is unknown, whatever the limits say."""
    door = admission(SCANNER, max_associations=1)
    check_told(door.admit(replace(CALLER, calling_ae="X"), {"ct": 1}), CALLING_AE_UNKNOWN)


def rejected(door: Admission, address: str, times: int = 1) -> None:
    for _ in range(times):
        assert isinstance(door.admit(Caller("X", "HILUM", address), {}), Rejection)


def test_address_that_is_rejected_too_often_is_shut_out_for_a_minute() -> None:
    """Issue 4, 11: a rate limit for each address, the loopback included."""
    clock = Seconds()
    door = admission(SCANNER, clock=clock, max_rejections_per_minute=3)
    for address in ("10.0.0.1", "127.0.0.1"):
        rejected(door, address, 3)
        assert door.may_connect(address)
        rejected(door, address)
        assert not door.may_connect(address)
    assert door.may_connect("10.0.0.2")
    clock.now += 58.9
    assert not door.may_connect("10.0.0.1")
    clock.now += 1.1
    assert door.may_connect("10.0.0.1")


def test_who_is_shut_out_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    """The operator sees it, and no flood of it."""
    clock = Seconds()
    door = admission(SCANNER, clock=clock, max_rejections_per_minute=3)
    with caplog.at_level(logging.DEBUG):
        rejected(door, "10.0.0.9", 10)
        clock.now += 100
        rejected(door, "10.0.0.9", 10)
    said = [(r.getMessage(), vars(r)["address"]) for r in caplog.records]
    assert said == [("address.shut_out", "10.0.0.9")] * 2


def test_rejections_leave_the_count_one_by_one() -> None:
    """The window slides: the oldest leaves first."""
    clock = Seconds()
    door = admission(SCANNER, clock=clock, max_rejections_per_minute=2)
    for _ in range(3):
        rejected(door, "10.0.0.1")
        clock.now += 10
    assert not door.may_connect("10.0.0.1")
    clock.now += 30
    assert door.may_connect("10.0.0.1")
    rejected(door, "10.0.0.1")
    assert not door.may_connect("10.0.0.1")


def test_what_the_transport_refuses_counts_too() -> None:
    """A failed TLS handshake is a rejection like any other."""
    door = admission(SCANNER, max_rejections_per_minute=1)
    door.count_rejection("10.0.0.1")
    assert door.may_connect("10.0.0.1")
    door.count_rejection("10.0.0.1")
    assert not door.may_connect("10.0.0.1")


def test_known_peer_at_its_limit_is_not_shut_out() -> None:
    """It must be able to come back as soon as one of its associations has ended."""
    door = admission(SCANNER, max_associations=1, max_rejections_per_minute=1)
    for _ in range(10):
        check_told(door.admit(CALLER, {"ct": 1}), LOCAL_LIMIT_EXCEEDED)
    assert door.may_connect(CALLER.address)
    check_told(door.admit(CALLER, {}), "ct")


@pytest.mark.parametrize(
    ("one", "same", "is_same"),
    [
        ("10.0.0.1", "::ffff:10.0.0.1", True),
        ("2001:db8:0:1::1", "2001:db8:0:1:ffff::2", True),
        ("2001:db8:0:1::1", "2001:db8:0:2::1", False),
        ("fe80::1%eth0", "fe80::2%eth0", True),
        ("not an address", "not an address", True),
    ],
)
def test_one_caller_with_many_addresses_counts_as_one(one: str, same: str, is_same: bool) -> None:
    """An IPv6 caller owns a network of addresses; IPv4 is the same however it is written."""
    door = admission(SCANNER, max_rejections_per_minute=1)
    rejected(door, one, 2)
    assert door.may_connect(same) is not is_same


def test_memory_of_rejections_is_bounded() -> None:
    """Issue 4, 10: the address longest without a rejection is forgotten."""
    door = admission(SCANNER, max_rejections_per_minute=1)
    rejected(door, "10.0.0.1", 2)
    rejected(door, "10.0.0.2", 2)
    for number in range(MAX_ADDRESSES - 2):
        door.count_rejection(f"10.1.{number // 256}.{number % 256}")
    rejected(door, "10.0.0.1")
    assert not door.may_connect("10.0.0.2")
    door.count_rejection("10.2.0.0")
    assert door.may_connect("10.0.0.2")
    assert not door.may_connect("10.0.0.1")


def test_nothing_secret_is_shown_or_logged(caplog: pytest.LogCaptureFixture) -> None:
    """Neither a configuration nor a caller shows its passcode, whoever prints it."""
    caller = with_identity(b"scanner", b"geheim", 2)
    with caplog.at_level(logging.DEBUG):
        admission(KNOWN).admit(replace(caller, passcode=b"g3h3im"), {})
    shown = [repr(caller), repr(Peer.model_validate(KNOWN)), *map(str, caplog.records)]
    shown.append(Peer.model_validate(KNOWN).model_dump_json())
    assert not [text for text in shown if "geheim" in text or "g3h3im" in text]
