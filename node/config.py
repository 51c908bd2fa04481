"""The configuration: one frozen value, read from one TOML file, every problem reported at once.

Nothing else reads the file or the environment; functions receive the few values they need. Every
key with meaning, unit and default stands in `deploy/hilum.example.toml`.
"""

import tomllib
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    Field,
    Strict,
    ValidationError,
    model_validator,
)

from node.audit.section import AuditSection, AuditSyslog
from node.database import address_problem, complete_address, is_postgresql
from node.errors import ConfigError
from node.key_problems import key_problems
from node.limit_tables import LimitTable, own_tables
from node.notify.section import MailSection, NotifySection, WebhookSection
from node.outline_program import SecondOpinionSection
from node.peer import (
    ANY_AE_TITLE,
    ANY_HOST,
    FINGERPRINT_PREFIX,
    AeTitle,
    File,
    Host,
    Peer,
    Role,
    is_loopback,
)
from node.protocol import (
    ClipRule,
    DerivedRule,
    DoseRules,
    FetchRule,
    GeudRule,
    MarginTable,
    NotNegative,
    OrganRule,
    OutputRule,
    Positive,
    Prescription,
    Protocol,
    ReirradiationRules,
    Section,
    TargetSwitch,
    derived_problems,
    fetch_problems,
    output_problems,
)
from node.retention_section import RetentionSection
from node.web.section import WebSection

__all__ = [
    "ANY_AE_TITLE",
    "ANY_HOST",
    "FINGERPRINT_PREFIX",
    "Config",
    "NodeSection",
    "Peer",
    "Prescription",
    "Protocol",
    "RetentionSection",
    "Role",
    "SecondOpinionSection",
    "TlsSection",
    "WebSection",
    "default_config",
    "is_loopback",
    "read_config",
]


_NOT_IN_FILES = ("origin", "own_limits")
"""What is found out while a file is read."""


class NodeSection(Section):
    """`[node]`: the node itself, its waiting times and its limits."""

    ae_title: AeTitle = "HILUM"
    host: Host = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535)] = 11112
    data: File = Path("hilum-data")
    database: str | None = None
    database_password_file: File | None = None
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,39}$")] | None = None
    compute: bool = True
    heartbeat_limit_s: Annotated[float, Field(ge=6, le=3600)] = 60.0
    quiet_s: NotNegative = 60.0
    incomplete_s: NotNegative | None = None
    mr_wait_h: NotNegative = 168.0
    transport: Literal["fast", "plain"] = "fast"
    accept: Literal["known", "all"] = "known"
    max_associations: Annotated[int, Field(ge=1, le=1000)] = 25
    max_associations_per_peer: Annotated[int, Field(ge=1, le=1000)] | None = None
    max_rejections_per_minute: Annotated[int, Field(ge=1, le=100_000)] = 60
    max_pdu_bytes: Annotated[int, Field(ge=4096, le=1 << 20)] = 131_072
    max_object_mib: Positive = 4096.0
    max_objects_per_association: Annotated[int, Field(ge=1)] | None = None
    negotiation_timeout_s: Positive = 10.0
    network_timeout_s: Positive = 60.0
    min_free_mib: NotNegative = 1024.0
    min_free_percent: Annotated[float, Field(ge=0, le=90)] = 1.0
    compute_timeout_s: Positive = 1800.0
    compute_memory_mib: Positive = 8192.0
    compute_attempts: Annotated[int, Field(ge=1, le=20)] = 3
    delivery_retry_s: Positive = 5.0
    delivery_retry_cap_s: Positive = 300.0
    delivery_give_up_h: Positive = 72.0
    breaker_failures: Annotated[int, Field(ge=1, le=1000)] = 5
    commitment_timeout_h: Positive = 24.0
    echo_every_min: Annotated[float, Field(ge=0, le=10_080)] = 10.0

    @model_validator(mode="after")
    def _check(self) -> "NodeSection":
        if self.ae_title == ANY_AE_TITLE:
            raise ValueError('ae_title "*" is no title for a node; it stands for any sender')
        problems = []
        if self.database is not None and (problem := address_problem(self.database)):
            problems.append(f"database {problem}")
        if not self.is_shared:
            if self.database_password_file is not None:
                problems.append("database_password_file is for PostgreSQL: name it in database")
            if not self.compute:
                problems.append(
                    "compute = false needs workers, and they need PostgreSQL: name it in database"
                )
        if problems:
            raise ValueError("\n".join(problems))
        return self

    @property
    def is_shared(self) -> bool:
        """Whether several processes share the work: the index is in PostgreSQL."""
        return is_postgresql(self.database)

    @property
    def patience_s(self) -> float:
        """How long a case waits for referenced objects that do not come in seconds."""
        return 10.0 * self.quiet_s if self.incomplete_s is None else self.incomplete_s

    @property
    def database_url(self) -> str:
        """SQLAlchemy URL of the index, with its password.

        Raises:
            ConfigError: The file of the password cannot be read.
        """
        if self.database is not None and self.is_shared:
            return complete_address(self.database, self.database_password_file)
        return self.database or f"sqlite:///{self.data / 'index.sqlite'}"


