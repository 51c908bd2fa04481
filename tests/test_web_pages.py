"""The pages show what the index holds: each state, filters, places in a list, nothing unescaped."""

import logging
import re
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from node.index.echoes import EchoBook
from node.index.instances import AssociationOutcome, InstanceBook
from node.index.runs import RunBook
from node.index.standings import StandingBook
from node.index.states import CaseState
from node.log import RECENT
from node.retention import Retention
from node.retention_section import RetentionSection
from node.web.api.case_list import readable_name
from node.web.api.storage import StorageFigures
from node.web.desk import Desk
from tests.page_reading import Element, elements, read_page, unlabelled
from tests.shown_cases import Page, counted_statements, objects_of, shown_page
from tests.web_clients import Browser

STATES = (
    CaseState.WAITING,
    CaseState.REJECTED,
    CaseState.READY,
    CaseState.RUNNING,
    CaseState.DELIVERING,
    CaseState.DELIVERED,
    CaseState.UNDELIVERED,
    CaseState.FAILED,
    CaseState.ABANDONED,
)
HOSTILE = '<script>alert("7")</script>^{{7*7}}'


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    """Return a page over a case of every state, and one of a patient with a hostile name."""
    with shown_page(tmp_path_factory.mktemp("shown")) as made:
        for number, state in enumerate(STATES):
            made.case(number, state)
        made.case(90, CaseState.DELIVERED, HOSTILE)
        yield made


@pytest.fixture(scope="module")
def browser(page: Page) -> Browser:
    return page.browser()


def read(browser: Browser, address: str) -> Element:
    answer = browser.get(address)
    assert answer.status_code == 200, answer.text
    return read_page(answer.text)


def rows(browser: Browser, query: str = "") -> list[str]:
    """Return the rows of the list of cases as a person reads them."""
    body = read(browser, f"/{query}").all("tbody")[0]
    return [row.text() for row in body.all("tr")]


def case_of_state(browser: Browser, state: CaseState) -> str:
    found = browser.get(f"/api/v1/cases?state={state}").json()["cases"]
    return str(next(c["case_id"] for c in found if c["patient_id"] != "ID-90"))


def test_list_when_shown_tells_whose_each_case_is_and_what_it_waits_for(browser: Browser) -> None:
    """Issue 8, page: state, protocol, verdicts, findings, age, what waits and for what."""
    shown = rows(browser)
    assert len(shown) == len(STATES) + 1
    (waiting,) = [row for row in shown if "Family0, Given" in row]
    assert "ID-0" in waiting
    assert "no MR series of this patient has arrived" in waiting
    (delivered,) = [row for row in shown if "Family5, Given" in row]
    for word in ("delivered", "pass", "refined", "warning", "liver"):
        assert word in delivered
    (running,) = [row for row in shown if "Family3, Given" in row]
    assert "running registration" in running


@pytest.mark.parametrize(
    ("query", "wanted"),
    [
        ("state=failed", ["Family7"]),
        ("severity=warning&state=delivered&text=family", ["Family5"]),
        ("protocol=liver&text=ID-2", ["Family2"]),
        ("protocol=other", []),
        ("peer=tps&state=undelivered", ["Family6"]),
        ("peer=scanner", []),
        ("text=GIVEN+fam", [f"Family{n}" for n in range(9)]),
        ("text=1.5", ["Family5"]),
        ("text=family3+family4", []),
        ("text=%25", []),
        ("text=amily3", []),
    ],
)
def test_list_when_filtered_holds_what_fits(
    browser: Browser, query: str, wanted: list[str]
) -> None:
    """Issue 8, page: filter and search; words are beginnings, and no pattern of the database."""
    names = sorted(row.split(",")[0] for row in rows(browser, f"?{query}"))
    assert names == wanted


def test_search_when_it_is_a_case_id_finds_the_case(browser: Browser) -> None:
    """What stands in a log line or a mail is found again."""
    case_id = case_of_state(browser, CaseState.FAILED)
    assert [row.split(",")[0] for row in rows(browser, f"?text={case_id}")] == ["Family7"]


def test_list_when_paged_shows_every_case_once(browser: Browser) -> None:
    """A page begins where the one before ended, though times are equal."""
    seen: list[str] = []
    older = ""
    while True:
        place = {"older": older} if older else {}
        found = browser.get("/api/v1/cases", params={"size": 3, **place}).json()
        seen += [each["case_id"] for each in found["cases"]]
        if found["older"] is None:
            break
        older = found["older"]
    assert len(seen) == len(set(seen)) == len(STATES) + 1


