"""What hostile objects leave on pages and in files: names are words, and lead nowhere."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from fastapi.routing import iter_route_contexts
from fastapi.testclient import TestClient

from handlers.pages.document import document_of
from handlers.pages.html import html_of
from handlers.report import metrics_document
from node.compute_job import OUTPUT_FOLDER, RESULTS_FOLDER
from node.index.states import CaseState
from tests.page_reading import elements, read_page
from tests.report_cases import ABOUT, dose_of, refined_case
from tests.shown_cases import Page, objects_of, shown_page

SCRIPT = "<script>alert(1)</script>"
QUOTE = "\"'><img src=x onerror=alert(1)>"
TEMPLATE = "{{7*'7'}}{% raw %}${7*7}"
HOSTILE = f"{SCRIPT}{QUOTE}{TEMPLATE}"
OUTSIDE = "outside.txt"
TRAVERSALS = (
    f"../../../../{OUTSIDE}",
    f"..%2f..%2f..%2f..%2f{OUTSIDE}",
    f"%2e%2e/%2e%2e/%2e%2e/%2e%2e/{OUTSIDE}",
    f"..\\..\\..\\..\\{OUTSIDE}",
    "/etc/passwd",
    "%2fetc%2fpasswd",
    f"MR_1/../../../../../{OUTSIDE}",
    "link.dcm",
    "",
    "%00",
)


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    """Return a page over a delivered case in which every text that others chose is hostile."""
    with shown_page(tmp_path_factory.mktemp("shown")) as made:
        case_id = made.case(1, CaseState.DELIVERED, name=f"{SCRIPT}^{QUOTE}^{TEMPLATE}")
        odd = objects_of(2, f"{SCRIPT}^{TEMPLATE}", roi_names=("BODY", HOSTILE, "GTVn1"))
        made.store(
            [replace(one, header=replace(one.header, series_description=HOSTILE)) for one in odd]
        )
        folder = made.config.node.data / RESULTS_FOLDER / case_id / "1" / OUTPUT_FOLDER
        organs = (HOSTILE, "Liver")
        result = replace(refined_case(target=HOSTILE, organs=organs), dose=dose_of(organs))
        told = metrics_document(result, {"case_id": case_id, "protocol": "liver"})
        (folder / "metrics.json").write_text(json.dumps(told), encoding="utf-8")
        about = replace(ABOUT, patient_name=HOSTILE, patient_id=HOSTILE)
        report = html_of(document_of(result, about))
        (folder / "report.html").write_text(report, encoding="utf-8")
        (made.config.node.data / OUTSIDE).write_text("secret", encoding="utf-8")
        (folder / "link.dcm").symlink_to(made.config.node.data / OUTSIDE)
        yield made


@pytest.fixture(scope="module")
def case_id(page: Page) -> str:
    """Return the id of the delivered case."""
    (found,) = page.browser().get("/api/v1/cases?state=delivered").json()["cases"]
    return str(found["case_id"])


def pages_of(page: Page, case_id: str) -> Iterator[tuple[str, str]]:
    """Give the address and text of every page that there is, without and with hostile filters."""
    browser = page.browser()
    (patient,) = {
        each["patient"] for each in browser.get("/api/v1/patients", params={"text": "ID-2"}).json()
    }
    for route in iter_route_contexts(page.app.routes):
        path = str(route.path).replace("{case_id}", case_id)
        if "GET" not in (route.methods or ()) or path.startswith(("/api/", "/static")):
            continue
        assert "{" not in path, path
        for params in ({}, {"text": HOSTILE, "peer": HOSTILE, "told": HOSTILE, "next": HOSTILE},
                       {"patient": patient, "study": HOSTILE}):  # fmt: skip
            answer = browser.get(path, params=params)
            if answer.headers["content-type"].startswith("text/html"):
                yield f"{path} {params}", answer.text


def check_is_harmless(text: str, where: str) -> None:
    """Names appear as words: no element, no attribute and no template was made of them."""
    for element in elements(read_page(text)):
        assert element.name != "script" or element.attributes.get("src", "").startswith("/static/")
        assert not [name for name in element.attributes if name.startswith("on")], where
        assert not (element.name == "img" and element.attributes.get("src") == "x"), where
        for name in ("href", "src", "action"):
            lead = element.attributes.get(name, "")
            assert not lead or lead.startswith(("/", "#", "data:image/", "?")), where
    assert "7777777" not in text, where


def test_pages_when_names_are_hostile_show_them_as_words(page: Page, case_id: str) -> None:
    """Script in patient names, series descriptions, ROI names; templates in any of them."""
    seen = ""
    count = 0
    for where, text in pages_of(page, case_id):
        check_is_harmless(text, where)
        seen += read_page(text).text()
        count += 1
    assert count > 15
    for part in (SCRIPT, QUOTE, TEMPLATE):
        assert part in seen


def test_report_when_names_are_hostile_is_harmless_and_cannot_run_anything(
    page: Page, case_id: str
) -> None:
    """It is told in our words only, and even so opened in a sandbox, without the page's origin."""
    answer = page.browser().get(f"/api/v1/cases/{case_id}/revisions/1/results/report.html")
    assert answer.status_code == 200
    assert "<script" not in answer.text
    assert "<img src=x" not in answer.text
    assert "alert(1)" in answer.text
    policy = answer.headers["content-security-policy"]
    assert policy.startswith("sandbox;")
    assert "allow-scripts" not in policy
    assert "default-src 'none'" in policy


def test_api_when_names_are_hostile_is_never_taken_for_a_page(page: Page, case_id: str) -> None:
    """JSON is JSON, whatever a browser would like to see in it."""
    for address in ("/api/v1/cases", f"/api/v1/cases/{case_id}", "/api/v1/patients?text=ID"):
        answer = page.browser().get(address)
        assert answer.headers["content-type"] == "application/json"
        assert answer.headers["x-content-type-options"] == "nosniff"
        answer.json()


@pytest.mark.parametrize("name", TRAVERSALS)
def test_download_when_its_name_leads_out_is_absent(page: Page, case_id: str, name: str) -> None:
    """Path traversal: of file names, folders, case ids and revisions."""
    browser: TestClient = page.browser()
    for address in (
        f"/api/v1/cases/{case_id}/revisions/1/results/{name}",
        f"/api/v1/cases/{case_id}/revisions/1/archive?folder={name}",
        f"/api/v1/cases/{name}/revisions/1/results",
        f"/api/v1/cases/{case_id}/revisions/{name}/results/metrics.json",
        f"/cases/{name}",
        f"/cases/{name}/review",
    ):
        answer = browser.get(address, headers={"accept": "application/json"})
        assert "secret" not in answer.text, address
        assert "root:" not in answer.text, address
        if name or "archive" not in address:
            assert answer.status_code in (303, 400, 404, 422) or not name, address


def test_download_when_saved_has_a_name_of_ours(page: Page, case_id: str) -> None:
    """The name that the browser saves under holds ids alone."""
    files = page.browser().get(f"/api/v1/cases/{case_id}/revisions/1/results").json()["files"]
    names = {Path(each["name"]).name for each in files}
    assert "link.dcm" not in names
    for each in files:
        address = f"/api/v1/cases/{case_id}/revisions/1/results/{each['name']}"
        told = page.browser().get(address).headers["content-disposition"]
        assert told.partition("filename=")[2] == f'"{case_id}-1-{Path(each["name"]).name}"'