class TlsSection(Section):
    """`[tls]`: our certificate, and whose certificates we trust (PS3.15 B.12)."""

    certificate: File
    key: File
    peer_authorities: File
    port: Annotated[int, Field(ge=0, le=65535)] = 2762
    require: bool = False


class Config(Section):
    """The whole configuration."""

    node: NodeSection = NodeSection()
    tls: TlsSection | None = None
    web: WebSection = WebSection()
    retention: RetentionSection = RetentionSection()
    audit: AuditSection = AuditSection()
    notify: NotifySection = NotifySection()
    second_opinion: SecondOpinionSection | None = None
    peer: Annotated[tuple[Peer, ...], Strict(strict=False)] = ()
    protocol: Annotated[tuple[Protocol, ...], Strict(strict=False)] = ()
    organ: Annotated[tuple[OrganRule, ...], Strict(strict=False)] = ()
    origin: Literal["defaults", "file"] = "defaults"
    own_limits: dict[str, LimitTable] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _check(self) -> "Config":
        problems = _cross_problems(self.model_dump())
        if self.origin == "file" and not self.protocol:
            problems.append("no [[protocol]]: without one no case can ever be formed")
        if self.node.delivery_retry_cap_s < self.node.delivery_retry_s:
            problems.append("node.delivery_retry_cap_s is smaller than node.delivery_retry_s")
        room_mib = self.retention.make_room_below_mib
        if room_mib is not None and room_mib <= self.node.min_free_mib:
            problems.append(
                "retention.make_room_below_mib must be more than node.min_free_mib: below that "
                "nothing is received"
            )
        if problems:
            raise ValueError("\n".join(problems))
        return self

    def protocol_named(self, name: str) -> Protocol | None:
        """Return the protocol of that name, or None."""
        return next((p for p in self.protocol if p.name == name), None)

    def peer_named(self, name: str) -> Peer | None:
        """Return the peer of that name, or None."""
        return next((p for p in self.peer if p.name == name), None)


def default_config() -> Config:
    """Return what the node runs with when no file is given: loopback only, one stand-in TPS."""
    return Config(
        peer=(
            Peer(name="loopback", ae_title=ANY_AE_TITLE, host="127.0.0.1", roles=(Role.SEND,)),
            Peer(
                name="tps",
                ae_title="TPS",
                host="127.0.0.1",
                port=11113,
                roles=(Role.SEND, Role.RECEIVE),
            ),
        ),
        protocol=(Protocol(name="default", targets=("GTVn*", "GTV*"), destinations=("tps",)),),
    )


def read_config(path: Path | None) -> Config:
    """Return the configuration in `path`, or the defaults for None.

    Relative folders in the file are relative to the file.

    Raises:
        ConfigError: With every problem found, each naming its key.
    """
    if path is None:
        return default_config()
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise ConfigError([f"{path}: {error.strerror or error}"]) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError([f"{path} is not valid TOML: {error}"]) from error
    if hidden := [key for key in _NOT_IN_FILES if key in document]:
        raise ConfigError([f"{key}: unknown key" for key in hidden])
    own_limits, table_problems = own_tables(document, path.parent)
    try:
        config = Config.model_validate({**document, "origin": "file", "own_limits": own_limits})
    except ValidationError as error:
        # the checks across sections ran only if every section was sound: catch up with them
        every = [*_problems(error), *_cross_problems(document), *table_problems]
        raise ConfigError(list(dict.fromkeys(every))) from error
    if table_problems:
        raise ConfigError(table_problems)
    return _rooted(config, path.parent)


def _rooted(config: Config, folder: Path) -> Config:
    """Return the configuration with every relative path relative to `folder`."""

    def copied(section: Section, *keys: str) -> Any:
        found = {key: getattr(section, key) for key in keys}
        changes = {key: folder / value for key, value in found.items() if value is not None}
        if "certificate" in changes and isinstance(section, Peer):
            is_file = not str(section.certificate).startswith(FINGERPRINT_PREFIX)
            changes["certificate"] = str(changes["certificate"]) if is_file else section.certificate
        return section.model_copy(update=changes)

    return config.model_copy(
        update={
            "node": copied(config.node, "data", "database_password_file"),
            "tls": config.tls and copied(config.tls, "certificate", "key", "peer_authorities"),
            "web": copied(config.web, "certificate", "key"),
            "second_opinion": config.second_opinion
            and copied(config.second_opinion, "weights", "program"),
            "audit": config.audit.model_copy(
                update={
                    "syslog": config.audit.syslog
                    and copied(config.audit.syslog, "authorities", "certificate", "key")
                }
            ),
            "notify": config.notify.model_copy(
                update={
                    "mail": config.notify.mail
                    and copied(config.notify.mail, "password_file", "authorities"),
                    "webhook": config.notify.webhook
                    and copied(config.notify.webhook, "secret_file", "authorities"),
                }
            ),
            "peer": tuple(copied(p, "certificate", "passcode_file") for p in config.peer),
        }
    )


