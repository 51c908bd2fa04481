"""C-FIND over our results, over sockets, on both transports (issue 6, 7)."""

import struct
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from pydicom import Dataset, uid
from pydicom.sequence import Sequence
from pynetdicom.dimse_primitives import C_CANCEL, C_FIND
from pynetdicom.dsutils import encode

from node.answering import keys
from node.answering.identifier import LARGEST_BYTES
from node.answering.keys import (
    KEYS,
    PATIENT_ROOT_FIND,
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
    identifier,
    peer,
    result,
    structure_set,
)
from tests.hostile_peer import (
    ASSOCIATE_AC,
    LAST_FRAGMENT,
    STORE_CONTEXT,
    WHOLE_COMMAND,
    HostilePeer,
    command,
    context,
    data_pdu,
    request,
)
from tests.nodes import wait_for
from tests.raw_sender import DATA_TF
from tests.receiving_node import ct

C_FIND_RQ = 0x0020
STATUS_HEAD = b"\x00\x00\x00\x09\x02\x00\x00\x00"
"""Tag and length of the element Status of a command."""

BOTH = pytest.mark.parametrize("transport", ["fast", "plain"])
GIVEN = (uid.MRImageStorage, uid.RTStructureSetStorage)
OTHER_STUDY = "1.2.826.0.78.1"


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


def responses_to(port: int, wanted: Dataset) -> list[bytes]:
    """Return every command of the answers to a query, as bytes: pynetdicom takes 1 ms for each."""
    asked = command(C_FIND_RQ, sop_class=STUDY_ROOT_FIND.encode().ljust(28, b"\0"), instance=None)
    content = encode(wanted, True, True)
    assert content is not None
    found = []
    with HostilePeer(port) as line:
        proposed = context(STORE_CONTEXT, STUDY_ROOT_FIND, uid.ImplicitVRLittleEndian)
        line.send(request(proposed, calling=b"TPS"))
        assert line.receive()[0] == ASSOCIATE_AC
        line.send(data_pdu(STORE_CONTEXT, WHOLE_COMMAND, asked))
        line.send(data_pdu(STORE_CONTEXT, LAST_FRAGMENT, content))
        while not found or status_in(found[-1]) == 0xFF00:
            kind, values = line.receive()
            assert kind == DATA_TF
            at = 0
            while at < len(values):
                length, _, control = struct.unpack_from(">IBB", values, at)
                if control == WHOLE_COMMAND:
                    found.append(values[at + 6 : at + 4 + length])
                at += 4 + length
    return found


def status_in(response: bytes) -> int:
    """Return the status of a response (PS3.7 9.3.2.2)."""
    at = response.index(STATUS_HEAD) + len(STATUS_HEAD)
    return int.from_bytes(response[at : at + 2], "little")


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
        wanted = identifier("IMAGE", StudyInstanceUID=STUDY, SeriesInstanceUID=MR_SERIES)
        responses = responses_to(node.port, wanted)
    statuses = [status_in(one) for one in responses]
    assert statuses == [0xFF00] * keys.MOST_MATCHES + [0xA700]
    assert f"more than {keys.MOST_MATCHES}".encode() in responses[-1]


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
        wait_for(lambda: not node.scp._sessions, timeout_s=60, what="the association to end")
        with asking(node, STUDY_ROOT_FIND) as assoc:
            assert len(find(assoc, STUDY_ROOT_FIND, "STUDY", StudyInstanceUID="")[1]) == 1
