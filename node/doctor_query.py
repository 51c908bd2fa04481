"""Tells whether the peers that are to be asked and to send by request can do so.

Opens an association with each and looks at what it takes; asks nothing, so that no patient is
named.
"""

from collections.abc import Iterator

from node.config import Config, Peer, Role, TlsSection, is_loopback
from node.doctor_machine import Check, CheckStatus
from node.errors import DeliveryError
from node.query.dialog import open_dialog
from node.query.find import FIND_MODELS
from node.query.retrieve import GET_MODELS, MOVE_MODELS


def check_queries(config: Config, *, timeout_s: float) -> Iterator[Check]:
    """Tell of each peer with the role `query` which services it takes."""
    wanted: dict[str, set[str]] = {}
    for protocol in config.protocol:
        for rule in protocol.fetch:
            wanted.setdefault(rule.peer, set()).add(rule.by)
    for peer in config.peer:
        if Role.QUERY in peer.roles:
            by = wanted.get(peer.name, set())
            yield _check_services(peer, config.node.ae_title, by, timeout_s, config.tls)
            if "move" in by and is_loopback(config.node.host) and not is_loopback(peer.host):
                yield Check(
                    f"fetching from {peer.name}",
                    CheckStatus.FAIL,
                    f"it is to send to us (C-MOVE), and we listen on {config.node.host} only",
                    'set node.host to an address that it can reach, or fetch by "get"',
                )


def _check_services(
    peer: Peer, calling_ae: str, by: set[str], timeout_s: float, tls: TlsSection | None
) -> Check:
    name = f"asking {peer.name}"
    offered = {"C-FIND": FIND_MODELS, "C-MOVE": MOVE_MODELS, "C-GET": GET_MODELS}
    models = [model for known in offered.values() for model in known]
    try:
        with open_dialog(peer, calling_ae, models, timeout_s=timeout_s, tls=tls) as dialog:
            takes = [service for service, known in offered.items() if dialog.accepted_model(known)]
    except DeliveryError as error:
        return Check(name, CheckStatus.FAIL, str(error), error.hint)
    needed = {"C-FIND", *(f"C-{one.upper()}" for one in by)}
    text = f"takes {', '.join(takes)}" if takes else "takes no query"
    if lacking := sorted(needed.difference(takes)):
        mend = "change the fetch rules of the protocols, or ask its administrator"
        return Check(name, CheckStatus.FAIL, f"{text}; lacks {', '.join(lacking)}", mend)
    move = " (C-MOVE: it must know our AE title, host and port)" if "move" in by else ""
    return Check(name, CheckStatus.OK, text + move)
