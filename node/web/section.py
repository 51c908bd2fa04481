"""`[web]`: where the page listens, and who may reach it."""

import ipaddress
import re
from typing import Annotated

from pydantic import AfterValidator, Field, Strict, model_validator

from node.peer import File, Host, is_loopback
from node.protocol import Positive, Section

_HOST_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?")

EVERY_ADDRESS = ("0.0.0.0", "::")  # noqa: S104 - told apart here, not listened on
"""What stands for all addresses of this machine; no browser asks for it."""


def _host_name(text: str) -> str:
    """Return a host as browsers name it: in lower case, without port."""
    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        if not _HOST_NAME.fullmatch(text):
            raise ValueError(f"{text!r} is no host name; leave out scheme and port") from None
        return text.lower()


def _network(text: str) -> str:
    try:
        return str(ipaddress.ip_network(text))
    except ValueError:
        raise ValueError(
            f'{text!r} is no address or network, as in "10.1.2.3" or "10.1.0.0/16"'
        ) from None


HostNames = Annotated[tuple[Annotated[str, AfterValidator(_host_name)], ...], Strict(strict=False)]
Networks = Annotated[tuple[Annotated[str, AfterValidator(_network)], ...], Strict(strict=False)]


class WebSection(Section):
    """`[web]`: where the page listens, and who may reach it."""

    enabled: bool = True
    host: Host = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535)] = 8080
    login: bool = False
    certificate: File | None = None
    key: File | None = None
    behind_proxy: bool = False
    proxies: Networks = ("127.0.0.1/32", "::1/128")
    hosts: HostNames = ()
    metrics_open_to: Networks = ()
    session_idle_min: Positive = 30.0
    session_h: Positive = 12.0

    @model_validator(mode="after")
    def _check(self) -> "WebSection":
        problems: list[str] = []
        if (self.certificate is None) != (self.key is None):
            missing = "key" if self.key is None else "certificate"
            problems.append(f"{missing} is missing: TLS needs both certificate and key")
        if self.behind_proxy and not self.hosts:
            problems.append(
                "hosts is missing: behind a proxy, name what people type into the browser, "
                'as in hosts = ["hilum.clinic.example"]'
            )
        if self.behind_proxy and not self.proxies:
            problems.append("proxies is empty: behind a proxy, name the address it calls from")
        if not (self.is_local or self.speaks_tls or self.behind_proxy):
            problems.append(
                f"host {self.host!r} is reachable from outside, and passwords would travel in "
                "clear: give certificate and key, or behind_proxy = true if a reverse proxy that "
                "speaks TLS stands before it"
            )
        if problems:
            raise ValueError("\n".join(problems))
        return self

    @property
    def is_local(self) -> bool:
        """Whether it listens to this machine alone."""
        return is_loopback(self.host)

    @property
    def speaks_tls(self) -> bool:
        """Whether it encrypts by itself."""
        return self.certificate is not None and self.key is not None

    @property
    def is_encrypted(self) -> bool:
        """Whether browsers reach it by https alone."""
        return self.speaks_tls or self.behind_proxy

    @property
    def needs_login(self) -> bool:
        """Whether nobody may look without login even while there are no users."""
        return self.login or self.behind_proxy or not self.is_local
