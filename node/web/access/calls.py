"""A request as the guard sees it: from where, to whom, from which page.

Pure: knows the configuration and the request's headers, and nothing else.
"""

import ipaddress
from dataclasses import dataclass
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import Scope

from node.peer import is_loopback
from node.web.section import EVERY_ADDRESS, WebSection

_FORWARDED = ("forwarded", "x-forwarded-for", "x-forwarded-host", "x-real-ip", "via")
"""What a proxy adds, so that it can be told that one stands before us."""

_SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS", "TRACE"})


@dataclass(frozen=True, slots=True)
class Call:
    """One request, before anybody looks at its content.

    Attributes:
        address: Where it comes from; behind a proxy that we believe, where that has it from.
        is_through_proxy: Whether it came over one of the proxies of `[web] proxies`.
        is_from_here: Whether somebody at this very machine asks, as far as can be told.
        host: The host that the browser believes to talk to, without port; "" if it names none.
        port: Likewise, as text; "" if it names none.
        local_address: The address of this machine that was called.
    """

    method: str
    path: str
    headers: Headers
    address: str
    is_through_proxy: bool
    is_from_here: bool
    host: str
    port: str
    local_address: str

    @property
    def changes_something(self) -> bool:
        """Whether the request may change something (RFC 9110 9.2.1)."""
        return self.method not in _SAFE_METHODS

    @property
    def wants_page(self) -> bool:
        """Whether a person with a browser asks: they are told in HTML."""
        return wants_page(self.headers, self.path)


def call_of(scope: Scope, section: WebSection) -> Call:
    """Return a request of the server as the guard needs it."""
    headers = Headers(scope=scope)
    client, server = scope.get("client"), scope.get("server")
    nearest = _plain(client[0]) if client else ""
    is_through_proxy = section.behind_proxy and _is_within(nearest, section.proxies)
    address = _first_caller(headers, section, nearest) if is_through_proxy else nearest
    is_forwarded = any(name in headers for name in _FORWARDED)
    host, port = _host_and_port(headers)
    return Call(
        method=scope["method"],
        path=scope["path"],
        headers=headers,
        address=address,
        is_through_proxy=is_through_proxy,
        is_from_here=is_loopback(nearest) and not is_forwarded,
        host=host,
        port=port,
        local_address=_plain(server[0]) if server else "",
    )


def wants_page(headers: Headers, path: str) -> bool:
    """Tell whether a person with a browser asks, rather than a program or a script of a page."""
    return not path.startswith("/api/") and "text/html" in headers.get("accept", "")


def is_known_host(call: Call, section: WebSection) -> bool:
    """Tell whether the browser believes to talk to this node.

    A page elsewhere whose name was made to lead to our address (DNS rebinding) names its own host.
    """
    if call.host in section.hosts:
        return True
    if section.behind_proxy:
        return False
    own = {section.host.lower(), call.local_address} - {"", *EVERY_ADDRESS}
    return call.host in own or is_loopback(call.host)


def is_same_origin(call: Call, section: WebSection) -> bool:
    """Tell whether a page of this node asks, by what its browser says of it.

    False if the browser says nothing: what changes something always comes with an `Origin`.
    """
    site = call.headers.get("sec-fetch-site")
    if site is not None and site != "same-origin":
        return False
    origins = call.headers.getlist("origin")
    if not origins:
        return site == "same-origin"
    if len(origins) > 1:
        return False
    try:
        origin = urlsplit(origins[0])
        host, port = _plain(origin.hostname or ""), origin.port
    except ValueError:
        return False
    if origin.scheme != ("https" if section.is_encrypted else "http"):
        return False
    if section.behind_proxy:  # which may tell us another port than browsers see
        return host in section.hosts
    usual = "443" if section.is_encrypted else "80"
    return host == call.host and str(port or usual) == (call.port or usual)


def _host_and_port(headers: Headers) -> tuple[str, str]:
    """Return host and port of the `Host` header; two such headers name nobody."""
    named = headers.getlist("host")
    if len(named) != 1 or any(c in named[0] for c in "/@?#\\ "):
        return "", ""
    try:
        parts = urlsplit(f"//{named[0]}")
        port = "" if parts.port is None else str(parts.port)
    except ValueError:
        return "", ""
    return _plain((parts.hostname or "").rstrip(".")), port


def _first_caller(headers: Headers, section: WebSection, nearest: str) -> str:
    """Return whom the farthest proxy that we believe has the request from."""
    told = ",".join(headers.getlist("x-forwarded-for")).split(",")
    found = nearest
    for text in reversed(told):
        address = _plain(text.strip())
        try:
            ipaddress.ip_address(address)
        except ValueError:
            return found
        found = address
        if not _is_within(address, section.proxies):
            break
    return found


def _is_within(address: str, networks: tuple[str, ...]) -> bool:
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return False
    return any(found in ipaddress.ip_network(network) for network in networks)


def _plain(address: str) -> str:
    """Return an address or name in the one form that is compared."""
    bare = address.lower().removeprefix("[").removesuffix("]").split("%")[0]
    try:
        parsed = ipaddress.ip_address(bare)
    except ValueError:
        return bare
    mapped = parsed.ipv4_mapped if isinstance(parsed, ipaddress.IPv6Address) else None
    return str(mapped or parsed)
