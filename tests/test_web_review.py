"""The addresses of the review view: what they give, and what they refuse."""

import contextlib
import gzip
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

from handlers.pages.document import document_of
from handlers.pages.html import html_of
from handlers.report import metrics_document
from handlers.results import CaseResult
from handlers.sampling import contours_from_mask
from handlers.values import Roi
from handlers.viewing import view_of
from node.compute_job import METRICS_FILE, OUTPUT_FOLDER, REPORT_PAGE, RESULTS_FOLDER
from node.index.states import CaseState
from node.view_files import CONTOURS_FILE, VIEW_FOLDER, read_document, write_view
from node.viewing import on_ct_of_result
from node.web.review.figures import figures_of
from node.web.review.remaking import Remaking
from node.web.review.report_pictures import registration_pictures
from tests.nodes import wait_for
from tests.page_reading import read_page, unlabelled
from tests.picture_cases import BRIGHT_HU
from tests.report_cases import ABOUT, ORGANS, dose_of, refined_case
from tests.shown_cases import Page, shown_page
from tests.web_clients import Browser


@pytest.fixture(scope="module")
def result() -> CaseResult:
    """Return a result with one bright voxel in its CT, and what it adds in its structure set."""
    found = refined_case()
    ct = found.case.ct
    voxels = ct.voxels.copy()
    voxels[3, 5, 7] = BRIGHT_HU
    return replace(found, case=replace(found.case, ct=replace(ct, voxels=voxels)))


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory, result: CaseResult) -> Iterator[Page]:
    """Return a page over a case with pictures (1), one without (2) and one that waits (3)."""
    with shown_page(tmp_path_factory.mktemp("review")) as made:
        made.case(1, CaseState.DELIVERED)
        made.case(2, CaseState.DELIVERED)
        made.case(3, CaseState.WAITING)
        write_pictures(folder_of(made, 1), result)
        yield made


@pytest.fixture(scope="module")
def browser(page: Page) -> Browser:
    return page.browser()


def write_pictures(folder: Path, result: CaseResult) -> None:
    (target,) = result.targets
    assert target.refinement.refined is not None
    contours = contours_from_mask(target.refinement.refined)
    rois = result.case.structure_set.rois
    refined = Roi(max(r.number for r in rois) + 1, str(target.refined_roi_name), "GTV", contours)
    structures = replace(result.case.structure_set, rois=(*rois, refined))
    metrics = metrics_document(replace(result, dose=dose_of(ORGANS)), {})
    write_view(
        view_of(result.case, on_ct_of_result(result), (), structures, metrics), folder / VIEW_FOLDER
    )


def case_id(page: Page, number: int) -> str:
    found = page.browser().get(f"/api/v1/cases?text=ID-{number}").json()["cases"]
    (only,) = [each["case_id"] for each in found if each["patient_id"] == f"ID-{number}"]
    return str(only)


def folder_of(page: Page, number: int) -> Path:
    return page.config.node.data / RESULTS_FOLDER / case_id(page, number) / "1"


def address(page: Page, number: int) -> str:
    return f"/api/v1/cases/{case_id(page, number)}"


def test_document_when_asked_for_tells_all_that_pictures_need(
    page: Page, browser: Browser, result: CaseResult
) -> None:
    """Issue 8: geometry, planes, volumes, targets and ROIs, of the newest revision by default."""
    answer = browser.get(f"{address(page, 1)}/review")
    assert answer.status_code == 200
    assert answer.headers["cache-control"] == "private, no-store"
    told = answer.json()
    assert (told["revision"], told["newest_revision"]) == (1, 1)
    assert told["geometry"]["shape"] == list(result.case.ct.geometry.shape)
    assert [series["key"] for series in told["series"]][:2] == ["ct", "mr1"]
    assert {roi["role"] for roi in told["rois"]} >= {"drawn", "refined"}
    assert browser.get(f"{address(page, 1)}/review?revision=1").json() == told


