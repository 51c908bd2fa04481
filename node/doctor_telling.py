"""The doctor's checks of who is told: people when something needs them, and the audit trail.

Opens no connection: whether a message comes is seen by `hilum notify test`.
"""

import ssl
from collections.abc import Iterator
from pathlib import Path

from node.audit.section import AuditSection
from node.config import Config
from node.doctor_access import secrecy
from node.doctor_machine import Check, CheckStatus
from node.notify.section import NotifySection

_NOTIFICATION, _AUDIT = "notification", "audit trail"


def check_telling(config: Config) -> tuple[Check, ...]:
    """Return what keeps people, or a collector, from being told, or that nothing does."""
    found = [*_of_notification(config.notify)] or [_notification_is(config.notify)]
    return (*found, *(_of_audit(config.audit) or [_audit_is(config.audit)]))


def _of_notification(notify: NotifySection) -> Iterator[Check]:
    if notify.mail is not None and notify.mail.password_file is not None:
        yield from _secret("notify.mail.password_file", notify.mail.password_file)
    if notify.webhook is not None:
        yield from _secret("notify.webhook.secret_file", notify.webhook.secret_file)
    for name, section in (("mail", notify.mail), ("webhook", notify.webhook)):
        if section is not None and section.authorities is not None:
            key = f"notify.{name}.authorities"
            yield from _certificates(_NOTIFICATION, key, section.authorities)


def _secret(key: str, path: Path) -> Iterator[Check]:
    mend = "write the secret into it, and nothing else, readable for the node's user only"
    try:
        is_empty = not path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        text = f"{key}: {path} cannot be read ({_why(error)}): nobody is told anything that way"
        yield Check(_NOTIFICATION, CheckStatus.FAIL, text, mend)
        return
    if is_empty:
        yield Check(_NOTIFICATION, CheckStatus.FAIL, f"{key}: {path} is empty", mend)
    yield from secrecy(_NOTIFICATION, key, path)


def _notification_is(notify: NotifySection) -> Check:
    ways = [name for name in ("mail", "webhook") if getattr(notify, name) is not None]
    if not ways:
        text = "nobody is told when something needs a person; see [notify]"
    else:
        text = f"by {' and '.join(ways)}; `hilum notify test` tries it"
    return Check(_NOTIFICATION, CheckStatus.OK, text)


def _of_audit(audit: AuditSection) -> list[Check]:
    if not audit.enabled or audit.syslog is None:
        return []
    syslog = audit.syslog
    found = [*_certificates(_AUDIT, "audit.syslog.authorities", syslog.authorities)]
    if syslog.certificate is not None and syslog.key is not None:
        keys = f"audit.syslog.certificate and key: {syslog.certificate}, {syslog.key}"
        try:
            ssl.create_default_context().load_cert_chain(syslog.certificate, syslog.key)
        except OSError as error:
            found.append(_unfit(_AUDIT, f"{keys}: {_why(error)}"))
        found += secrecy(_AUDIT, "audit.syslog.key", syslog.key)
    return found


def _audit_is(audit: AuditSection) -> Check:
    if not audit.enabled:
        return Check(_AUDIT, CheckStatus.OK, "none is kept; see [audit]")
    to = "" if audit.syslog is None else f" and sent to {audit.syslog.host}:{audit.syslog.port}"
    text = f"is kept for {audit.keep_days} days{to}, patients by {audit.patients}"
    return Check(_AUDIT, CheckStatus.OK, text)


def _certificates(name: str, key: str, path: Path) -> Iterator[Check]:
    try:
        ssl.create_default_context(cafile=str(path))
    except OSError as error:
        yield _unfit(name, f"{key}: {path}: {_why(error)}")


def _unfit(name: str, text: str) -> Check:
    mend = "name PEM files that the node's user can read; until then nothing is sent there"
    return Check(name, CheckStatus.FAIL, text, mend)


def _why(error: Exception) -> str:
    if isinstance(error, ssl.SSLError):
        return "no certificates in PEM form that fit each other"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return "no text"
