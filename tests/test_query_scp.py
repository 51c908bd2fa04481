"""C-FIND, C-MOVE and C-GET over our results, over sockets, on both transports (issue 6, 7)."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from pydicom import Dataset, uid
from pydicom.sequence import Sequence
from pynetdicom import AE, build_role, evt
from pynetdicom.dimse_primitives import C_CANCEL, C_FIND
from pynetdicom.dsutils import encode

from node.answering import keys
from node.answering.identifier import LARGEST_BYTES
from node.answering.keys import (
    KEYS,
    PATIENT_ROOT_FIND,
    PATIENT_ROOT_MOVE,
    STUDY_ROOT_FIND,
    STUDY_ROOT_GET,
    STUDY_ROOT_MOVE,
    Level,
    keys_at,
)
from node.config import Role
from node.index.catalogue import Adopted, Catalogue, ResultObject, ResultSeries
from tests.answering_node import (
    MR_SERIES,
    PATIENT,
    RT_SERIES,
    STUDY,
    Transport,
    answering,
    asking,
    find,
    peer,
    result,
    structure_set,
    taking,
)
from tests.nodes import free_port, wait_for
from tests.receiving_node import ct
from tests.stub_tps import Deed, StubTps, usual

BOTH = pytest.mark.parametrize("transport", ["fast", "plain"])
GIVEN = (uid.MRImageStorage, uid.RTStructureSetStorage)
OTHER_STUDY = "1.2.826.0.78.1"


def identifier(level: str, **values: Any) -> Dataset:
    ds = Dataset()
    ds.QueryRetrieveLevel = level
    for keyword, value in values.items():
        setattr(ds, keyword, value)
    return ds


def other_patient() -> Dataset:
    return result(
        1,
        study=OTHER_STUDY,
        series="1.2.826.0.78.2",
        PatientID="P2",
        PatientName="Other^Bert",
        StudyDate="20190101",
    )


# --- C-FIND ------------------------------------------------------------------------------------


@BOTH
def test_every_level_is_found_and_counted(transport: Transport, tmp_path: Path) -> None:
    """Issue 6, 7: both information models, all levels, what the archive's user looks for."""
    with answering(tmp_path, transport) as node:
        node.adopt(result(1), result(2), structure_set())
        node.adopt(other_patient(), case_id="case-2")
        with asking(node, PATIENT_ROOT_FIND, STUDY_ROOT_FIND) as assoc:
            statuses, found, _ = find(
                assoc,
                PATIENT_ROOT_FIND,
                "PATIENT",
                PatientID="",
                PatientName="",
                NumberOfPatientRelatedInstances=None,
            )
            assert statuses == [0xFF00, 0xFF00, 0]
            assert {(a.PatientID, a.NumberOfPatientRelatedInstances) for a in found} == {
                (PATIENT["PatientID"], 3),
                ("P2", 1),
            }
            _, (study,), _ = find(
                assoc,
                STUDY_ROOT_FIND,
                "STUDY",
                StudyInstanceUID="",
                PatientName="marked*",
                ModalitiesInStudy="",
                SOPClassesInStudy="",
                NumberOfStudyRelatedSeries=None,
                NumberOfStudyRelatedInstances=None,
            )
            assert study.StudyInstanceUID == STUDY
            assert list(study.ModalitiesInStudy) == ["MR", "RTSTRUCT"]
            assert set(study.SOPClassesInStudy) == set(GIVEN)
            counts = study.NumberOfStudyRelatedSeries, study.NumberOfStudyRelatedInstances
            assert counts == (2, 3)
            assert study.RetrieveAETitle == "HILUM"
            _, (series,), _ = find(
                assoc,
                STUDY_ROOT_FIND,
                "SERIES",
                StudyInstanceUID=STUDY,
                SeriesInstanceUID="",
                Modality="RTSTRUCT",
                NumberOfSeriesRelatedInstances=None,
            )
            assert series.SeriesInstanceUID == RT_SERIES
            assert series.NumberOfSeriesRelatedInstances == 1
            _, images, _ = find(
                assoc,
                PATIENT_ROOT_FIND,
                "IMAGE",
                PatientID=PATIENT["PatientID"],
                StudyInstanceUID=STUDY,
                SeriesInstanceUID=MR_SERIES,
                SOPInstanceUID="",
                InstanceNumber=None,
                Rows=None,
            )
            assert [(i.InstanceNumber, i.Rows) for i in images] == [(1, 16), (2, 16)]


@pytest.mark.parametrize("key", [k for k in KEYS if not k.is_counted], ids=lambda k: k.keyword)
def test_every_key_of_the_table_is_returned_and_matched(key: keys.Key, asked_node: Any) -> None:
    """Issue 6, 8: the keys that the statement lists are those that are obeyed."""
    node, ds = asked_node
    held = ds.get(key.keyword)
    above = {
        "StudyInstanceUID": STUDY,
        "SeriesInstanceUID": MR_SERIES,
        "PatientID": PATIENT["PatientID"],
    }
    with asking(node, PATIENT_ROOT_FIND) as assoc:
        asked = {**above, key.keyword: held}
        levels = [level for level in Level if key in keys_at(level)]
        level = levels[0]
        permitted = {k.keyword for k in keys_at(level)}
        wanted = {k: v for k, v in asked.items() if k in permitted}
        statuses, found, _ = find(assoc, PATIENT_ROOT_FIND, level, **wanted)
        assert statuses == [0xFF00, 0], key.keyword
        assert str(found[0][key.keyword].value) == str(held)
        other = {"UI": "1.2.3", "DA": "19000101", "TM": "235959", "IS": "77", "US": 77}
        wanted[key.keyword] = other.get(ds[key.keyword].VR, "NOSUCH")
        assert find(assoc, PATIENT_ROOT_FIND, level, **wanted)[0] == [0]


