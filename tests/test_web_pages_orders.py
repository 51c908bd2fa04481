"""What is ordered on the page happens, as from the command line; what makes no sense is refused."""

import io
import shutil
import zipfile
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from httpx import Response

from node.index.cases import CaseBook, CaseRecord
from node.index.standings import StandingBook
from node.index.states import CaseState
from tests.nodes import free_port
from tests.page_reading import read_page
from tests.shown_cases import FILES, Page, metrics_text, shown_page
from tests.web_clients import Browser


@pytest.fixture
def page(tmp_path: Path) -> Iterator[Page]:
    with shown_page(tmp_path, tps_port=free_port()) as made:
        yield made


def record(page: Page, case_id: str) -> CaseRecord:
    found = CaseBook(page.index).case(case_id)
    assert found is not None
    return found


def press(browser: Browser, where: str, address: str, **fields: str) -> Response:
    """Send the form that stands on a page for an address, as a browser does."""
    (form,) = [
        each
        for each in read_page(browser.get(where).text).all("form")
        if each.attributes.get("action") == address
    ]
    kept = {each.attributes["name"]: each.attributes.get("value", "") for each in form.all("input")}
    assert set(fields) <= {each.attributes["name"] for each in form.all("select")}
    return browser.post(address, data={**kept, **fields}, headers={"origin": browser.here})


@pytest.mark.parametrize(
    "state", [CaseState.FAILED, CaseState.REJECTED, CaseState.UNDELIVERED, CaseState.ABANDONED]
)
def test_retry_when_pressed_begins_the_case_again(page: Page, state: CaseState) -> None:
    """Issue 8, page: retry; what is not delivered is owed again, all else computed anew."""
    case_id = page.case(1, state)
    answer = press(page.browser(), f"/cases/{case_id}", f"/cases/{case_id}/retry")
    assert answer.status_code == 303
    after = record(page, case_id)
    is_undelivered = state is CaseState.UNDELIVERED
    assert after.state is (CaseState.DELIVERING if is_undelivered else CaseState.WAITING)
    assert after.history[-1]["reason"] == "retried by operator this machine"
    shown = page.browser().get(answer.headers["location"]).text
    assert "The case is begun again" in shown


def test_abandon_when_pressed_stops_the_case(page: Page) -> None:
    """Issue 8, page: abandon."""
    case_id = page.case(1, CaseState.RUNNING)
    assert (
        press(page.browser(), f"/cases/{case_id}", f"/cases/{case_id}/abandon").status_code == 303
    )
    assert record(page, case_id).state is CaseState.ABANDONED
    offered = page.browser().get(f"/cases/{case_id}").text
    assert f"/cases/{case_id}/abandon" not in offered, "what makes no sense is not offered"


def test_delivery_when_ordered_again_goes_to_that_peer(page: Page) -> None:
    """Issue 8, page: deliver again to one peer, or give it up."""
    case_id = page.case(1, CaseState.UNDELIVERED)
    here, browser = f"/cases/{case_id}", page.browser()
    assert press(browser, here, f"{here}/deliveries/tps/retry").status_code == 303
    assert record(page, case_id).deliveries[0]["state"] == "pending"
    assert press(browser, here, f"{here}/deliveries/tps/abandon").status_code == 303
    assert record(page, case_id).deliveries[0]["state"] == "abandoned"


@pytest.mark.parametrize(
    ("order", "told"),
    [
        ("retry", "there is nothing to begin again"),
        ("abandon", "cannot go from delivered to abandoned"),
        ("deliveries/tps/retry", "is delivered to tps"),
        ("deliveries/nobody/retry", "has no delivery to 'nobody'"),
    ],
)
def test_order_when_it_makes_no_sense_is_refused_with_its_reason(
    page: Page, order: str, told: str
) -> None:
    """The page, the API and the command refuse alike, and change nothing."""
    case_id = page.case(1, CaseState.DELIVERED)
    before = record(page, case_id)
    answer = page.browser().change(f"/api/v1/cases/{case_id}/{order}")
    assert answer.status_code == 409
    assert told in answer.json()["detail"]
    assert record(page, case_id) == before


def test_order_when_the_page_did_not_ask_is_refused(page: Page) -> None:
    """peers.md 38: CSRF; the guard stands before each order."""
    case_id = page.case(1, CaseState.FAILED)
    answer = page.browser().post(
        f"/cases/{case_id}/retry", headers={"origin": "http://evil.example"}
    )
    assert answer.status_code == 403
    assert record(page, case_id).state is CaseState.FAILED