def test_place_in_a_list_when_made_up_is_refused_in_words(browser: Browser) -> None:
    """The API says so; the page begins again."""
    answer = browser.get("/api/v1/cases?older=nonsense")
    assert answer.status_code == 409
    assert answer.json()["detail"] == "no list continues there"
    assert len(rows(browser, "?older=nonsense")) == len(STATES) + 1


def test_case_when_delivered_shows_everything_that_happened_to_it(browser: Browser) -> None:
    """Issue 8, page: time line of every object and step, figures, revisions, files."""
    case_id = case_of_state(browser, CaseState.DELIVERED)
    shown = read(browser, f"/cases/{case_id}").all("main")[0]
    text = shown.text()
    for told in (
        "Family5, Given",
        "a dose is cut off",
        "CT",
        "(used)",
        "Dice coefficient (DSC) 0.734",
        "Mean surface distance 1.9 mm",
        "Plan 1",
        "limits of organs",
        "running",
        "tps",
        "registration 1 (MR): pass",
        "MR_1/ 2 files, as ZIP",
    ):
        assert told in text, told
    links = [each.attributes.get("href", "") for each in shown.all("a")]
    assert f"/cases/{case_id}/review" in links
    files = f"/api/v1/cases/{case_id}/revisions/1"
    assert f"{files}/results/report.pdf" in links
    for link in links:
        if link.startswith(files):
            assert browser.get(link).status_code == 200, link


def test_case_when_its_files_were_removed_says_so(tmp_path: Path) -> None:
    """Issue 8, operation: what retention took is told, and the case stays readable."""
    with shown_page(tmp_path) as page:
        case_id = page.case(1, CaseState.DELIVERED)
        page.store(objects_of(2))  # the newest object of a node is always kept
        book = InstanceBook(page.index)
        for each in book.open_associations("test"):
            book.close_association(each, AssociationOutcome.RELEASED, page.now)
        later = page.now + timedelta(days=60)
        keep = RetentionSection(keep_objects_days=40.0, keep_results_days=40.0)
        config = page.config.model_copy(update={"retention": keep})
        done = Retention(config, page.index, lambda: later).run()
        assert done.counts == {"results": 1, "objects": 1}
        browser = page.browser()
        told = read(browser, f"/cases/{case_id}").all("main")[0].text()
        assert "the received objects (by age)" in told
        assert "the results of revision 1, all but their numbers (by age)" in told
        assert "Dice coefficient (DSC) 0.734" in told
        removals = browser.get(f"/api/v1/cases/{case_id}").json()["removals"]
        assert [each["kind"] for each in removals] == ["results", "objects"]


def test_case_when_it_runs_shows_its_progress(page: Page, browser: Browser) -> None:
    """Issue 8, page: progress of running work is visible while it runs."""
    case_id = case_of_state(browser, CaseState.RUNNING)
    (bar,) = read(browser, f"/cases/{case_id}").all("progress")
    assert 0 < float(bar.attributes["value"]) < 1
    told = browser.get(f"/api/v1/cases/{case_id}").json()["row"]["progress"]
    assert told["step"] == "registration"
    later = page.now + timedelta(hours=1)
    (key,) = [key for key in RunBook(page.index).due(later) if key.case_id == case_id]
    assert RunBook(page.index).begin(key, later) is not None
    again = browser.get(f"/api/v1/cases/{case_id}").json()["row"]["progress"]
    assert again == {"step": "start", "since": None, "share": 0.0}, (
        "what is begun again starts anew"
    )
    RunBook(page.index).note_step(key, "registration", page.now)


def test_case_when_unknown_is_told_as_absent(browser: Browser) -> None:
    """A page for people, a problem for programs."""
    assert "there is no case of that id" in browser.get("/cases/nothing").text
    answer = browser.get("/api/v1/cases/nothing", headers={"accept": "application/json"})
    assert (answer.status_code, answer.json()["status"]) == (404, 404)


PAGES = ("/", "/peers", "/storage", "/protocols", "/associations", "/log")


def test_every_page_when_read_has_labels_landmarks_and_no_script_of_its_own(
    browser: Browser,
) -> None:
    """Issue 8, page: keyboard-usable, labels on controls, strict content policy."""
    cases = browser.get("/api/v1/cases").json()["cases"]
    for address in (*PAGES, *(f"/cases/{each['case_id']}" for each in cases)):
        shown = read(browser, address)
        assert unlabelled(shown) == [], address
        assert len(shown.all("h1")) == len(shown.all("main")) == len(shown.all("nav")) == 1
        (skip,) = [a for a in shown.all("a") if a.attributes.get("class") == "skip"]
        assert skip.attributes["href"] == "#content"
        assert all(s.attributes.get("src", "").startswith("/static/") for s in shown.all("script"))
        assert all(not s.content for s in shown.all("script")), address
        assert shown.all("style") == []
        ids = [each.attributes["id"] for each in elements(shown) if "id" in each.attributes]
        assert len(ids) == len(set(ids)), address
        for table in (t for t in shown.all("table") if t.attributes.get("class") == "rows"):
            cells = [c for c in elements(table) if c.name in ("td", "th") and not c.within("thead")]
            unnamed = [cell.text() for cell in cells if not cell.attributes.get("data-name")]
            assert unnamed == [], f"{address}: a cell without a name on a phone"


