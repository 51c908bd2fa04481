"""What a case lacks is fetched from archives of others, once, and told."""

import copy
import re
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pydicom import Dataset
from pynetdicom.association import Association
from pynetdicom.dimse_primitives import C_FIND, C_MOVE

from node.config import Peer
from node.conformance import MANUFACTURER
from node.index.case_rows import RESULTS
from node.index.cases import CaseBook
from node.index.fetches import Fetch, FetchBook
from node.index.states import CaseState
from node.phantom import PhantomOptions, PhantomStudy, make_study
from node.protocol import FetchRule
from tests.archives import archive_peer, dcmqrscp, fill, orthanc
from tests.fetching_clinic import PATIENCE_S, QUIET_S, Clinic, clinic
from tests.nodes import free_port, wait_for, write_datasets
from tests.odd_archive import PENDING, encoded, odd_archive, respond
from tests.test_query_find import ARCHIVES

KEPT_BACK = 3
FindProgram = Callable[[str], str]


@pytest.fixture(scope="module")
def study() -> PhantomStudy:
    return make_study(PhantomOptions(seed=3, size="tiny", contrasts=("T1",)))


@pytest.fixture(scope="module")
def earlier() -> PhantomStudy:
    """Return a course of the same patient, a year before."""
    dates = {"ct_date": "20240311", "mr_date": "20240304"}
    return make_study(PhantomOptions(seed=3, size="tiny", contrasts=("T1",), **dates))


@pytest.fixture
def port() -> int:
    return free_port()


def uids(datasets: Any) -> set[str]:
    return {str(ds.SOPInstanceUID) for ds in datasets}


def series_uid(ds: Dataset) -> str:
    return str(ds.SeriesInstanceUID)


def altered(datasets: Any, **changes: Any) -> list[Dataset]:
    """Return copies with other values."""
    found = []
    for ds in datasets:
        one = copy.deepcopy(ds)
        for keyword, value in changes.items():
            setattr(one, keyword, value)
        found.append(one)
    return found


def fill_with(archive: Peer, datasets: Any, folder: Path) -> None:
    fill(archive, write_datasets(datasets, folder))


def send_all_but_some(here: Clinic, study: PhantomStudy, folder: Path) -> None:
    """Send a case without its first slices, and look when it has been quiet."""
    here.send([*study.ct[KEPT_BACK:], *study.mr["T1"], study.structure_set], folder / "first")
    here.turn(QUIET_S + 1)
    here.look()


@pytest.mark.parametrize("name", ARCHIVES)
@pytest.mark.parametrize("by", ["move", "get"])
def test_missing_slices_when_the_archive_has_them_are_fetched(
    name: str,
    by: str,
    study: PhantomStudy,
    port: int,
    tmp_path: Path,
    peer_program: FindProgram,
) -> None:
    """Issue 6, item 7: the count shows what is missing, also of the MR, which nothing lists."""
    known = {"HILUM": port}
    with ARCHIVES[name](peer_program, tmp_path / name, known) as archive:
        fill_with(archive, study.instances(), tmp_path / "archived")
        rule = FetchRule(peer=archive.name, by=by)
        with clinic(tmp_path / "node", port, [archive], rule) as here:
            mr = study.mr["T1"]
            first = [*study.ct[KEPT_BACK:], *mr[:-KEPT_BACK], study.structure_set]
            here.send(first, tmp_path / "first")
            here.turn(QUIET_S + 1)
            waiting = here.look()
            assert "is being asked how many images" in waiting.reason
            here.fetching.work_once(archive)
            told = f"{KEPT_BACK} of {len(study.ct)} images of CT series"
            assert told in here.look().reason
            case = here.settle()
            assert case.state is CaseState.READY
            assert here.held() == uids([*study.ct, *mr, study.structure_set])
            complete = here.findings()["complete_at_peer"]
            assert [text.split(" images of")[0] for text in complete] == [
                f"all {len(study.ct)}",
                f"all {len(mr)}",
            ]
            assert set(here.fetched().values()) == {("done", "")}


def test_ct_when_only_its_structure_set_came_is_fetched_by_its_reference(
    study: PhantomStudy, port: int, tmp_path: Path, peer_program: FindProgram
) -> None:
    """A structure set names its CT, which is found though the set lies in a study of its own."""
    with orthanc(peer_program, tmp_path / "orthanc", {"HILUM": port}) as archive:
        fill_with(archive, study.ct, tmp_path / "archived")
        with clinic(tmp_path / "node", port, [archive], FetchRule(peer=archive.name)) as here:
            apart = altered([study.structure_set], StudyInstanceUID="1.2.826.0.77")
            here.send([*apart, *study.mr["T1"]], tmp_path / "first")
            case = here.settle()
            assert case.state is CaseState.READY, case.reason
            assert uids(study.ct) <= here.held()


