"""`[[peer]]`: a remote application entity, what it may do, and how it shows who it is.

Part of the configuration: read and checked by `node.config`, which passes these names on.
"""

import ipaddress
import re
import socket
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, SecretStr, Strict, model_validator

from node.errors import ConfigError
from node.protocol import NotNegative, Section

ANY_AE_TITLE = "*"
"""Stands for every calling AE title; allowed for peers on the loopback address only."""

ANY_HOST = "*"
"""Stands for every address; allowed for peers only that are told by their certificate."""

FINGERPRINT_PREFIX = "sha256:"
"""What stands before a fingerprint, where a certificate may also be the path of a file."""

_FINGERPRINT = re.compile(r"(?:[0-9A-Fa-f]{2}:?){31}[0-9A-Fa-f]{2}")

AeTitle = Annotated[
    str, Field(min_length=1, max_length=16, pattern=r"^[!-\[\]-~]([ -\[\]-~]*[!-\[\]-~])?$")
]
Port = Annotated[int, Field(ge=1, le=65535)]
Host = Annotated[str, Field(min_length=1)]
File = Annotated[Path, Strict(strict=False)]


Rate = Annotated[float, Field(ge=0.01, le=1e7, allow_inf_nan=False)]
"""In 10^6 bits per second. Below 10 kbit/s an object of a result set takes longer than a day."""

Tps = Literal["eclipse", "raystation", "monaco", "pinnacle"]


class Role(StrEnum):
    """What a peer may do."""

    SEND = "send"
    RECEIVE = "receive"
    QUERY = "query"
    COMMIT = "commit"


class Peer(Section):
    """`[[peer]]`: a remote application entity and what it may do."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,32}$")]
    ae_title: AeTitle
    host: Host
    port: Port | None = None
    roles: Annotated[tuple[Annotated[Role, Strict(strict=False)], ...], Strict(strict=False)]
    quiet_s: NotNegative | None = None
    tps: Tps | None = None
    max_mbit_per_s: Rate | None = None
    tls: bool = False
    certificate: Annotated[str, Field(min_length=1)] | None = None
    username: Annotated[str, Field(min_length=1, max_length=1000)] | None = None
    passcode: Annotated[SecretStr, Strict(strict=False), Field(min_length=1)] | None = None
    passcode_file: File | None = None

    @model_validator(mode="after")
    def _check(self) -> "Peer":
        problems: list[str] = []
        if not self.roles:
            problems.append("roles is empty: a peer that may do nothing is an unknown peer")
        if Role.RECEIVE in self.roles and self.port is None:
            problems.append("port is missing: a peer that receives needs one")
        is_any = self.ae_title == ANY_AE_TITLE
        if Role.QUERY in self.roles and self.port is None and not is_any:
            problems.append("port is missing: a peer that is asked needs one")
        if Role.COMMIT in self.roles and Role.RECEIVE not in self.roles:
            problems.append(
                "role commit without receive: only a peer that is sent results can commit"
            )
        if self.ae_title == ANY_AE_TITLE and (
            not is_loopback(self.host) or self.roles != (Role.SEND,)
        ):
            problems.append('ae_title "*" is allowed for a sender on the loopback address only')
        problems += self._access_problems()
        if problems:
            raise ValueError("\n".join(problems))
        return self

    def _access_problems(self) -> list[str]:
        """Return what is wrong with how the peer proves who it is."""
        problems: list[str] = []
        if self.host == ANY_HOST and self.certificate is None:
            problems.append('host "*" is allowed for a peer with a certificate only')
        if self.host == ANY_HOST and self.port is not None:
            problems.append('host "*" is no place to call: leave out port, or name the host')
        if self.tls and self.port is None:
            problems.append("tls is how we call the peer: it needs a port")
        if (self.certificate or "").startswith(FINGERPRINT_PREFIX):
            digits = (self.certificate or "").removeprefix(FINGERPRINT_PREFIX)
            if not _FINGERPRINT.fullmatch(digits):
                problems.append("certificate is no SHA-256 fingerprint: 64 hexadecimal digits")
        if self.passcode is not None and self.passcode_file is not None:
            problems.append("passcode and passcode_file are both given: leave out one")
        if self.username is None and (self.passcode or self.passcode_file):
            problems.append("username is missing: a passcode needs one")
        return problems

    @property
    def has_passcode(self) -> bool:
        """Whether its user identity includes a passcode."""
        return self.passcode is not None or self.passcode_file is not None

    def read_passcode(self) -> str | None:
        """Return the peer's passcode, from its file if it has one there; None: it has none.

        Raises:
            ConfigError: The file cannot be read, is empty or no text.
        """
        if self.passcode_file is None:
            return None if self.passcode is None else self.passcode.get_secret_value()
        key = f"peer {self.name!r}: passcode_file {self.passcode_file}"
        try:
            text = self.passcode_file.read_text(encoding="utf-8").rstrip("\r\n")
        except OSError as error:
            raise ConfigError([f"{key}: {error.strerror or error}"]) from error
        except UnicodeDecodeError as error:
            raise ConfigError([f"{key} is no text in UTF-8"]) from error
        if not text:
            raise ConfigError([f"{key} is empty: write the passcode into its first line"])
        return text

    def admits(self, calling_ae: str, address: str) -> bool:
        """Tell whether this AE title and address alone show that an association is this peer's.

        False for a peer that must show its certificate: `node.admission` looks at that.
        """
        return self.certificate is None and self.is_titled(calling_ae) and self.is_at(address)

    def is_titled(self, calling_ae: str) -> bool:
        """Tell whether the peer calls under this AE title."""
        return self.ae_title in (ANY_AE_TITLE, calling_ae)

    def is_at(self, address: str) -> bool:
        """Tell whether the peer calls from this address; a host that is no name is nowhere."""
        if self.host == ANY_HOST:
            return True
        if is_loopback(self.host):
            return is_loopback(address)
        try:
            known = {str(entry[4][0]) for entry in socket.getaddrinfo(self.host, None)}
        except (OSError, ValueError):  # ValueError: a name that no resolver can be asked for
            return False
        return address.removeprefix("::ffff:") in known


def is_loopback(host: str) -> bool:
    """Tell whether a host name or address is this machine's loopback."""
    if host == "localhost":
        return True
    try:
        address = ipaddress.ip_address(host.removeprefix("::ffff:"))
    except ValueError:
        return False
    return address.is_loopback