def test_peer_when_echoed_shows_what_it_answered(page: Page) -> None:
    """Issue 8, page: echo now; a peer that nobody is at does not answer, and why is told."""
    assert press(page.browser(), "/peers", "/peers/tps/echo").status_code == 303
    (row,) = [each for each in page.browser().get("/api/v1/peers").json() if each["name"] == "tps"]
    assert "does not accept connections" in row["echo"]["reason"]
    refused = page.browser().change("/api/v1/peers/scanner/echo")
    assert (refused.status_code, refused.json()["title"]) == (409, "Conflict")


def test_peer_when_resumed_is_tried_again(page: Page) -> None:
    """Issue 8, page: the breaker and its button."""
    page.case(1, CaseState.DELIVERING)
    book = StandingBook(page.index)
    book.came_to_nothing("tps", "refused", page.now, most=1, pause=timedelta(hours=1))
    assert press(page.browser(), "/peers", "/peers/tps/resume").status_code == 303
    assert book.standing("tps").open_since is None


def test_archive_when_fetched_holds_every_file_as_it_is(page: Page) -> None:
    """Issue 8, page: download of any result."""
    case_id = page.case(1, CaseState.DELIVERED)
    files = f"/api/v1/cases/{case_id}/revisions/1"
    listed = page.browser().get(f"{files}/results").json()["files"]
    answer = page.browser().get(f"{files}/archive")
    assert answer.headers["content-type"] == "application/zip"
    with zipfile.ZipFile(io.BytesIO(answer.content)) as archive:
        assert archive.testzip() is None
        assert sorted(archive.namelist()) == sorted(each["name"] for each in listed)
        assert archive.read("metrics.json").decode() == metrics_text()
    part = page.browser().get(f"{files}/archive?folder=MR_1")
    with zipfile.ZipFile(io.BytesIO(part.content)) as archive:
        assert sorted(archive.namelist()) == [name for name in FILES if name.startswith("MR_1/")]


@pytest.mark.parametrize(
    "name",
    ["../outcome.json", "..%2foutcome.json", "%2e%2e/outcome.json", "/etc/passwd", "MR_1", "x%00"],
)
def test_file_when_it_is_none_of_the_results_is_refused(page: Page, name: str) -> None:
    """peers.md 38: path traversal; nothing of what is asked for becomes part of a path."""
    case_id = page.case(1, CaseState.DELIVERED)
    folder = page.config.node.data / "results" / case_id / "1"
    (folder / "outcome.json").write_text("secret", encoding="utf-8")
    (folder / "out" / "link.dcm").symlink_to("/etc/passwd")
    results = f"/api/v1/cases/{case_id}/revisions/1/results/"
    assert page.browser().get(results + name).status_code == 404
    assert page.browser().get(f"{results}link.dcm").status_code == 404


def test_report_when_opened_can_run_nothing(page: Page) -> None:
    """The report is markup made of names that came from others: it is shown in a sandbox."""
    case_id = page.case(1, CaseState.DELIVERED)
    results = f"/api/v1/cases/{case_id}/revisions/1/results"
    answer = page.browser().get(f"{results}/report.html")
    assert answer.headers["content-security-policy"].startswith("sandbox;")
    assert answer.headers["content-disposition"].startswith("inline")
    saved = page.browser().get(f"{results}/RTSTRUCT.dcm").headers["content-disposition"]
    assert saved == f'attachment; filename="{case_id}-1-RTSTRUCT.dcm"'


def test_results_when_they_were_removed_are_told_as_gone(page: Page) -> None:
    """Retention may take the files at any time; the page says so and goes on."""
    case_id = page.case(1, CaseState.DELIVERED)
    shutil.rmtree(page.config.node.data / "results")
    assert "No file of it is here any more" in page.browser().get(f"/cases/{case_id}").text
    results = f"/api/v1/cases/{case_id}/revisions/1"
    assert page.browser().get(f"{results}/archive").status_code == 404
    assert page.browser().get(f"{results}/metrics").status_code == 404
    refused = page.browser().change(f"/api/v1/cases/{case_id}/deliveries/tps/retry")
    assert "result files" in refused.json()["detail"]