def course(study: PhantomStudy) -> list[Dataset]:
    """Return CT, structure set, plan and dose."""
    assert study.plan is not None
    assert study.dose is not None
    return [*study.ct, study.structure_set, study.plan, study.dose]


@pytest.mark.parametrize("name", ARCHIVES)
def test_earlier_course_when_wanted_comes_whole_and_joins_the_case(
    name: str,
    study: PhantomStudy,
    earlier: PhantomStudy,
    port: int,
    tmp_path: Path,
    peer_program: FindProgram,
) -> None:
    """Handbook A.4: a dose leads to plan, structure set and CT; the set starts no case."""
    with ARCHIVES[name](peer_program, tmp_path / name, {"HILUM": port}) as archive:
        fill_with(archive, [*course(earlier), *earlier.mr["T1"]], tmp_path / "archived")
        rule = FetchRule(peer=archive.name, missing=False, priors=("RTDOSE", "MR"))
        with clinic(tmp_path / "node", port, [archive], rule) as here:
            own = [*study.ct, study.structure_set, *study.mr["T1"]]
            here.send(own, tmp_path / "first")
            here.turn(QUIET_S + 1)
            assert here.look().state is CaseState.WAITING
            here.fetching.work_once(archive)
            assert "series of other studies are being fetched" in here.look().reason
            case = here.settle()
            assert case.state is CaseState.READY, case.reason
            # the MR of that time lies outside of the protocol's mr_window_days
            assert here.held() == uids(own) | uids(course(earlier))
            assert case.ct_series_uid == series_uid(study.ct[0])
            fetched = here.fetched()
            assert set(fetched) == {series_uid(ds) for ds in course(earlier)}
            assert set(fetched.values()) == {("done", "")}
            joined = here.job()["other_ct"]
            assert list(joined) == [series_uid(earlier.ct[0])]
            assert len(joined[series_uid(earlier.ct[0])]["images"]) == len(earlier.ct)
            assert joined[series_uid(earlier.ct[0])]["structure_set"]
            assert len(joined[series_uid(earlier.ct[0])]["doses"]) == 1
            assert len(joined[series_uid(earlier.ct[0])]["plans"]) == 1
            (question,) = here.asked()
            asked_at = question.asked_at
            here.settle()
            assert [row.asked_at for row in here.asked()] == [asked_at], "asked once"


def test_mr_when_it_is_recent_is_fetched_from_the_studies_of_the_patient(
    study: PhantomStudy, port: int, tmp_path: Path, peer_program: FindProgram
) -> None:
    """An MR that nobody sent, of the days before the planning CT, is found by rule."""
    with orthanc(peer_program, tmp_path / "orthanc", {"HILUM": port}) as archive:
        fill_with(archive, study.mr["T1"], tmp_path / "archived")
        rule = FetchRule(peer=archive.name, priors=("MR",))
        with clinic(tmp_path / "node", port, [archive], rule) as here:
            here.send([*study.ct, study.structure_set], tmp_path / "first")
            case = here.settle()
            assert case.state is CaseState.READY, case.reason
            assert uids(study.mr["T1"]) <= here.held()


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"PatientBirthDate": "19620301"}, "birth date differ"),
        ({"PatientName": "Other^Person"}, "name differ"),
        ({"PatientBirthDate": "", "PatientName": ""}, "neither name nor birth date"),
    ],
)
def test_study_when_it_may_be_of_another_patient_is_not_fetched(
    changes: dict[str, str],
    why: str,
    study: PhantomStudy,
    earlier: PhantomStudy,
    port: int,
    tmp_path: Path,
    peer_program: FindProgram,
) -> None:
    """Two patients with one Patient ID: nothing of the other is fetched, and a finding says it."""
    with dcmqrscp(peer_program, tmp_path / "dcmtk", {"HILUM": port}) as archive:
        fill_with(archive, altered(course(earlier), **changes), tmp_path / "archived")
        rule = FetchRule(peer=archive.name, missing=False, priors=("CT", "RTDOSE"))
        with clinic(tmp_path / "node", port, [archive], rule) as here:
            own = [*study.ct, study.structure_set, *study.mr["T1"]]
            here.send(own, tmp_path / "first")
            case = here.settle()
            assert case.state is CaseState.READY
            assert here.held() == uids(own)
            assert here.fetched() == {}
            (text,) = here.findings()["priors"]
            assert why in text
            assert not re.search("1962|Other|Person|Phantom", text)