def test_hostile_name_when_shown_is_text(browser: Browser) -> None:
    """peers.md 38: script in patient names, templates in names."""
    (row,) = rows(browser, "?text=<script>alert")
    assert 'alert("7")' in row
    assert "{{7*7}}" in row
    case_id = browser.get("/api/v1/cases?text=id-90").json()["cases"][0]["case_id"]
    for address in ("/", f"/cases/{case_id}", "/protocols?text=id-90"):
        raw = browser.get(address).text
        assert "&lt;script&gt;alert(" in raw, address
        assert "<script>alert(" not in raw, address


def test_person_name_when_read_puts_the_family_first() -> None:
    """PS3.5 6.2.1: components and groups of a Person Name."""
    assert readable_name("Doe") == "Doe"
    assert readable_name("^Ann") == "Ann"
    assert readable_name("Yamada^Tarou=山田^太郎") == "Yamada, Tarou"


def test_peers_when_shown_tell_echo_queue_and_breaker(page: Page, browser: Browser) -> None:
    """Issue 8, page: echo state, queue, last success, breaker."""
    at = page.now - timedelta(minutes=5)
    standings, echoes = StandingBook(page.index), EchoBook(page.index)
    standings.answered("tps", at - timedelta(hours=1))
    for _ in range(5):
        standings.came_to_nothing("tps", "refused", at, most=5, pause=timedelta(minutes=20))
    echoes.answered("tps", 12.4, at)
    shown = read(browser, "/peers").all("main")[0].text()
    for told in (
        "TPS 127.0.0.1:104",
        "answers in 12 ms, 5 min ago",
        "left alone since",
        "1 to send",
    ):
        assert told in shown
    assert "is not called" in shown, "the scanner only sends"
    echoes.came_to_nothing("tps", "does not accept connections", at)
    shown = read(browser, "/peers").all("main")[0].text()
    assert "no answer" in shown
    assert "last answered 2026-03-02 11:55 UTC" in shown
    (told, *_) = [peer for peer in browser.get("/api/v1/peers").json() if peer["name"] == "tps"]
    assert told["deliveries_waiting"] == 1
    assert told["oldest_waiting_at"] is not None


def test_associations_when_shown_tell_what_each_carried(page: Page, browser: Browser) -> None:
    """Issue 8, page: associations now and recent."""
    found = browser.get("/api/v1/associations?size=4").json()
    assert [each["objects"] for each in found["associations"]] == [12, 12, 12, 12]
    assert found["older"] == found["associations"][-1]["id"]
    older = browser.get(f"/api/v1/associations?older={found['older']}&size=200").json()
    assert len(older["associations"]) == len(STATES) + 1 - 4
    shown = read(browser, "/associations").all("main")[0].text()
    assert "open for 1 min" in shown
    nobody = read(browser, "/associations?peer=nobody").all("main")[0].text()
    assert "Nobody has called as nobody" in nobody


def test_storage_when_counted_tells_what_is_there(page: Page, browser: Browser) -> None:
    """Issue 8, page: space and retention; counted behind the page, not for each look."""
    desk = Desk(page.config, page.index, lambda: page.now)
    figures = StorageFigures(desk)
    assert figures.storage().counts is None
    figures.wait(60)
    counts = figures.storage().counts
    assert counts is not None
    carried = browser.get("/api/v1/associations?size=200").json()["associations"]
    objects = sum(each["objects"] for each in carried)
    assert (counts.objects, counts.object_bytes) == (objects, 1000 * objects)
    assert counts.cases == len(STATES) + 1
    assert counts.result_bytes > 0
    with counted_statements(page.index) as statements:
        figures.storage()
    assert statements == []
    assert "Nothing of objects and results is removed" in browser.get("/storage").text


def test_log_when_shown_is_filtered(browser: Browser) -> None:
    """Issue 8, page: log, by level and text; the API and the page hold the same lines."""
    for level, event in ((logging.INFO, "zzz.begun"), (logging.ERROR, "zzz.broke")):
        told = {"name": "node.test", "levelno": level, "levelname": logging.getLevelName(level)}
        RECENT.handle(logging.makeLogRecord({**told, "msg": event, "peer": "tps"}))
    found = browser.get("/api/v1/log?text=zzz").json()
    assert [(each["event"], each["fields"]["peer"]) for each in found[-2:]] == [
        ("zzz.begun", "tps"),
        ("zzz.broke", "tps"),
    ]
    assert "zzz.begun" in read(browser, "/log").all("ol")[0].text()
    (line,) = read(browser, "/log?level=ERROR&text=zzz").all("ol")[0].all("li")
    assert "ERROR zzz.broke" in line.text()
    assert "No line of this process fits" in browser.get("/log?text=nothing-holds-this").text


