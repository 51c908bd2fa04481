"""The whole way over sockets: a phantom goes in, its known displacement comes back.

One case, computed once: DCMTK's storescu sends it; a stand-in for a TPS, DCMTK's storescp and
Orthanc receive the results. Then DCMTK's findscu and getscu pull them, everything is sent again,
and it is computed anew from files.
"""

import hashlib
import json
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom import Dataset
from pydicom.uid import (
    AdvancedBlendingPresentationStateStorage,
    Comprehensive3DSRStorage,
    EncapsulatedPDFStorage,
    GrayscaleSoftcopyPresentationStateStorage,
    MRImageStorage,
    MultiFrameTrueColorSecondaryCaptureImageStorage,
    ParametricMapStorage,
    RTStructureSetStorage,
    SegmentationStorage,
    SpatialRegistrationStorage,
)

from node.index.cases import CaseRecord
from node.phantom import PhantomOptions, PhantomStudy, make_study
from node.receiver import StandInReceiver
from tests.answering_node import run_program
from tests.archives import orthanc
from tests.nodes import NodeProcess, free_port, run_hilum, write_datasets

NEXT_LOOK_S = 3.0
"""Quiet period and tick of the node, and as much again."""


UNKNOWN_TO_GETSCU = {AdvancedBlendingPresentationStateStorage, ParametricMapStorage}
"""DCMTK 3.6.7 proposes no context for these: they fail, and the rest of the retrieval does not."""


@dataclass(frozen=True)
class Pulled:
    """What findscu and getscu were given.

    Attributes:
        answer: To a C-FIND for the study.
        got: Every object, by SOP Instance UID.
        said: By both programs.
        log: Of the node.
    """

    answer: Dataset
    got: dict[str, Dataset]
    said: str
    log: str


@dataclass(frozen=True)
class Visit:
    """What became of a case, and of the same objects when they were sent again.

    Attributes:
        config: The configuration of the node.
        case: The case when it was delivered.
    pulled: What DCMTK found and got of it.
        cases_later: All cases, after everything was sent again.
        tps: The stand-in, with what it received.
        storescp: Files that DCMTK received.
        pacs_studies: What Orthanc tells of its studies.
        pacs_series: Likewise.
    """

    config: Path
    case: CaseRecord
    pulled: Pulled
    cases_later: list[CaseRecord]
    tps: StandInReceiver
    storescp: list[Path]
    pacs_studies: Any
    pacs_series: Any


@pytest.fixture(scope="module")
def study() -> PhantomStudy:
    return make_study(PhantomOptions(seed=3, size="tiny"))


