"""The peers: who they are, whether they answer, what waits for them."""

from datetime import datetime

from fastapi import APIRouter, HTTPException

from node.config import Peer
from node.echoing import Echoing, is_called
from node.index.echoes import Echo, EchoBook
from node.index.standings import Standing, StandingBook
from node.web.access.actor import Operator, Viewer
from node.web.api.documents import Document, Done, PeerName
from node.web.desk import Desk


class EchoRow(Document):
    """The last echo of a peer.

    Attributes:
        asked_at: When it was last asked.
        answered_at: When it last answered; null: never.
        milliseconds: How long that answer took.
        reason: Why it did not answer when last asked; empty: it did.
    """

    asked_at: datetime
    answered_at: datetime | None
    milliseconds: float | None
    reason: str


class PeerRow(Document):
    """A peer of the configuration, and how it fares.

    Attributes:
        is_called: Whether this node calls it: it has a port, and receives or is queried.
        echo: Null: it was never asked.
        failures: Attempts in a row that came to nothing.
        open_since: Since when its breaker is open: nothing is sent; null: it is closed.
        probe_at: When the next delivery may try it.
        oldest_waiting_at: When the oldest result set that waits for it was finished.
    """

    name: str
    ae_title: str
    host: str
    port: int | None
    roles: tuple[str, ...]
    tls: bool
    is_called: bool
    echo: EchoRow | None
    failures: int
    open_since: datetime | None
    probe_at: datetime | None
    last_success_at: datetime | None
    last_failure_at: datetime | None
    last_failure: str
    deliveries_waiting: int
    commitments_waiting: int
    oldest_waiting_at: datetime | None


def peer_rows(desk: Desk) -> tuple[PeerRow, ...]:
    """Return every peer of the configuration, in its order."""
    peers = desk.config.peer
    standings = StandingBook(desk.index).standings([peer.name for peer in peers])
    echoes = EchoBook(desk.index).echoes()
    return tuple(_row(peer, standings[peer.name], echoes.get(peer.name)) for peer in peers)


def echo_now(desk: Desk, name: str) -> str:
    """Ask a peer whether it hears us, and return what came of it, in a sentence.

    Raises:
        HTTPException: 404, there is no such peer; 409, it is not one that is called.
    """
    peer = named_peer(desk, name)
    if not is_called(peer):
        raise HTTPException(
            409, f"{name} is not called by this node: it has no port, or only sends"
        )
    has_answered = Echoing(desk.config, desk.index, desk.clock).ask(peer)
    return f"{name} answered" if has_answered else f"{name} did not answer"


def resume_peer(desk: Desk, name: str) -> str:
    """Close a peer's breaker, and return what came of it, in a sentence.

    Raises:
        HTTPException: 404, there is no such peer.
    """
    was_open = StandingBook(desk.index).resume(named_peer(desk, name).name, desk.clock())
    told = "is tried again" if was_open else "was not left alone; what waits for it is tried now"
    return f"{name} {told}"


def named_peer(desk: Desk, name: str) -> Peer:
    """Return a peer of the configuration.

    Raises:
        HTTPException: 404, there is no such peer.
    """
    peer = desk.config.peer_named(name)
    if peer is None:
        raise HTTPException(404, "the configuration has no peer of that name")
    return peer


def peer_routes(desk: Desk) -> APIRouter:
    """Return the addresses of peers."""
    routes = APIRouter(prefix="/peers")

    @routes.get("", summary="Peers and how they fare")
    def list_peers(actor: Viewer) -> tuple[PeerRow, ...]:  # noqa: ARG001
        """Return every peer of the configuration."""
        return peer_rows(desk)

    @routes.post("/{peer}/echo", summary="Ask a peer whether it hears us (C-ECHO)")
    def echo_peer(peer: PeerName, actor: Operator) -> Done:  # noqa: ARG001
        """Ask now; `told` says whether it answered, `GET /peers` how fast or why not."""
        return Done(told=echo_now(desk, peer))

    @routes.post("/{peer}/resume", summary="Try a peer again that is left alone")
    def resume(peer: PeerName, actor: Operator) -> Done:  # noqa: ARG001
        """Close its breaker; what waits for it is tried at once."""
        return Done(told=resume_peer(desk, peer))

    return routes


def _row(peer: Peer, standing: Standing, echo: Echo | None) -> PeerRow:
    own = {name: getattr(peer, name) for name in ("name", "ae_title", "host", "port", "tls")}
    kept = {
        name: getattr(standing, name) for name in PeerRow.model_fields if hasattr(standing, name)
    }
    return PeerRow(
        **own,
        **kept,
        roles=tuple(str(role) for role in peer.roles),
        is_called=is_called(peer),
        echo=None if echo is None else EchoRow.model_validate(echo),
    )
