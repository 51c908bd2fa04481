"""Who reaches the page, and how: the guard, asked as browsers, programs and attackers ask it."""

import re
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest

from node.config import Config
from node.errors import NodeError
from node.index.access import MOST_SESSIONS
from node.web.access.bodies import LARGEST_BODY_BYTES, LARGEST_STRANGERS_BYTES
from node.web.access.calls import call_of
from node.web.access.cookies import CSRF_HEADER, new_secret
from node.web.access.doors import Doors, check_way_in
from node.web.desk import Desk
from node.web.section import WebSection
from tests.page_reading import read_page, unlabelled
from tests.web_clients import HERE, SECRET_OF, Browser, Scene, program, scene

PROBE = "/api/probe"
PROXIED = {"behind_proxy": True, "hosts": ["hilum.clinic.example"], "proxies": ["10.0.0.0/24"]}
OUTSIDE = "https://hilum.clinic.example"


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    """Return a page on loopback."""
    made = scene(tmp_path_factory.mktemp("local"))
    yield made
    made.index.close()


@pytest.fixture
def here(local: Scene) -> Scene:
    """Return a page on loopback without users."""
    local.clear()
    return local


@pytest.fixture
def closed(here: Scene) -> Scene:
    """Return a page on loopback with two users."""
    here.add_users("ann", "vic")
    return here


