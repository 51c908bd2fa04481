"""Real peers ask for our results: DCMTK's findscu, movescu and getscu, and Orthanc (issue 6)."""

import json
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from pydicom import Dataset, dcmread, uid

from node.config import Role
from node.index.promises import PromiseBook
from node.storage_classes import SENT
from tests.answering_node import (
    MR_SERIES,
    PATIENT,
    RT_SERIES,
    STUDY,
    AnsweringNode,
    Transport,
    answering,
    peer,
    result,
    run_program,
    structure_set,
)
from tests.archives import fill, orthanc
from tests.nodes import free_port, wait_for
from tests.receiving_node import ct

BOTH = pytest.mark.parametrize("transport", ["fast", "plain"])
Programs = Callable[[str], str]


@contextmanager
def asked(root: Path, transport: Transport, port: int) -> Iterator[AnsweringNode]:
    """Give a node with one result set, which a peer on a port may have."""
    with answering(root, transport, (peer("tps", Role.RECEIVE, port=port),)) as node:
        node.adopt(result(1), result(2), structure_set())
        yield node


def read_all(folder: Path) -> dict[str, Dataset]:
    found = [dcmread(path) for path in folder.iterdir()]
    return {ds.SOPInstanceUID: ds for ds in found if "SOPInstanceUID" in ds}


@BOTH
@pytest.mark.parametrize(
    ("model", "keys", "found"),
    [
        ("-P", ("QueryRetrieveLevel=PATIENT", "PatientName=marked*", "PatientID"),
         [("PatientID", PATIENT["PatientID"])]),
        ("-S", ("QueryRetrieveLevel=STUDY", "StudyDate=20240101-20241231", "StudyInstanceUID"),
         [("StudyInstanceUID", STUDY)]),
        ("-S", ("QueryRetrieveLevel=SERIES", f"StudyInstanceUID={STUDY}", "SeriesInstanceUID"),
         [("SeriesInstanceUID", MR_SERIES), ("SeriesInstanceUID", RT_SERIES)]),
        ("-P", ("QueryRetrieveLevel=IMAGE", f"PatientID={PATIENT['PatientID']}",
                f"StudyInstanceUID={STUDY}", f"SeriesInstanceUID={MR_SERIES}", "InstanceNumber"),
         [("InstanceNumber", "1"), ("InstanceNumber", "2")]),
        ("-S", ("QueryRetrieveLevel=STUDY", "PatientID=NOBODY"), []),
    ],
)  # fmt: skip
def test_findscu_finds(
    model: str,
    keys: tuple[str, ...],
    found: list[tuple[str, Any]],
    transport: Transport,
    tmp_path: Path,
    peer_program: Programs,
) -> None:
    """Issue 6, 7: both information models and every level, asked by DCMTK."""
    answers = tmp_path / "answers"
    answers.mkdir()
    with asked(tmp_path / "node", transport, free_port()) as node:
        wanted = [part for key in keys for part in ("-k", key)]
        said = run_program(
            peer_program("findscu"), "-v", model, "-aet", "TPS", "-aec", "HILUM", "-X",
            "-od", str(answers), *wanted, "127.0.0.1", str(node.port),
        )  # fmt: skip
    read = [dcmread(path, force=True) for path in sorted(answers.iterdir())]
    got = [(keyword, ds.get(keyword)) for ds in read for keyword in {k for k, _ in found}]
    assert sorted(map(str, got)) == sorted(map(str, found)), said
    assert len(read) == len(found)
    assert "Success" in said


@BOTH
def test_getscu_gets(transport: Transport, tmp_path: Path, peer_program: Programs) -> None:
    """Issue 6, 7: C-GET by DCMTK, which proposes every storage class in the role of the SCP."""
    taken = tmp_path / "taken"
    taken.mkdir()
    with asked(tmp_path / "node", transport, free_port()) as node:
        said = run_program(
            peer_program("getscu"), "-v", "-S", "-aet", "TPS", "-aec", "HILUM", "-od", str(taken),
            "-k", "QueryRetrieveLevel=STUDY", "-k", f"StudyInstanceUID={STUDY}",
            "127.0.0.1", str(node.port),
        )  # fmt: skip
    got = read_all(taken)
    expected = {ds.SOPInstanceUID: ds for ds in (result(1), result(2), structure_set())}
    assert set(got) == set(expected), said
    for one, ds in expected.items():
        assert got[one] == ds