def _cross_problems(document: Mapping[str, Any]) -> list[str]:
    """Return what is wrong between sections; `document` may be unsound in itself."""
    peers, protocols = _tables(document, "peer"), _tables(document, "protocol")
    problems = [f"peer name {name!r} is used twice" for name in _twice(peers)]
    problems += _tls_problems(document, peers)
    problems += _second_opinion_problems(document)
    problems += [f"protocol name {name!r} is used twice" for name in _twice(protocols)]
    receivers = {str(p.get("name")) for p in peers if Role.RECEIVE in _texts(p, "roles")}
    queried = {str(p.get("name")) for p in peers if Role.QUERY in _texts(p, "roles")}
    senders = {str(p.get("name")) for p in peers if Role.SEND in _texts(p, "roles")}
    for protocol in protocols:
        destinations = Counter(_texts(protocol, "destinations"))
        problems += [
            f"protocol {protocol.get('name')!r}: destination {name!r} is no peer with the role "
            "'receive'"
            for name in destinations
            if name not in receivers
        ]
        problems += [
            f"protocol {protocol.get('name')!r}: destination {name!r} is named twice"
            for name, count in destinations.items()
            if count > 1
        ]
        problems += derived_problems(protocol)
        problems += output_problems(protocol, queried)
        problems += fetch_problems(protocol, senders)
    return problems


def _tls_problems(document: Mapping[str, Any], peers: Sequence[Mapping[str, Any]]) -> list[str]:
    if document.get("tls") is None:
        return [
            f"peer {peer.get('name')!r}: {key} needs our own certificate: add the section [tls]"
            for peer in peers
            for key in ("tls", "certificate")
            if peer.get(key)
        ]
    found = (document.get("node", {}), document["tls"])
    node, tls = (table if isinstance(table, dict) else {} for table in found)
    problems = []
    if node.get("transport") == "plain":
        problems.append('node.transport = "plain" has no TLS: leave out transport, or [tls]')
    if node.get("port", 11112) == tls.get("port", 2762) != 0:
        problems.append("tls.port is node.port: the encrypted listener needs a port of its own")
    return problems


def _second_opinion_problems(document: Mapping[str, Any]) -> list[str]:
    found = (document.get("second_opinion"), document.get("node", {}))
    opinion, node = (table if isinstance(table, dict) else None for table in found)
    if opinion is None or node is None:
        return []
    fields = SecondOpinionSection.model_fields, NodeSection.model_fields
    own_s = opinion.get("timeout_s", fields[0]["timeout_s"].default)
    case_s = node.get("compute_timeout_s", fields[1]["compute_timeout_s"].default)
    # anything else than numbers is told where the sections are checked
    if all(type(each) in (int, float) for each in (own_s, case_s)) and own_s >= case_s:
        return [
            f"second_opinion.timeout_s ({own_s:g}) must be smaller than node.compute_timeout_s "
            f"({case_s:g}): else a slow program takes the whole case with it"
        ]
    return []


def _tables(document: Mapping[str, Any], key: str) -> list[dict[str, Any]]:
    found = document.get(key)
    return [t for t in found if isinstance(t, dict)] if isinstance(found, list | tuple) else []


def _texts(table: Mapping[str, Any], key: str) -> list[str]:
    found = table.get(key)
    return [t for t in found if isinstance(t, str)] if isinstance(found, list | tuple) else []


def _twice(tables: Sequence[Mapping[str, Any]]) -> list[str]:
    names = Counter(str(table["name"]) for table in tables if "name" in table)
    return [name for name, count in names.items() if count > 1]


def _problems(error: ValidationError) -> list[str]:
    return key_problems(error, Config, _SECTIONS, _NOT_IN_FILES)


_SECTIONS: dict[str, type[BaseModel]] = {
    "node": NodeSection,
    "tls": TlsSection,
    "web": WebSection,
    "retention": RetentionSection,
    "second_opinion": SecondOpinionSection,
    "audit": AuditSection,
    "syslog": AuditSyslog,
    "notify": NotifySection,
    "mail": MailSection,
    "webhook": WebhookSection,
    "peer": Peer,
    "protocol": Protocol,
    "prescription": Prescription,
    "dose": DoseRules,
    "geud": GeudRule,
    "reirradiation": ReirradiationRules,
    "target": TargetSwitch,
    "derived": DerivedRule,
    "margin_mm": MarginTable,
    "clip": ClipRule,
    "output": OutputRule,
    "fetch": FetchRule,
    "organ": OrganRule,
}