@pytest.fixture(scope="module")
def asked_node(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Return a node with one object that has every key."""
    ds = result(
        1,
        IssuerOfPatientID="CLINIC",
        ReferringPhysicianName="Doctor^D",
        SeriesTime="110000",
        BodyPartExamined="ABDOMEN",
        OperatorsName="Op^O",
        FrameOfReferenceUID="1.2.826.0.4",
        InstanceCreationDate="20240519",
        InstanceCreationTime="120000",
        StructureSetLabel="LABEL",
        NumberOfFrames=1,
    )
    with answering(tmp_path_factory.mktemp("asked")) as node:
        node.adopt(ds)
        yield node, ds


@pytest.mark.parametrize(
    ("asked", "is_found"),
    [
        ({"PatientName": "mArKeDnAmE^ANNA"}, True),
        ({"PatientName": "*name^?nna"}, True),
        ({"PatientName": "MARKEDNAME"}, False),
        ({"PatientID": "marked-4711"}, False),
        ({"PatientID": "MARKED-????"}, True),
        ({"PatientID": "*****"}, True),
        ({"StudyDate": "20240517"}, True),
        ({"StudyDate": "20240501-20240531"}, True),
        ({"StudyDate": "-20240516"}, False),
        ({"StudyDate": "20240518-"}, False),
        ({"StudyTime": "1015"}, True),
        ({"StudyTime": "090000-1015"}, True),
        ({"StudyTime": "101501-"}, False),
        ({"StudyInstanceUID": ["1.2.3", STUDY]}, True),
        ({"StudyInstanceUID": ["1.2.3", "1.2.4"]}, False),
        ({"ModalitiesInStudy": "RTSTRUCT"}, True),
        ({"ModalitiesInStudy": "CT"}, False),
        ({"SOPClassesInStudy": uid.RTStructureSetStorage}, True),
        ({"StudyDescription": "*ABDOMEN"}, False),
        ({"StudyDescription": "*abdomen"}, True),
        ({"PatientName": "'; DROP TABLE instances; --"}, False),
        ({"AccessionNumber": "../../etc/passwd"}, False),
        ({"StudyID": "S1' OR '1'='1"}, False),
    ],
)
def test_values_match_as_the_standard_says(
    asked: dict[str, Any], is_found: bool, matched_node: Any
) -> None:
    """PS3.4 C.2.2.2: single value, list, wildcard, range; hostile text is text."""
    wanted = {"StudyInstanceUID": "", **asked}
    with asking(matched_node, STUDY_ROOT_FIND) as assoc:
        statuses, found, _ = find(assoc, STUDY_ROOT_FIND, "STUDY", **wanted)
    assert statuses == ([0xFF00, 0] if is_found else [0])
    assert [a.StudyInstanceUID for a in found] == ([STUDY] if is_found else [])


@pytest.fixture(scope="module")
def matched_node(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Return a node with one result set of two series."""
    with answering(tmp_path_factory.mktemp("matched")) as node:
        node.adopt(result(1), structure_set())
        yield node


def test_answer_is_in_the_character_set_of_the_request_where_that_has_the_letters(
    tmp_path: Path,
) -> None:
    """PS3.4 C.4.1.1.3.2: what cannot be said in it comes in Unicode; plain text in none."""
    with answering(tmp_path) as node:
        latin = result(1, PatientName="Müller^Änne", SpecificCharacterSet="ISO_IR 100")
        greek = result(
            1,
            study=OTHER_STUDY,
            series="1.2.826.0.78.2",
            PatientName="Ελένη^Α",
            SpecificCharacterSet="ISO_IR 126",
        )
        node.adopt(latin)
        node.adopt(greek, case_id="case-2")
        with asking(node, STUDY_ROOT_FIND) as assoc:
            for study, character_set, name in (
                (STUDY, "ISO_IR 100", "Müller^Änne"),
                (OTHER_STUDY, "ISO_IR 192", "Ελένη^Α"),
            ):
                _, (answer,), _ = find(
                    assoc,
                    STUDY_ROOT_FIND,
                    "STUDY",
                    SpecificCharacterSet="ISO_IR 100",
                    StudyInstanceUID=study,
                    PatientName="",
                )
                assert answer.SpecificCharacterSet == character_set
                assert answer.PatientName == name
            _, (answer,), _ = find(
                assoc,
                STUDY_ROOT_FIND,
                "STUDY",
                SpecificCharacterSet="ISO_IR 192",
                StudyInstanceUID="",
                PatientName="müller*",
            )
            assert answer.StudyInstanceUID == STUDY
            _, (plain, _), _ = find(assoc, STUDY_ROOT_FIND, "STUDY", StudyInstanceUID="")
            assert "SpecificCharacterSet" not in plain


def test_unsupported_keys_are_left_out_and_told(tmp_path: Path) -> None:
    """PS3.4 C.4.1.1.4: 0xFF01 where a key, a sequence or a private element is not supported."""
    sequence = Sequence([Dataset()])
    with answering(tmp_path) as node:
        node.adopt(result(1))
        with asking(node, STUDY_ROOT_FIND) as assoc:
            for more in ({"PatientWeight": None}, {"RequestAttributesSequence": sequence},
                         {"SeriesInstanceUID": MR_SERIES}):  # fmt: skip
                statuses, (answer,), _ = find(
                    assoc, STUDY_ROOT_FIND, "STUDY", StudyInstanceUID="", **more
                )
                assert statuses == [0xFF01, 0]
                assert not set(more) & set(answer.dir())


@BOTH
def test_only_the_newest_result_set_of_a_case_is_found(
    transport: Transport, tmp_path: Path
) -> None:
    """A planning system that pulls must not meet a proposal that was replaced."""
    with answering(tmp_path, transport) as node, asking(node, STUDY_ROOT_FIND) as assoc:

        def series() -> list[str]:
            _, found, _ = find(
                assoc, STUDY_ROOT_FIND, "SERIES", StudyInstanceUID=STUDY, SeriesInstanceUID=""
            )
            return sorted(a.SeriesInstanceUID for a in found)

        node.adopt(result(1), structure_set())
        assert series() == [MR_SERIES, RT_SERIES]
        node.adopt(result(1, series="1.2.826.0.77.9"), revision=2)
        assert series() == ["1.2.826.0.77.9"]
        node.adopt(revision=3)  # rejected: the last results stay
        assert series() == ["1.2.826.0.77.9"]


@pytest.mark.parametrize(
    ("model", "wanted", "comment"),
    [
        (STUDY_ROOT_FIND, {}, "QueryRetrieveLevel"),
        (STUDY_ROOT_FIND, {"QueryRetrieveLevel": "WARD"}, "QueryRetrieveLevel"),
        (STUDY_ROOT_FIND, {"QueryRetrieveLevel": "PATIENT"}, "not in the information model"),
        (STUDY_ROOT_FIND, {"QueryRetrieveLevel": "SERIES"}, "StudyInstanceUID"),
        (
            STUDY_ROOT_FIND,
            {"QueryRetrieveLevel": "IMAGE", "StudyInstanceUID": STUDY},
            "SeriesInstanceUID",
        ),
        (PATIENT_ROOT_FIND, {"QueryRetrieveLevel": "STUDY"}, "PatientID"),
    ],
)
def test_identifier_that_does_not_fit_the_model_is_refused(
    model: str, wanted: dict[str, str], comment: str, matched_node: Any
) -> None:
    """PS3.4 C.4.1.1.4: 0xA900, and what is wrong with it, without its values."""
    with asking(matched_node, model) as assoc:
        ds = Dataset()
        ds.PatientName = "MARKEDNAME"
        for keyword, value in wanted.items():
            setattr(ds, keyword, value)
        ((status, answer),) = list(assoc.send_c_find(ds, model))
    assert (status.Status, answer) == (0xA900, None)
    assert comment in status.ErrorComment
    assert "MARKED" not in status.ErrorComment


def raw_find(assoc: Any, content: bytes, message_id: int = 1) -> C_FIND:
    """Ask with bytes as they are; return the first answer."""
    request = C_FIND()
    request.MessageID, request.Priority = message_id, 2
    request.AffectedSOPClassUID = uid.UID(STUDY_ROOT_FIND)
    request.Identifier = BytesIO(content)
    assoc._reactor_checkpoint.clear()
    assoc.dimse.send_msg(request, assoc.accepted_contexts[0].context_id)
    _, answer = assoc.dimse.get_msg(block=True)
    assoc._reactor_checkpoint.set()
    return answer


def element(tag: int, value: bytes) -> bytes:
    """Return an element in Implicit VR Little Endian."""
    return b"".join(
        (
            (tag >> 16).to_bytes(2, "little"),
            (tag & 0xFFFF).to_bytes(2, "little"),
            len(value).to_bytes(4, "little"),
            value,
        )
    )


def deep(levels: int) -> bytes:
    """Return sequences within sequences, of undefined length: their ends must be looked for."""
    sequence = bytes.fromhex("08001511ffffffff")
    item = bytes.fromhex("feff00e0ffffffff")
    item_end, sequence_end = bytes.fromhex("feff0de000000000"), bytes.fromhex("feffdde000000000")
    return (sequence + item) * levels + (item_end + sequence_end) * levels


LEVEL = element(0x00080052, b"STUDY ")
IMPLICIT = (uid.ImplicitVRLittleEndian,)
HOSTILE = {
    "cut": LEVEL + element(0x0020000D, b"1.2.3 ")[:-2],
    "no data set at all": b"\xff" * 100,
    "date that is none": element(0x00080020, b"tomorrow") + LEVEL,
    "UID that is none": LEVEL + element(0x0020000D, b"'; DROP--"),
    "too deep": LEVEL + deep(200),
    "too large": LEVEL + element(0x00100010, b"A" * (LARGEST_BYTES + 2)),
    "long name": LEVEL + element(0x00100010, b"*a" * 5000),
    "twice": LEVEL + LEVEL,
}


@BOTH
@pytest.mark.parametrize("what", HOSTILE)
def test_hostile_identifier_is_refused_and_the_association_goes_on(
    what: str, transport: Transport, tmp_path: Path
) -> None:
    """Issue 6: huge, deep, wrong VRs, SQL in values: an answer, no traceback, no hang."""
    with (
        answering(tmp_path, transport) as node,
        asking(node, STUDY_ROOT_FIND, syntaxes=IMPLICIT) as assoc,
    ):
        node.adopt(result(1))
        assert raw_find(assoc, HOSTILE[what]).Status == 0xA900
        assert raw_find(assoc, LEVEL, 2).Status in (0xFF00, 0x0000)


def test_ten_thousand_uids_are_looked_up_at_once(tmp_path: Path) -> None:
    """Issue 6: a long list is no burden; beyond the length of an element it is refused."""
    uids = [f"1.2.{n}" for n in range(6_000)]
    with answering(tmp_path) as node:
        node.adopt(result(1))
        with asking(node, STUDY_ROOT_FIND, syntaxes=IMPLICIT) as assoc:
            asked = {"StudyInstanceUID": [*uids, STUDY]}
            statuses, found, _ = find(assoc, STUDY_ROOT_FIND, "STUDY", **asked)
            assert (statuses, len(found)) == ([0xFF00, 0], 1)
            asked = {"StudyInstanceUID": [f"1.2.826.0.{n}.77" for n in range(10_000)]}
            assert find(assoc, STUDY_ROOT_FIND, "STUDY", **asked)[0] == [0xA900]


@BOTH
def test_peers_without_the_role_receive_are_refused(transport: Transport, tmp_path: Path) -> None:
    """A peer can do only what its roles allow: 0x0124 to all three requests."""
    with answering(tmp_path, transport) as node:
        node.adopt(result(1))
        classes = (STUDY_ROOT_FIND, STUDY_ROOT_GET, STUDY_ROOT_MOVE)
        with asking(node, *classes, calling_ae="SCANNER") as assoc:
            ds = identifier("STUDY", StudyInstanceUID=STUDY)
            found = [s.Status for s, _ in assoc.send_c_find(ds, STUDY_ROOT_FIND)]
            got = [s.Status for s, _ in assoc.send_c_get(ds, STUDY_ROOT_GET)]
            moved = [s.Status for s, _ in assoc.send_c_move(ds, "TPS", STUDY_ROOT_MOVE)]
    assert found == got == moved == [0x0124]


@BOTH
def test_query_that_is_cancelled_ends(transport: Transport, tmp_path: Path) -> None:
    """PS3.4 C.4.1.3.2: C-CANCEL is honoured while answers are still being sent."""
    with answering(tmp_path, transport) as node:
        node.adopt(*(result(n) for n in range(1, 1500)))
        with asking(node, STUDY_ROOT_FIND) as assoc:
            wanted = identifier(
                "IMAGE", StudyInstanceUID=STUDY, SeriesInstanceUID=MR_SERIES, SOPInstanceUID=""
            )
            answers = assoc.send_c_find(wanted, STUDY_ROOT_FIND, msg_id=7)
            statuses = []
            for status, _ in answers:
                statuses.append(status.Status)
                if len(statuses) == 3:
                    cancel = C_CANCEL()
                    cancel.MessageIDBeingRespondedTo = 7
                    assoc.dimse.send_msg(cancel, assoc.accepted_contexts[0].context_id)
            assert statuses[-1] == 0xFE00
            assert len(statuses) < 1499
            count = len(find(assoc, STUDY_ROOT_FIND, "STUDY", StudyInstanceUID=STUDY)[1])
            assert count == 1  # the cancel of one request leaves the next alone


@BOTH
def test_cancel_that_comes_too_late_does_not_end_the_next_query(
    transport: Transport, tmp_path: Path
) -> None:
    """Message IDs are used again: pynetdicom's own requests all have the number 1."""
    with answering(tmp_path, transport) as node:
        node.adopt(result(1))
        with asking(node, STUDY_ROOT_FIND) as assoc:
            for _ in range(3):
                statuses, found, _ = find(assoc, STUDY_ROOT_FIND, "STUDY", PatientID="")
                assert ([hex(s) for s in statuses], len(found)) == (["0xff00", "0x0"], 1)
                assoc.send_c_cancel(1, query_model=STUDY_ROOT_FIND)


@pytest.mark.slow
def test_query_with_too_many_matches_says_so(tmp_path: Path) -> None:
    """An answer that is not all of it must not look as if it were: 0xA700 at the end."""
    values = {"StudyInstanceUID": STUDY, "SeriesInstanceUID": MR_SERIES}
    count = keys.MOST_MATCHES + 1
    series = ResultSeries(STUDY, MR_SERIES, values, (uid.MRImageStorage,), count)
    objects = [
        ResultObject(f"{MR_SERIES}.{n}", uid.MRImageStorage, f"{n}.dcm", {}) for n in range(count)
    ]
    with answering(tmp_path) as node:
        Catalogue(node.index).add(Adopted("case-1", 1, "2026", {}), [(series, objects)])
        with asking(node, STUDY_ROOT_FIND) as assoc:
            statuses, _, comment = find(
                assoc,
                STUDY_ROOT_FIND,
                "IMAGE",
                StudyInstanceUID=STUDY,
                SeriesInstanceUID=MR_SERIES,
            )
    assert statuses == [0xFF00] * keys.MOST_MATCHES + [0xA700]
    assert f"more than {keys.MOST_MATCHES}" in comment


@BOTH
def test_sender_finds_what_it_sent_itself(transport: Transport, tmp_path: Path) -> None:
    """A sender may verify by C-FIND at IMAGE level that its objects are here; only its own."""
    one = ct(1)
    peers = (
        peer("scanner", Role.SEND),
        peer("other", Role.SEND),
        peer("tps", Role.RECEIVE, Role.SEND, port=1),
    )
    with answering(tmp_path, transport, peers) as node:
        node.adopt(result(1))
        uids = [one.SOPInstanceUID, result(1).SOPInstanceUID, "1.2.3"]
        for title, found in (("SCANNER", [one.SOPInstanceUID]), ("OTHER", []),
                             ("TPS", [result(1).SOPInstanceUID])):  # fmt: skip
            classes = (STUDY_ROOT_FIND, uid.CTImageStorage)
            with asking(node, *classes, calling_ae=title) as assoc:
                if title == "SCANNER":
                    one.ensure_file_meta()
                    one.file_meta.TransferSyntaxUID = uid.ExplicitVRLittleEndian
                    assert assoc.send_c_store(one).Status == 0
                    assert node.scp.wait_until_filed(10)
                statuses, answers, _ = find(
                    assoc,
                    STUDY_ROOT_FIND,
                    "IMAGE",
                    SOPInstanceUID=uids,
                    SOPClassUID="",
                    StudyInstanceUID="",
                )
                assert statuses[-1] == 0
                assert [a.SOPInstanceUID for a in answers] == found
                if title == "SCANNER":
                    assert answers[0].InstanceAvailability == "OFFLINE"
                    assert not answers[0].RetrieveAETitle
                    assert answers[0].StudyInstanceUID == one.StudyInstanceUID
                    wide = find(assoc, STUDY_ROOT_FIND, "STUDY", StudyInstanceUID="")[0]
                    assert wide == [0x0124]


def test_result_that_its_receiver_sent_back_is_found_once(tmp_path: Path) -> None:
    """PS3.4 C.2.2.1: the unique key tells one answer from another."""
    one = result(1)
    both = (peer("tps", Role.RECEIVE, Role.SEND, port=1),)
    with answering(tmp_path, peers=both) as node:
        node.adopt(one)
        with asking(node, STUDY_ROOT_FIND, uid.MRImageStorage) as assoc:
            assert assoc.send_c_store(one).Status == 0
            assert node.scp.wait_until_filed(10)
            _, answers, _ = find(assoc, STUDY_ROOT_FIND, "IMAGE", SOPInstanceUID=one.SOPInstanceUID)
    assert [a.InstanceAvailability for a in answers] == ["ONLINE"]


def test_patients_of_two_issuers_are_two(tmp_path: Path) -> None:
    """The same Patient ID of another clinic is another patient."""
    with answering(tmp_path) as node:
        for at, issuer in enumerate(("A", "B", "A")):
            one = result(
                1, study=f"1.2.826.0.80.{at}", series=f"1.2.826.0.81.{at}", IssuerOfPatientID=issuer
            )
            node.adopt(one, case_id=f"case-{at}")
        with asking(node, PATIENT_ROOT_FIND) as assoc:
            _, found, _ = find(
                assoc,
                PATIENT_ROOT_FIND,
                "PATIENT",
                PatientID="",
                IssuerOfPatientID="",
                NumberOfPatientRelatedStudies=None,
            )
    told = {(a.IssuerOfPatientID, a.NumberOfPatientRelatedStudies) for a in found}
    assert (len(found), told) == (2, {("A", 2), ("B", 1)})


# --- C-GET -------------------------------------------------------------------------------------


@BOTH
def test_study_is_got_over_the_same_association(transport: Transport, tmp_path: Path) -> None:
    """Issue 6, 7: C-GET with role selection, every object as it lies, long contours whole."""
    taken: list[Dataset] = []
    with answering(tmp_path, transport) as node:
        objects = [result(1), result(2), structure_set()]
        node.adopt(*objects)
        with asking(node, STUDY_ROOT_GET, given=GIVEN, handlers=taking(taken)) as assoc:
            answers = list(
                assoc.send_c_get(identifier("STUDY", StudyInstanceUID=STUDY), STUDY_ROOT_GET)
            )
    final = answers[-1][0]
    assert [s.Status for s, _ in answers] == [0xFF00, 0xFF00, 0]
    assert (final.NumberOfCompletedSuboperations, final.NumberOfFailedSuboperations) == (3, 0)
    by_uid = {ds.SOPInstanceUID: ds for ds in taken}
    assert set(by_uid) == {ds.SOPInstanceUID for ds in objects}
    for ds in objects:
        assert by_uid[ds.SOPInstanceUID] == ds
        assert by_uid[ds.SOPInstanceUID].file_meta.TransferSyntaxUID in (
            ds.file_meta.TransferSyntaxUID,
        )


@BOTH
def test_objects_are_encoded_as_the_peer_takes_them(transport: Transport, tmp_path: Path) -> None:
    """An object that lies in Explicit VR goes to a peer that knows Implicit VR only."""
    taken: list[Dataset] = []
    with answering(tmp_path, transport) as node:
        node.adopt(result(1))
        ae = AE("TPS")
        ae.add_requested_context(STUDY_ROOT_GET, uid.ImplicitVRLittleEndian)
        ae.add_requested_context(uid.MRImageStorage, uid.ImplicitVRLittleEndian)
        assoc = ae.associate(
            "127.0.0.1",
            node.port,
            ae_title="HILUM",
            ext_neg=[build_role(uid.MRImageStorage, scp_role=True)],
            evt_handlers=list(taking(taken)),
        )
        wanted = identifier("SERIES", StudyInstanceUID=STUDY, SeriesInstanceUID=MR_SERIES)
        statuses = [s.Status for s, _ in assoc.send_c_get(wanted, STUDY_ROOT_GET)]
        assoc.release()
    assert statuses == [0]
    assert taken[0].file_meta.TransferSyntaxUID == uid.ImplicitVRLittleEndian
    assert taken[0] == result(1)


@BOTH
@pytest.mark.parametrize(
    ("given", "answer", "status", "failed"),
    [
        ((uid.MRImageStorage,), 0x0000, 0xB000, 1),  # no context for the structure set
        (GIVEN, 0xA700, 0xA702, 2),
        (GIVEN, 0xB000, 0xB000, 0),  # stored with a warning
        ((), 0x0000, 0xA702, 2),
    ],
)
def test_failures_of_a_retrieval_are_counted_and_listed(
    given: tuple[str, ...],
    answer: int,
    status: int,
    failed: int,
    transport: Transport,
    tmp_path: Path,
) -> None:
    """PS3.4 C.4.3.1.4: counts, and the Failed SOP Instance UID List."""
    with answering(tmp_path, transport) as node:
        node.adopt(result(1), structure_set())
        with asking(node, STUDY_ROOT_GET, given=given, handlers=taking([], answer)) as assoc:
            answers = list(
                assoc.send_c_get(identifier("STUDY", StudyInstanceUID=STUDY), STUDY_ROOT_GET)
            )
    final, listed = answers[-1]
    assert (final.Status, final.NumberOfFailedSuboperations) == (status, failed)
    names = listed.get("FailedSOPInstanceUIDList") or []
    assert len([names] if isinstance(names, str) else names) == failed


@BOTH
def test_get_that_is_cancelled_ends(transport: Transport, tmp_path: Path) -> None:
    """PS3.4 C.4.3.3.1: nothing more is sent, and the rest is told as remaining."""
    taken: list[Dataset] = []
    with answering(tmp_path, transport) as node:
        node.adopt(*(result(n) for n in range(1, 200)))
        with asking(
            node, STUDY_ROOT_GET, given=(uid.MRImageStorage,), handlers=taking(taken)
        ) as assoc:
            wanted = identifier("STUDY", StudyInstanceUID=STUDY)
            statuses = []
            for status, _ in assoc.send_c_get(wanted, STUDY_ROOT_GET, msg_id=9):
                statuses.append(status)
                if len(statuses) == 2:
                    assoc.send_c_cancel(9, query_model=STUDY_ROOT_GET)
    final = statuses[-1]
    assert final.Status == 0xFE00
    assert len(taken) < 199
    assert final.NumberOfRemainingSuboperations == 199 - final.NumberOfCompletedSuboperations


@pytest.mark.slow
@BOTH
def test_peer_that_aborts_in_the_middle_of_a_get_leaves_the_node_well(
    transport: Transport, tmp_path: Path
) -> None:
    """A sender that is gone costs nothing: the next request is served."""
    with answering(tmp_path, transport) as node:
        node.adopt(*(result(n) for n in range(1, 20)))

        def abort(event: Any) -> int:
            event.assoc.abort()
            return 0

        with asking(
            node,
            STUDY_ROOT_GET,
            given=(uid.MRImageStorage,),
            handlers=((evt.EVT_C_STORE, abort),),
        ) as assoc:
            list(assoc.send_c_get(identifier("STUDY", StudyInstanceUID=STUDY), STUDY_ROOT_GET))
        taken: list[Dataset] = []
        with asking(
            node, STUDY_ROOT_GET, given=(uid.MRImageStorage,), handlers=taking(taken)
        ) as assoc:
            list(assoc.send_c_get(identifier("STUDY", StudyInstanceUID=STUDY), STUDY_ROOT_GET))
        assert len(taken) == 19


# --- C-MOVE ------------------------------------------------------------------------------------


@BOTH
def test_study_is_moved_to_a_configured_peer(transport: Transport, tmp_path: Path) -> None:
    """Issue 6, 7: over a new association, with a pending answer for each object but the last."""
    taken: list[Dataset] = []
    port = free_port()
    ae = AE("ARCHIVE")
    for sop_class in GIVEN:
        ae.add_supported_context(
            sop_class, [uid.ExplicitVRLittleEndian, uid.ImplicitVRLittleEndian]
        )
    server = ae.start_server(("127.0.0.1", port), block=False, evt_handlers=list(taking(taken)))
    peers = (peer("tps", Role.RECEIVE, port=1), peer("archive", Role.RECEIVE, port=port))
    try:
        with answering(tmp_path, transport, peers) as node:
            node.adopt(result(1), result(2), structure_set())
            with asking(node, PATIENT_ROOT_MOVE) as assoc:
                wanted = identifier("STUDY", PatientID=PATIENT["PatientID"], StudyInstanceUID=STUDY)
                answers = list(assoc.send_c_move(wanted, "ARCHIVE", PATIENT_ROOT_MOVE))
                none = list(
                    assoc.send_c_move(
                        identifier("STUDY", StudyInstanceUID="1.2.3"), "ARCHIVE", PATIENT_ROOT_MOVE
                    )
                )
    finally:
        server.shutdown()
    assert [s.Status for s, _ in answers] == [0xFF00, 0xFF00, 0]
    assert [s.get("NumberOfRemainingSuboperations") for s, _ in answers] == [2, 1, None]
    assert answers[-1][0].NumberOfCompletedSuboperations == 3
    assert len(taken) == 3
    assert [(s.Status, s.NumberOfCompletedSuboperations) for s, _ in none] == [(0, 0)]


@BOTH
@pytest.mark.parametrize(
    ("destination", "status", "failed"),
    [("NOBODY", 0xA801, None), ("SCANNER", 0xA801, None), ("TPS", 0xA702, 1)],
)
def test_move_to_nobody_we_know_or_reach_is_refused(
    destination: str, status: int, failed: int | None, transport: Transport, tmp_path: Path
) -> None:
    """PS3.4 C.4.2.1.5: results go to configured peers with the role receive only."""
    with answering(tmp_path, transport) as node:
        node.adopt(result(1))
        with asking(node, STUDY_ROOT_MOVE) as assoc:
            wanted = identifier("STUDY", StudyInstanceUID=STUDY)
            ((final, _),) = list(assoc.send_c_move(wanted, destination, STUDY_ROOT_MOVE))
    assert final.Status == status
    assert final.get("NumberOfFailedSuboperations") == failed
    assert final.ErrorComment


@BOTH
def test_move_that_is_cancelled_ends(transport: Transport, tmp_path: Path) -> None:
    """PS3.4 C.4.2.3.1: nothing more is sent, and the association with the destination ends."""
    taken: list[Dataset] = []
    ended = threading.Event()
    handlers = [
        *taking(taken),
        (evt.EVT_ABORTED, lambda _event: ended.set()),
        (evt.EVT_RELEASED, lambda _event: ended.set()),
        (evt.EVT_CONN_CLOSE, lambda _event: ended.set()),
    ]
    port = free_port()
    ae = AE("TPS")
    ae.add_supported_context(uid.MRImageStorage)
    server = ae.start_server(("127.0.0.1", port), block=False, evt_handlers=handlers)
    peers = (peer("tps", Role.RECEIVE, port=port),)
    try:
        with answering(tmp_path, transport, peers) as node:
            node.adopt(*(result(n) for n in range(1, 300)))
            with asking(node, STUDY_ROOT_MOVE) as assoc:
                wanted = identifier("STUDY", StudyInstanceUID=STUDY)
                statuses = []
                for status, _ in assoc.send_c_move(wanted, "TPS", STUDY_ROOT_MOVE, msg_id=9):
                    statuses.append(status)
                    if len(statuses) == 2:
                        assoc.send_c_cancel(9, query_model=STUDY_ROOT_MOVE)
                assert ended.wait(10)
                final = statuses[-1]
                assert final.Status == 0xFE00
                assert len(taken) < 299
                done = final.NumberOfCompletedSuboperations
                assert final.NumberOfRemainingSuboperations == 299 - done
                assert assoc.is_established
    finally:
        server.shutdown()


def test_flood_of_moves_is_bounded(tmp_path: Path) -> None:
    """One peer's requests do not take every association: the third at once gets 0xA702."""
    begun, go_on = threading.Semaphore(0), threading.Event()

    def store(_event: Any) -> int:
        begun.release()
        go_on.wait(20)
        return 0

    port = free_port()
    ae = AE("TPS")
    ae.add_supported_context(uid.MRImageStorage)
    server = ae.start_server(
        ("127.0.0.1", port), block=False, evt_handlers=[(evt.EVT_C_STORE, store)]
    )
    wanted = identifier("STUDY", StudyInstanceUID=STUDY)

    def move(node: Any) -> int:
        with asking(node, STUDY_ROOT_MOVE) as assoc:
            return int(list(assoc.send_c_move(wanted, "TPS", STUDY_ROOT_MOVE))[-1][0].Status)

    try:
        with (
            answering(tmp_path, "fast", (peer("tps", Role.RECEIVE, port=port),)) as node,
            ThreadPoolExecutor(keys.MOVES_PER_PEER) as pool,
        ):
            node.adopt(result(1))
            moving = [pool.submit(move, node) for _ in range(keys.MOVES_PER_PEER)]
            for _ in moving:
                assert begun.acquire(timeout=20)
            assert move(node) == 0xA702
            go_on.set()
            assert [one.result(20) for one in moving] == [0, 0]
            assert move(node) == 0
    finally:
        go_on.set()
        server.shutdown()


@BOTH
def test_object_without_an_answer_in_the_middle_of_a_move_is_the_one_that_is_named(
    transport: Transport, tmp_path: Path
) -> None:
    """PS3.4 C.4.2.3.1: the list tells what did not arrive, wherever in the order it stands."""
    lost = f"{MR_SERIES}.2"
    with StubTps(usual(Deed.ABORT, at=lost)) as stub:
        with answering(tmp_path, transport, (peer("tps", Role.RECEIVE, port=stub.port),)) as node:
            node.adopt(*(result(n) for n in range(1, 6)))
            with asking(node, STUDY_ROOT_MOVE) as assoc:
                wanted = identifier("STUDY", StudyInstanceUID=STUDY)
                final, listed = list(assoc.send_c_move(wanted, "TPS", STUDY_ROOT_MOVE))[-1]
        kept = set(stub.kept)
    assert (final.Status, final.NumberOfFailedSuboperations) == (0xB000, 1)
    assert listed.FailedSOPInstanceUIDList == lost
    assert kept == {f"{MR_SERIES}.{n}" for n in (1, 3, 4, 5)}


def test_result_that_is_damaged_keeps_back_no_other_in_a_move(tmp_path: Path) -> None:
    """One file that the disk lost is one failed object."""
    with StubTps() as stub:
        with answering(tmp_path, peers=(peer("tps", Role.RECEIVE, port=stub.port),)) as node:
            node.adopt(*(result(n) for n in range(1, 4)))
            with asking(node, STUDY_ROOT_MOVE, STUDY_ROOT_FIND) as assoc:
                assert find(assoc, STUDY_ROOT_FIND, "STUDY", StudyInstanceUID=STUDY)[1]
                (damaged,) = tmp_path.glob(f"results/**/{MR_SERIES}.2.dcm")
                damaged.write_bytes(b"")
                wanted = identifier("STUDY", StudyInstanceUID=STUDY)
                final, listed = list(assoc.send_c_move(wanted, "TPS", STUDY_ROOT_MOVE))[-1]
        kept = set(stub.kept)
    assert final.Status == 0xB000
    assert (final.NumberOfCompletedSuboperations, final.NumberOfFailedSuboperations) == (2, 1)
    assert listed.FailedSOPInstanceUIDList == f"{MR_SERIES}.2"
    assert kept == {f"{MR_SERIES}.{n}" for n in (1, 3)}


@BOTH
@pytest.mark.parametrize("service", ["move", "get"])
def test_node_that_stops_waits_for_no_slow_receiver(
    service: str, transport: Transport, tmp_path: Path
) -> None:
    """A stop takes seconds, whoever is being sent to and does not answer."""
    begun, go_on = threading.Event(), threading.Event()

    def store(_event: Any) -> int:
        begun.set()
        go_on.wait(60)
        return 0

    slow = ((evt.EVT_C_STORE, store),)
    port = free_port()
    ae = AE("TPS")
    ae.add_supported_context(uid.MRImageStorage)
    server = ae.start_server(("127.0.0.1", port), block=False, evt_handlers=list(slow))
    wanted = identifier("STUDY", StudyInstanceUID=STUDY)

    def ask(node: Any) -> None:
        if service == "move":
            with asking(node, STUDY_ROOT_MOVE) as assoc:
                list(assoc.send_c_move(wanted, "TPS", STUDY_ROOT_MOVE))
        else:
            given = (uid.MRImageStorage,)
            with asking(node, STUDY_ROOT_GET, given=given, handlers=slow) as assoc:
                list(assoc.send_c_get(wanted, STUDY_ROOT_GET))

    peers = (peer("tps", Role.RECEIVE, port=port),)
    try:
        with answering(tmp_path, transport, peers) as node, ThreadPoolExecutor(1) as pool:
            node.adopt(*(result(n) for n in range(1, 20)))
            asked = pool.submit(ask, node)
            assert begun.wait(20)
            start_s = time.monotonic()
            node.answering.stop()
            node.scp.stop()
            took_s = time.monotonic() - start_s
            go_on.set()
            asked.result(60)
    finally:
        go_on.set()
        server.shutdown()
    assert took_s < 5


def test_no_identifier_is_logged_by_queries(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Rule of the node: neither what was asked nor what was found, whatever the level."""
    caplog.set_level("DEBUG")
    with answering(tmp_path) as node:
        node.adopt(result(1))
        with asking(node, PATIENT_ROOT_FIND, STUDY_ROOT_MOVE) as assoc:
            find(assoc, PATIENT_ROOT_FIND, "PATIENT", PatientName="MARKEDNAME*", PatientID="")
            find(assoc, PATIENT_ROOT_FIND, "WARD", PatientName="MARKEDNAME*")
            wanted = identifier("STUDY", StudyInstanceUID=STUDY, PatientID="MARKED-4711")
            list(assoc.send_c_move(wanted, "TPS", STUDY_ROOT_MOVE))
    ours = [r for r in caplog.records if r.name.startswith("node")]
    assert {"query.answered", "query.refused", "retrieval.ended"} <= {r.message for r in ours}
    text = "".join(str(vars(r)) for r in ours)
    assert "MARKED" not in text
    assert STUDY not in text


def test_release_in_the_middle_of_a_query_ends_it(tmp_path: Path) -> None:
    """A peer that releases while it is answered is let go, and the next one is served."""
    with answering(tmp_path) as node:
        node.adopt(*(result(n) for n in range(1, 300)))
        with asking(node, STUDY_ROOT_FIND) as assoc:
            wanted = identifier("IMAGE", StudyInstanceUID=STUDY, SeriesInstanceUID=MR_SERIES)
            content = encode(wanted, True, True)
            assert content is not None
            raw_find(assoc, content)
            assoc.abort()
        wait_for(lambda: not node.scp._sessions, timeout_s=10, what="the association to end")
        with asking(node, STUDY_ROOT_FIND) as assoc:
            assert len(find(assoc, STUDY_ROOT_FIND, "STUDY", StudyInstanceUID="")[1]) == 1
