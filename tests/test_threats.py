"""What attackers of nodes like this have used (mercure's hardening of 2026, OWASP), one by one.

Requests here; what hostile objects leave on pages is in `test_threats_shown`. Host names, origins,
sessions and limits are in `test_web_access` and its kin.
"""

import ast
import io
import json
import logging
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.routing import iter_route_contexts

from node.config import Peer
from node.confined import run_confined
from node.index.access import AccessBook
from node.log import configure_logging
from node.web.assets import stamp_of
from tests.web_clients import HERE, SECRET_OF, Browser, Scene, scene

NODE = Path(__file__).resolve().parent.parent / "node"
PROBE = "/api/probe"
ELSEWHERE = (
    "//evil.example",
    "///evil.example",
    "/\\evil.example",
    "\\\\evil.example",
    "https://evil.example",
    "https:/evil.example",
    "javascript:alert(1)",
    "data:text/html,x",
    "evil.example",
    "/\t/evil.example",
    "/x\r\nset-cookie: a=b",
    "/ /evil.example",
    "",
)
METACHARACTERS = ("a;id", "a|id", "$(id)", "`id`", "a&&id", "a b", "../a", "a\nb", "a'b", "*")
INJECTIONS = ("' OR '1'='1", "'; DROP TABLE users; --", '" OR ""="', "%", "_", "\\")


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    """Return a page on loopback."""
    made = scene(tmp_path_factory.mktemp("local"))
    yield made
    made.index.close()


@pytest.fixture
def page(local: Scene) -> Scene:
    """Return the page with two users."""
    local.clear()
    local.add_users("ann", "vic")
    return local


@pytest.mark.parametrize("after", ELSEWHERE)
def test_login_when_led_elsewhere_stays_here(page: Scene, after: str) -> None:
    """Open redirect: the form, and so the answer, holds addresses of ours only."""
    form = page.browser().get("/login", params={"next": after})
    assert 'name="next" value="/"' in form.text


def test_login_when_the_form_was_forged_leads_nowhere_else(page: Scene) -> None:
    """Nor does a form that somebody altered."""
    answer = page.browser().log_in("ann", after="//evil.example")
    assert (answer.status_code, answer.headers["location"]) == (303, "/")


def test_session_when_fixed_beforehand_is_not_taken(page: Scene) -> None:
    """Session fixation: a number that was there before the login opens nothing after it."""
    browser = page.browser()
    planted = "A" * 43
    browser.cookies.set("hilum_session", planted, "127.0.0.1")
    answer = browser.log_in("ann")
    found = re.match(r"hilum_session=([^;]+);", answer.headers["set-cookie"])
    assert found is not None
    assert found[1] != planted
    victim = Browser(page.app)
    victim.cookies.set("hilum_session", planted, "127.0.0.1")
    assert victim.get(PROBE).status_code == 401
    again = browser.log_in("ann")  # and the number before the second login counts no longer
    assert found[1] not in again.headers["set-cookie"]
    victim.cookies.set("hilum_session", found[1], "127.0.0.1")
    assert victim.get(PROBE).status_code == 401


def test_cookies_when_set_cannot_be_read_by_scripts_or_sent_from_elsewhere(page: Scene) -> None:
    """HttpOnly, SameSite, no domain, gone with the browser; `Secure` in the test of TLS."""
    browser = page.browser()
    visit = browser.get("/login").headers.get_list("set-cookie")
    login = browser.log_in("ann").headers.get_list("set-cookie")
    assert [len(visit), len(login)] == [1, 1]
    for cookie in (*visit, *login):
        flags = {flag.strip().lower() for flag in cookie.split(";")[1:]}
        assert flags == {"path=/", "httponly", "samesite=lax"}