@pytest.fixture(scope="module")
def proxied(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    """Return a page behind a proxy, with a user."""
    made = scene(tmp_path_factory.mktemp("proxied"), **PROXIED)
    made.add_users("ann")
    yield made
    made.index.close()


def through_proxy(made: Scene) -> Browser:
    """Return a browser whose requests come through the proxy."""
    browser = Browser(made.app, OUTSIDE, address="10.0.0.7")
    browser.headers["x-forwarded-for"] = "198.51.100.9"
    return browser


def test_loopback_when_there_are_no_users_needs_no_login(here: Scene) -> None:
    """Issue 8, access: loopback only by default; whoever sits there operates."""
    browser = here.browser()
    assert browser.get(PROBE).json() == {"actor": "this machine", "role": "operate"}
    assert browser.change(PROBE).status_code == 200


@pytest.mark.parametrize("header", ["x-forwarded-for", "forwarded", "via", "x-real-ip"])
def test_loopback_when_a_proxy_stands_before_it_is_not_taken_for_a_person(
    here: Scene, header: str
) -> None:
    """A proxy on this machine that nobody told us of must not open the page to the network."""
    forwarded = {header: "198.51.100.9", "accept": "*/*"}
    for address in (PROBE, "/metrics"):
        assert here.browser().get(address).status_code == 200
        assert here.browser().get(address, headers=forwarded).status_code == 401


def test_loopback_when_another_machine_calls_is_closed(here: Scene) -> None:
    """Only this machine's own is believed to be this machine's own."""
    assert Browser(here.app, address="10.9.9.9").get(PROBE).status_code == 401


def test_loopback_when_there_is_a_user_needs_login(here: Scene) -> None:
    """Issue 8, access: as soon as a user exists, the people at this machine log in, too."""
    browser = here.browser()
    assert browser.get(PROBE).status_code == 200
    here.add_users("vic")
    assert browser.get(PROBE).status_code == 401
    assert browser.log_in("vic").status_code == 303
    assert browser.get(PROBE).json() == {"actor": "vic", "role": "view"}


def test_loopback_when_login_is_configured_needs_login(here: Scene) -> None:
    """`web.login`."""
    for is_open, keys in ((True, {}), (False, {"login": True})):
        config = Config.model_validate({"web": keys})
        assert Doors(Desk(config, here.index, lambda: here.now)).is_open_here() is is_open


def test_stranger_when_a_page_is_asked_for_is_led_to_the_login_and_back(closed: Scene) -> None:
    """A link to a case works for who must log in first."""
    browser = closed.browser()
    answer = browser.get("/somewhere?tab=dvh&x=1")
    assert answer.status_code == 303
    assert answer.headers["location"] == "/login?next=/somewhere%3Ftab%3Ddvh%26x%3D1"
    form = browser.get(answer.headers["location"])
    assert form.status_code == 200
    wanted = re.search(r'name="next" value="([^"]+)"', form.text)
    assert wanted is not None
    after = wanted[1].replace("&amp;", "&")
    assert browser.log_in("ann", after=after).headers["location"] == "/somewhere?tab=dvh&x=1"


def test_stranger_when_the_api_is_asked_gets_problem_json(closed: Scene) -> None:
    """RFC 9457; a program is not sent to a page."""
    answer = closed.browser().get(PROBE)
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers["www-authenticate"] == "Bearer"
    assert answer.json()["detail"] == "log in first"


@pytest.mark.parametrize(("user", "password"), [("ann", "wrong"), ("nobody", "wrong")])
def test_login_when_wrong_tells_nothing_about_the_user(
    closed: Scene, user: str, password: str
) -> None:
    """Same answer for unknown users."""
    answer = closed.browser().log_in(user, password)
    assert (answer.status_code, "set-cookie" in answer.headers) == (401, False)
    assert "User or password is wrong." in answer.text


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1:8080", 200),
        ("localhost:9000", 200),
        ("LOCALHOST.", 200),
        ("[::1]:8080", 200),
        ("evil.example", 421),
        ("127.0.0.1.evil.example", 421),
        ("localhost@evil.example", 421),
        ("10.9.9.9:8080", 421),
        ("", 421),
    ],
)
def test_host_when_it_is_not_ours_is_refused(here: Scene, host: str, status: int) -> None:
    """DNS rebinding: a name elsewhere that leads to our address opens nothing."""
    assert here.browser().get(PROBE, headers={"host": host}).status_code == status


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"origin": HERE}, 200),
        ({"origin": HERE, "sec-fetch-site": "same-origin"}, 200),
        ({"sec-fetch-site": "same-origin"}, 200),
        ({}, 403),
        ({"origin": "null"}, 403),
        ({"origin": "http://evil.example"}, 403),
        ({"origin": "http://127.0.0.1:9999"}, 403),
        ({"origin": "https://127.0.0.1:8080"}, 403),
        ({"origin": HERE, "sec-fetch-site": "cross-site"}, 403),
        ({"origin": HERE, "sec-fetch-site": "same-site"}, 403),
        ({"origin": HERE, "sec-fetch-site": "none"}, 403),
        ({"origin": "http://127.0.0.1:notaport"}, 403),
    ],
)
def test_change_when_another_page_asks_is_refused(
    here: Scene, headers: dict[str, str], status: int
) -> None:
    """A page elsewhere must not press a button on localhost, even if it knew the token."""
    browser = here.browser()
    headers = {CSRF_HEADER: browser.csrf_token(), **headers}
    assert browser.post(PROBE, headers=headers).status_code == status


def test_change_when_the_csrf_token_is_not_this_browsers_is_refused(closed: Scene) -> None:
    """The token is bound to the session: another one's, an old one and none are worth nothing."""
    ann, other = closed.browser("ann"), closed.browser("ann")
    before = Browser(closed.app)
    unbound = before.csrf_token()
    before.log_in("ann")
    for token in ("", "0" * 64, "ä", other.csrf_token(), unbound):
        headers = {"origin": HERE, CSRF_HEADER: token.encode()}
        assert ann.post(PROBE, headers=headers).status_code == 403, token
        assert before.post(PROBE, headers=headers).status_code == 403, token
    assert ann.change(PROBE).status_code == 200


