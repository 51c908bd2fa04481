"""The doctor's checks of who proves what: certificates, keys and passcodes.

Opens no connection: whether a peer takes our certificate is seen when `node.doctor` calls it.
"""

import stat
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from pathlib import Path

from node.certificates import CertificateError, read_certificates, validity
from node.config import FINGERPRINT_PREFIX, Config, Peer, TlsSection, WebSection, is_loopback
from node.doctor_machine import Check, CheckStatus
from node.errors import ConfigError
from node.tls import file_problems, own_problems, serving_context

SOON = timedelta(days=30)
"""A certificate that ends within this time is pointed out: renewing takes people."""

_OTHERS = stat.S_IROTH | stat.S_IWOTH | stat.S_IWGRP
"""Rights that nobody but the node needs on a secret; a group that reads may be wanted."""


def check_access(config: Config, now: datetime) -> tuple[Check, ...]:
    """Tell what is wrong with certificates and passcodes, or that there are none.

    Args:
        config: The configuration.
        now: The time, aware.
    """
    found = [*_own(config.tls, now)] if config.tls is not None else []
    found += _of_page(config.web, now)
    for peer in config.peer:
        found += _of_peer(peer, now)
    if found:
        return tuple(found)
    if config.tls is None:
        text = "not configured: connections are not encrypted, so the network must be protected"
        return (Check("tls", CheckStatus.OK, text),)
    return (Check("tls", CheckStatus.OK, "certificates and keys are in order"),)


def _own(tls: TlsSection, now: datetime) -> Iterator[Check]:
    for problem in file_problems(tls):
        yield Check("tls", CheckStatus.FAIL, problem, "without these files the node does not start")
    yield from _validity("tls.certificate", tls.certificate, now, all_count=True)
    yield from _validity("tls.peer_authorities", tls.peer_authorities, now, all_count=False)
    yield from secrecy("tls", "tls.key", tls.key)


def _of_page(web: WebSection, now: datetime) -> Iterator[Check]:
    if web.certificate is None or web.key is None:
        return
    for problem in own_problems(serving_context(), web.certificate, web.key, "web"):
        yield Check("tls", CheckStatus.FAIL, problem, "without these files the node does not start")
    yield from _validity("web.certificate", web.certificate, now, all_count=True)
    yield from secrecy("tls", "web.key", web.key)


def _of_peer(peer: Peer, now: datetime) -> Iterator[Check]:
    if peer.certificate is not None and not peer.certificate.startswith(FINGERPRINT_PREFIX):
        key, path = f"certificate of peer {peer.name}", Path(peer.certificate)
        try:
            read_certificates(path)
        except CertificateError as error:
            mend = error.hint or f"correct certificate of [[peer]] {peer.name}"
            yield Check("tls", CheckStatus.FAIL, f"{key}: {error}", mend)
        yield from _validity(key, path, now, all_count=False)
    try:
        peer.read_passcode()
    except ConfigError as error:
        mend = f"correct passcode_file of [[peer]] {peer.name}"
        yield Check("passcode", CheckStatus.FAIL, str(error), mend)
    if peer.passcode_file is not None:
        yield from secrecy("passcode", f"passcode_file of peer {peer.name}", peer.passcode_file)
    if peer.has_passcode and peer.certificate is None and not is_loopback(peer.host):
        text = f"the passcode of peer {peer.name} may travel unencrypted"
        mend = "name its certificate too: then it must use TLS"
        yield Check("passcode", CheckStatus.WARN, text, mend)


def _validity(key: str, path: Path, now: datetime, *, all_count: bool) -> Iterator[Check]:
    """Point out certificates that have ended, end soon or have not begun.

    Where not all count, the file needs one only: what has ended may still lie beside its heir.
    """
    try:
        periods = [validity(der) for der in read_certificates(path)]
    except CertificateError:
        return  # told already
    ends = sorted(period.not_after for period in periods)
    in_force = [p for p in periods if p.not_before <= now <= p.not_after]
    mend = f"renew {path}; the node reads it again by itself"
    if len(in_force) < len(periods):
        early = [p.not_before for p in periods if p.not_before > now]
        what = f"is not in force before {_day(early)}" if early else f"ended on {_day(ends)}"
        is_spent = all_count or not in_force
        text = f"{key}: {'it' if len(periods) == 1 else 'one of its certificates'} {what}"
        yield Check("tls", CheckStatus.FAIL if is_spent else CheckStatus.WARN, text, mend)
    elif ends[0] <= now + SOON:
        days = (ends[0] - now).days
        text = f"{key} ends on {_day(ends)}, in {days} days"
        yield Check("tls", CheckStatus.WARN, text, mend)


def _day(moments: Sequence[datetime]) -> str:
    return f"{min(moments):%Y-%m-%d}"


def secrecy(name: str, key: str, path: Path) -> Iterator[Check]:
    """Point out a secret that others on this machine may read or change; of check `name`."""
    try:
        rights = path.stat().st_mode
    except OSError:
        return  # told already
    if rights & _OTHERS:
        text = f"{key}: others on this machine may read or change {path}"
        yield Check(name, CheckStatus.WARN, text, f"chmod 600 {path}")
