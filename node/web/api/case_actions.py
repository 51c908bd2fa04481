"""What an operator orders about a case."""

from typing import Annotated

from fastapi import APIRouter, Body
from pydantic import Field

from node.case_orders import CaseOrders
from node.web.access.actor import Actor, Operator
from node.web.api.documents import CaseId, Document, Done, PeerName
from node.web.desk import Desk


class Rerun(Document):
    """Under which protocol the objects of a case are computed anew."""

    protocol: Annotated[str, Field(min_length=1, max_length=64)]


def orders_of(desk: Desk, actor: Actor) -> CaseOrders:
    """Return the orders that somebody gives through the page."""
    return CaseOrders(desk.config, desk.index, desk.clock, f"operator {actor.name}")


def case_action_routes(desk: Desk) -> APIRouter:
    """Return the addresses of orders; each is refused with 409 where it makes no sense."""
    routes = APIRouter(prefix="/cases/{case_id}")

    @routes.post("/retry", summary="Begin a case again")
    def retry(case_id: CaseId, actor: Operator) -> Done:
        """Begin again what was rejected, failed, abandoned or not delivered."""
        orders_of(desk, actor).retry(case_id)
        return Done(told="the case is begun again")

    @routes.post("/abandon", summary="Stop all work on a case")
    def abandon(case_id: CaseId, actor: Operator) -> Done:
        """Stop all work on a case; new objects revive it."""
        orders_of(desk, actor).abandon(case_id)
        return Done(told="the case is abandoned")

    @routes.post("/rerun", summary="Compute a case under a protocol")
    def rerun(case_id: CaseId, order: Annotated[Rerun, Body()], actor: Operator) -> Done:
        """Compute the objects of a case anew under a protocol, now and from now on.

        Under another protocol than the case's own this makes another case, which names this one
        as its predecessor; under its own, another revision.
        """
        orders_of(desk, actor).rerun(case_id, order.protocol)
        return Done(told=f"the objects are computed under protocol {order.protocol}")

    @routes.post("/deliveries/{peer}/retry", summary="Deliver to a peer again")
    def deliver(case_id: CaseId, peer: PeerName, actor: Operator) -> Done:
        """Owe a peer again what it did not take, or try at once what waits for it."""
        is_tried = orders_of(desk, actor).retry_delivery(case_id, peer)
        return Done(told=delivery_told(peer, is_tried=is_tried))

    @routes.post("/deliveries/{peer}/abandon", summary="Give up the delivery to a peer")
    def give_up(case_id: CaseId, peer: PeerName, actor: Operator) -> Done:
        """Give up the deliveries of a case to one peer; the others go on."""
        orders_of(desk, actor).abandon_delivery(case_id, peer)
        return Done(told=f"the delivery to {peer} is given up")

    return routes


def delivery_told(peer: str, *, is_tried: bool) -> str:
    """Return what becomes of a delivery that is begun again."""
    if is_tried:
        return f"the delivery to {peer} is begun again"
    return f"the delivery to {peer} waits: the peer is left alone for now, resume it to try at once"
