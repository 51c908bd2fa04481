"""Faults are features: killed at any moment, peers away, disks full, strangers at the door."""

import random
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pydicom
import pytest

from node.phantom import PhantomOptions, PhantomStudy, make_study
from node.receiver import Fault, Rejection, StandInReceiver
from tests.nodes import NodeProcess, free_port, run_hilum, wait_for, write_datasets

KILLS = 10


@pytest.fixture(scope="module")
def study() -> PhantomStudy:
    return make_study(PhantomOptions(seed=7, size="tiny"))


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


@pytest.mark.timeout(600)
def test_node_when_killed_at_random_moments_delivers_the_same_result_set(
    study: PhantomStudy,
    files: list[Path],
    tmp_path: Path,
    peer_program: Callable[[str], str],
) -> None:
    """Issue 2: SIGKILL at ten random moments of one case's life; the same result, each object once.

    The moments are spread over the whole life, from the first received object to the last delivered
    one: an undisturbed life is measured first.
    """
    storescu = peer_program("storescu")
    with StandInReceiver(tmp_path / "undisturbed-tps", "TPS") as quiet_tps:
        started = time.monotonic()
        with NodeProcess(tmp_path / "undisturbed", {"tps": quiet_tps.port}) as node:
            began = time.monotonic()
            node.send(files)
            node.wait_for_state("delivered")
            life_s = time.monotonic() - began
        expected = {uid: versions[0] for uid, versions in quiet_tps.receipts.items()}
    assert len(expected) == expected_count(study)
    assert began > started

    moments = random.Random(20260301)
    with StandInReceiver(tmp_path / "tps", "TPS") as tps:
        node = NodeProcess(tmp_path / "node", {"tps": tps.port})
        for kill in range(KILLS):
            node.start()
            if kill == 0:
                sender = start_sending(storescu, node, files)
                time.sleep(moments.uniform(0.0, 1.0))
                node.kill()
                sender.wait()
                continue
            if kill == 1:
                resend(node, files)
            time.sleep(moments.uniform(0.0, 0.6 * life_s))
            node.kill()
        with node:
            case = node.wait_for_state("delivered", "failed", "rejected", "undelivered")
            assert case.state == "delivered", case
            assert case.revision == 1
            stored = list((node.folder / "data" / "objects").rglob("*.dcm"))
            spare = (node.folder / "data" / "spare").rglob("*")
            leftovers = [p for p in spare if p.is_file() and p.stat().st_size]
        receipts = tps.receipts
    assert len(stored) == len(files), "no instance lost, none twice"
    assert leftovers == []
    assert set(receipts) == set(expected), "the same UIDs, none more"
    for uid, versions in receipts.items():
        assert len(set(versions)) == 1, f"{uid} was delivered with two contents"


