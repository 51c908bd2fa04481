"""`hilum echo | send | peers`: talk to a configured peer, and see how each of them stands."""

import warnings
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import typer

from node.audit.events import AuditEvent, Kind
from node.audit.trail import tell_from_command
from node.config import Peer, read_config
from node.console import (
    ERR,
    FAILED,
    OUT,
    ConfigOption,
    JsonOption,
    clean,
    counted,
    open_index,
    peer_to_call,
    print_json,
)
from node.delivery import InstanceOutcome, echo, send_instances
from node.errors import NodeError
from node.index.delivery_accounts import utc_minute
from node.index.standings import Standing, StandingBook

peers_app = typer.Typer(help="How each peer stands; try one again.", invoke_without_command=True)


def add_commands(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command("echo")(echo_peer)
    app.command()(send)
    app.add_typer(peers_app, name="peers")


def echo_peer(peer: str, config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Ask a configured peer whether it hears us (C-ECHO)."""
    settings = read_config(config)
    result = echo(
        peer_to_call(settings, peer),
        settings.node.ae_title,
        timeout_s=settings.node.network_timeout_s,
        tls=settings.tls,
    )
    if as_json:
        print_json(asdict(result))
    else:
        OUT.print(f"{peer} answered in {1000 * result.seconds:.0f} ms")


def send(
    peer: str,
    files: list[Path],
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Send DICOM files to a configured peer (C-STORE)."""
    settings = read_config(config)
    warnings.simplefilter("ignore")  # pydicom's quote values, a birth date for instance
    with counted(len(files), quiet=as_json) as advance:
        answers = send_instances(
            peer_to_call(settings, peer),
            settings.node.ae_title,
            files,
            timeout_s=settings.node.network_timeout_s,
            on_result=lambda _answer: advance(),
            tls=settings.tls,
        )
    taken = [a for a in answers if a.outcome in (InstanceOutcome.SENT, InstanceOutcome.WARNED)]
    if as_json:
        print_json([asdict(answer) for answer in answers])
    else:
        OUT.print(f"{peer} took {len(taken)} of {len(answers)} objects")
        for reason in sorted({a.reason for a in answers if a not in taken}):
            ERR.print(f"not taken: {reason}")
    if len(taken) < len(answers):
        raise typer.Exit(FAILED)


@peers_app.callback()
def list_peers(
    context: typer.Context, config: ConfigOption = None, as_json: JsonOption = False
) -> None:
    """Tell of each peer when it last answered, when and why it did not, and what waits for it."""
    if context.invoked_subcommand is not None:
        return
    settings = read_config(config)
    with open_index(settings) as index:
        book = StandingBook(index)
        standings = [(peer, book.standing(peer.name)) for peer in settings.peer]
    if as_json:
        print_json([_peer_document(peer, standing) for peer, standing in standings])
        return
    for peer, standing in standings:
        for line in _peer_lines(peer, standing):
            OUT.print(clean(line))


@peers_app.command()
def resume(peer: str, config: ConfigOption = None) -> None:
    """Close a peer's breaker: what waits for it is tried at once by the running node."""
    settings = read_config(config)
    if settings.peer_named(peer) is None:
        known = ", ".join(p.name for p in settings.peer) or "none"
        raise NodeError(f"no peer {peer!r}", hint=f"the configuration has: {known}")
    with open_index(settings) as index:
        was_open = StandingBook(index).resume(peer, datetime.now(UTC))
        tell = tell_from_command(settings, index, lambda: datetime.now(UTC))
        tell(AuditEvent(Kind.REQUEST, what={"action": "peer resume", "peer": peer}))
    told = "is tried again" if was_open else "was not left alone; what waits for it is tried now"
    OUT.print(f"{peer} {told}")


def _peer_document(peer: Peer, standing: Standing) -> dict[str, Any]:
    return {
        "name": peer.name,
        "ae_title": peer.ae_title,
        "host": peer.host,
        "port": peer.port,
        "roles": [str(role) for role in peer.roles],
        "breaker": "closed" if standing.open_since is None else "open",
        **{key: value for key, value in asdict(standing).items() if key != "peer"},
    }


def _peer_lines(peer: Peer, standing: Standing) -> list[str]:
    """Return how a peer stands, as lines for people."""
    at = f"{peer.host}:{peer.port}" if peer.port else peer.host
    lines = [f"{peer.name}: AE {peer.ae_title} at {at}, may {', '.join(peer.roles)}"]
    if standing.open_since is not None:
        lines.append(
            f"  left alone since {utc_minute(standing.open_since)} after {standing.failures}"
            f" failures in a row; tried again at {utc_minute(standing.probe_at or '')}, or after"
            f" `hilum peers resume {peer.name}`"
        )
    if standing.last_success_at is not None:
        lines.append(f"  last success {utc_minute(standing.last_success_at)}")
    if standing.last_failure_at is not None:
        lines.append(
            f"  last failure {utc_minute(standing.last_failure_at)}: {standing.last_failure}"
        )
    waiting = standing.deliveries_waiting, standing.commitments_waiting
    lines.append(f"  waiting: {waiting[0]} deliveries, {waiting[1]} storage commitments")
    return lines