def test_getscu_gets_what_it_proposes_of_every_class(
    tmp_path: Path, peer_program: Programs
) -> None:
    """A class for which a peer has no context fails alone, and is counted."""
    taken = tmp_path / "taken"
    taken.mkdir()
    with answering(tmp_path / "node") as node:
        objects = [
            result(
                at + 1,
                sop_class=row.sop_class_uid,
                modality=row.modality,
                series=f"1.2.826.0.77.{at + 10}",
            )
            for at, row in enumerate(SENT)
        ]
        node.adopt(*objects)
        said = run_program(
            peer_program("getscu"), "-v", "-S", "-aet", "TPS", "-aec", "HILUM", "-od", str(taken),
            "-k", "QueryRetrieveLevel=STUDY", "-k", f"StudyInstanceUID={STUDY}",
            "127.0.0.1", str(node.port),
        )  # fmt: skip
    missing = {ds.SOPClassUID for ds in objects} - {
        ds.SOPClassUID for ds in read_all(taken).values()
    }
    known_gaps = {uid.AdvancedBlendingPresentationStateStorage, uid.ParametricMapStorage}
    assert missing <= known_gaps, said
    assert f"Number of Failed Suboperations    : {len(missing)}" in said


@BOTH
@pytest.mark.parametrize(("model", "level"), [("-S", "SERIES"), ("-P", "PATIENT")])
def test_movescu_moves_to_itself(
    model: str, level: str, transport: Transport, tmp_path: Path, peer_program: Programs
) -> None:
    """Issue 6, 7: C-MOVE by DCMTK, which takes the objects on a port of its own."""
    taken = tmp_path / "taken"
    taken.mkdir()
    port = free_port()
    above = {
        "SERIES": (f"StudyInstanceUID={STUDY}", f"SeriesInstanceUID={MR_SERIES}"),
        "PATIENT": (f"PatientID={PATIENT['PatientID']}",),
    }
    wanted = [part for key in above[level] for part in ("-k", key)]
    with asked(tmp_path / "node", transport, port) as node:
        said = run_program(
            peer_program("movescu"), "-v", model, "-aet", "TPS", "-aec", "HILUM", "-aem", "TPS",
            "+P", str(port), "-od", str(taken), "-k", f"QueryRetrieveLevel={level}", *wanted,
            "127.0.0.1", str(node.port),
        )  # fmt: skip
    assert len(read_all(taken)) == (2 if level == "SERIES" else 3), said
    assert "Success" in said


@BOTH
def test_movescu_is_told_that_nobody_has_that_title(
    transport: Transport, tmp_path: Path, peer_program: Programs
) -> None:
    """PS3.4 C.4.2.1.5: move destination unknown, in the words of DCMTK."""
    with asked(tmp_path / "node", transport, free_port()) as node:
        said = run_program(
            peer_program("movescu"), "-v", "-S", "-aet", "TPS", "-aec", "HILUM", "-aem", "NOBODY",
            "-k", "QueryRetrieveLevel=STUDY", "-k", f"StudyInstanceUID={STUDY}",
            "127.0.0.1", str(node.port),
        )  # fmt: skip
    assert "MoveDestinationUnknown" in said.replace(" ", ""), said


class Archive:
    """Orthanc's REST interface."""

    def __init__(self, folder: Path) -> None:
        settings = json.loads((folder / "orthanc.json").read_text(encoding="utf-8"))
        self._url = f"http://127.0.0.1:{settings['HttpPort']}"

    def get(self, path: str) -> Any:
        with urllib.request.urlopen(f"{self._url}{path}", timeout=30) as answer:  # noqa: S310
            return json.load(answer)

    def post(self, path: str, body: Any) -> Any:
        request = urllib.request.Request(  # noqa: S310
            f"{self._url}{path}", json.dumps(body).encode(), method="POST"
        )
        with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310
            return json.load(answer)


