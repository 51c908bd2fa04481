"""From a complete case to the job of the computing child. Pure: no file, no clock."""

import hashlib
import json
from collections.abc import Sequence
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from node.assembly import CaseProposal, StoredInstance
from node.compute_job import (
    ComputeSettings,
    Job,
    JobFinding,
    OtherCtPaths,
    SecondOpinionChoice,
)
from node.config import Config, Peer, Protocol
from node.limit_tables import table_name
from node.outputs import OUTPUTS, Output
from node.peer import Tps


def software_version() -> str:
    """Return the version of the installed distribution."""
    try:
        return version("hilum")
    except PackageNotFoundError:
        return "0+unknown"


def case_job(
    proposal: CaseProposal,
    protocol: Protocol,
    config: Config,
    *,
    root: str,
    created: datetime,
    with_view: bool = False,
) -> Job:
    """Return the job that computes a complete case.

    Args:
        proposal: What assembly found; nothing is waited for.
        protocol: The recipe.
        config: Limits of the node; the outside program that outlines organs, if there is one; what
            the destinations are, for the results are judged by that before they are sent.
        root: Folder to which the objects' paths are relative.
        created: Date and time of everything that will be made.
        with_view: Whether somebody may look at the case on the page.
    """
    settings = _settings(protocol, config)
    structure_set = next(
        i for i in proposal.instances if i.header.sop_instance_uid == proposal.structure_set_uid
    )
    outliner = config.second_opinion
    return Job(
        root=root,
        ct=tuple(
            i.path
            for i in proposal.instances
            if i.header.modality == "CT" and i.header.series_instance_uid == proposal.ct_series_uid
        ),
        structure_set=structure_set.path,
        mr={
            uid: tuple(i.path for i in proposal.instances if i.header.series_instance_uid == uid)
            for uid in proposal.mr_series_uids
        },
        doses=_paths(proposal, proposal.dose_uids),
        plans=_paths(proposal, proposal.plan_uids),
        registrations=tuple(i.path for i in proposal.instances if i.header.modality == "REG"),
        other_ct=_other_ct(proposal),
        settings=settings,
        case=_identity(proposal, structure_set, protocol, settings),
        findings=tuple(
            JobFinding(code=f.code, severity=f.severity, text=f.text) for f in proposal.findings
        ),
        uid_seed=_seed(proposal.fingerprint, settings, software_version()),
        software_version=software_version(),
        created=created,
        memory_mib=config.node.compute_memory_mib,
        second_opinion=None if outliner is None else outliner.settings(),
        destinations=_destinations(protocol),
        delivery_give_up_h=protocol.delivery_give_up_h,
        with_view=with_view,
    )


def as_computed_by(job: Job, version: str) -> Job:
    """Return a job as a version of the program computes it, whichever prepared it.

    Results name the version that made them, and their UIDs follow from it: two versions may make
    other bytes of the same case.
    """
    if job.software_version == version:
        return job
    told = job.settings.model_dump(mode="json")
    return job.model_copy(
        update={
            "software_version": version,
            "case": {**job.case, "software_version": version, "settings": told},
            "uid_seed": _seed(job.case["fingerprint"], job.settings, version),
        }
    )


def _settings(protocol: Protocol, config: Config) -> ComputeSettings:
    outliner = config.second_opinion
    tables = tuple(table_name(entry) for entry in protocol.dose.limits)
    return ComputeSettings(
        target_patterns=protocol.targets,
        max_outward_mm=protocol.max_outward_mm,
        max_inward_mm=protocol.max_inward_mm,
        max_uncertainty_mm=protocol.max_uncertainty_mm,
        may_enter=protocol.may_enter,
        review=protocol.review,
        holes=protocol.holes,
        target=protocol.target,
        derived=protocol.derived,
        registration=protocol.registration,
        prescription=protocol.prescription,
        dose=protocol.dose.model_copy(update={"limits": tables}),
        reirradiation=protocol.reirradiation,
        own_limits={name: config.own_limits[name] for name in tables if name in config.own_limits},
        organ=config.organ,
        second_opinion=None
        if outliner is None
        else SecondOpinionChoice(fast=outliner.fast, device=outliner.device),
        tps=_planning_systems(protocol, config.peer),
    )


def _paths(proposal: CaseProposal, uids: Sequence[str]) -> tuple[str, ...]:
    wanted = set(uids)
    return tuple(i.path for i in proposal.instances if i.header.sop_instance_uid in wanted)


def _planning_systems(protocol: Protocol, peers: Sequence[Peer]) -> tuple[Tps, ...]:
    return tuple(sorted({p.tps for p in peers if p.name in protocol.destinations and p.tps}))


def _destinations(protocol: Protocol) -> dict[str, tuple[Output, ...]]:
    chosen = {rule.peer: rule.objects for rule in protocol.output}
    return {peer: chosen.get(peer, OUTPUTS) for peer in protocol.destinations}


def _other_ct(proposal: CaseProposal) -> dict[str, OtherCtPaths]:
    path_of = {i.header.sop_instance_uid: i.path for i in proposal.instances}
    return {
        other.series_uid: OtherCtPaths(
            images=tuple(
                i.path
                for i in proposal.instances
                if i.header.series_instance_uid == other.series_uid
            ),
            structure_set=path_of.get(other.structure_set_uid),
            doses=_paths(proposal, other.dose_uids),
            plans=_paths(proposal, other.plan_uids),
        )
        for other in proposal.other_ct
    }


def _identity(
    proposal: CaseProposal,
    structure_set: StoredInstance,
    protocol: Protocol,
    settings: ComputeSettings,
) -> dict[str, Any]:
    frame = next(
        (
            i.header.frame_of_reference_uid
            for i in proposal.instances
            if i.header.series_instance_uid == proposal.ct_series_uid
        ),
        "",
    )
    return {
        "case_id": proposal.case_id,
        "protocol": protocol.name,
        "software_version": software_version(),
        "settings": settings.model_dump(mode="json"),
        "study_instance_uid": structure_set.header.study_instance_uid,
        "ct_series_uid": proposal.ct_series_uid,
        "ct_frame_of_reference_uid": frame,
        "structure_set_uid": proposal.structure_set_uid,
        "mr_series_uids": list(proposal.mr_series_uids),
        "other_ct_series_uids": [other.series_uid for other in proposal.other_ct],
        "registration_uids": [
            i.header.sop_instance_uid for i in proposal.instances if i.header.modality == "REG"
        ],
        "fingerprint": proposal.fingerprint,
        "prescription": protocol.prescription.model_dump() if protocol.prescription else None,
    }


def _seed(fingerprint: str, settings: ComputeSettings, version: str) -> str:
    told = json.dumps([fingerprint, settings.model_dump(mode="json"), version], sort_keys=True)
    return hashlib.sha256(told.encode()).hexdigest()