@pytest.mark.parametrize(
    ("method", "address", "status"),
    [
        ("GET", "/login", 200),
        ("GET", "/health", 200),
        ("GET", "/static/hilum.css", 200),
        ("GET", "/static/absent.css", 404),
        ("GET", "/", 303),
        ("GET", PROBE, 401),
        ("POST", "/login", 403),
        ("POST", "/health", 303),
        ("DELETE", "/login", 403),
    ],
)
def test_answer_when_given_carries_the_headers(
    page: Scene, method: str, address: str, status: int
) -> None:
    """Clickjacking, sniffing, foreign scripts, caches: whatever the answer is."""
    answer = page.browser().request(method, address)
    assert answer.status_code == status
    headers = answer.headers
    policy = headers["content-security-policy"]
    for part in ("default-src 'self'", "frame-ancestors 'none'", "object-src 'none'"):
        assert part in policy
    assert "unsafe" not in policy
    assert headers["x-frame-options"] == "DENY"
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["cross-origin-opener-policy"] == "same-origin"
    assert "server" not in headers
    is_file = address.startswith("/static/") and status == 200
    assert headers["cache-control"] == ("no-cache" if is_file else "no-store")


def test_static_file_when_its_content_is_named_is_kept_by_browsers(
    page: Scene, tmp_path: Path
) -> None:
    """For good, so the name must follow the content: a stylesheet of yesterday breaks the page."""
    form = page.browser().get("/login").text
    (address,) = re.findall(r'href="(/static/hilum\.css\?v=\w+)"', form)
    assert "immutable" in page.browser().get(address).headers["cache-control"]
    newer = page.browser().get(f"{address[:-12]}{'0' * 12}")
    assert newer.headers["cache-control"] == "no-cache", "another version's page asks for it"
    (tmp_path / "a.css").write_text("a", encoding="utf-8")
    before = stamp_of(tmp_path)
    (tmp_path / "a.css").write_text("b", encoding="utf-8")
    assert stamp_of(tmp_path) != before


def test_page_when_drawn_has_no_script_or_style_of_its_own(page: Scene) -> None:
    """The policy would stop them; so none may be needed."""
    templates = sorted((NODE / "web" / "templates").glob("*.html"))
    assert len(templates) > 5
    for path in templates:
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"<script(?![^>]*\bsrc=)[^>]*>", text), path
        assert not re.search(r"(?i)<style\b|\sstyle=|\son[a-z]+=|javascript:", text), path
        assert not re.search(r"(src|href)=\"(https?:)?//", text), path


def test_user_when_changing_a_password_changes_only_their_own(page: Scene) -> None:
    """mercure: users changed others' passwords. No field names whose it is."""
    vic = page.browser("vic")
    before = {user.name: user.password_hash for user in page.book.users()}
    names = dict.fromkeys(("user", "username", "name", "id", "actor"), "ann")
    form = {"present": SECRET_OF["ann"], "new": "another long password", **names}
    assert vic.change("/account", data=form).status_code == 400
    form = {"present": SECRET_OF["vic"], "new": "another long password", "username": "ann"}
    assert vic.change("/account", data=form, params={"user": "ann"}).status_code == 303
    after = {user.name: user.password_hash for user in page.book.users()}
    assert after["ann"] == before["ann"]
    assert after["vic"] != before["vic"]


@pytest.mark.parametrize(
    "disguise",
    [
        {"headers": {"x-http-method-override": "POST"}},
        {"headers": {"x-method-override": "POST"}},
        {"params": {"_method": "POST"}},
    ],
)
def test_method_when_overridden_stays_what_it_is(page: Scene, disguise: dict[str, Any]) -> None:
    """A GET, which needs no CSRF token, never acts."""
    answer = page.browser("ann").get(PROBE, **disguise)
    assert answer.status_code == 200
    assert not [event for event in page.told if event.kind == "request"]


def test_host_when_poisoned_is_in_no_answer(page: Scene) -> None:
    """No address that we give is made of what the request says we are called."""
    names = {"x-forwarded-host": "evil.example", "forwarded": "host=evil.example;proto=ftp"}
    for address in ("/login", "/", "/login/", "/nothing"):
        answer = page.browser().get(address, headers=names)
        assert "evil" not in answer.text + str(answer.headers), address
    answer = page.browser().get("/login", headers={"host": "evil.example"})
    assert answer.status_code == 421
    assert "evil" not in answer.text + str(answer.headers)


