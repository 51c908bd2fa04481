"""The doctor on certificates, keys, passcodes and the encrypted port: each fit and unfit."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from node.config import Config, NodeSection, Peer, Role, TlsSection, WebSection
from node.doctor import check_peer, check_peer_table, check_ports, run_checks
from node.doctor_access import check_access
from node.doctor_machine import Check
from tests.authority import Authority, Certified
from tests.receiving_node import running

NOW = datetime.now(UTC) + timedelta(hours=1)
"""The certificates of these tests are made after this line is read."""
PATIENCE_S = 30.0


def peer(**changes: Any) -> Peer:
    usual = {"name": "ct", "ae_title": "CT1", "host": "10.0.0.1", "roles": (Role.SEND,)}
    return Peer.model_validate({**usual, **changes})


def config(tls: TlsSection | None, *peers: Peer, **node: object) -> Config:
    return Config(tls=tls, peer=peers or (peer(),), node=NodeSection.model_validate(node))


def kept_private(own: Certified) -> Certified:
    own.key.chmod(0o600)
    return own


def check_found(checks: tuple[Check, ...], status: str, *words: str) -> None:
    """There is one finding, of this status, with these words; it says what to mend if need be."""
    (check,) = checks
    assert check.status == status, check
    assert bool(check.mend) == (status != "ok")
    for word in words:
        assert word in check.text + check.mend


def test_node_without_tls_says_so() -> None:
    """Not a fault, but nobody should be mistaken about it."""
    check_found(check_access(config(None), NOW), "ok", "not encrypted")


@pytest.mark.peers
@pytest.mark.parametrize(
    ("after", "status", "words"),
    [
        (timedelta(days=0, minutes=1), "ok", "in order"),
        (timedelta(days=29), "ok", "in order"),
        (timedelta(days=31), "warn", "tls.certificate ends on"),
        (timedelta(days=59), "warn", "in 0 days"),
        (timedelta(days=61), "fail", "tls.certificate: it ended on"),
        (timedelta(days=-2), "fail", "tls.certificate: it is not in force before"),
    ],
)
def test_end_of_our_certificate_is_announced(
    authority: Authority, after: timedelta, status: str, words: str
) -> None:
    """It is issued for 60 days; 30 days before the end there is time to act."""
    long_lived = authority.issue("trusted", days=3000).certificate
    own = kept_private(authority.issue("hilum"))
    settings = authority.settings(own, peer_authorities=long_lived)
    if after < timedelta(0):
        settings = settings.model_copy(update={"peer_authorities": own.certificate})
    checks = check_access(config(settings), NOW + after)
    if after < timedelta(0):
        checks = checks[:1]
    check_found(checks, status, words)


@pytest.mark.peers
def test_expired_certificate_beside_its_heir_is_a_warning(
    authority: Authority, tmp_path: Path
) -> None:
    """A file of several needs one that counts; if none does, nobody gets in."""
    own = kept_private(authority.issue("hilum"))
    ended = authority.issue("old", days=-1).certificate
    trusted, pinned = tmp_path / "trusted.pem", tmp_path / "ct.pem"
    for content, status in (
        (ended.read_text() + own.certificate.read_text(), "warn"),
        (ended.read_text(), "fail"),
    ):
        trusted.write_text(content)
        settings = authority.settings(own, peer_authorities=trusted)
        check_found(check_access(config(settings), NOW), status, "tls.peer_authorities", "ended")
        pinned.write_text(content)
        settings = authority.settings(own, peer_authorities=own.certificate)
        checks = check_access(config(settings, peer(certificate=str(pinned))), NOW)
        check_found(checks, status, "certificate of peer ct", "ended")


@pytest.mark.peers
def test_files_that_cannot_be_used_are_named(authority: Authority, tmp_path: Path) -> None:
    """What would keep the node from starting is a failure."""
    own, other = kept_private(authority.issue("hilum")), authority.issue("other", days=3000)
    trusted = other.certificate
    other.key.chmod(0o600)

    def found(**changes: object) -> tuple[Check, ...]:
        settings = authority.settings(own, **{"peer_authorities": trusted, **changes})
        return check_access(config(settings), NOW)

    absent = tmp_path / "absent"
    check_found(found(certificate=absent), "fail", "tls.certificate", "No such file")
    check_found(found(key=absent), "fail", "tls.key", "No such file")
    check_found(found(peer_authorities=absent), "fail", "tls.peer_authorities", "No such file")
    check_found(found(key=other.key), "fail", "tls.key", "does not belong to tls.certificate")
    settings = authority.settings(own, peer_authorities=trusted)
    checks = check_access(config(settings, peer(certificate=str(absent))), NOW)
    check_found(checks, "fail", "certificate of peer ct", "No such file", "[[peer]] ct")


@pytest.mark.peers
def test_key_that_others_may_read_is_pointed_out(authority: Authority) -> None:
    """Who has the key is the node."""
    own = kept_private(authority.issue("hilum"))
    settings = authority.settings(own, peer_authorities=own.certificate)
    check_found(check_access(config(settings), NOW), "ok")
    own.key.chmod(0o640)
    check_found(check_access(config(settings), NOW), "ok")
    for mode in (0o644, 0o602, 0o620):
        own.key.chmod(mode)
        check_found(check_access(config(settings), NOW), "warn", "tls.key", "chmod 600")


def test_passcodes_are_looked_at(tmp_path: Path) -> None:
    """Unreadable, readable for others, or sent over an open line."""
    path = tmp_path / "ct.passcode"
    path.write_text("geheim\n")
    path.chmod(0o600)

    def found(**changes: Any) -> tuple[Check, ...]:
        identity = {"username": "u", "passcode_file": path, "host": "127.0.0.1"}
        return check_access(config(None, peer(**{**identity, **changes})), NOW)

    check_found(found(), "ok")
    check_found(found(host="10.0.0.1"), "warn", "may travel unencrypted")
    check_found(found(username="u", passcode_file=None, passcode="x"), "ok")
    path.chmod(0o644)
    check_found(found(), "warn", "passcode_file of peer ct", "chmod 600")
    path.unlink()
    check_found(found(), "fail", "passcode_file", "No such file")


# Ports and peers


@pytest.mark.peers
def test_running_node_is_recognised_at_both_ports(authority: Authority, tmp_path: Path) -> None:
    """The doctor calls the node over TLS too, and knows it by its own certificate."""
    own = kept_private(authority.issue("hilum", hosts="DNS:hilum.example"))
    settings = authority.settings(own)
    local = peer(host="127.0.0.1")
    (tmp_path / "node").mkdir()
    require = settings.model_copy(update={"require": True})
    with running(tmp_path / "node", tls=require, peers=(local,)) as node:
        held = settings.model_copy(update={"port": node.port})
        free, taken = check_ports(config(held, local, port=0), echo_timeout_s=PATIENCE_S)
        assert (free.name, free.status) == ("port", "warn")
        assert taken.name == "tls port"
        check_found((taken,), "ok", "HILUM listens and answers")
        held = held.model_copy(update={"require": True})
        checks = check_ports(config(held, local), echo_timeout_s=PATIENCE_S)
        check_found(checks, "ok", "HILUM listens and answers")
        other = kept_private(authority.issue("other"))
        held = held.model_copy(update={"certificate": other.certificate, "key": other.key})
        checks = check_ports(config(held, local), echo_timeout_s=PATIENCE_S)
        check_found(checks, "fail", "is taken", "not the one configured", "tls.port")


def test_peers_are_told_apart_by_certificate_and_port() -> None:
    """Two of one title and host are two if one shows a certificate; a loop is found over TLS."""
    tls = TlsSection(certificate=Path("a"), key=Path("a"), peer_authorities=Path("a"))
    pinned = peer(name="b", certificate="b.pem")
    check_found(check_peer_table(config(tls, peer(), pinned)), "ok", "2 told apart")
    itself = peer(host="127.0.0.1", port=2762, tls=True)
    check_found(check_peer_table(config(tls, itself)), "fail", "host and port of this node")


def test_peer_that_may_come_from_anywhere_is_not_asked() -> None:
    """There is no host to call."""
    check = check_peer(peer(host="*", certificate="b.pem"), "HILUM", PATIENCE_S)
    check_found((check,), "ok", "certificate")


@pytest.mark.peers
def test_peer_that_fails_over_tls_is_told_why(authority: Authority, tmp_path: Path) -> None:
    """The words of the call reach the table."""
    settings = authority.settings(kept_private(authority.issue("hilum")))
    node_peer = peer(name="tps", ae_title="HILUM", host="127.0.0.1", tls=True, port=1)
    caller = peer(ae_title="HILUM", host="127.0.0.1")
    (tmp_path / "node").mkdir()
    require = settings.model_copy(update={"require": True})
    with running(tmp_path / "node", tls=require, peers=(caller,)) as node:
        called = node_peer.model_copy(update={"port": node.port})
        check_found((check_peer(called, "HILUM", PATIENCE_S, settings),), "ok", "C-ECHO")
        wrong = called.model_copy(update={"certificate": f"sha256:{'0' * 64}"})
        check = check_peer(wrong, "HILUM", PATIENCE_S, settings)
        check_found((check,), "warn", "not the one configured")
        everything = config(settings, called, data=tmp_path / "data", min_free_mib=1.0)
        names = [c.name for c in run_checks(everything, echo_timeout_s=PATIENCE_S)]
        assert {"port", "tls port", "tls", "peer tps"} <= set(names)


@pytest.mark.peers
def test_page_with_certificate_is_looked_at_likewise(authority: Authority) -> None:
    """Files that do not fit, rights, and the end of the certificate that browsers are shown."""
    own, other = kept_private(authority.issue("page")), authority.issue("other")

    def checked(own: Certified, now: datetime = NOW) -> tuple[Check, ...]:
        web = WebSection(certificate=own.certificate, key=own.key)
        return check_access(Config(web=web), now)

    check_found(checked(own), "ok", "not encrypted")
    check_found(checked(own, NOW + timedelta(days=31)), "warn", "web.certificate ends on")
    check_found(checked(Certified(own.certificate, other.key)), "fail", "does not belong to web")
    own.key.chmod(0o644)
    check_found(checked(own), "warn", "web.key: others on this machine")