def test_protocols_when_shown_hold_every_setting(page: Page, browser: Browser) -> None:
    """Issue 8, page: protocols read from the file, every setting readable."""
    shown = read(browser, "/protocols").all("main")[0].text()
    for told in ("max_outward_mm 5", "destinations tps", "structure_sets boost*", "dose.limits"):
        assert told in shown


def test_match_when_asked_gives_the_reasons_of_assembly(page: Page, browser: Browser) -> None:
    """Issue 8, page: "which protocol would these objects match, and why" for any study."""
    objects = objects_of(200)
    page.store([one for one in objects if one.header.modality != "CT"])
    (patient,) = browser.get("/api/v1/patients", params={"text": "ID-200"}).json()
    by_study = browser.get("/api/v1/patients", params={"text": "6.200"}).json()
    assert by_study == [patient], "found by the study of the MR"
    (drawn,) = browser.get("/api/v1/match", params={"patient": patient["patient"]}).json()
    liver, other, hopeless = drawn["protocols"]
    assert liver["is_chosen"]
    assert liver["targets"] == ["gtvn_liver"]
    assert liver["mr"] == ['MR series "T2 axial"']
    assert liver["waiting_for"] == [
        "no CT that the structure set was drawn on has arrived (5 slices listed)",
        "an association that carries objects of this case is still open",
    ]
    assert (other["named_by"], other["target_by"], other["is_chosen"]) == (None, "BODY", False)
    assert hopeless["rejection"].startswith("no ROI is a target: the structure set has BODY")
    page_text = read(browser, f"/protocols?patient={patient['patient']}").all("main")[0].text()
    assert "fails: neither its label nor its description fits" in page_text
    assert browser.get("/api/v1/match?patient=patient:none").status_code == 404


def test_pages_when_asked_for_tell_the_audit_trail_who_looked(page: Page, browser: Browser) -> None:
    """Issue 8, audit: who looked at results, by the patient's key alone."""
    page.told.clear()
    case_id = case_of_state(browser, CaseState.DELIVERED)
    browser.get(f"/cases/{case_id}")
    browser.get(f"/api/v1/cases/{case_id}/revisions/1/archive")
    assert [event.kind for event in page.told] == ["instances.accessed", "instances.exported"]
    assert all("Family" not in repr(event) and "ID-5" not in repr(event) for event in page.told)


def test_statements_when_there_are_many_cases_are_as_few(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """No statement per row: the same for ten cases and for two hundred."""
    counts = []
    for cases in (10, 200):
        with shown_page(tmp_path_factory.mktemp(f"many{cases}")) as made:
            _fill_waiting(made, cases)
            made.case(1000, CaseState.DELIVERED)
            made.case(1001, CaseState.DELIVERING)
            browser = made.browser()
            case_id = case_of_state(browser, CaseState.DELIVERED)
            found = {}
            for address in ("/", f"/cases/{case_id}", "/peers", "/associations", "/?text=family"):
                with counted_statements(made.index) as statements:
                    assert browser.get(address).status_code == 200
                found[address] = len([s for s in statements if not s.startswith("BEGIN")])
            counts.append(list(found.values()))
    assert counts[0] == counts[1]
    assert max(counts[0]) <= 30, counts[0]


def _fill_waiting(made: Page, cases: int) -> None:
    for number in range(cases):
        objects = [o for o in objects_of(number) if o.header.modality in ("CT", "RTSTRUCT")]
        made.store(objects)
        made.propose(objects)


def test_guide_when_compared_names_every_address_of_the_api(page: Page) -> None:
    """deploy/api.md is what the program does, with the role that each address needs."""
    guide = (Path(__file__).parent.parent / "deploy" / "api.md").read_text(encoding="utf-8")
    told = set(
        re.findall(r"^\| `(GET|POST) (/\S+)` \| .+ \| (view|operate) \|$", guide, re.MULTILINE)
    )
    found = set()
    for address, methods in page.app.openapi()["paths"].items():
        for method, about in methods.items():
            if address.startswith("/api/v1/") and "review" not in about["tags"]:
                role = "view" if method == "get" else "operate"
                found.add((method.upper(), address.removeprefix("/api/v1"), role))
                assert about["summary"], address
    assert told == found
