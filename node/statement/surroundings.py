"""Sections 4 to 7: configuration, media, character sets, security."""

from node.config import Config, Role
from node.statement.markdown import table


def configuration(config: Config) -> str:
    """Return section 4."""
    rows = [
        (peer.name, peer.ae_title, peer.host, peer.port or "", ", ".join(peer.roles))
        for peer in config.peer
    ]
    return (
        "## 4 Configuration\n\nAE title, address, port, limits and peers stand in one TOML file; "
        "the values in this statement are those in force.\n\n"
        + table(("peer", "AE title", "host", "port", "roles"), rows)
    )


def media() -> str:
    """Return section 5."""
    return "## 5 Media interchange\n\nNone."


def character_sets() -> str:
    """Return section 6."""
    return (
        "## 6 Character sets\n\nEvery Specific Character Set of PS3.3 C.12.1.1.2 is kept as sent; "
        "headers are read with the one that the object declares. Our own objects are written in "
        "that of the planning CT; letters of texts of ours that it lacks lose their accents or "
        "become question marks. Queries: see 3.3.4."
    )


def security(config: Config) -> str:
    """Return section 7."""
    listed = ", ".join(
        f"`{role}` ({', '.join(p.name for p in config.peer if role in p.roles) or 'nobody'})"
        for role in Role
    )
    named = ", ".join(p.name for p in config.peer if p.username is not None) or "nobody"
    return (
        f"## 7 Security\n\n{_encryption(config)} A peer may do only what its roles allow: "
        f"{listed}. User identity (PS3.7 D.3.3.7) is demanded of: {named}. Patient names, "
        "identifiers and birth dates are not written to logs or file names; text from a peer is "
        "never part of a path. Objects are neither signed nor encrypted on disk; attributes are "
        f"not de-identified.\n\n{_audit_trail(config)}"
    )


def _audit_trail(config: Config) -> str:
    section = config.audit
    if not section.enabled:
        return "No audit trail is kept, since `audit.enabled` is false."
    named = {
        "pseudonym": "patients by a pseudonym; their names and identifiers are left out",
        "identifier": "patients by Patient ID and name",
    }[section.patients]
    sent = "in files of the node; to send it to a collector is not configured"
    if section.syslog is not None:
        sent = (
            f"in files, and to {section.syslog.host}, port {section.syslog.port}, after the audit "
            "trail message transmission profile SYSLOG-TLS (PS3.15 A.6)"
        )
    return (
        f"The audit trail follows the audit trail message format profile (PS3.15 A.5): {sent}. PRI "
        "is 85, MSGID `DICOM+RFC3881`, no STRUCTURED-DATA; it names "
        f"{named}. Messages: Application Activity, Begin Transferring DICOM Instances, Data "
        "Export, DICOM Instances Accessed, DICOM Instances Transferred, DICOM Study Deleted, "
        "Procedure Record, Query, Security Alert, User Authentication."
    )


def _encryption(config: Config) -> str:
    if config.tls is None:
        return (
            "Connections are not encrypted, since `[tls]` is not configured: use a protected "
            "network."
        )
    called = ", ".join(p.name for p in config.peer if p.tls) or "nobody"
    plain = "closed" if config.tls.require else f"open, too (port {config.node.port})"
    return (
        "TLS after the BCP 195 RFC 8996, 9325 secure transport connection profile (PS3.15 B.12), "
        f"TLS 1.2 and 1.3, both ends with a certificate, on port {config.tls.port}; the plain "
        f"listener is {plain}. Called over TLS: {called}."
    )