def test_case_when_its_structure_set_is_a_prior_of_another_case_stays(
    study: PhantomStudy,
    earlier: PhantomStudy,
    port: int,
    tmp_path: Path,
    peer_program: FindProgram,
) -> None:
    """What was sent to us is no mere prior, though an archive that tells no counts sends it again.

    (DCMTK's archive tells none, so that nobody knows whether a series is here whole.)
    """
    with dcmqrscp(peer_program, tmp_path / "dcmtk", {"HILUM": port}) as archive:
        fill_with(archive, [*earlier.ct, earlier.structure_set], tmp_path / "archived")
        rule = FetchRule(peer=archive.name, missing=False, priors=("RTSTRUCT", "CT"))
        with clinic(tmp_path / "node", port, [archive], rule) as here:
            here.send([*earlier.ct, earlier.structure_set], tmp_path / "waits for its MR")
            here.send([*study.ct, study.structure_set, *study.mr["T1"]], tmp_path / "is whole")
            for _ in range(4):
                here.turn(QUIET_S + 1)
                here.schedule.look()
                here.work()
            here.schedule.look()
            states = {
                case.structure_set_uid: case.state for case in CaseBook(here.node.index).cases()
            }
            assert set(here.fetched().values()) == {("done", "")}
    assert states == {
        str(study.structure_set.SOPInstanceUID): CaseState.READY,
        str(earlier.structure_set.SOPInstanceUID): CaseState.WAITING,
    }


def test_prior_when_it_is_sent_to_us_afterwards_may_start_a_case(
    study: PhantomStudy, port: int, tmp_path: Path
) -> None:
    """A clinic that sends an old structure set wants it computed, whoever fetched it before."""
    archive = archive_peer("pacs", free_port())
    objects = [*study.ct, study.structure_set]
    with clinic(tmp_path / "node", port, [archive], FetchRule(peer="pacs")) as here:
        fetch = Fetch(
            peer="pacs",
            series_uid=series_uid(study.structure_set),
            study_uid=str(study.structure_set.StudyInstanceUID),
            patient_key="",
            about="1.2",
            by="move",
            is_prior=True,
        )
        book = FetchBook(here.node.index)
        key = fetch.patient_key
        book.order([fetch], here.now())
        assert book.elsewhere(key).prior_series == {fetch.series_uid}
        here.send(objects, tmp_path / "as the archive")
        book.finish(fetch, here.now())
        assert book.elsewhere(key).prior_series == {fetch.series_uid}
        here.send(objects, tmp_path / "as the clinic")
        assert book.elsewhere(key).prior_series == frozenset()
        book.order([fetch], here.now())
        assert book.elsewhere(key).prior_series == frozenset(), "fetched once more"


def test_result_of_ours_when_the_archive_has_it_is_not_fetched_back(
    study: PhantomStudy, port: int, tmp_path: Path, peer_program: FindProgram
) -> None:
    """What we delivered to an archive is no prior."""
    ours = altered(
        study.mr["T1"][:5],
        Manufacturer=MANUFACTURER,
        StudyInstanceUID="1.2.826.0.88",
        SeriesInstanceUID="1.2.826.0.88.1",
    )
    for number, ds in enumerate(ours):
        ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = f"1.2.826.0.88.1.{number}"
    with orthanc(peer_program, tmp_path / "orthanc", {"HILUM": port}) as archive:
        fill_with(archive, ours, tmp_path / "archived")
        rule = FetchRule(peer=archive.name, missing=False, priors=("MR",))
        with clinic(tmp_path / "node", port, [archive], rule) as here:
            here.send([*study.ct, study.structure_set, *study.mr["T1"]], tmp_path / "first")
            here.settle()
            assert not here.held() & uids(ours)


def test_result_that_is_recorded_is_not_fetched_back_though_the_archive_hides_its_maker(
    study: PhantomStudy, port: int, tmp_path: Path, peer_program: FindProgram
) -> None:
    """Where no Manufacturer is told, our results are known by the UIDs that we recorded."""
    series = {"StudyInstanceUID": "1.2.826.0.88", "SeriesInstanceUID": "1.2.826.0.88.1"}
    ours = altered(study.mr["T1"][:5], **series)
    for number, ds in enumerate(ours):
        ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = f"1.2.826.0.88.1.{number}"
    with dcmqrscp(peer_program, tmp_path / "dcmtk", {"HILUM": port}) as archive:
        fill_with(archive, ours, tmp_path / "archived")
        rule = FetchRule(peer=archive.name, missing=False, priors=("MR",))
        with clinic(tmp_path / "node", port, [archive], rule) as here:
            with here.node.index.begin() as connection:
                for number, ds in enumerate(ours):
                    uid = str(ds.SOPInstanceUID)
                    row = {"case_id": "c", "revision": 1, "path": str(number), "output": "mr"}
                    connection.execute(RESULTS.insert().values(sop_instance_uid=uid, **row))
            here.send([*study.ct, study.structure_set, *study.mr["T1"]], tmp_path / "first")
            here.settle()
            assert not here.held() & uids(ours)
            assert here.fetched() == {"1.2.826.0.88.1": ("done", "")}


