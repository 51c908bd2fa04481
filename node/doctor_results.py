"""Tells whether the peers that get results take what they will be sent.

Opens an association with each destination and looks at the presentation contexts that it accepts;
sends nothing.
"""

from collections.abc import Iterator, Mapping

from pydicom import uid
from pydicom.uid import UID

from node.config import Config, Peer, TlsSection
from node.doctor_machine import Check, CheckStatus
from node.errors import DeliveryError
from node.negotiation import request
from node.outputs import OUTPUTS, Output
from node.protocol import Protocol
from node.storage_classes import SENT_SYNTAXES

SOP_CLASSES: Mapping[Output, UID] = {
    "mr": uid.MRImageStorage,
    "registration": uid.SpatialRegistrationStorage,
    "deformation": uid.DeformableSpatialRegistrationStorage,
    "structure-set": uid.RTStructureSetStorage,
    "dose": uid.RTDoseStorage,
    "segmentation": uid.SegmentationStorage,
    "report": uid.Comprehensive3DSRStorage,
    "review": uid.SegmentationStorage,
    "overview": uid.MultiFrameTrueColorSecondaryCaptureImageStorage,
    "blending": uid.AdvancedBlendingPresentationStateStorage,
    "contours": uid.GrayscaleSoftcopyPresentationStateStorage,
    "document": uid.EncapsulatedPDFStorage,
}
"""In which SOP class each kind of result is sent."""

NEEDED: tuple[Output, ...] = ("structure-set", "registration", "mr")
"""What a destination is for: without it there is no delivery worth the name."""


def check_results(config: Config, *, timeout_s: float) -> Iterator[Check]:
    """Tell of each destination which of its results it takes; nothing of one that is away."""
    for peer in config.peer:
        wanted = {kind for one in config.protocol for kind in _outputs(one, peer.name)}
        if wanted and peer.port is not None:
            check = _check_destination(peer, wanted, config.node.ae_title, timeout_s, config.tls)
            if check is not None:
                yield check


def _outputs(protocol: Protocol, peer: str) -> tuple[Output, ...]:
    """Return what a protocol sends to a peer, as far as it is made without being asked for."""
    if peer not in protocol.destinations:
        return ()
    asked = next((rule.objects for rule in protocol.output if rule.peer == peer), OUTPUTS)
    unasked: set[Output] = set()
    if not protocol.review:
        unasked.add("review")
    if not protocol.reirradiation.eqd2_dose:
        unasked.add("dose")
    return tuple(kind for kind in asked if kind not in unasked)


def _check_destination(
    peer: Peer, wanted: set[Output], calling_ae: str, timeout_s: float, tls: TlsSection | None
) -> Check | None:
    name = f"results to {peer.name}"
    classes = sorted({SOP_CLASSES[kind] for kind in wanted})
    contexts = [(sop_class, syntax) for sop_class in classes for syntax in SENT_SYNTAXES]
    try:
        assoc = request(peer, calling_ae, contexts, timeout_s, tls)
    except DeliveryError:
        return None  # the check of the peer says why
    assoc.release()
    taken = {sop_class for sop_class, _ in assoc.accepted}
    lacking = [kind for kind in OUTPUTS if kind in wanted and SOP_CLASSES[kind] not in taken]
    if not lacking:
        return Check(name, CheckStatus.OK, f"takes all {len(classes)} SOP classes of its results")
    told = ", ".join(f"{kind} ({SOP_CLASSES[kind].name})" for kind in lacking)
    status = CheckStatus.FAIL if set(lacking) & set(NEEDED) else CheckStatus.WARN
    mend = (
        f"let {peer.name} accept these SOP classes, uncompressed; or leave them out for it with "
        "[[protocol.output]]"
    )
    return Check(name, status, f"does not take: {told}", mend)