def test_image_when_asked_for_is_the_plane(
    page: Page, browser: Browser, result: CaseResult
) -> None:
    """Raw sixteen bits, little-endian, rows from the top left: HU at its place."""
    slices, rows, columns = result.case.ct.geometry.shape
    for plane, index, shape, at in (
        ("axial", 3, (rows, columns), (5, 7)),
        ("sagittal", 7, (slices, rows), (slices - 1 - 3, 5)),
        ("coronal", 5, (slices, columns), (slices - 1 - 3, 7)),
    ):
        answer = browser.get(f"{address(page, 1)}/images/ct/{plane}/{index}")
        assert answer.status_code == 200, plane
        assert (answer.headers["x-rows"], answer.headers["x-columns"]) == tuple(map(str, shape))
        assert answer.headers["content-type"] == "application/octet-stream"
        shown = np.frombuffer(answer.content, "<i2").reshape(shape)
        assert np.argwhere(shown == BRIGHT_HU).tolist() == [list(at)], plane


def test_image_when_held_already_is_not_sent_again(page: Page, browser: Browser) -> None:
    """A program that keeps pictures need not fetch them anew; other pictures have another tag."""
    tags = set()
    for what in ("ct/axial/3", "ct/axial/4", "mr1/axial/3", "ct/coronal/3"):
        there = f"{address(page, 1)}/images/{what}"
        tag = browser.get(there).headers["etag"]
        again = browser.get(there, headers={"if-none-match": tag})
        assert (again.status_code, again.content) == (304, b"")
        tags.add(tag)
    assert len(tags) == 4


@pytest.mark.parametrize(
    ("what", "status"),
    [
        ("ct/axial/999", 404),
        ("ct/axial/100001", 422),
        ("ct/axial/-1", 422),
        ("ct/axial/1.5", 422),
        ("ct/oblique/1", 422),
        ("mr9/axial/1", 404),
        ("before9/axial/1", 404),
        ("other9/axial/1", 404),
        ("dose9/axial/1", 404),
        ("view/axial/1", 422),
        ("..%2Fct/axial/1", 404),
        ("ct%00/axial/1", 422),
        ("%2e%2e/axial/1", 422),
        ("ct/axial/1?revision=2", 404),
        ("ct/axial/1?revision=0", 422),
        ("ct/axial/1?revision=99999999999999999999", 422),
    ],
)
def test_image_that_is_none_when_asked_for_is_refused(
    what: str, status: int, page: Page, browser: Browser
) -> None:
    """Bounds are checked, and no name of a request becomes part of a path."""
    answer = browser.get(f"{address(page, 1)}/images/{what}", headers={"accept": "*/*"})
    assert answer.status_code == status, answer.text


@pytest.mark.parametrize("what", ["review", "contours", "dvh", "pictures", "images/ct/axial/1"])
@pytest.mark.parametrize("case", ["nobody", "..%2f..", "%00", "1' OR '1'='1"])
def test_case_that_is_none_when_asked_for_is_refused(
    what: str, case: str, browser: Browser
) -> None:
    """What the index does not know has no folder."""
    assert browser.get(f"/api/v1/cases/{case}/{what}").status_code == 404


def test_case_that_was_not_computed_when_asked_for_is_refused(page: Page, browser: Browser) -> None:
    """There is nothing to look at yet."""
    answer = browser.get(f"{address(page, 3)}/review")
    assert answer.status_code == 404
    assert browser.get(f"/cases/{case_id(page, 3)}/review").status_code == 404


def test_contours_when_asked_for_are_packed_for_who_can_unpack(
    page: Page, browser: Browser
) -> None:
    """A megabyte of points travels small, and as plain JSON to who knows no gzip."""
    packed = gzip.decompress((folder_of(page, 1) / VIEW_FOLDER / CONTOURS_FILE).read_bytes())
    plain = browser.get(f"{address(page, 1)}/contours", headers={"accept-encoding": "identity"})
    assert "content-encoding" not in plain.headers
    assert plain.content == packed
    small = browser.get(f"{address(page, 1)}/contours")
    assert small.headers["content-encoding"] == "gzip"
    assert small.json() == json.loads(packed)