def test_change_when_a_form_asks_may_bring_the_token_in_a_field(closed: Scene) -> None:
    """What works without script; in another kind of body the field does not count."""
    ann = closed.browser("ann")
    form, headers = {"csrf_token": ann.csrf_token()}, {"origin": HERE}
    assert ann.post(PROBE, data=form, headers=headers).status_code == 200
    assert ann.post(PROBE, json=form, headers=headers).status_code == 403
    assert ann.post(PROBE, params=form, headers=headers).status_code == 403


def test_role_when_it_is_view_looks_and_changes_nothing(closed: Scene) -> None:
    """Issue 8, access: roles."""
    vic = closed.browser("vic")
    assert vic.get(PROBE).status_code == 200
    answer = vic.change(PROBE)
    assert answer.status_code == 403
    assert "operate" in answer.json()["detail"]


def test_token_when_it_counts_needs_neither_host_nor_page(here: Scene) -> None:
    """Issue 8, access: an API token per machine client."""
    token = here.add_token("robot", "operate")
    client = program(here.app, token)
    assert client.get(PROBE).json() == {"actor": "token robot", "role": "operate"}
    assert client.post(PROBE).status_code == 200
    watcher = program(here.app, here.add_token("prometheus", "view"))
    assert (watcher.get(PROBE).status_code, watcher.post(PROBE).status_code) == (200, 403)
    (robot, prometheus) = sorted(here.book.tokens(), key=lambda t: t.name, reverse=True)
    assert (robot.used_at, prometheus.used_at) == (here.now, here.now)


def test_token_when_it_ended_or_never_was_opens_nothing(here: Scene) -> None:
    """Even at this machine: who shows a wrong token is a program gone wrong."""
    old, gone = here.add_token("old", "view", days=1), here.add_token("gone", "view", days=9)
    here.now += timedelta(days=1)
    here.book.remove_token("gone")
    for token in (old, gone, new_secret(), ""):
        assert program(here.app, token).get(PROBE).status_code == 401
    headers = {"authorization": f"Bearer {gone}"}
    assert here.browser().get(PROBE, headers=headers).status_code == 401


def test_session_when_it_goes_unused_ends(closed: Scene) -> None:
    """`session_idle_min`; use prolongs it, but not beyond `session_h`."""
    idle, used = closed.browser("ann"), closed.browser("ann")
    for _ in range(2):
        closed.now += timedelta(minutes=20)
        assert used.get(PROBE).status_code == 200
    assert idle.get(PROBE).status_code == 401
    for _ in range(40):
        closed.now += timedelta(minutes=20)
        used.get(PROBE)
    assert used.get(PROBE).status_code == 401
    closed.browser().log_in("ann")  # whoever logs in next clears what has ended
    assert closed.index_rows("sessions") == 1


@pytest.mark.parametrize("change", ["password", "role", "remove", "logout"])
def test_session_when_its_user_is_changed_ends_at_once(closed: Scene, change: str) -> None:
    """Changing a password or role, removing, logging out."""
    ann, vic = closed.browser("ann"), closed.browser("vic")
    if change == "password":
        closed.book.set_password("ann", "anything", closed.now)
    elif change == "role":
        closed.book.set_role("ann", "view")
    elif change == "remove":
        closed.book.remove_user("ann")
    else:
        cookie = dict(ann.cookies)
        assert ann.change("/logout").headers["location"] == "/login"
        assert "hilum_session" not in ann.cookies
        ann.cookies.update(cookie)  # a copy of it opens nothing either
    assert ann.get(PROBE).status_code == 401
    assert vic.get(PROBE).status_code == 200


def test_sessions_when_somebody_logs_in_without_end_are_bounded(closed: Scene) -> None:
    """A script that logs in again and again neither fills the index nor keeps old sessions open."""
    first = closed.browser("vic")
    closed.now += timedelta(seconds=1)
    user = closed.book.user("vic")
    assert user is not None
    for _ in range(MOST_SESSIONS):
        closed.book.open_session("vic", user.password_hash, new_secret(), "", closed.now)
    assert first.get(PROBE).status_code == 401
    assert closed.index_rows("sessions") == MOST_SESSIONS