@pytest.fixture(scope="module")
def files(study: PhantomStudy, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return write_datasets(study.instances(), tmp_path_factory.mktemp("study"))


@contextmanager
def storescp(program: str, folder: Path) -> Iterator[int]:
    """Let DCMTK's storescp receive into a folder; give its port."""
    folder.mkdir()
    port = free_port()
    receiver = subprocess.Popen([program, "--output-directory", str(folder), str(port)])
    try:
        yield port
    finally:
        receiver.terminate()
        receiver.wait()


def send_with_storescu(program: str, node: NodeProcess, folder: Path) -> None:
    """Send a folder with DCMTK, which must say that all went well."""
    address = ["--call", "HILUM", "--aetitle", "SCANNER", "127.0.0.1", str(node.port)]
    sent = subprocess.run(
        [program, "--scan-directories", *address, str(folder)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert sent.returncode == 0, sent.stderr


def pull(peer_program: Callable[[str], str], node: NodeProcess, study: str, folder: Path) -> Pulled:
    """Find and get the results of a study as the TPS would."""
    taken, found = folder / "taken", folder / "found"
    for one in (taken, found):
        one.mkdir(parents=True)
    address = ("-aet", "TPS", "-aec", "HILUM", "127.0.0.1", str(node.port))
    keys = ("-k", "QueryRetrieveLevel=STUDY", "-k", f"StudyInstanceUID={study}")
    said = run_program(
        peer_program("findscu"), "-S", "-X", "-od", str(found), *keys,
        "-k", "NumberOfStudyRelatedInstances", "-k", "ModalitiesInStudy", *address,
    )  # fmt: skip
    said += run_program(peer_program("getscu"), "-S", "-od", str(taken), *keys, *address)
    (answer,) = (pydicom.dcmread(path, force=True) for path in found.iterdir())
    got = {str(ds.SOPInstanceUID): ds for ds in map(pydicom.dcmread, taken.iterdir())}
    return Pulled(answer, got, said, node.log.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def visit(
    study: PhantomStudy,
    files: list[Path],
    tmp_path_factory: pytest.TempPathFactory,
    peer_program: Callable[[str], str],
) -> Visit:
    folder = tmp_path_factory.mktemp("visit")
    http_port = free_port()

    def ask_pacs(path: str) -> Any:
        with urllib.request.urlopen(f"http://127.0.0.1:{http_port}{path}", timeout=30) as answer:
            return json.load(answer)

    with (
        StandInReceiver(folder / "tps", "TPS") as tps,
        storescp(peer_program("storescp"), folder / "storescp") as dcmtk_port,
        orthanc(peer_program, folder / "pacs", {}, name="pacs", http_port=http_port) as pacs,
        NodeProcess(
            folder / "node", {"tps": tps.port, "dcmtk": dcmtk_port, "pacs": int(pacs.port or 0)}
        ) as node,
    ):
        send_with_storescu(peer_program("storescu"), node, files[0].parent)
        case = node.wait_for_state("delivered", "failed", "rejected", "undelivered")
        pulled = pull(peer_program, node, study.ct[0].StudyInstanceUID, folder / "pulled")
        node.send(files)
        node.send(tps.kept.values())
        node.send(files[:3])
        time.sleep(NEXT_LOOK_S)
        return Visit(
            node.config,
            case,
            pulled,
            node.cases(),
            tps,
            list((folder / "storescp").iterdir()),
            ask_pacs("/studies?expand"),
            ask_pacs("/series?expand"),
        )


def expected_count(study: PhantomStudy) -> int:
    # REG, SEG, RTSTRUCT, SR, PDF; overview, contours; for each MR its images and a blending
    return len(study.mr) * len(study.ct) + 7 + len(study.mr)


def by_class(received: list[Dataset]) -> dict[str, list[Dataset]]:
    found: dict[str, list[Dataset]] = {}
    for dataset in received:
        found.setdefault(str(dataset.SOPClassUID), []).append(dataset)
    return found


def test_results_when_a_phantom_is_sent_come_back_whole(study: PhantomStudy, visit: Visit) -> None:
    """Issue 2: minutes later the TPS holds MR, registration, structure set, SEG and report."""
    assert visit.case.state == "delivered", visit.case
    received = by_class([pydicom.dcmread(path) for path in visit.tps.kept.values()])
    counts = {uid: len(objects) for uid, objects in received.items()}
    assert counts == {
        MRImageStorage: len(study.mr) * len(study.ct),
        SpatialRegistrationStorage: 1,
        RTStructureSetStorage: 1,
        SegmentationStorage: 1,
        Comprehensive3DSRStorage: 1,
        MultiFrameTrueColorSecondaryCaptureImageStorage: 1,
        AdvancedBlendingPresentationStateStorage: len(study.mr),
        GrayscaleSoftcopyPresentationStateStorage: 1,
        EncapsulatedPDFStorage: 1,
    }
    check_registration(received[SpatialRegistrationStorage][0], study)
    check_structures(received[RTStructureSetStorage][0], study)
    assert {d.FrameOfReferenceUID for d in received[MRImageStorage]} == {
        study.ct[0].FrameOfReferenceUID
    }


def check_registration(dataset: Dataset, study: PhantomStudy) -> None:
    """The matrix sends MR points of the node to where the CT has them."""
    (item,) = (
        i
        for i in dataset.RegistrationSequence
        if i.FrameOfReferenceUID == study.ct_from_mr.from_frame_uid
    )
    text = item.MatrixRegistrationSequence[0].MatrixSequence[0].FrameOfReferenceTransformationMatrix
    matrix = np.array([float(v) for v in text]).reshape(4, 4)
    in_ct = study.true_target.geometry.points_from_indices(np.argwhere(study.true_target.inside))
    in_mr = study.ct_from_mr.inverse().apply(in_ct)
    errors = np.linalg.norm(in_mr @ matrix[:3, :3].T + matrix[:3, 3] - in_ct, axis=1)
    assert errors.max() < 4.0, "voxels of this small phantom measure 4 mm"


def check_structures(dataset: Dataset, study: PhantomStudy) -> None:
    """Every drawn contour is there as it was; nothing is approved."""
    assert dataset.ApprovalStatus == "UNAPPROVED"
    returned = {c.ReferencedROINumber: c for c in dataset.ROIContourSequence}
    for drawn in study.structure_set.ROIContourSequence:
        assert returned[drawn.ReferencedROINumber] == drawn


def test_same_objects_when_sent_again_make_no_second_delivery(visit: Visit) -> None:
    """A sender that repeats itself, and a TPS that forwards our results back, start nothing new."""
    assert [(case.state, case.revision) for case in visit.cases_later] == [("delivered", 1)]
    assert visit.tps.receipts
    assert all(len(versions) == 1 for versions in visit.tps.receipts.values()), "each came once"


@pytest.mark.peers
def test_dcmtk_when_it_is_sender_and_receiver_gets_the_results(
    study: PhantomStudy, visit: Visit
) -> None:
    """Issue 2: sent with `storescu`, received by `storescp`."""
    assert len(visit.storescp) == expected_count(study)
    assert {pydicom.dcmread(path).SOPInstanceUID for path in visit.storescp} == set(visit.tps.kept)


def test_results_when_computed_by_process_and_by_serve_are_the_same_bytes(
    visit: Visit, files: list[Path], tmp_path: Path
) -> None:
    """DESIGN 6: the same case computed twice gives the same UIDs (dates apart)."""
    out = tmp_path / "out"
    answer = run_hilum(
        "process", str(files[0].parent), "--out", str(out), "--config", str(visit.config)
    )
    assert answer.returncode == 0, answer.stderr
    again = {str(ds.SOPInstanceUID): ds for ds in map(pydicom.dcmread, out.rglob("*.dcm"))}
    assert set(again) == set(visit.tps.kept)
    for uid, path in visit.tps.kept.items():
        served = pydicom.dcmread(path)
        assert ("PixelData" in served) == ("PixelData" in again[uid])
        if "PixelData" in served:
            assert _digest(served.PixelData) == _digest(again[uid].PixelData)


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@pytest.mark.peers
def test_orthanc_when_it_is_the_pacs_shows_the_results_in_the_ct_study(
    study: PhantomStudy, visit: Visit
) -> None:
    """Issue 2: Orthanc shows the RTSTRUCT and SR in the right study."""
    uids = [s["MainDicomTags"]["StudyInstanceUID"] for s in visit.pacs_studies]
    assert uids == [study.ct[0].StudyInstanceUID]
    modalities = sorted(s["MainDicomTags"]["Modality"] for s in visit.pacs_series)
    fused = ["OT", "PR"] + ["PR"] * len(study.mr)
    others = ["REG", "RTSTRUCT", "SEG", "SR", "DOC"]
    assert modalities == sorted(["MR"] * len(study.mr) + fused + others)


@pytest.mark.peers
def test_results_of_a_case_are_found_and_got_by_whoever_pulls(
    study: PhantomStudy, visit: Visit
) -> None:
    """Issue 6, 7: what was sent to a planning system is what it can pull, to the last value."""
    pulled, results = visit.pulled, visit.case.results
    sent = {uid: pydicom.dcmread(path) for uid, path in visit.tps.kept.items()}
    assert int(pulled.answer.NumberOfStudyRelatedInstances) == len(results), pulled.said
    assert {"MR", "REG", "RTSTRUCT", "SEG", "SR"} <= set(pulled.answer.ModalitiesInStudy)
    proposed = {one: ds for one, ds in sent.items() if ds.SOPClassUID not in UNKNOWN_TO_GETSCU}
    assert set(proposed) <= set(pulled.got), pulled.said
    for one, ds in proposed.items():
        assert pulled.got[one] == ds
    assert not {ds.SOPClassUID for ds in pulled.got.values()} & UNKNOWN_TO_GETSCU
    missing = len(results) - len(pulled.got)
    assert missing == sum("BLENDING" in path for path in results), pulled.said
    assert "query.answered" in pulled.log
    assert "retrieval.ended" in pulled.log
    assert str(study.ct[0].PatientName) not in pulled.log
    assert study.ct[0].PatientID not in pulled.log