def test_dvh_when_asked_for_is_what_the_metrics_say(page: Page, browser: Browser) -> None:
    """One reader, and no figure computed anew."""
    metrics = json.loads((folder_of(page, 1) / OUTPUT_FOLDER / METRICS_FILE).read_text())
    told = browser.get(f"{address(page, 1)}/dvh").json()
    assert told["dose"] == metrics["dose"]
    assert told["dose"]["plans"][0]["structures"][0]["dvh"]["dose_gy"]


def test_page_when_shown_tells_figures_and_labels_every_control(
    page: Page, browser: Browser
) -> None:
    """Issue 8: metrics, limits, registration quality and findings beside the pictures."""
    answer = browser.get(f"/cases/{case_id(page, 1)}/review")
    assert answer.status_code == 200
    shown = read_page(answer.text)
    assert unlabelled(shown) == []
    words = shown.text()
    for expected in ("Not for diagnosis", "Dice coefficient", "Uncertainty at the target", "Gy"):
        assert expected in words
    metrics = json.loads((folder_of(page, 1) / OUTPUT_FOLDER / METRICS_FILE).read_text())
    for plan in metrics["dose"]["plans"]:
        for limit in plan["limits"]:
            assert f"{limit['bound']:g} {limit['unit']}" in words
    assert "style=" not in answer.text
    assert all(script.attributes.get("src") for script in shown.all("script"))


def test_picture_of_a_registration_when_asked_for_is_that_of_the_report(
    page: Page, browser: Browser, result: CaseResult
) -> None:
    """Issue 8: checkerboard and contour transfer on the page; nothing of the file runs."""
    report = folder_of(page, 1) / OUTPUT_FOLDER / REPORT_PAGE
    usual = report.read_text(encoding="utf-8")
    there = f"{address(page, 1)}/registrations/1/picture"
    assert browser.get(there).status_code == 404
    assert "/picture?" not in browser.get(f"/cases/{case_id(page, 1)}/review").text
    report.write_text(html_of(document_of(result, ABOUT)), encoding="utf-8")
    try:
        answer = browser.get(there)
        assert answer.headers["content-type"].startswith("image/svg+xml")
        assert answer.headers["content-security-policy"].startswith("sandbox;")
        drawn = ElementTree.fromstring(answer.content)  # noqa: S314 - of this very node
        assert drawn.tag.endswith("svg")
        words = " ".join(filter(None, (each.text for each in drawn.iter())))
        assert words.count("checkerboard") == words.count("contours on MR") == 2
        assert browser.get(f"{address(page, 1)}/registrations/9/picture").status_code == 404
        for shown in (f"/cases/{case_id(page, 1)}", f"/cases/{case_id(page, 1)}/review"):
            (picture,) = read_page(browser.get(shown).text).all("figure")[-1:]
            (image,) = picture.all("img")
            assert image.attributes["src"].startswith(there)
            assert image.attributes["alt"].startswith("Checkerboard of CT and registered MR")
            assert "Registration 1" in picture.text()
    finally:
        report.write_text(usual, encoding="utf-8")


def test_figures_when_worded_tell_every_verdict_and_leave_no_number_out() -> None:
    """What could not be judged is told apart from what was."""
    metrics = metrics_document(replace(refined_case(), dose=dose_of(ORGANS)), {})
    figures = figures_of(metrics)
    (plan, *_) = figures.plans
    told = metrics["dose"]["plans"][0]["limits"]
    assert len(plan.limits) + len(plan.not_judged) == len(told)
    words = [limit.verdict.word for limit in plan.limits]
    assert words == sorted(words)  # exceeded before met
    (target,) = figures.targets
    assert target.verdict.word == "refined"
    assert len(target.organs) == len(metrics["targets"][0]["organs"])


def test_figures_of_an_earlier_version_when_worded_tell_what_there_is() -> None:
    """After an upgrade old results still open."""
    metrics = metrics_document(refined_case(), {})
    for registration in metrics["registrations"]:
        for key in ("kind", "notes", "deformation"):
            del registration[key]
    for target in metrics["targets"]:
        for key in ("confidence", "changes", "organs"):
            del target[key]
    metrics["dose"] = {"structures": []}
    figures = figures_of(metrics)
    assert figures.plans == ()
    assert figures.targets[0].verdict.word == "refined"
    assert "MR to planning CT" in figures.registrations[0].title