def start_sending(storescu: str, node: NodeProcess, files: list[Path]) -> "subprocess.Popen[bytes]":
    """Send in the background with DCMTK, as a scanner that is cut off in the middle."""
    arguments = ["-aec", "HILUM", "-aet", "SCANNER", "127.0.0.1", str(node.port)]
    folder = str(files[0].parent)
    return subprocess.Popen(
        [storescu, "--scan-directories", *arguments, folder],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def resend(node: NodeProcess, files: list[Path]) -> None:
    """Send everything again, as a scanner does after a failed transfer."""
    node.send(files)


def test_peer_when_away_for_a_while_gets_the_results_later(
    study: PhantomStudy, files: list[Path], tmp_path: Path
) -> None:
    """Issue 2: the results peer is down at first; back-off is durable over a restart."""
    port = free_port()
    node = NodeProcess(tmp_path / "node", {"tps": port})
    node.start()
    node.send(files)
    case = node.wait_for_state("delivering")
    delivery = wait_for(
        lambda: next((d for d in node.case().deliveries if d["attempt"] >= 2), None),
        timeout_s=60,
        what="two attempts",
    )
    assert delivery["reason"]
    node.stop()  # in order, as an operator does, while a delivery waits
    with node, StandInReceiver(tmp_path / "tps", "TPS", port) as tps:
        case = node.wait_for_state("delivered", "undelivered")
        assert case.state == "delivered"
        assert len(tps.receipts) == expected_count(study)


def test_result_when_lost_before_delivery_is_computed_anew_by_retry(
    study: PhantomStudy, files: list[Path], tmp_path: Path
) -> None:
    """A delivery never stands still for ever: a lost file is said, and an operator can mend it."""
    port = free_port()
    with NodeProcess(tmp_path / "node", {"tps": port}) as node:
        node.send(files)
        node.wait_for_state("delivering")
        shutil.rmtree(node.folder / "data" / "results")
        with StandInReceiver(tmp_path / "tps", "TPS", port) as tps:
            case = node.wait_for_state("undelivered", "delivered")
            assert case.state == "undelivered"
            assert "result file" in case.reason
            answer = node.hilum("cases", "retry", case.case_id)
            assert answer.returncode == 0, answer.stderr
            assert node.wait_for_state("delivered").revision == 2
            assert len(tps.receipts) == expected_count(study), "under the same UIDs"


def test_peer_when_it_rejects_permanently_is_not_asked_again(
    files: list[Path], tmp_path: Path, tps: StandInReceiver
) -> None:
    """Issue 2: an A-ASSOCIATE-RJ permanent is not retried; an operator can retry."""
    tps.rejection = Rejection.CALLING_AE_UNKNOWN
    with NodeProcess(tmp_path / "node", {"tps": tps.port}) as node:
        node.send(files)
        case = node.wait_for_state("undelivered", "delivered")
        assert case.state == "undelivered"
        asked = len(tps.associations)
        time.sleep(3)
        assert len(tps.associations) == asked == 1
        tps.rejection = None
        answer = node.hilum("cases", "retry", case.case_id)
        assert answer.returncode == 0, answer.stderr
        assert node.wait_for_state("delivered").state == "delivered"


def test_object_when_refused_for_good_leaves_the_case_undelivered_with_the_reason(
    study: PhantomStudy, files: list[Path], tmp_path: Path
) -> None:
    """Every instance's status is checked: a refused object is never called delivered."""

    def refuse_report(uid: str, times: int) -> int:
        return 0xA900 if uid == refused else 0x0000

    refused = ""
    with (
        StandInReceiver(
            tmp_path / "tps", "TPS", status_for=lambda uid, n: refuse_report(uid, n)
        ) as tps,
        NodeProcess(tmp_path / "node", {"tps": tps.port}) as node,
    ):
        out = tmp_path / "computed"
        answer = run_hilum(
            "process", str(files[0].parent), "--out", str(out), "--config", str(node.config)
        )
        assert answer.returncode == 0, answer.stderr
        refused = str(pydicom.dcmread(out / "SR.dcm").SOPInstanceUID)
        node.send(files)
        case = node.wait_for_state("undelivered", "delivered")
        taken = len(tps.kept)
    assert case.state == "undelivered"
    assert case.reason.startswith("tps:")
    assert taken == expected_count(study) - 1


def test_peer_when_it_aborts_in_the_middle_gets_every_object_at_last(
    study: PhantomStudy, files: list[Path], tmp_path: Path
) -> None:
    """An association lost in the middle costs nothing but time."""
    calls = 0

    def abort_once(_uid: str, _times: int) -> int | Fault:
        nonlocal calls
        calls += 1
        return Fault.ABORT if calls == 5 else 0x0000

    with (
        StandInReceiver(tmp_path / "tps", "TPS", status_for=abort_once) as tps,
        NodeProcess(tmp_path / "node", {"tps": tps.port}) as node,
    ):
        node.send(files)
        assert node.wait_for_state("delivered").state == "delivered"
        assert len(tps.kept) == expected_count(study)


def test_stranger_when_it_calls_is_rejected(
    files: list[Path], tmp_path: Path, peer_program: Callable[[str], str]
) -> None:
    """Issue 2: unknown calling AE; DESIGN 7: an unknown peer can do nothing."""
    storescu = peer_program("storescu")
    with NodeProcess(tmp_path / "node", {}) as node:
        address = ["-aec", "HILUM", "-aet", "STRANGER", "127.0.0.1", str(node.port)]
        answer = subprocess.run(
            [storescu, *address, str(files[0])], capture_output=True, text=True, check=False
        )
        assert answer.returncode != 0
        assert "Calling AE Title Not Recognized" in answer.stderr + answer.stdout
        assert node.cases() == []


def test_disk_when_full_sends_the_sender_away_for_now(
    files: list[Path], tmp_path: Path, peer_program: Callable[[str], str]
) -> None:
    """Disk below its floor; the sender may come again later, and nothing is half stored."""
    storescu = peer_program("storescu")
    with NodeProcess(tmp_path / "node", {}, min_free_mib=9e6) as node:
        address = ["-aec", "HILUM", "-aet", "SCANNER", "127.0.0.1", str(node.port)]
        answer = subprocess.run(
            [storescu, "-v", *address, str(files[0])], capture_output=True, text=True, check=False
        )
        assert "Temporary Congestion" in answer.stdout + answer.stderr
        assert not list((node.folder / "data").rglob("*.dcm"))


def test_case_when_slices_are_missing_waits_and_says_how_many(
    study: PhantomStudy, files: list[Path], tmp_path: Path, tps: StandInReceiver
) -> None:
    """DESIGN 3: what is missing is named; the late slices complete the case."""
    missing = files[4:7]
    assert all(pydicom.dcmread(p).Modality == "CT" for p in missing)
    with NodeProcess(tmp_path / "node", {"tps": tps.port}, incomplete_s=600) as node:
        node.send([p for p in files if p not in missing])
        case = node.wait_for_state("waiting")
        shown = wait_for(
            lambda: "3 of" in node.case().reason, timeout_s=20, what="the missing slices named"
        )
        assert shown
        assert case.revision == 0
        node.send(missing)
        assert node.wait_for_state("delivered").revision == 1


def test_late_mr_when_it_comes_makes_the_next_revision(
    study: PhantomStudy, files: list[Path], tmp_path: Path, tps: StandInReceiver
) -> None:
    """DESIGN 2: another MR makes revision n+1, delivered under UIDs of its own."""
    late = str(study.mr["ADC"][0].SeriesInstanceUID)
    early = [p for p in files if pydicom.dcmread(p).SeriesInstanceUID != late]
    with NodeProcess(tmp_path / "node", {"tps": tps.port}) as node:
        node.send(early)
        assert node.wait_for_state("delivered").revision == 1
        first = set(tps.receipts)
        node.send([p for p in files if p not in early])
        wait_for(
            lambda: node.case().revision == 2 and node.case().state == "delivered",
            timeout_s=120,
            what="revision 2",
        )
        second = set(tps.receipts) - first
    assert len(first) == 2 * len(study.ct) + 6 + 2
    assert len(second) == expected_count(study)


def test_patient_identity_when_searched_is_in_no_log_and_no_file_name(
    files: list[Path], tmp_path: Path, tps: StandInReceiver
) -> None:
    """DESIGN 7.6: no patient identifier in logs or file names."""
    marked = []
    for path in files:
        dataset = pydicom.dcmread(path)
        dataset.PatientName = "Zyxwvut^Marked"
        dataset.PatientID = "QQ-MARKED-77"
        dataset.PatientBirthDate = "19470817"
        marked.append(dataset)
    with NodeProcess(tmp_path / "node", {"tps": tps.port}) as node:
        node.send(write_datasets(marked, tmp_path / "marked"))
        node.wait_for_state("delivered")
        names = [str(p) for p in (node.folder / "data").rglob("*")]
        log = node.log.read_text()
        shown = node.hilum("cases", "list").stdout
    for secret in ("Zyxwvut", "QQ-MARKED-77", "19470817"):
        assert secret not in log
        assert secret not in shown
        assert not [name for name in names if secret in name]