@BOTH
def test_orthanc_queries_and_retrieves(
    transport: Transport, tmp_path: Path, peer_program: Programs
) -> None:
    """Issue 6: Orthanc as Q/R SCU: query, then C-MOVE of the answers into Orthanc."""
    port = free_port()
    archive_port = free_port()
    node_peers = (peer("orthanc", Role.RECEIVE, Role.SEND, port=archive_port),)
    with (
        answering(tmp_path / "node", transport, node_peers) as node,
        orthanc(peer_program, tmp_path / "archive", {"HILUM": node.port}, port=archive_port),
    ):
        node.adopt(result(1), result(2), structure_set())
        rest = Archive(tmp_path / "archive")
        asked_for = {"Level": "Study", "Query": {"PatientID": PATIENT["PatientID"]}}
        query = rest.post("/modalities/HILUM/query", asked_for)["ID"]
        answers = rest.get(f"/queries/{query}/answers?expand&simplify")
        assert [a["StudyInstanceUID"] for a in answers] == [STUDY]
        rest.post(f"/queries/{query}/retrieve", {"TargetAet": "ORTHANC", "Synchronous": True})
        wait_for(
            lambda: len(rest.get("/instances")) == 3, timeout_s=60, what="the objects in Orthanc"
        )
        (study,) = rest.get("/studies?expand")
        assert study["MainDicomTags"]["StudyInstanceUID"] == STUDY
        assert len(study["Series"]) == 2
    assert port != archive_port


@BOTH
def test_orthanc_asks_for_commitment(
    transport: Transport, tmp_path: Path, peer_program: Programs
) -> None:
    """Issue 6, 6: Orthanc as commitment SCU: it sends, asks, and is called with the report."""
    archive_port = free_port()
    node_peers = (peer("orthanc", Role.SEND, port=archive_port),)
    sent = ct(1)
    sent.ensure_file_meta()
    sent.file_meta.TransferSyntaxUID = uid.ExplicitVRLittleEndian
    sent.file_meta.MediaStorageSOPInstanceUID = sent.SOPInstanceUID
    sent.file_meta.MediaStorageSOPClassUID = sent.SOPClassUID
    sent.save_as(tmp_path / "ct.dcm", enforce_file_format=True)
    with (
        answering(tmp_path / "node", transport, node_peers) as node,
        orthanc(
            peer_program, tmp_path / "archive", {"HILUM": node.port}, port=archive_port
        ) as archive,
    ):
        fill(archive, [tmp_path / "ct.dcm"])
        rest = Archive(tmp_path / "archive")
        (instance,) = rest.get("/instances")
        asked_for = {"Resources": [instance], "StorageCommitment": True, "Synchronous": True}
        job = rest.post("/modalities/HILUM/store", asked_for)
        transaction = job["StorageCommitmentTransactionUID"]

        def state() -> Any:
            found = rest.get(f"/storage-commitment/{transaction}")
            return found if found["Status"] != "Pending" else None

        report = wait_for(state, timeout_s=60, what="Orthanc to have the report")
        assert report["Status"] == "Success"
        assert [one["SOPInstanceUID"] for one in report["Success"]] == [sent.SOPInstanceUID]
        wrong = {"DicomInstances": [[sent.SOPClassUID, "1.2.3.4"]]}
        asked_for = rest.post("/modalities/HILUM/storage-commitment", wrong)
        transaction = asked_for["ID"]
        report = wait_for(state, timeout_s=60, what="Orthanc to have the second report")
        assert report["Status"] == "Failure"
        assert [one["SOPInstanceUID"] for one in report["Failures"]] == ["1.2.3.4"]
        owed = PromiseBook(node.index)
        wait_for(lambda: not owed.owed_to("orthanc"), timeout_s=60, what="the promises to be kept")
