"""What is offered to peers: presentation contexts, and the services behind them.

Decides who may be SCU and SCP of what (PS3.7 D.3.3.4); opens nothing.
"""

from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import dataclass
from typing import Any

from pydicom.uid import UID, ImplicitVRLittleEndian, RTStructureSetStorage
from pynetdicom import AE, _config
from pynetdicom.association import Association
from pynetdicom.presentation import PresentationContext

from node import conformance
from node.config import Config, Peer
from node.exchange import Exchange


@dataclass(frozen=True, slots=True)
class Service:
    """A service besides Storage and Verification, offered on every association.

    Attributes:
        sop_class_uid: Its abstract syntax.
        transfer_syntaxes: Those that are accepted.
        handlers: pynetdicom's events, each with what serves it. It is called with the event and the
            peer whose association it is, and answers as pynetdicom asks of a handler of that event.
        is_user: Whether the peer may take the role of the SCP on our side's request and so send us
            its reports (PS3.7 D.3.3.4): true for Storage Commitment.
        serves: Requests of this SOP class that are served without pynetdicom's service classes: its
            primitive, and what is called with the exchange.
        sends_objects: Whether objects are sent over the peer's association (C-GET): then the peer
            may take the role of the SCP in the storage classes that we send.
        on_established: Called with each association that took the SOP class, in its thread.
    """

    sop_class_uid: UID
    transfer_syntaxes: tuple[UID, ...]
    handlers: tuple[tuple[Any, Callable[[Any, Peer], Any]], ...] = ()
    is_user: bool = False
    serves: tuple[tuple[type, Callable[[Exchange], None]], ...] = ()
    sends_objects: bool = False
    on_established: Callable[[Association, Peer], None] | None = None


def application_entity(config: Config, services: Sequence[Service]) -> AE:
    """Return who is called, with every presentation context that may be accepted."""
    _config.LOG_HANDLER_LEVEL = "none"
    _config.LOG_REQUEST_IDENTIFIERS = False
    _config.LOG_RESPONSE_IDENTIFIERS = False
    ae = AE(config.node.ae_title)
    ae.maximum_associations = config.node.max_associations
    ae.maximum_pdu_size = config.node.max_pdu_bytes
    ae.implementation_class_uid = conformance.IMPLEMENTATION_CLASS_UID
    ae.implementation_version_name = conformance.IMPLEMENTATION_VERSION_NAME
    ae.acse_timeout = config.node.negotiation_timeout_s
    ae.dimse_timeout = config.node.network_timeout_s
    ae.network_timeout = config.node.network_timeout_s
    ae.add_supported_context(conformance.VERIFICATION, list(conformance.SENT_SYNTAXES))
    given = _given_classes(services)
    for row in conformance.accepted(config):
        role = True if row.sop_class_uid in given else None
        syntaxes = list(row.transfer_syntaxes)
        ae.add_supported_context(row.sop_class_uid, syntaxes, scu_role=role, scp_role=role)
    for sop_class_uid in {service.sop_class_uid: None for service in services}:
        same = [service for service in services if service.sop_class_uid == sop_class_uid]
        role = True if any(service.is_user for service in same) else None
        syntaxes = list(dict.fromkeys(s for service in same for s in service.transfer_syntaxes))
        ae.add_supported_context(sop_class_uid, syntaxes, scu_role=role, scp_role=role)
    return ae


def _given_classes(services: Sequence[Service]) -> frozenset[UID]:
    """Return the storage classes in which a peer may be the SCP."""
    if not any(service.sends_objects for service in services):
        return frozenset()
    return frozenset(row.sop_class_uid for row in conformance.SENT)


def contexts_for(assoc: Any) -> list[PresentationContext]:
    """Return what is offered to the association's peer.

    Where it takes structure sets from us (C-GET), Implicit VR comes first: long contours have no
    place in Explicit VR (PS3.5 6.2.2).
    """
    contexts = list(assoc.acceptor.supported_contexts)
    role = assoc.requestor.role_selection.get(RTStructureSetStorage)
    if role is None or not role.scp_role:
        return contexts
    return [
        _implicit_first(one) if one.abstract_syntax == RTStructureSetStorage else one
        for one in contexts
    ]


def _implicit_first(context: PresentationContext) -> PresentationContext:
    changed = copy(context)
    found = [s for s in context.transfer_syntax if s != ImplicitVRLittleEndian]
    changed.transfer_syntax = [ImplicitVRLittleEndian, *found]
    return changed
