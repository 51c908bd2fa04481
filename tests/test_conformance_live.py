"""The conformance statement held against a node that runs, and against objects that it makes."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pydicom import Dataset, uid
from pydicom.datadict import DicomDictionary, keyword_for_tag
from pydicom.uid import UID
from pynetdicom import AE, build_role, evt
from pynetdicom.presentation import AllStoragePresentationContexts
from pynetdicom.sop_class import (  # type: ignore[attr-defined]  # made at run time
    ModalityWorklistInformationFind,
    UnifiedProcedureStepPush,
)

from node.answering.keys import (
    ALWAYS_RETURNED,
    KEYS,
    PATIENT_ROOT_FIND,
    STUDY_ROOT_GET,
    Level,
    keys_at,
)
from node.association import CallingEntity
from node.config import Role
from node.conformance import STORAGE_COMMITMENT
from node.delivery import send_instances
from node.statement import conformance_statement
from node.statement.objects import MODULES_OF, NOT_ALWAYS, attributes_of
from node.statement.overview import services
from node.storage_classes import SENT
from tests.answering_node import (
    MR_SERIES,
    PATIENT,
    STUDY,
    AnsweringNode,
    Transport,
    answering,
    asking,
    find,
    peer,
    result,
)
from tests.encode_cases import EncodeCase, build_case, written
from tests.nodes import free_port
from tests.test_encode_deformable import with_field
from tests.test_encode_other_ct import with_other_ct
from tests.test_encode_review import with_evidence
from tests.test_encode_rtdose import with_sums

FOREIGN = (ModalityWorklistInformationFind, UnifiedProcedureStepPush, "1.2.840.10008.1.9")


def negotiated(node: AnsweringNode, sop_classes: list[str], *, is_given: bool = False) -> set[str]:
    """Return the classes that a node takes, or gives if the peer wants to be the SCP."""
    found: set[str] = set()
    for start in range(0, len(sop_classes), 100):
        ae = CallingEntity("TPS")
        some = sop_classes[start : start + 100]
        for one in some:
            ae.add_requested_context(one, [uid.ExplicitVRLittleEndian, uid.ImplicitVRLittleEndian])
        roles: list[Any] = [build_role(one, scp_role=True) for one in some] if is_given else []
        assoc = ae.associate("127.0.0.1", node.port, ae_title="HILUM", ext_neg=roles)
        ae.connection.disarm()
        found |= {
            str(cx.abstract_syntax)
            for cx in assoc.accepted_contexts
            if (cx.as_scp if is_given else cx.as_scu)
        }
        if assoc.is_established:
            assoc.release()
    return found


@pytest.mark.parametrize("transport", ["fast", "plain"])
def test_every_class_that_is_accepted_is_told_and_the_reverse(
    transport: Transport, tmp_path: Path
) -> None:
    """Issue 6, 8: asked of a live association: the table of network services as SCP."""
    with answering(tmp_path, transport) as node:
        told = {str(one) for _, one, _, as_scp in services(node.config) if as_scp == "yes"}
        storage = {str(cx.abstract_syntax) for cx in AllStoragePresentationContexts}
        proposed = sorted({*storage, *told, *map(str, FOREIGN)})
        assert negotiated(node, proposed) == told
        text = conformance_statement(node.config)
    table = text.split("### 1.1")[1].split("## 2")[0]
    rows = re.findall(r"^\| .* \| ([0-9.]+) \| (yes|no) \| (yes|no) \|$", table, re.MULTILINE)
    assert {one for one, _, as_scp in rows if as_scp == "yes"} == told


def test_every_class_that_is_given_by_get_is_told(tmp_path: Path) -> None:
    """3.3.5: with role selection the peer may be the SCP of what 3.4.2 lists, and of no other."""
    with answering(tmp_path) as node:
        proposed = sorted(
            {str(cx.abstract_syntax) for cx in AllStoragePresentationContexts}
            | {str(row.sop_class_uid) for row in SENT}
        )
        given = negotiated(node, [*proposed, STUDY_ROOT_GET], is_given=True)
        assert given == {str(row.sop_class_uid) for row in SENT}
        assert negotiated(node, [STORAGE_COMMITMENT], is_given=True) == {STORAGE_COMMITMENT}


def every_object() -> dict[str, Dataset]:
    """Return objects of every class that a result set may have."""
    cases: list[EncodeCase] = [
        with_evidence(build_case()),
        with_field(build_case()),
        replace(build_case(is_prone_oblique=True), document=b"%PDF-1.4 "),
        with_sums(with_other_ct()),
    ]
    return {
        f"{at}-{name.replace('/', '-')}": ds
        for at, case in enumerate(cases)
        for name, ds in written(case).items()
    }


@pytest.fixture(scope="module")
def objects() -> dict[str, Dataset]:
    """Return them once."""
    return every_object()


def test_every_class_that_is_sent_is_told_and_the_reverse(
    objects: dict[str, Dataset], tmp_path: Path
) -> None:
    """Issue 6, 8: what a peer sees proposed is what 3.4.2 lists."""
    told = {str(row.sop_class_uid) for row in SENT}
    proposed: set[str] = set()

    def requested(event: Any) -> None:
        proposed.update(str(cx.abstract_syntax) for cx in event.assoc.requestor.requested_contexts)

    ae = AE("TPS")
    for one in told:
        ae.add_supported_context(one, [uid.ExplicitVRLittleEndian, uid.ImplicitVRLittleEndian])
    port = free_port()
    handlers = [(evt.EVT_REQUESTED, requested), (evt.EVT_C_STORE, lambda _event: 0)]
    server = ae.start_server(("127.0.0.1", port), block=False, evt_handlers=handlers)
    one_each = {ds.SOPClassUID: (name, ds) for name, ds in objects.items()}
    paths = []
    for name, ds in one_each.values():
        paths.append(tmp_path / f"{name}.dcm")
        ds.save_as(paths[-1], enforce_file_format=True)
    try:
        send_instances(peer("tps", Role.RECEIVE, port=port), "HILUM", paths, timeout_s=20)
    finally:
        server.shutdown()
    assert proposed == told


def test_keys_that_are_told_are_those_that_are_obeyed(tmp_path: Path) -> None:
    """Issue 6, 8: asked for every attribute of the dictionary, the node returns what it lists."""
    asked = {
        keyword_for_tag(tag): None
        for tag, (vr, *_) in DicomDictionary.items()
        if tag >> 16 in (0x0008, 0x0010, 0x0018, 0x0020, 0x0028, 0x3006)
        and vr in ("AE", "AS", "CS", "DA", "DS", "IS", "LO", "PN", "SH", "TM", "UI", "US")
    }
    above = {"PatientID": PATIENT["PatientID"], "StudyInstanceUID": STUDY}
    above["SeriesInstanceUID"] = MR_SERIES
    for own in ("", "QueryRetrieveLevel", "SpecificCharacterSet"):
        asked.pop(own, None)
    with answering(tmp_path) as node:
        node.adopt(result(1))
        text = conformance_statement(node.config)
        table = text.split("#### 3.3.4")[1].split("#### 3.3.5")[0]
        listed: dict[str, set[str]] = {
            level: {
                keyword
                for one, keyword in re.findall(r"^\| ([A-Z]+) \| (\w+) \|", table, re.MULTILINE)
                if one == level
            }
            for level in Level
        }
        assert set().union(*listed.values()) == {key.keyword for key in KEYS}
        with asking(node, PATIENT_ROOT_FIND) as assoc:
            told: set[str] = set()
            for level in Level:
                told |= listed[level]
                unique = {k: v for k, v in above.items() if k in told}
                statuses, (answer,), _ = find(
                    assoc, PATIENT_ROOT_FIND, level, **{**asked, **unique}
                )
                assert statuses == [0xFF01, 0]
                assert set(answer.dir()) == told | set(ALWAYS_RETURNED)
                assert told == {key.keyword for key in keys_at(level)}


def test_objects_hold_what_the_annex_tells(objects: dict[str, Dataset]) -> None:
    """Issue 6, 8: nothing that is not told, and all that is told to be always there."""
    assert {ds.SOPClassUID for ds in objects.values()} == set(MODULES_OF)
    assert set(MODULES_OF) == {row.sop_class_uid for row in SENT}
    problems = []
    for name, ds in objects.items():
        told = attributes_of(UID(ds.SOPClassUID))
        held = {element.keyword for element in ds}
        problems += [f"{name}: {keyword} is not told" for keyword in sorted(held - set(told))]
        problems += [
            f"{name}: {keyword} is told to be there"
            for keyword in sorted(set(told) - held - NOT_ALWAYS)
        ]
    assert not problems


def test_attributes_that_may_be_absent_are_absent_somewhere(objects: dict[str, Dataset]) -> None:
    """Nothing is called uncertain that no class is uncertain about, but what the inputs decide."""
    never = {keyword for one in MODULES_OF for keyword in attributes_of(one)}
    assert never >= NOT_ALWAYS
