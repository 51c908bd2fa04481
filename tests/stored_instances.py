"""Objects as the index holds them, built from their attributes, and the check of one case.

Times are seconds after `START`; the clock is an argument.
"""

import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from pydicom import uid as uids

from node.assembly import CaseProposal, Patience, StoredInstance, assemble
from node.config import Protocol
from node.header import InstanceHeader

START = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
PATIENCE = Patience(incomplete_s=600.0, mr_wait_h=168.0)
LIVER = Protocol(name="liver", targets=("GTVn*", "GTV*"))
LATER_S = 3600.0
"""Every quiet period and all patience for slices has ended, the wait for MR has not."""

WEEK_S = 168 * 3600.0
SOP_CLASSES = {
    "CT": uids.CTImageStorage,
    "MR": uids.MRImageStorage,
    "RTSTRUCT": uids.RTStructureSetStorage,
    "RTPLAN": uids.RTPlanStorage,
    "RTDOSE": uids.RTDoseStorage,
    "REG": uids.SpatialRegistrationStorage,
}
"""By modality; what is of another modality is only kept."""

AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)


def stored(
    modality: str,
    uid: str,
    *,
    at_s: float = 0.0,
    sha256: str = "",
    is_open: bool = False,
    quiet_s: float = 60.0,
    replaces_other_content: bool = False,
    **given: Any,
) -> StoredInstance:
    """Return an object that arrived at START + `at_s`; `given` are attributes of its header."""
    usual = {
        "study_instance_uid": "5.1",
        "series_instance_uid": f"{uid}.series",
        "patient_id": "MARKED-ID",
        "patient_name": "MARKED^NAME",
        "patient_birth_date": "19500102",
        "patient_sex": "F",
        "study_date": "20260301",
        "frame_of_reference_uid": "9.1",
        "sop_class_uid": SOP_CLASSES.get(modality, uids.PositronEmissionTomographyImageStorage),
        "transfer_syntax_uid": uids.ExplicitVRLittleEndian,
    }
    return StoredInstance(
        header=InstanceHeader(sop_instance_uid=uid, modality=modality, **{**usual, **given}),
        sha256=sha256 or f"content of {uid}",
        path=f"objects/{uid}",
        received_at=START + timedelta(seconds=at_s),
        association_is_open=is_open,
        quiet_s=quiet_s,
        replaces_other_content=replaces_other_content,
    )


def images(
    modality: str, series: str, count: int = 5, *, z_mm: Sequence[float] = (), **given: Any
) -> list[StoredInstance]:
    """Return a series of axial slices, 3 mm apart unless `z_mm` says otherwise."""
    positions = z_mm or [3.0 * i for i in range(count)]
    return [
        stored(
            modality,
            f"{series}.{i}",
            series_instance_uid=series,
            **{"position_mm": (0.0, 0.0, z), "orientation": AXIAL, **given},
        )
        for i, z in enumerate(positions)
    ]


def ct(series: str = "1.1", count: int = 5, **given: Any) -> list[StoredInstance]:
    return images("CT", series, count, **given)


def mr(series: str = "2.1", count: int = 5, **given: Any) -> list[StoredInstance]:
    usual = {"frame_of_reference_uid": "9.2", "study_instance_uid": "5.2"}
    return images("MR", series, count, **{**usual, **given})


def contours(uid: str = "3.1", series: str = "1.1", count: int = 5, **given: Any) -> StoredInstance:
    """Return a structure set that names `series` and lists its first `count` images."""
    listed = tuple(f"{series}.{i}" for i in range(count))
    usual = {
        "referenced_series_uid": series,
        "referenced_sop_instance_uids": listed,
        "roi_names": ("BODY", "gtvn_liver"),
    }
    return stored("RTSTRUCT", uid, **{**usual, **given})


def look(
    *objects: StoredInstance | Sequence[StoredInstance],
    at_s: float = LATER_S,
    protocols: Sequence[Protocol] = (LIVER,),
    patience: Patience = PATIENCE,
) -> tuple[CaseProposal, ...]:
    return assemble(flat(objects), protocols, patience, START + timedelta(seconds=at_s))


def flat(objects: Sequence[StoredInstance | Sequence[StoredInstance]]) -> list[StoredInstance]:
    return [
        one for part in objects for one in ([part] if isinstance(part, StoredInstance) else part)
    ]


def check_only_case(
    *objects: StoredInstance | Sequence[StoredInstance],
    waiting: Sequence[str] = (),
    rejection: str = "",
    next_look_s: float | None = None,
    findings: Sequence[str] = (),
    uids: Sequence[str] | None = None,
    **situation: Any,
) -> CaseProposal:
    """Check the one case that the objects make: sentences, next look, codes, objects by UID."""
    (case,) = look(*objects, **situation)
    assert case.waiting_for == tuple(waiting)
    assert case.rejection == rejection
    next_look = None if next_look_s is None else START + timedelta(seconds=next_look_s)
    assert case.next_look_at == next_look
    assert [finding.code for finding in case.findings] == list(findings)
    if uids is not None:
        assert sorted(i.header.sop_instance_uid for i in case.instances) == sorted(uids)
    assert not re.search("MARKED|19500102", repr(case)), "a patient's identity was told"
    return case


def linked(modality: str, uid: str, *referenced: str, **given: Any) -> StoredInstance:
    return stored(modality, uid, referenced_sop_instance_uids=referenced, **given)
