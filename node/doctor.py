"""Checks whether a node can work on this machine and reach its peers, and says what to mend.

Answers the first support question before it is asked. Looks and reports; it creates nothing that
stays, changes nothing and prints nothing (the command line does). Peers are asked with C-ECHO. The
machine is looked at in `node.doctor_machine`, certificates and passcodes in `node.doctor_access`.
"""

import errno
import locale
import resource
import socket
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

from node.config import (
    ANY_AE_TITLE,
    ANY_HOST,
    Config,
    NodeSection,
    Peer,
    Protocol,
    Role,
    SecondOpinionSection,
    TlsSection,
    is_loopback,
)
from node.delivery import echo
from node.doctor_access import check_access
from node.doctor_machine import (
    Check,
    CheckStatus,
    check_clock,
    check_data_folder,
    check_memory,
    check_native_libraries,
    check_open_files,
    check_python,
    check_text_encoding,
    check_time_server,
    clock_is_followed,
    memory_mib,
)
from node.doctor_ownership import check_ownership
from node.doctor_query import check_queries
from node.doctor_results import check_results
from node.doctor_sharing import check_sharing
from node.doctor_telling import check_telling
from node.doctor_upkeep import check_upkeep
from node.errors import DeliveryError
from node.outline_program import PROGRAM, check


def run_checks(config: Config, *, echo_timeout_s: float) -> tuple[Check, ...]:
    """Return everything found, the machine first, then the configuration, then the peers.

    Args:
        config: The configuration that the node would run with.
        echo_timeout_s: How long to wait for each peer; peers are asked at the same time.
    """
    node = config.node
    checks = [
        check_origin(config),
        check_python(sys.version_info[:2]),
        *check_native_libraries(),
        *check_data_folder(node.data, node.min_free_mib, node.min_free_percent),
        *check_ownership(node.data),
        *check_upkeep(config, datetime.now(UTC)),
        *check_sharing(node),
        check_clock(datetime.now().astimezone()),
        *check_time_server(clock_is_followed()),
        check_text_encoding(sys.getfilesystemencoding(), locale.getpreferredencoding()),
        check_open_files(resource.getrlimit(resource.RLIMIT_NOFILE)[0], node.max_associations),
        check_memory(memory_mib(), node.compute_memory_mib),
        *check_ports(config, echo_timeout_s=echo_timeout_s),
        *check_access(config, datetime.now().astimezone()),
        *check_telling(config),
        *check_peer_table(config),
        *check_protocols(config),
        *check_second_opinion(config.second_opinion),
    ]
    if config.peer:
        with ThreadPoolExecutor(max_workers=8) as pool:
            checks += pool.map(
                lambda p: check_peer(p, node.ae_title, echo_timeout_s, config.tls), config.peer
            )
    checks += check_results(config, timeout_s=echo_timeout_s)
    checks += check_queries(config, timeout_s=echo_timeout_s)
    return tuple(checks)


def check_origin(config: Config) -> Check:
    """Tell where the configuration comes from; it has been read without a problem by then."""
    counts = f"{len(config.peer)} peers, {len(config.protocol)} protocols"
    if config.origin == "file":
        return Check("configuration", CheckStatus.OK, f"read from the file: {counts}")
    return Check(
        "configuration",
        CheckStatus.WARN,
        f"no file given, the defaults apply: loopback only, {counts}",
        "copy deploy/hilum.example.toml, adapt it, and name it with --config",
    )


def check_ports(config: Config, *, echo_timeout_s: float) -> tuple[Check, ...]:
    """Tell whether the node can listen, or whether it is the node itself that listens there."""
    node, tls = config.node, config.tls
    found = []
    if tls is None or not tls.require:
        itself = _node_as_peer(node, node.port)
        found.append(_check_port("port", "node.port", itself, config, echo_timeout_s))
    if tls is not None:
        own = {"tls": True, "certificate": str(tls.certificate)}
        itself = _node_as_peer(node, tls.port).model_copy(update=own)
        found.append(_check_port("tls port", "tls.port", itself, config, echo_timeout_s))
    return tuple(found)