def test_case_when_the_archive_is_down_goes_on_after_its_patience(
    study: PhantomStudy, port: int, tmp_path: Path
) -> None:
    """Peer down: the case waits as for missing slices, is asked with growing pauses, goes on."""
    down = archive_peer("down", free_port())
    rule = FetchRule(peer="down", priors=("CT",))
    with clinic(tmp_path / "node", port, [down], rule) as here:
        here.send([*study.ct, study.structure_set, *study.mr["T1"]], tmp_path / "first")
        attempts = []
        for _ in range(20):
            here.turn(QUIET_S + 1)
            here.look()
            here.work()
            attempts.append(sum(row.attempts for row in here.asked()))
        # three questions, after pauses of 10, 20, 40, 80 s of quiet
        assert attempts[:4] == [3, 6, 6, 9]
        assert attempts[-1] == 15
        assert "could not be asked" in here.look().reason
        here.turn(PATIENCE_S)
        case = here.look()
        assert case.state is CaseState.READY
        texts = here.findings()["completeness_unknown"]
        assert len(texts) == 3
        assert all("does not accept connections" in text for text in texts)


def test_question_when_the_archive_comes_back_is_answered(
    study: PhantomStudy, port: int, tmp_path: Path, peer_program: FindProgram
) -> None:
    """A question that found nobody is asked again."""
    archive = archive_peer("orthanc", free_port())
    with clinic(tmp_path / "node", port, [archive], FetchRule(peer="orthanc")) as here:
        here.send([*study.ct, study.structure_set, *study.mr["T1"]], tmp_path / "first")
        here.turn(QUIET_S + 1)
        here.look()
        here.work()
        assert "could not be asked" in here.look().reason
        with orthanc(
            peer_program, tmp_path / "orthanc", {"HILUM": port}, port=archive.port
        ) as running_now:
            fill_with(running_now, study.instances(), tmp_path / "archived")
            case = here.settle()
        assert case.state is CaseState.READY
        assert len(here.findings()["complete_at_peer"]) == 2


class Archive:
    """An odd archive that holds one CT series, tells what it is told to, and counts."""

    def __init__(self, study: PhantomStudy, told: int, listed: int) -> None:
        self.study, self.told, self.listed = study, told, listed
        self.questions: list[str] = []
        self.moves: list[bytes] = []
        self.move_status = 0xA702

    def __call__(self, assoc: Association, request: Any, context_id: int) -> None:
        if isinstance(request, C_MOVE):
            self.moves.append(request.Identifier.getvalue())
            respond(assoc, request, context_id, self.move_status)
        elif isinstance(request, C_FIND):
            raw = request.Identifier.getvalue()
            level = next(w for w in ("STUDY", "SERIES", "IMAGE") if w.encode() in raw[:40])
            self.questions.append(level)
            for answer in self._answers(level, raw):
                respond(assoc, request, context_id, PENDING, answer)
            respond(assoc, request, context_id, 0)

    def _answers(self, level: str, raw: bytes) -> Iterator[bytes]:
        ct = self.study.ct[0]
        if series_uid(ct).encode() not in raw:
            return
        above = {"QueryRetrieveLevel": level, "StudyInstanceUID": ct.StudyInstanceUID}
        above["SeriesInstanceUID"] = ct.SeriesInstanceUID
        if level == "SERIES":
            count = {"NumberOfSeriesRelatedInstances": str(self.told), "Modality": "CT"}
            yield encoded(**above, **count)
        if level == "IMAGE":
            for ds in self.study.ct[: self.listed]:
                yield encoded(**above, SOPInstanceUID=ds.SOPInstanceUID)


