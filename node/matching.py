"""Which protocol the objects of a patient fall under, and why: assembly, asked once per protocol.

Pure, and no judgement of its own: every sentence comes from `node.assembly` and the functions that
it decides with.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from node.assembly import AssemblyFinding, CaseProposal, Patience, StoredInstance, assemble
from node.completeness import NOTHING_KNOWN, Elsewhere
from node.config import Protocol
from node.header import InstanceHeader
from node.holdings import Holdings, is_drawn_elsewhere, take_holdings
from node.protocol_fit import ProtocolFit, choose_protocol, protocol_fit


@dataclass(frozen=True, slots=True)
class ProtocolMatch:
    """What would become of a structure set under one protocol.

    Attributes:
        fit: Which names fit.
        is_chosen: Whether it is the protocol under which the structure set is computed.
        case_id: Of the case that it makes there, or empty.
        mr: The MR series that are taken, preferred ones first.
        waiting_for: What is missing, in sentences.
        rejection: Why it would be refused, or empty.
        findings: What would be noticed, MR that is left out among it.
    """

    fit: ProtocolFit
    is_chosen: bool
    case_id: str = ""
    mr: tuple[str, ...] = ()
    waiting_for: tuple[str, ...] = ()
    rejection: str = ""
    findings: tuple[AssemblyFinding, ...] = ()


@dataclass(frozen=True, slots=True)
class StructureSetMatch:
    """A structure set beside every protocol.

    Attributes:
        drawn_on: The series that it was drawn on, named for people.
        obstacle: Why it makes no case under any protocol, or empty.
        was_chosen: Whether an operator said under which protocol it is computed.
    """

    header: InstanceHeader
    drawn_on: tuple[str, ...]
    obstacle: str
    was_chosen: bool
    protocols: tuple[ProtocolMatch, ...]


def match_protocols(
    instances: Sequence[StoredInstance],
    protocols: Sequence[Protocol],
    patience: Patience,
    now: datetime,
    chosen: Mapping[str, str],
    elsewhere: Elsewhere = NOTHING_KNOWN,
) -> tuple[StructureSetMatch, ...]:
    """Return how each structure set among objects stands to each protocol.

    Arguments are those of `node.assembly.assemble`.
    """
    held = take_holdings([one for one in instances if not one.header.is_ours])
    headers = [one.header for one in held.structure_sets]
    proposed: dict[tuple[str, str], CaseProposal] = {}
    for protocol in protocols:
        wishes = {header.sop_instance_uid: protocol.name for header in headers}
        for case in assemble(instances, (protocol,), patience, now, elsewhere, wishes):
            proposed[case.structure_set_uid, protocol.name] = case
    return tuple(
        _match(header, held, protocols, chosen, elsewhere, proposed)
        for header in sorted(headers, key=lambda h: (h.study_date, h.sop_instance_uid))
    )


def _match(
    header: InstanceHeader,
    held: Holdings,
    protocols: Sequence[Protocol],
    chosen: Mapping[str, str],
    elsewhere: Elsewhere,
    proposed: Mapping[tuple[str, str], CaseProposal],
) -> StructureSetMatch:
    drawn_on = held.drawn_on[header.sop_instance_uid]
    obstacle = ""
    if header.series_instance_uid in elsewhere.prior_series:
        obstacle = "it was fetched as an earlier course: that starts no case of its own"
    elif is_drawn_elsewhere(drawn_on):
        obstacle = "it was not drawn on a CT"
    winner, _ = choose_protocol(header, protocols, chosen)
    found = []
    for protocol in protocols:
        fit = protocol_fit(header, protocol)
        is_chosen = winner is protocol and not obstacle
        case = proposed.get((header.sop_instance_uid, protocol.name))
        if case is None:
            found.append(ProtocolMatch(fit, is_chosen))
            continue
        found.append(
            ProtocolMatch(
                fit=fit,
                is_chosen=is_chosen,
                case_id=case.case_id,
                mr=tuple(held.series[uid].name for uid in case.mr_series_uids),
                waiting_for=case.waiting_for,
                rejection=case.rejection,
                findings=case.findings,
            )
        )
    return StructureSetMatch(
        header=header,
        drawn_on=tuple(series.name for series in drawn_on),
        obstacle=obstacle,
        was_chosen=header.sop_instance_uid in chosen,
        protocols=tuple(found),
    )