@pytest.mark.parametrize(
    "address",
    [
        "/static/../app.py",
        "/static/%2e%2e/app.py",
        "/static/..%2fapp.py",
        "/static/....//app.py",
        "/static//etc/passwd",
        "/static/%00",
    ],
)
def test_static_file_when_asked_for_from_above_is_absent(page: Scene, address: str) -> None:
    """Path traversal in the only folder that is served by name."""
    answer = page.browser("ann").get(HERE + address)
    assert answer.status_code in (400, 404)
    assert "make_app" not in answer.text


def test_parameter_when_wrong_is_not_repeated(page: Scene) -> None:
    """What was typed may be a patient's name: it comes back in no error."""
    ann = page.browser("ann")
    for text in ("MARKED^NAME", "<script>alert(1)</script>"):
        for answer in (
            ann.get("/api/v1/cases", params={"size": text}),
            ann.get("/api/v1/cases", params={"older": text}),
            ann.get(f"/api/v1/cases/{text}"),
            ann.get("/api/v1/cases", params={"state": text}, headers={"accept": "text/html"}),
            ann.get("/associations", params={"older": text}),
            ann.change("/api/v1/cases/x/rerun", json={text: text, "protocol": [text]}),
            ann.change("/account", data={text: text}),
        ):
            assert 400 <= answer.status_code < 500
            assert "MARKED" not in answer.text
            assert "alert(" not in answer.text


def test_error_of_ours_when_met_tells_nobody_anything(
    page: Scene, caplog: pytest.LogCaptureFixture
) -> None:
    """No traceback, no text of the error: not to the caller, not into the log."""

    @page.app.get("/api/broken")
    def broken() -> None:
        raise RuntimeError("MARKED^NAME is not where it was")

    for accept in ("text/html", "application/json"):
        answer = page.browser("ann").get("/api/broken", headers={"accept": accept})
        assert answer.status_code == 500
        assert "Traceback" not in answer.text
        assert "MARKED" not in answer.text + caplog.text
    assert {(r.getMessage(), vars(r)["error"]) for r in caplog.records} == {
        ("web.internal_error", "RuntimeError")
    }
    assert vars(caplog.records[0])["place"].startswith("test_threats.py:")


@pytest.mark.parametrize("text", INJECTIONS)
def test_sql_when_written_into_any_parameter_is_a_word(page: Scene, text: str) -> None:
    """mercure: SQL made of strings. Every text of every GET of the API, and the form."""
    ann = page.browser("ann")
    asked = 0
    for path, methods in page.app.openapi()["paths"].items():
        named = methods.get("get", {}).get("parameters", [])
        texts = {p["name"]: text for p in named if p["in"] == "query"}
        for name in texts:
            answer = ann.get(re.sub(r"\{\w+\}", "1", path), params={name: text})
            assert answer.status_code in (200, 404, 409, 422), (path, name, answer.text)
            asked += 1
    assert asked > 10
    assert ann.log_in(text, text).status_code == 401
    assert len(page.book.users()) == 2


@pytest.mark.parametrize("name", METACHARACTERS)
def test_peer_when_its_name_could_steer_a_shell_is_refused(name: str) -> None:
    """Names of peers stand in commands that the page proposes, and in addresses."""
    with pytest.raises(ValueError, match="name"):
        Peer.model_validate({"name": name, "ae_title": "A", "host": "127.0.0.1", "roles": ["send"]})


def test_programs_when_started_are_started_without_a_shell() -> None:
    """mercure: shell commands made of strings. Not one in the node, however it is spelled."""
    shells = ("os.system", "os.popen", "subprocess.get", "asyncio.create_subprocess_shell")
    starts = 0
    for path in NODE.rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        if not re.search(r"subprocess|os\.(system|popen)|shell", text):
            continue
        for call in ast.walk(ast.parse(text)):
            if not isinstance(call, ast.Call):
                continue
            name = ast.unparse(call.func)
            assert not name.startswith(shells), path
            assert not any(keyword.arg == "shell" for keyword in call.keywords), path
            starts += name in ("subprocess.Popen", "subprocess.run")
    assert starts > 2


