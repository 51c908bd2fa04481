"""The whole way over sockets: a phantom goes in, its known displacement comes back."""

import hashlib
import json
import subprocess
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom import Dataset
from pydicom.uid import (
    AdvancedBlendingPresentationStateStorage,
    Comprehensive3DSRStorage,
    GrayscaleSoftcopyPresentationStateStorage,
    MRImageStorage,
    MultiFrameTrueColorSecondaryCaptureImageStorage,
    RTStructureSetStorage,
    SegmentationStorage,
    SpatialRegistrationStorage,
)

from node.phantom import PhantomOptions, PhantomStudy, make_study
from node.receiver import StandInReceiver
from tests.nodes import NodeProcess, free_port, run_hilum, wait_for, write_datasets


@pytest.fixture(scope="module")
def study() -> PhantomStudy:
    return make_study(PhantomOptions(seed=3, size="tiny"))


@pytest.fixture(scope="module")
def files(study: PhantomStudy, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return write_datasets(study.instances(), tmp_path_factory.mktemp("study"))


@pytest.fixture
def tps(tmp_path: Path) -> Iterator[StandInReceiver]:
    with StandInReceiver(tmp_path / "tps", "TPS") as receiver:
        yield receiver


def expected_count(study: PhantomStudy) -> int:
    # REG, SEG, RTSTRUCT, SR; overview, contours; for each MR its images and a blending
    return len(study.mr) * len(study.ct) + 6 + len(study.mr)


def by_class(received: list[Dataset]) -> dict[str, list[Dataset]]:
    found: dict[str, list[Dataset]] = {}
    for dataset in received:
        found.setdefault(str(dataset.SOPClassUID), []).append(dataset)
    return found


def test_results_when_a_phantom_is_sent_come_back_whole(
    study: PhantomStudy, files: list[Path], tps: StandInReceiver, tmp_path: Path
) -> None:
    """Issue 2: minutes later the TPS holds MR, registration, structure set, SEG and report."""
    with NodeProcess(tmp_path / "node", {"tps": tps.port}) as node:
        node.send(files)
        case = node.wait_for_state("delivered", "failed", "rejected", "undelivered")
    assert case.state == "delivered", case
    received = by_class([pydicom.dcmread(path) for path in tps.kept.values()])
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
    }
    check_registration(received[SpatialRegistrationStorage][0], study)
    check_structures(received[RTStructureSetStorage][0], study)
    assert {d.FrameOfReferenceUID for d in received[MRImageStorage]} == {
        study.ct[0].FrameOfReferenceUID
    }
    assert all(len(versions) == 1 for versions in tps.receipts.values()), "each object came once"


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


def test_same_objects_when_sent_again_make_no_second_delivery(
    study: PhantomStudy, files: list[Path], tps: StandInReceiver, tmp_path: Path
) -> None:
    """A sender that repeats itself, and a TPS that forwards our results back, start nothing new."""
    with NodeProcess(tmp_path / "node", {"tps": tps.port}) as node:
        node.send(files)
        node.wait_for_state("delivered")
        node.send(files)
        node.send(tps.kept.values())
        node.send(files[:3])
        case = node.case()
        assert (case.state, case.revision) == ("delivered", 1)
        assert len(node.cases()) == 1
    assert all(len(versions) == 1 for versions in tps.receipts.values())


def test_dcmtk_when_it_is_sender_and_receiver_gets_the_results(
    study: PhantomStudy,
    files: list[Path],
    tmp_path: Path,
    peer_program: Callable[[str], str],
) -> None:
    """Issue 2: sent with `storescu`, received by `storescp`."""
    storescu, storescp = peer_program("storescu"), peer_program("storescp")
    port = free_port()
    kept = tmp_path / "storescp"
    kept.mkdir()
    receiver = subprocess.Popen([storescp, "--output-directory", str(kept), str(port)])
    try:
        with NodeProcess(tmp_path / "node", {"tps": port}) as node:
            address = ["--call", "HILUM", "--aetitle", "SCANNER", "127.0.0.1", str(node.port)]
            folder = str(files[0].parent)
            sent = subprocess.run(
                [storescu, "--scan-directories", *address, folder],
                capture_output=True,
                text=True,
                check=False,
            )
            assert sent.returncode == 0, sent.stderr
            case = node.wait_for_state("delivered", "failed", "rejected")
        assert case.state == "delivered", case
    finally:
        receiver.terminate()
        receiver.wait()
    assert len(list(kept.iterdir())) == expected_count(study)


def test_results_when_computed_by_process_and_by_serve_are_the_same_bytes(
    study: PhantomStudy, files: list[Path], tmp_path: Path
) -> None:
    """DESIGN 6: the same case computed twice gives the same UIDs (dates apart)."""
    outs = [tmp_path / "first", tmp_path / "second"]
    for out in outs:
        answer = run_hilum("process", str(files[0].parent), "--out", str(out))
        assert answer.returncode == 0, answer.stderr
    names = [sorted(p.relative_to(out) for p in out.rglob("*.dcm")) for out in outs]
    assert names[0] == names[1]
    for name in names[0]:
        first, second = (pydicom.dcmread(out / name) for out in outs)
        assert first.SOPInstanceUID == second.SOPInstanceUID
        if "PixelData" in first:
            assert _digest(first.PixelData) == _digest(second.PixelData)


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@pytest.mark.peers
def test_orthanc_when_it_is_the_pacs_shows_the_results_in_the_ct_study(
    study: PhantomStudy,
    files: list[Path],
    tmp_path: Path,
    peer_program: Callable[[str], str],
) -> None:
    """Issue 2: Orthanc shows the RTSTRUCT and SR in the right study."""
    program = peer_program("Orthanc")
    dicom_port, http_port = free_port(), free_port()
    settings = tmp_path / "orthanc.json"
    settings.write_text(
        json.dumps(
            {
                "DicomPort": dicom_port,
                "HttpPort": http_port,
                "DicomAet": "PACS",
                "StorageDirectory": str(tmp_path / "orthanc"),
                "IndexDirectory": str(tmp_path / "orthanc"),
                "AuthenticationEnabled": False,
                "RemoteAccessAllowed": False,
            }
        )
    )
    (tmp_path / "orthanc").mkdir()

    def ask(path: str) -> object:
        with urllib.request.urlopen(f"http://127.0.0.1:{http_port}{path}", timeout=5) as answer:
            return json.load(answer)

    def is_up() -> bool:
        try:
            return bool(ask("/system"))
        except OSError:
            return False

    log = (tmp_path / "orthanc.log").open("wb")
    orthanc = subprocess.Popen([program, str(settings)], stdout=log, stderr=log)
    try:
        wait_for(is_up, timeout_s=60, what="Orthanc")
        with NodeProcess(tmp_path / "node", {"pacs": dicom_port}) as node:
            node.send(files)
            case = node.wait_for_state("delivered", "failed", "rejected", "undelivered")
        assert case.state == "delivered", case
        studies = ask("/studies?expand")
        assert isinstance(studies, list)
        uids = [s["MainDicomTags"]["StudyInstanceUID"] for s in studies]
        assert uids == [study.ct[0].StudyInstanceUID]
        series = ask("/series?expand")
        assert isinstance(series, list)
        modalities = sorted(s["MainDicomTags"]["Modality"] for s in series)
        fused = ["OT", "PR"] + ["PR"] * len(study.mr)
        others = ["REG", "RTSTRUCT", "SEG", "SR"]
        assert modalities == sorted(["MR"] * len(study.mr) + fused + others)
    finally:
        orthanc.terminate()
        orthanc.wait()
        log.close()