def test_session_when_the_password_changed_while_it_was_compared_is_not_opened(
    closed: Scene,
) -> None:
    """A password that counts no longer opens nothing, however the two requests fall."""
    user = closed.book.user("ann")
    assert user is not None
    closed.book.set_password("ann", "anything", closed.now)
    secret = new_secret()
    assert not closed.book.open_session("ann", user.password_hash, secret, "", closed.now)


def test_own_password_when_changed_needs_the_present_one(closed: Scene) -> None:
    """What somebody does at an unlocked desk must not last."""
    ann = closed.browser("ann")
    new = "four words of another kind"
    wrong = ann.change("/account", data={"present": "wrong", "new": new})
    weak = ann.change("/account", data={"present": SECRET_OF["ann"], "new": "short"})
    assert (wrong.status_code, weak.status_code) == (400, 400)
    assert "at least 12" in weak.text
    assert ann.get(PROBE).status_code == 200
    done = ann.change("/account", data={"present": SECRET_OF["ann"], "new": new})
    assert done.headers["location"] == "/login?changed=true"
    assert ann.get(PROBE).status_code == 401
    assert ann.log_in("ann").status_code == 401
    assert ann.log_in("ann", new).status_code == 303


def test_forms_when_read_by_a_screen_reader_say_what_each_field_is(closed: Scene) -> None:
    """Login, password, and the button that logs out."""
    ann = closed.browser("ann")
    for browser, address, fields in (
        (closed.browser(), "/login", {"user", "password"}),
        (ann, "/account", {"present", "new"}),
    ):
        page = read_page(browser.get(address).text)
        assert unlabelled(page) == []
        assert fields <= {each.attributes.get("name") for each in page.all("input")}
    (way_out,) = [f for f in page.all("form") if f.attributes["action"] == "/logout"]
    (token,) = [i.attributes["value"] for i in way_out.all("input")]
    sent = ann.post("/logout", data={"csrf_token": token}, headers={"origin": HERE})
    assert sent.headers["location"] == "/login"


def test_account_when_nobody_logged_in_is_refused(here: Scene) -> None:
    """Whoever sits at this machine has no password to change; nor has a program."""
    assert here.browser().get("/account").status_code == 403
    token = here.add_token("robot", "operate")
    answer = program(here.app, token).post("/account", data={"present": "a", "new": "b"})
    assert answer.status_code == 403


def test_proxy_when_it_is_ours_is_believed(proxied: Scene) -> None:
    """Behind a proxy: addresses from it, https, its names; the audit trail has the true address."""
    browser = through_proxy(proxied)
    browser.log_in("ann", "wrong")
    assert browser.log_in("ann").status_code == 303
    assert "__Host-hilum_session" in browser.cookies
    assert browser.get(PROBE).json()["actor"] == "ann"
    assert browser.change(PROBE).status_code == 200
    assert {event.address for event in proxied.told} == {"198.51.100.9"}


@pytest.mark.parametrize(
    ("forwarded", "address"),
    [
        ("203.0.113.1, 198.51.100.9", "198.51.100.9"),
        ("203.0.113.1, 198.51.100.9, 10.0.0.8", "198.51.100.9"),
        ("198.51.100.9, unknown", "10.0.0.7"),
        ("", "10.0.0.7"),
        ("2001:db8::5", "2001:db8::5"),
    ],
)
def test_proxy_when_a_caller_forges_its_header_finds_the_true_one(
    forwarded: str, address: str
) -> None:
    """What stands left of the first address that is no proxy of ours may be invented."""
    section = WebSection.model_validate(PROXIED)
    headers = [(b"x-forwarded-for", forwarded.encode())]
    scope = {
        "type": "http",
        "method": "GET",
        "path": "/",
        "headers": headers,
        "client": ("10.0.0.7", 1),
    }
    assert call_of(scope, section).address == address
    assert call_of({**scope, "client": ("10.0.1.7", 1)}, section).address == "10.0.1.7"