def test_program_when_its_path_holds_metacharacters_is_that_file(tmp_path: Path) -> None:
    """The path of an outside program is a path, its arguments are arguments."""
    folder = tmp_path / "a; touch pwned; $(touch pwned) `touch pwned`"
    folder.mkdir()
    program = folder / "run me; touch pwned"
    program.write_text(
        f"#!{sys.executable}\nimport sys\nopen('said', 'w').write(repr(sys.argv[1:]))\n",
        encoding="utf-8",
    )
    program.chmod(0o755)
    arguments = ["; touch pwned", "$(touch pwned)", "*"]
    ended = run_confined(
        [str(program), *arguments], tmp_path, environment={}, timeout_s=60, memory_bytes=1 << 32
    )
    assert ended.code == 0
    assert (tmp_path / "said").read_text(encoding="utf-8") == repr(arguments)
    assert not list(tmp_path.rglob("pwned"))


@pytest.mark.parametrize("as_json", [True, False])
@pytest.mark.parametrize(
    "text",
    [
        "A\r\n2026-01-01T00:00:00 INFO    forged",
        "A\x1b[2J\x1b[31mred",
        "A\x9b31mred",
        "A\u2028forged\u2029",
        "A\u202eforged",
        "A\x00\x07",
    ],
)
def test_log_when_a_field_is_hostile_stays_one_line_that_steers_nothing(
    as_json: bool, text: str
) -> None:
    """Log injection: AE titles and host names are anyone's to choose; foreign messages, too."""
    stream = io.StringIO()
    logger = logging.getLogger("node.test_threats")
    configure_logging("INFO", as_json=as_json, stream=stream)
    try:
        logger.info("association.rejected", extra={"calling_ae": text})
        logging.getLogger("foreign").warning("said: %s", text)
    finally:
        configure_logging("INFO")
    lines = stream.getvalue().removesuffix("\n").split("\n")
    assert len(lines) == 2
    assert all(c.isprintable() for line in lines for c in line)
    if as_json:
        assert json.loads(lines[0])["calling_ae"] == text
        assert json.loads(lines[1])["event"] == f"said: {text}"


def test_login_when_the_name_is_hostile_reaches_the_audit_trail_only_if_it_is_a_user(
    page: Scene,
) -> None:
    """A name may be a password in the wrong field, or hold what steers a terminal."""
    for name in ("x\r\nforged\x1b[2J", "a" * 10_000):
        page.browser().log_in(name, "wrong")
    assert {event.actor for event in page.told} == {""}


def test_login_when_anything_else_than_a_form_is_sent_is_refused(page: Scene) -> None:
    """Files, JSON, a thousand fields: nothing is made of it."""
    browser = page.browser()
    token = browser.csrf_token()
    headers = {"origin": HERE, "x-csrf-token": token}
    many = "&".join(f"f{n}=1" for n in range(5000))
    for sent in (
        {"json": {"user": "ann", "password": SECRET_OF["ann"]}},
        {"content": many, "headers": {"content-type": "application/x-www-form-urlencoded"}},
        {"content": b"\xff\xfe", "headers": {"content-type": "application/x-www-form-urlencoded"}},
        {"content": b"--x", "headers": {"content-type": "multipart/form-data; boundary=x"}},
    ):
        extra = {**headers, **sent.pop("headers", {})}
        answer = browser.post("/login", headers=extra, **sent)
        assert 400 <= answer.status_code < 500, sent
    assert AccessBook(page.index).user("ann") is not None
    assert page.index_rows("sessions") == 0


def test_routes_when_walked_change_nothing_by_get(page: Scene) -> None:
    """What changes something is no GET, so that a link or a picture elsewhere cannot ask for it."""
    words = re.compile(r"/(retry|abandon|rerun|echo|resume|logout|remove|delete|send)\b")
    for route in iter_route_contexts(page.app.routes):
        if words.search(str(route.path)):
            assert route.methods == {"POST"}, route.path
