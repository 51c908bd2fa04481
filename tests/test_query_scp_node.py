"""A whole node: a case goes in over the network, and its results are pulled (issue 6, 7)."""

from collections.abc import Callable
from pathlib import Path

import pytest
from pydicom import dcmread, uid

from node.phantom import PhantomOptions, make_study
from node.receiver import StandInReceiver
from tests.answering_node import run_program
from tests.nodes import NodeProcess, write_datasets

Programs = Callable[[str], str]

UNKNOWN_TO_GETSCU = {
    uid.AdvancedBlendingPresentationStateStorage,
    uid.ParametricMapStorage,
}
"""DCMTK 3.6.7 proposes no context for these: they fail, and the rest of the retrieval does not."""


@pytest.mark.timeout(400)
def test_results_of_a_case_are_found_and_got_by_whoever_pulls(
    tmp_path: Path, peer_program: Programs
) -> None:
    """Issue 6, 7: what was sent to a planning system is what it can pull, to the last value."""
    files = write_datasets(
        make_study(PhantomOptions(seed=3, size="tiny")).instances(), tmp_path / "study"
    )
    taken, moved_from = tmp_path / "taken", str(tmp_path / "answers")
    for folder in (taken, Path(moved_from)):
        folder.mkdir()
    with (
        StandInReceiver(tmp_path / "tps", "TPS") as tps,
        NodeProcess(tmp_path / "node", {"tps": tps.port}) as node,
    ):
        node.send(files)
        ends = ("delivered", "failed", "rejected", "undelivered")
        case = node.wait_for_state(*ends, timeout_s=280)
        assert case.state == "delivered", case
        sent = {ds.SOPInstanceUID: ds for ds in map(dcmread, tps.kept.values())}
        study = next(iter(sent.values())).StudyInstanceUID
        address = ("-aet", "TPS", "-aec", "HILUM", "127.0.0.1", str(node.port))
        keys = ("-k", "QueryRetrieveLevel=STUDY", "-k", f"StudyInstanceUID={study}")
        said = run_program(
            peer_program("findscu"), "-S", "-X", "-od", moved_from, *keys,
            "-k", "NumberOfStudyRelatedInstances", "-k", "ModalitiesInStudy", *address,
        )  # fmt: skip
        (answer,) = [dcmread(path, force=True) for path in Path(moved_from).iterdir()]
        assert int(answer.NumberOfStudyRelatedInstances) == len(case.results), said
        assert {"MR", "REG", "RTSTRUCT", "SEG", "SR"} <= set(answer.ModalitiesInStudy)
        said = run_program(peer_program("getscu"), "-S", "-od", str(taken), *keys, *address)
        log = node.log.read_text(encoding="utf-8")
    got = {ds.SOPInstanceUID: ds for ds in map(dcmread, taken.iterdir())}
    proposed = {one: ds for one, ds in sent.items() if ds.SOPClassUID not in UNKNOWN_TO_GETSCU}
    assert set(proposed) <= set(got), said
    for one, ds in proposed.items():
        assert got[one] == ds
    assert not {ds.SOPClassUID for ds in got.values()} & UNKNOWN_TO_GETSCU
    missing = len(case.results) - len(got)
    assert missing == sum("BLENDING" in path for path in case.results), said
    assert "query.answered" in log
    assert "retrieval.ended" in log
    patient = next(iter(sent.values()))
    assert str(patient.PatientName) not in log
    assert patient.PatientID not in log
