"""The whole API against its own description, and every address against who may ask for it."""

import re
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest
import schemathesis
from fastapi.routing import iter_route_contexts
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from starlette.routing import Mount

from node.index.access import AccessBook
from node.index.states import CaseState
from node.web.access.cookies import new_secret, session_cookie
from tests.shown_cases import NOW, Page, shown_page
from tests.web_clients import HERE, Browser, program

EXAMPLES = 4
"""Requests for each address of the API, of each kind."""

OPEN = {("GET", "/login"), ("POST", "/login"), ("GET", "/health"), ("GET", "/ready")}
"""What strangers may ask for; the two addresses of supervisors tell no more than that."""

OF_EVERY_USER = {
    ("POST", "/login"),
    ("POST", "/logout"),
    ("POST", "/account"),
    ("POST", "/api/v1/cases/{case_id}/pictures"),  # what is looked at is made ready again
}
"""What changes something, and needs the role `view` alone."""

Asked = tuple[str, str]


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    """Return a page over a case of every state that lasts, with users of both roles."""
    with shown_page(tmp_path_factory.mktemp("shown")) as made:
        for number, state in enumerate(CaseState):
            if state is not CaseState.RECEIVING:
                made.case(number, state)
        for name, role in (("vic", "view"), ("ann", "operate")):
            AccessBook(made.index).add_user(name, role, "no hash", made.now)
        yield made


@pytest.fixture(scope="module")
def routes(page: Page) -> list[Asked]:
    """Return the method and pattern of every address that there is."""
    found: list[Asked] = []
    for route in iter_route_contexts(page.app.routes):
        if isinstance(route.route, Mount):
            assert route.path == "/static"
            continue
        methods = sorted((route.methods or set()) - {"HEAD"})
        assert methods, route.path
        found += [(method, str(route.path)) for method in methods]
    return found


def browser_of(page: Page, user: str) -> Browser:
    """Return a browser in which a user has logged in."""
    browser, secret = Browser(page.app), new_secret()
    assert AccessBook(page.index).open_session(user, "no hash", secret, "", page.now)
    browser.cookies.set(session_cookie(is_encrypted=False), secret, "127.0.0.1")
    return browser


def filled(pattern: str) -> str:
    """Return an address of a pattern."""
    return re.sub(r"\{[^}]+\}", "1", pattern)


def test_addresses_when_walked_are_those_of_all_parts(routes: list[Asked]) -> None:
    """The walk sees pages, API, monitoring and access: none of them can hide from the tests."""
    seen = {pattern for _, pattern in routes}
    wanted = {"/", "/login", "/health", "/peers", "/cases/{case_id}", "/api/v1/cases"}
    assert wanted <= seen
    assert set(routes) >= OPEN | OF_EVERY_USER


@pytest.mark.parametrize("accept", ["text/html", "application/json"])
def test_every_address_when_a_stranger_asks_is_closed(
    page: Page, routes: list[Asked], accept: str
) -> None:
    """Issue 8, access: nothing is reachable without login but what `OPEN` names."""
    stranger = Browser(page.app, address="10.9.9.9")
    for method, pattern in routes:
        if (method, pattern) in OPEN:
            continue
        answer = stranger.request(method, filled(pattern), headers={"accept": accept})
        is_led = accept == "text/html" and not pattern.startswith("/api/")
        expected = (303, "/login") if is_led else (401, None)
        place = answer.headers.get("location", "").partition("?")[0] or None
        assert (answer.status_code, place) == expected, (method, pattern)


def test_every_change_when_a_viewer_asks_is_refused(page: Page, routes: list[Asked]) -> None:
    """Issue 8, access: the role `view` looks only."""
    vic = browser_of(page, "vic")
    for method, pattern in routes:
        if method != "GET" and (method, pattern) not in OF_EVERY_USER:
            answer = vic.change(filled(pattern), method)
            assert answer.status_code == 403, (method, pattern)
            assert "operate" in answer.text, (method, pattern)


def test_every_change_when_another_page_asks_is_refused(page: Page, routes: list[Asked]) -> None:
    """Issue 8, access: CSRF protection, whatever the address; GET changes nothing."""
    ann = browser_of(page, "ann")
    before = page.now
    for method, pattern in routes:
        if method != "GET":
            assert method in ("POST", "PUT", "PATCH", "DELETE"), (method, pattern)
            without = ann.request(method, filled(pattern), headers={"origin": HERE})
            assert without.status_code == 403, (method, pattern)
            foreign = {"origin": "http://evil.example", "x-csrf-token": ann.csrf_token()}
            answer = ann.request(method, filled(pattern), headers=foreign)
            assert answer.status_code == 403, (method, pattern)
    assert page.now == before


@pytest.fixture(scope="module")
def token(page: Page) -> str:
    """Return a token of a program that may operate."""
    secret = new_secret()
    AccessBook(page.index).add_token("robot", "operate", secret, NOW.replace(year=2100), page.now)
    return secret


@pytest.fixture(scope="module")
def description(page: Page, token: str) -> Any:
    """Return the API as its own description tells it."""
    headers = {"Authorization": f"Bearer {token}"}
    return schemathesis.openapi.from_asgi("/api/openapi.json", page.app, headers=headers)


@pytest.mark.parametrize("kind", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE])
def test_api_when_asked_anything_answers_as_described(
    page: Page, token: str, description: Any, kind: GenerationMode
) -> None:
    """Issue 8, API: checked with schemathesis: no 5xx; statuses, types, schemas as documented."""
    headers = {"Authorization": f"Bearer {token}"}
    ids = [c["case_id"] for c in program(page.app, token).get("/api/v1/cases").json()["cases"]]
    count = 0
    for found in description.get_all_operations():
        operation = found.ok()
        known = {"case_id": st.sampled_from(ids), "peer": st.just("tps"), "revision": st.just(1)}

        @seed(8)
        @settings(
            max_examples=EXAMPLES,
            deadline=None,
            database=None,
            derandomize=True,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(case=operation.as_strategy(generation_mode=kind), names=st.fixed_dictionaries(known))
        def ask(case: Any, names: dict[str, Any]) -> None:
            nonlocal count
            count += 1
            if kind is GenerationMode.POSITIVE:  # ids that are made up end in 404 at once
                case.path_parameters |= {
                    n: v for n, v in names.items() if n in case.path_parameters
                }
            case.call_and_validate(headers=headers)

        with suppress(Unsatisfiable):  # nothing of this kind can be asked: it takes no parameters
            ask()
    assert count > 20 * EXAMPLES