def test_missing_images_alone_are_asked_for_and_given_up_after_some_attempts(
    study: PhantomStudy, port: int, tmp_path: Path
) -> None:
    """Only what is missing is fetched; a peer that cannot send is not asked for ever."""
    odd = Archive(study, len(study.ct), len(study.ct))
    missing, held = study.ct[:KEPT_BACK], study.ct[KEPT_BACK:]
    with (
        odd_archive(odd) as peer,
        clinic(tmp_path / "node", port, [peer], FetchRule(peer="odd")) as here,
    ):
        here.send([*held, study.structure_set, *study.mr["T1"]], tmp_path / "first")
        for _ in range(20):
            here.turn(QUIET_S)
            here.look()
            here.work()
        assert len(odd.moves) == 6
        assert all(str(ds.SOPInstanceUID).encode() in odd.moves[0] for ds in missing)
        assert not any(str(ds.SOPInstanceUID).encode() in odd.moves[0] for ds in held)
        key = here.asked()[0].patient_key
        told = FetchBook(here.node.index).elsewhere(key).told
        assert told["count", "odd", series_uid(study.ct[0])].held == len(held)
        ((state, reason),) = here.fetched().values()
        assert state == "given up"
        assert "cannot send the objects" in reason
        here.turn(PATIENCE_S)
        assert here.look().state is CaseState.READY
        (text,) = here.findings()["series_incomplete"]
        assert "cannot send the objects" in text


@pytest.mark.parametrize("told", [5, 40])
def test_counts_when_they_are_odd_neither_hang_nor_loop(
    told: int, study: PhantomStudy, port: int, tmp_path: Path
) -> None:
    """A peer with fewer images proves nothing wrong; one that counts more than it lists is told."""
    odd = Archive(study, told, min(told, len(study.ct)))
    with (
        odd_archive(odd) as peer,
        clinic(tmp_path / "node", port, [peer], FetchRule(peer="odd")) as here,
    ):
        here.send([*study.ct, study.structure_set, *study.mr["T1"]], tmp_path / "first")
        case = here.settle()
        assert case.state is CaseState.READY
        codes = here.findings()
        if told < len(study.ct):
            assert "all 5 images" in codes["complete_at_peer"][0]
            assert odd.moves == []
        else:
            (text,) = codes["series_incomplete"]
            assert "counts 40 images of a series and lists 28" in text
        before = len(odd.questions)
        for _ in range(5):
            here.turn(QUIET_S)
            here.look()
            here.work()
        assert len(odd.questions) == before, "an answered question is not asked again"


def test_question_when_put_for_a_computed_case_is_not_asked(
    study: PhantomStudy, port: int, tmp_path: Path
) -> None:
    """Old cases are left alone: only news raise questions about them."""
    odd = Archive(study, len(study.ct), len(study.ct))
    with (
        odd_archive(odd) as peer,
        clinic(tmp_path / "node", port, [peer], FetchRule(peer="odd")) as here,
    ):
        here.send([*study.ct, study.structure_set, *study.mr["T1"]], tmp_path / "first")
        assert here.settle().state is CaseState.READY
        with here.node.index.begin() as connection:
            connection.exec_driver_sql("DELETE FROM questions")
        here.turn(3600)
        here.schedule.resume()
        here.look()
        assert here.asked() == []


def test_open_fetch_when_the_node_starts_again_is_taken_up(
    study: PhantomStudy, port: int, tmp_path: Path, peer_program: FindProgram
) -> None:
    """What was begun is finished after any crash: questions and fetches are rows."""
    with orthanc(peer_program, tmp_path / "orthanc", {"HILUM": port}) as archive:
        fill_with(archive, study.instances(), tmp_path / "archived")
        rule = FetchRule(peer=archive.name)
        with clinic(tmp_path / "node", port, [archive], rule) as here:
            send_all_but_some(here, study, tmp_path)
            assert [row.state for row in here.asked()] == ["open", "open"]
        with clinic(tmp_path / "node", port, [archive], rule) as again:
            again.turn(QUIET_S + 1)
            again.schedule.resume()
            case = again.settle()
            assert case.state is CaseState.READY
            assert uids(study.ct) <= again.held()


def test_threads_when_started_work_and_when_stopped_end(
    study: PhantomStudy, port: int, tmp_path: Path, peer_program: FindProgram
) -> None:
    """The threads of a process do what the tests drive by hand, and end at once."""
    with orthanc(peer_program, tmp_path / "orthanc", {"HILUM": port}) as archive:
        fill_with(archive, study.instances(), tmp_path / "archived")
        rule = FetchRule(peer=archive.name)
        with clinic(tmp_path / "node", port, [archive], rule) as here:
            send_all_but_some(here, study, tmp_path)
            before = set(threading.enumerate())
            here.fetching.start()
            started = set(threading.enumerate()) - before
            assert started
            wait_for(lambda: uids(study.ct) <= here.held(), timeout_s=60, what="the slices")
            here.fetching.stop()
            assert not [thread for thread in started if thread.is_alive()]