def test_proxy_when_it_is_passed_by_is_no_way_in(proxied: Scene) -> None:
    """Nobody sends a password in clear around the proxy; probes of supervisors may ask."""
    around = Browser(proxied.app, OUTSIDE, address="10.0.1.7")
    assert around.get("/login").status_code == 403
    assert around.get("/health", headers={"host": "10.0.1.1:8080"}).status_code == 200
    elsewhere = Browser(proxied.app, "https://evil.example", address="10.0.0.7")
    assert elsewhere.get("/login").status_code == 421
    token = proxied.add_token("prometheus", "view")
    assert program(proxied.app, token).get(PROBE).status_code == 200


@pytest.mark.parametrize(
    ("keys", "problem"),
    [
        ({"host": "0.0.0.0"}, "passwords would travel in clear"),  # noqa: S104
        ({"host": "hilum.clinic.example"}, "passwords would travel in clear"),
        ({"certificate": "a.pem"}, "key is missing"),
        ({"key": "a.key"}, "certificate is missing"),
        ({"behind_proxy": True}, "hosts is missing"),
        ({"behind_proxy": True, "hosts": ["a"], "proxies": []}, "proxies is empty"),
        ({"hosts": ["https://hilum.example"]}, "leave out scheme and port"),
        ({"proxies": ["proxy"]}, "no address or network"),
    ],
)
def test_section_when_it_would_open_the_page_is_refused(keys: dict[str, Any], problem: str) -> None:
    """The node refuses to start, and says what is missing."""
    with pytest.raises(ValueError, match=problem):
        WebSection.model_validate(keys)


def test_start_when_nobody_could_log_in_is_refused(here: Scene) -> None:
    """The command that makes the first user is named."""
    section = WebSection.model_validate(PROXIED)
    with pytest.raises(NodeError, match="nobody can log in") as caught:
        check_way_in(section, here.index)
    assert "hilum users add" in caught.value.hint
    here.add_users("ann")
    check_way_in(section, here.index)


@pytest.mark.parametrize("chunked", [False, True])
def test_body_when_it_is_too_long_is_refused(closed: Scene, chunked: bool) -> None:
    """Announced or not; strangers may send less."""
    ann, stranger = closed.browser("ann"), closed.browser()
    headers = {"origin": HERE, "content-type": "text/plain"}
    for browser, most in ((ann, LARGEST_BODY_BYTES), (stranger, LARGEST_STRANGERS_BYTES)):
        place = PROBE if browser is ann else "/login"
        signed = {**headers, CSRF_HEADER: browser.csrf_token()}
        over = b"x" * (most + 1)
        content: Any = iter([over[: most // 2], over[most // 2 :]]) if chunked else over
        assert browser.post(place, content=content, headers=signed).status_code == 413
        assert browser.post(place, content=over[:-1], headers=signed).status_code != 413


def test_audit_when_something_is_asked_for_is_told(closed: Scene) -> None:
    """Issue 8, access: every action in the audit trail, by whom, from where, and how it ended."""
    vic = closed.browser()
    vic.log_in("vic")
    vic.change(PROBE)
    vic.get(PROBE)
    vic.post(PROBE)
    closed.browser().log_in("ann", "wrong")
    closed.browser().log_in(SECRET_OF["ann"], "typed into the wrong field")
    vic.change("/logout")
    found = [(e.kind, e.actor, e.outcome, e.what.get("status", "")) for e in closed.told]
    assert found == [
        ("login", "vic", "success", ""),
        ("request", "vic", "failure", "403"),
        ("request", "vic", "failure", "403"),
        ("login", "ann", "failure", ""),
        ("login", "", "failure", ""),
        ("logout", "vic", "success", ""),
    ]
    assert {event.address for event in closed.told} == {"127.0.0.1"}
    assert closed.told[1].what["route"] == PROBE