def _node_as_peer(node: NodeSection, port: int) -> Peer:
    return Peer(
        name="node",
        ae_title=node.ae_title,
        host="127.0.0.1" if _is_any_address(node.host) else node.host,
        port=port or None,
        roles=(Role.SEND,),
    )


def _check_port(name: str, key: str, itself: Peer, config: Config, echo_timeout_s: float) -> Check:
    host, port = config.node.host, itself.port or 0
    where = f"{host} port {port}"
    if port == 0:
        mend = f"choose a fixed {key}: peers must know it"
        return Check(name, CheckStatus.WARN, "the system chooses one at each start", mend)
    try:
        family, kind, _, _, address = socket.getaddrinfo(
            host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        with socket.socket(family, kind) as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
            listener.listen()
    except (socket.gaierror, UnicodeError):
        return Check(name, CheckStatus.FAIL, f"host {host} is unknown", "correct node.host")
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            return _who_listens(name, key, itself, config, echo_timeout_s)
        mends = {
            errno.EACCES: f"choose a {key} above 1023, or allow the node to use this one",
            errno.EADDRNOTAVAIL: "set node.host to an address of this machine, or to 0.0.0.0",
        }
        mend = mends.get(error.errno or 0, f"choose another node.host or {key}")
        return Check(name, CheckStatus.FAIL, f"{where}: {error.strerror}", mend)
    return Check(name, CheckStatus.OK, f"{where} is free")


def _who_listens(name: str, key: str, itself: Peer, config: Config, echo_timeout_s: float) -> Check:
    where = f"{config.node.host} port {itself.port}"
    local = [
        p.ae_title
        for p in config.peer
        if is_loopback(p.host) and p.ae_title != ANY_AE_TITLE and p.certificate is None
    ]
    calling_ae = next(iter(local), config.node.ae_title)
    try:
        answer = echo(itself, calling_ae, timeout_s=echo_timeout_s, tls=config.tls)
    except DeliveryError as error:
        status = CheckStatus.FAIL if error.is_retryable else CheckStatus.WARN
        mend = f"unless it is this node: stop the program that listens there, or change {key}"
        return Check(name, status, f"{where} is taken: {error}", mend)
    ms = 1000 * answer.seconds
    text = f"{where}: {itself.ae_title} listens and answers in {ms:.0f} ms"
    return Check(name, CheckStatus.OK, text)


def check_peer_table(config: Config) -> tuple[Check, ...]:
    """Tell which peers are described so that something cannot work."""
    name = "peers"
    found = [
        Check(name, status, f"peer {peer.name} {text}", mend)
        for peer in config.peer
        for status, text, mend in _peer_faults(peer, config)
    ]
    for at, peer in enumerate(config.peer):
        for other in config.peer[:at]:
            if _identity(other) == _identity(peer):
                text = f"{other.name} and {peer.name} have one AE title and host: {other.name} wins"
                found.append(Check(name, CheckStatus.WARN, text, "make them one peer"))
    if not config.peer:
        text = "none is configured: nobody may send, and results stay here"
        return (Check(name, CheckStatus.FAIL, text, "add a [[peer]]"),)
    return tuple(found) or (Check(name, CheckStatus.OK, f"{len(config.peer)} told apart"),)


def _peer_faults(peer: Peer, config: Config) -> Iterator[tuple[CheckStatus, str, str]]:
    node = config.node
    ports = {node.port, config.tls.port if config.tls else node.port}
    is_here = peer.host == node.host or (
        is_loopback(peer.host) and (is_loopback(node.host) or _is_any_address(node.host))
    )
    if is_here and peer.port is not None and peer.port in ports:
        yield CheckStatus.FAIL, "has the host and port of this node", "correct its host or port"
    if peer.ae_title == node.ae_title:
        text = "has our own AE title: neither side can tell the two apart"
        yield CheckStatus.WARN, text, "give one of them another AE title"


def check_protocols(config: Config) -> tuple[Check, ...]:
    """Tell where the results of each protocol go."""
    if not config.protocol:
        text = "none is configured: no case can ever be formed"
        return (Check("protocols", CheckStatus.FAIL, text, "add a [[protocol]]"),)
    return tuple(
        check
        for place, protocol in enumerate(config.protocol)
        for check in _check_protocol(protocol, config.protocol[:place])
    )


def _check_protocol(protocol: Protocol, earlier: Sequence[Protocol]) -> Iterator[Check]:
    name = f"protocol {protocol.name}"
    if protocol.destinations:
        to = ", ".join(protocol.destinations)
        yield Check(name, CheckStatus.OK, f"results go to {to}")
    else:
        mend = "name a peer with the role receive in its destinations"
        yield Check(name, CheckStatus.WARN, "has no destination: results stay here", mend)
    for other in earlier:
        if _covers(other.structure_sets, protocol.structure_sets) and _covers(
            other.targets, protocol.targets
        ):
            text = f"is never used: whatever fits it fits protocol {other.name} before it"
            mend = "put the narrower protocol first, or give it structure_sets of its own"
            yield Check(name, CheckStatus.WARN, text, mend)
            return


def _covers(patterns: Sequence[str], others: Sequence[str]) -> bool:
    """Tell whether patterns fit everything that others fit; what cannot be told counts as no."""
    known = {pattern.lower() for pattern in patterns}
    return "*" in known or known.issuperset(pattern.lower() for pattern in others)


def check_second_opinion(section: SecondOpinionSection | None) -> tuple[Check, ...]:
    """Tell what the outside program lacks; nothing where none is configured. Starts nothing."""
    name = "second opinion"
    if section is None:
        return ()
    mend = "until then cases are computed without it; or leave out [second_opinion]"
    problems = check(section.settings())
    if problems:
        return tuple(Check(name, CheckStatus.WARN, problem, mend) for problem in problems)
    return (Check(name, CheckStatus.OK, f"{PROGRAM} and its weights are in place; not started"),)


def check_peer(
    peer: Peer, calling_ae: str, echo_timeout_s: float, tls: TlsSection | None = None
) -> Check:
    """Tell whether a peer's host is known and whether it answers C-ECHO.

    A peer that only sends to us need not answer; one that receives must.
    """
    name = f"peer {peer.name}"
    if peer.host == ANY_HOST:
        return Check(name, CheckStatus.OK, "may come from anywhere with its certificate; not asked")
    try:
        socket.getaddrinfo(peer.host, None)
    except (socket.gaierror, UnicodeError):
        text = f"host {peer.host} is unknown: nothing can be sent to it or accepted from it"
        mend = "correct its host, or enter it in the name service"
        return Check(name, CheckStatus.FAIL, text, mend)
    if peer.port is None or peer.ae_title == ANY_AE_TITLE:
        return Check(name, CheckStatus.OK, "host is known; it is never called, so not asked")
    try:
        answer = echo(peer, calling_ae, timeout_s=echo_timeout_s, tls=tls)
    except DeliveryError as error:
        status = CheckStatus.FAIL if Role.RECEIVE in peer.roles else CheckStatus.WARN
        return Check(name, status, str(error), error.hint)
    return Check(name, CheckStatus.OK, f"answers C-ECHO in {1000 * answer.seconds:.0f} ms")


def _identity(peer: Peer) -> tuple[str, str, str | None]:
    return peer.ae_title, peer.host, peer.certificate


def _is_any_address(host: str) -> bool:
    """Tell whether a node that listens at `host` listens at every address."""
    return host in ("", "0.0.0.0", "::")  # noqa: S104 - compared, not bound
