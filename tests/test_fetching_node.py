"""A node that fetches: what did not come, and what there was before, from archives of others."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pynetdicom.association import Association
from pynetdicom.dimse_primitives import C_MOVE

from node.delivery import send_instances
from node.index import Index
from node.index.fetches import FetchBook
from node.phantom import PhantomOptions, PhantomStudy, make_study
from node.receiver import StandInReceiver
from tests.archives import archive_peer, dcmqrscp, fill, let_fetch, orthanc
from tests.nodes import NodeProcess, free_port, wait_for, without_contrast, write_datasets
from tests.odd_archive import PENDING, encoded, odd_archive, respond
from tests.serve_process import index_rows

KEPT_BACK = 3
LONG_S = 400
"""Computing takes its time where other things are computed, too."""
END = ("delivered", "failed", "rejected", "undelivered")


@pytest.fixture(scope="module")
def study() -> PhantomStudy:
    options = PhantomOptions(seed=3, size="tiny", contrasts=("T1",), with_dose=False)
    return without_contrast(make_study(options))


@pytest.fixture(scope="module")
def files(study: PhantomStudy, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return write_datasets(study.instances(), tmp_path_factory.mktemp("study"))


@pytest.fixture
def tps(tmp_path: Path) -> Iterator[StandInReceiver]:
    with StandInReceiver(tmp_path / "tps", "TPS") as receiver:
        yield receiver


def sent_first(files: list[Path], study: PhantomStudy) -> list[Path]:
    """Return the files without some slices of the CT."""
    kept_back = {str(ds.SOPInstanceUID) for ds in study.ct[2 : 2 + KEPT_BACK]}
    uids = [str(ds.SOPInstanceUID) for ds in study.instances()]
    return [path for path, uid in zip(files, uids, strict=True) if uid not in kept_back]


def findings(node: NodeProcess) -> list[str]:
    case = node.case()
    return [finding["text"] for finding in case.findings]


def fetches(node: NodeProcess) -> list[tuple[str, str, str]]:
    index = Index(f"sqlite:///{node.folder / 'data' / 'index.sqlite'}")
    try:
        return FetchBook(index).fetch_states()
    finally:
        index.close()


@pytest.mark.parametrize("by", ["move", pytest.param("get", marks=pytest.mark.slow)])
def test_slices_when_kept_back_are_fetched_from_orthanc_and_the_case_is_computed(
    study: PhantomStudy,
    files: list[Path],
    tps: StandInReceiver,
    tmp_path: Path,
    peer_program: Callable[[str], str],
    by: str,
) -> None:
    """Issue 6, item 7: C-FIND counts prove completeness; what is missing is fetched."""
    node = NodeProcess(tmp_path / "node", {"tps": tps.port}, incomplete_s=60)
    with orthanc(peer_program, tmp_path / "orthanc", {"HILUM": node.port}) as archive:
        fill(archive, files)
        let_fetch(node, archive, f'by = "{by}"')
        with node:
            node.send(sent_first(files, study))
            case = node.wait_for_state(*END, timeout_s=LONG_S)
            assert case.state == "delivered", case
            assert any(f"all {len(study.ct)} images" in text for text in findings(node))
            assert not any("have not arrived" in text for text in findings(node))
            states = fetches(node)
    assert states == [("orthanc", str(study.ct[0].SeriesInstanceUID), "done")]


class SlowArchive:
    """Holds a series; has objects sent to the node only when it `may_send`."""

    def __init__(self, study: PhantomStudy, files: list[Path], node: NodeProcess) -> None:
        uids = [str(ds.SOPInstanceUID) for ds in study.instances()]
        self.path_of = dict(zip(uids, files, strict=True))
        self.study, self.node = study, node
        self.may_send = False
        self.moves = 0

    def __call__(self, assoc: Association, request: Any, context_id: int) -> None:
        raw = request.Identifier.getvalue()
        ct = self.study.ct[0]
        if isinstance(request, C_MOVE):
            self.moves += 1
            if not self.may_send:
                return
            wanted = [path for uid, path in self.path_of.items() if uid.encode() in raw]
            answers = send_instances(self.node.peer(), "ODD", wanted, timeout_s=120)
            respond(assoc, request, context_id, 0, None, Completed=len(answers))
            return
        level = "IMAGE" if b"IMAGE" in raw[:40] else "SERIES"
        above = {"QueryRetrieveLevel": level, "StudyInstanceUID": ct.StudyInstanceUID}
        above["SeriesInstanceUID"] = ct.SeriesInstanceUID
        if ct.SeriesInstanceUID.encode() not in raw:
            pass
        elif level == "SERIES":
            count = {"NumberOfSeriesRelatedInstances": str(len(self.study.ct)), "Modality": "CT"}
            respond(assoc, request, context_id, PENDING, encoded(**above, **count))
        else:
            for ds in self.study.ct:
                one = encoded(**above, SOPInstanceUID=ds.SOPInstanceUID)
                respond(assoc, request, context_id, PENDING, one)
        respond(assoc, request, context_id, 0)


def test_fetch_when_the_node_is_killed_in_the_middle_is_finished_once(
    study: PhantomStudy, files: list[Path], tps: StandInReceiver, tmp_path: Path
) -> None:
    """Rule of safety: work begun is finished once after any crash."""
    node = NodeProcess(tmp_path / "node", {"tps": tps.port}, incomplete_s=90)
    archive = SlowArchive(study, files, node)
    with odd_archive(archive) as peer:
        let_fetch(node, peer)
        with node:
            node.send(sent_first(files, study))
            wait_for(lambda: archive.moves, timeout_s=480, what="the retrieval to begin")
            case = wait_for(
                lambda: next((c for c in node.cases() if "being fetched" in c.reason), None),
                timeout_s=480,
                what="the case to say so",
            )
            told = node.hilum("cases", "show", case.case_id).stdout
            assert f"{KEPT_BACK} of {len(study.ct)} images of CT series" in told
            node.kill()
            archive.may_send = True
            node.start()
            case = node.wait_for_state(*END, timeout_s=LONG_S)
            assert case.state == "delivered", case.reason
            states = fetches(node)
            held = [row.sop_instance_uid for row in index_rows(node.folder / "data")]
            log = node.log.read_text(encoding="utf-8")
    assert states == [("odd", str(study.ct[0].SeriesInstanceUID), "done")]
    assert archive.moves == 2
    assert sorted(held) == sorted(str(ds.SOPInstanceUID) for ds in study.instances())
    assert "Traceback" not in log
    assert str(study.ct[0].PatientID) not in log


def test_case_when_priors_are_fetched_and_a_peer_is_down_is_computed_with_findings(
    study: PhantomStudy,
    files: list[Path],
    tps: StandInReceiver,
    tmp_path: Path,
    peer_program: Callable[[str], str],
) -> None:
    """An earlier course joins the case, another patient's does not, a dead peer stops nobody."""
    dates = {"ct_date": "20240311", "mr_date": "20240304"}
    course = make_study(PhantomOptions(seed=3, size="tiny", contrasts=("T1",), **dates))
    stranger = make_study(
        PhantomOptions(seed=3, size="tiny", contrasts=("T1",), ct_date="20230311")
    )
    for ds in stranger.ct:
        ds.PatientBirthDate = "19620301"
    assert course.plan is not None
    assert course.dose is not None
    prior = [*course.ct, course.structure_set, course.plan, course.dose]
    node = NodeProcess(tmp_path / "node", {"tps": tps.port}, incomplete_s=30)
    down = archive_peer("down", free_port())
    with dcmqrscp(peer_program, tmp_path / "dcmtk", {"HILUM": node.port}) as archive:
        fill(archive, write_datasets([*prior, *stranger.ct], tmp_path / "archived"))
        let_fetch(node, archive, 'priors = ["CT", "RTDOSE"]')
        text = node.config.read_text(encoding="utf-8")
        rule = "\n[[protocol.fetch]]\n"
        node.config.write_text(text.replace(rule, f'{rule}peer = "down"\n{rule}', 1))
        with node.config.open("a", encoding="utf-8") as file:
            file.write(
                '\n[[peer]]\nname = "down"\nae_title = "DOWN"\nhost = "127.0.0.1"\n'
                f'port = {down.port}\nroles = ["send", "query"]\n'
            )
        with node:
            node.send(files)
            case = node.wait_for_state(*END, timeout_s=LONG_S)
            assert case.state == "delivered", case.reason
            codes = {one["code"]: one["text"] for one in case.findings}
            (only,) = node.cases()
            held = {row.sop_instance_uid for row in index_rows(node.folder / "data")}
    assert only.structure_set_uid == str(study.structure_set.SOPInstanceUID)
    assert held == {str(ds.SOPInstanceUID) for ds in [*study.instances(), *prior]}
    assert "birth date differ" in codes["priors"]
    assert "down could not be asked" in codes["completeness_unknown"]
    assert "an earlier planning CT" in json.dumps(case.summary)
