"""The protocols of the configuration, and which of them objects fall under, and why."""

from typing import Annotated, Any

from fastapi import APIRouter, HTTPException, Query

from node.assembly import Patience
from node.completeness import NOTHING_KNOWN
from node.index.fetches import FetchBook
from node.index.holdings_counts import find_patients
from node.index.instances import STRUCTURE_SET, InstanceBook
from node.index.protocol_choices import ProtocolChoices
from node.matching import ProtocolMatch, StructureSetMatch, match_protocols
from node.web.access.actor import Viewer
from node.web.api.case_list import readable_name
from node.web.api.documents import Document
from node.web.desk import Desk


class ProtocolRow(Document):
    """A protocol with every setting, defaults included; keys as in the configuration file."""

    name: str
    settings: dict[str, Any]


class PatientRow(Document):
    """A patient of whom there are objects; `patient` stands for them in addresses."""

    patient: str
    patient_name: str
    patient_id: str


class MatchNote(Document):
    """What would be noticed: code, severity, text."""

    code: str
    severity: str
    text: str


class MatchRow(Document):
    """A structure set under one protocol.

    Attributes:
        named_by: The pattern of `structure_sets` that fits; null: none does.
        target_by: The pattern of `targets` that fits; null: none does.
        targets: The ROIs that it fits.
        is_chosen: Whether the structure set is computed under it.
        case_id: Of the case that it makes, or would make.
        mr: The MR series that are taken, preferred ones first.
        waiting_for: What is missing.
        rejection: Why it would be refused, or empty.
    """

    protocol: str
    named_by: str | None
    target_by: str | None
    targets: tuple[str, ...]
    is_chosen: bool
    case_id: str
    mr: tuple[str, ...]
    waiting_for: tuple[str, ...]
    rejection: str
    notes: tuple[MatchNote, ...]


class StructureSetRow(Document):
    """A structure set beside every protocol.

    Attributes:
        drawn_on: The series that it was drawn on.
        obstacle: Why it makes no case at all, or empty.
        was_chosen: Whether an operator said under which protocol it is computed.
    """

    structure_set_uid: str
    label: str
    study_date: str
    rois: tuple[str, ...]
    drawn_on: tuple[str, ...]
    obstacle: str
    was_chosen: bool
    protocols: tuple[MatchRow, ...]


def protocol_rows(desk: Desk) -> tuple[ProtocolRow, ...]:
    """Return the protocols in the order in which they are tried."""
    return tuple(
        ProtocolRow(name=each.name, settings=each.model_dump(mode="json"))
        for each in desk.config.protocol
    )


def patient_rows(desk: Desk, text: str) -> tuple[PatientRow, ...]:
    """Return the patients that a text finds, whoever sent something last first."""
    return tuple(
        PatientRow(
            patient=found.patient_key,
            patient_name=readable_name(found.header.patient_name),
            patient_id=found.header.patient_id,
        )
        for found in find_patients(desk.index, text)
    )


def matches(desk: Desk, patient: str) -> tuple[StructureSetRow, ...]:
    """Return how each structure set of a patient stands to each protocol.

    Args:
        desk: Whose objects and protocols.
        patient: `PatientRow.patient`.
    """
    config = desk.config
    node = config.node
    quiet = {peer.name: peer.quiet_s for peer in config.peer if peer.quiet_s is not None}
    group = InstanceBook(desk.index).instance_group(patient, quiet, node.quiet_s)
    drawn = [one.header.sop_instance_uid for one in group if one.header.modality == STRUCTURE_SET]
    is_fetching = any(protocol.fetch for protocol in config.protocol)
    found = match_protocols(
        group,
        config.protocol,
        Patience(incomplete_s=node.patience_s, mr_wait_h=node.mr_wait_h),
        desk.clock(),
        ProtocolChoices(desk.index).chosen_among(drawn),
        FetchBook(desk.index).elsewhere(patient) if is_fetching else NOTHING_KNOWN,
    )
    return tuple(_row(each) for each in found)


def protocol_routes(desk: Desk) -> APIRouter:
    """Return the addresses of protocols."""
    routes = APIRouter()

    @routes.get("/protocols", summary="Protocols, every setting")
    def list_protocols(actor: Viewer) -> tuple[ProtocolRow, ...]:  # noqa: ARG001
        """Return the protocols in the order in which they are tried."""
        return protocol_rows(desk)

    @routes.get("/patients", summary="Patients of whom there are objects")
    def list_patients(
        actor: Viewer,  # noqa: ARG001
        text: Annotated[str, Query(min_length=1, max_length=200)],
    ) -> tuple[PatientRow, ...]:
        """Find patients by a whole Patient ID or UID, or by words as in the list of cases."""
        return patient_rows(desk, text)

    @routes.get("/match", summary="Which protocol would these objects match, and why")
    def match(
        actor: Viewer,  # noqa: ARG001
        patient: Annotated[str, Query(min_length=1, max_length=200)],
    ) -> tuple[StructureSetRow, ...]:
        """Return each structure set of a patient (of `/patients`) beside each protocol."""
        found = matches(desk, patient)
        if not found:
            raise HTTPException(404, "there is no structure set of this patient")
        return found

    return routes


def _row(match: StructureSetMatch) -> StructureSetRow:
    header = match.header
    return StructureSetRow(
        structure_set_uid=header.sop_instance_uid,
        label=header.structure_set_label or header.series_description,
        study_date=header.study_date,
        rois=header.roi_names,
        drawn_on=match.drawn_on,
        obstacle=match.obstacle,
        was_chosen=match.was_chosen,
        protocols=tuple(_match_row(each) for each in match.protocols),
    )


def _match_row(match: ProtocolMatch) -> MatchRow:
    return MatchRow(
        protocol=match.fit.protocol.name,
        named_by=match.fit.named_by,
        target_by=match.fit.target_by,
        targets=match.fit.targets,
        is_chosen=match.is_chosen,
        case_id=match.case_id,
        mr=match.mr,
        waiting_for=match.waiting_for,
        rejection=match.rejection,
        notes=tuple(MatchNote.model_validate(each) for each in match.findings),
    )