def test_report_that_cannot_be_read_when_asked_for_pictures_has_none(tmp_path: Path) -> None:
    """A damaged report, or a folder that does not answer, takes no figure from the page."""
    (tmp_path / "damaged.html").write_bytes(b"<figure>\xff\xfe")
    for report in ("damaged.html", "damaged.html/below", "absent.html"):
        assert registration_pictures(tmp_path / report) == {}


def test_pictures_that_are_not_there_when_asked_for_say_so(page: Page, browser: Browser) -> None:
    """An earlier version made none, retention may remove them; the figures stand all the same."""
    answer = browser.get(f"{address(page, 2)}/review", headers={"accept": "*/*"})
    assert answer.status_code == 409
    assert "made again" in answer.json()["hint"]
    assert browser.get(f"{address(page, 2)}/images/ct/axial/1").status_code == 409
    assert browser.get(f"{address(page, 2)}/contours").status_code == 409
    assert browser.get(f"{address(page, 2)}/pictures").json()["state"] == "absent"
    assert browser.get(f"/cases/{case_id(page, 2)}/review").status_code == 200
    assert browser.get(f"{address(page, 2)}/dvh").status_code == 200


def test_pictures_when_they_cannot_be_made_again_tell_why(page: Page, browser: Browser) -> None:
    """The objects of the case are gone from the node: said, and nothing hangs."""
    there = f"{address(page, 2)}/pictures"
    job = {"root": "/", "ct": ["gone.dcm"], "structure_set": "gone.dcm", "mr": {}}
    more: dict[str, Any] = {
        "settings": {"target_patterns": ["GTV*"], "max_outward_mm": 5.0},
        "case": {}, "uid_seed": "s", "software_version": "1", "memory_mib": 4000.0,
        "created": "2026-03-01T00:00:00+00:00",
    }  # fmt: skip
    (folder_of(page, 2) / "job.json").write_text(json.dumps(job | more), encoding="utf-8")
    answer = browser.change(there)
    assert answer.status_code == 202, answer.text
    assert answer.json()["state"] in ("waiting", "working")
    made = wait_for(
        lambda: (state := browser.get(there).json())["state"] == "failed" and state,
        timeout_s=200,
        what="making the pictures to fail",
    )
    assert "a stored object is missing" in made["reason"]
    assert sorted(path.name for path in folder_of(page, 2).iterdir()) == ["job.json", "out"]


def test_pictures_when_a_stranger_page_asks_for_them_are_not_made(
    page: Page, browser: Browser
) -> None:
    """To make them is work: no other site may cause it."""
    answer = browser.post(f"{address(page, 2)}/pictures", headers={"origin": "http://evil.example"})
    assert answer.status_code == 403


def test_making_pictures_when_too_many_wait_refuses(page: Page) -> None:
    """A bounded queue: whoever asks for a thousand gets a few."""

    class Idle(Remaking):
        def _work(self) -> None:
            """Work on nothing, so that all wait."""

    class Somewhere:
        def __init__(self, number: int) -> None:
            self.folder = Path(f"/nowhere/{number}/1")

    idle = Idle(page.config)
    wanted: list[Any] = [Somewhere(number) for number in range(25)]
    states = [idle.want(each).state for each in wanted]
    assert states == ["waiting"] * 20 + ["failed"] * 5
    assert idle.want(wanted[0]).state == "waiting"


def test_planes_when_many_are_served_leave_no_file_open(page: Page, browser: Browser) -> None:
    """A day of scrolling must not use up the handles of the process."""
    count = read_document(folder_of(page, 1) / VIEW_FOLDER)["planes"]["axial"]["count"]
    for index in range(count):
        assert browser.get(f"{address(page, 1)}/images/ct/axial/{index}").status_code == 200
    assert [path for path in open_files() if path.endswith(".bricks")] == []


def open_files() -> list[str]:
    found = []
    for handle in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):  # the handle of this very list is gone by now
            found.append(str(handle.readlink()))
    return found
