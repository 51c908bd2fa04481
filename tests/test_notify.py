"""Notification: who is told what, once, over real servers; and what a crash costs."""

import hashlib
import hmac
import json
import logging
import ssl
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from pydantic import ValidationError

from node.config import Config, NodeSection
from node.disk import DiskCalls, DiskRoom
from node.index import Index
from node.index.case_rows import CASES, HISTORY, REVISIONS, utc_text
from node.index.notice_rows import NOTICES
from node.index.notices import News, Notice, NoticeBook, NoticeState
from node.index.standings import StandingBook
from node.notify.channels import MailChannel, NotToldError, WebhookChannel, signature
from node.notify.digest import Digest
from node.notify.notifier import LONGEST_PAUSE, Notifier
from node.notify.section import MailSection, NotifySection, WebhookSection
from tests.authority import Authority
from tests.mail_server import mail_server, webhook
from tests.nodes import hilum_here
from tests.owed_results import START, Clock

MARKED = "MARKEDNAME"


def notice(row_id: int = 1, **changes: Any) -> Notice:
    news = {"subject": f"history:{row_id}", "code": "case-failed", "severity": "failure"}
    news |= {"case_id": "c1", "revision": 2, **changes}
    return Notice(row_id, News(**news), "2026-03-01T12:00:00.000+00:00", 0)


def digest(*notices: Notice, more: int = 0) -> Digest:
    return Digest("Hilum HILUM", notices or (notice(),), more, "https://hilum.clinic.example/")


def mail_section(port: int, **changes: Any) -> MailSection:
    usual = {
        "host": "127.0.0.1",
        "port": port,
        "security": "none",
        "sender": "hilum@clinic.example",
    }
    return MailSection.model_validate({**usual, "to": ["physics@clinic.example"], **changes})


def server_context(authority: Authority) -> ssl.SSLContext:
    own = authority.issue("server")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(own.certificate, own.key)
    return context


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    path = tmp_path / "secret"
    path.write_text("correct horse\n")
    return path


# --- the channels ------------------------------------------------------------------------------


def test_mail_when_taken_says_what_happened_and_where_to_look() -> None:
    """Issue 8, 4: case id, code, severity and the address of the page, nothing else."""
    with mail_server() as box:
        MailChannel(mail_section(box.port)).send(digest(), START)
    ((sender, receivers, text),) = box.messages
    assert (sender, receivers) == ("hilum@clinic.example", ["physics@clinic.example"])
    assert "Subject: Hilum HILUM: case-failed (c1)" in text
    assert "https://hilum.clinic.example/cases/c1" in text
    assert "Auto-Submitted: auto-generated" in text
    assert f"Message-ID: <{digest().message_id}@clinic.example>" in text


@pytest.mark.parametrize("security", ["starttls", "tls"])
def test_mail_over_tls_logs_in_with_the_password_of_the_file(
    security: str, authority: Authority, secret: Path
) -> None:
    """Issue 8, 4: STARTTLS and TLS, password from a file, never in clear."""
    with mail_server(context=server_context(authority), is_tls=security == "tls") as box:
        section = mail_section(
            box.port,
            security=security,
            authorities=authority.certificate,
            username="hilum",
            password_file=secret,
        )
        MailChannel(section).send(digest(), START)
    assert len(box.messages) == 1
    assert len(box.logins) == 1


def test_mail_when_nobody_vouches_for_the_server_is_not_sent(
    authority: Authority, tmp_path: Path, secret: Path
) -> None:
    """The password goes to whom we trust only."""
    stranger = Authority(tmp_path / "stranger", authority.openssl, "stranger")
    with mail_server(context=server_context(stranger)) as box:
        section = mail_section(
            box.port,
            security="starttls",
            authorities=authority.certificate,
            username="hilum",
            password_file=secret,
        )
        with pytest.raises(NotToldError, match="certificate") as caught:
            MailChannel(section).send(digest(), START)
    assert (box.messages, box.logins) == ([], [])
    assert "notify.mail" in caught.value.hint


def test_mail_when_one_receiver_is_refused_is_told_to_the_others_once() -> None:
    """A slip in one address must not tell the others again and again."""
    to = ["gone@clinic.example", "physics@clinic.example"]
    with mail_server(refuses=("gone@clinic.example",)) as box:
        refused = MailChannel(mail_section(box.port, to=to)).send(digest(), START)
        assert [receivers for _, receivers, _ in box.messages] == [["physics@clinic.example"]]
        assert refused == ("gone@clinic.example",)
        box.refuses = tuple(to)
        with pytest.raises(NotToldError):
            MailChannel(mail_section(box.port, to=to)).send(digest(), START)


def test_mail_when_the_server_is_away_says_why() -> None:
    """No traceback, and what to look at."""
    with mail_server() as box:
        port = box.port
    with pytest.raises(NotToldError, match="Connection refused"):
        MailChannel(mail_section(port)).send(digest(), START)


def test_webhook_gets_a_signed_document_that_names_nobody(
    authority: Authority, secret: Path
) -> None:
    """Issue 8, 4: https, JSON, HMAC signature; checked as the receiver would."""
    with webhook(server_context(authority)) as hook:
        section = WebhookSection(
            url=f"https://127.0.0.1:{hook.port}/hook?team=physics",
            secret_file=secret,
            authorities=authority.certificate,
        )
        WebhookChannel(section).send(digest(notice(1), notice(2), more=3), START)
    ((path, headers, body),) = hook.requests
    assert path == "/hook?team=physics"
    at, _, given = headers["x-hilum-signature"].removeprefix("t=").partition(",v1=")
    expected = hmac.new(b"correct horse", at.encode() + b"." + body, hashlib.sha256).hexdigest()
    assert hmac.compare_digest(given, expected)
    document = json.loads(body)
    assert (document["version"], document["more"]) == (1, 3)
    assert document["notices"][0] == {
        "code": "case-failed",
        "severity": "failure",
        "case_id": "c1",
        "revision": 2,
        "peer": "",
        "url": "https://hilum.clinic.example/cases/c1",
        "noticed_at": "2026-03-01T12:00:00.000+00:00",
    }
    assert headers["x-hilum-id"] == document["id"]


def test_webhook_when_it_redirects_is_not_followed(secret: Path) -> None:
    """The signature is for the place that was configured."""
    with webhook() as elsewhere, webhook(status=307) as hook:
        hook.location = f"http://127.0.0.1:{elsewhere.port}/"
        section = WebhookSection(url=f"http://127.0.0.1:{hook.port}/", secret_file=secret)
        with pytest.raises(NotToldError, match="307; redirections are not followed"):
            WebhookChannel(section).send(digest(), START)
    assert elsewhere.requests == []


def test_webhook_when_it_fails_or_nobody_vouches_for_it_has_not_told(
    authority: Authority, tmp_path: Path, secret: Path
) -> None:
    """Only 2xx counts; a stranger's certificate does not."""
    with webhook(status=500) as hook:
        section = WebhookSection(url=f"http://127.0.0.1:{hook.port}/", secret_file=secret)
        with pytest.raises(NotToldError, match="500"):
            WebhookChannel(section).send(digest(), START)
        secret.write_text("  \n")
        with pytest.raises(NotToldError, match="is empty"):
            WebhookChannel(section).send(digest(), START)
    stranger = Authority(tmp_path / "stranger", authority.openssl, "stranger")
    secret.write_text("x")
    with webhook(server_context(stranger)) as hook:
        section = WebhookSection(
            url=f"https://127.0.0.1:{hook.port}/",
            secret_file=secret,
            authorities=authority.certificate,
        )
        with pytest.raises(NotToldError, match="certificate"):
            WebhookChannel(section).send(digest(), START)
    assert hook.requests == []


def test_signature_covers_time_and_document() -> None:
    """A document that was caught cannot be sent later, or changed."""
    one = signature("s", b"{}", START)
    assert one != signature("s", b"{} ", START)
    assert one != signature("t", b"{}", START)
    assert one != signature("s", b"{}", START + timedelta(seconds=1))


@pytest.mark.parametrize(
    ("table", "problem"),
    [
        ({"mail": {"host": "m", "sender": "a@b", "to": []}}, "to"),
        ({"mail": {"host": "m", "sender": "a@b\nBcc: x@y", "to": ["a@b"]}}, "sender"),
        ({"mail": {"host": "m", "sender": "a@b", "to": ["a@b"], "security": "none"}}, "none"),
        ({"mail": {"host": "m", "sender": "a@b", "to": ["a@b"], "username": "u"}}, "password_file"),
        ({"webhook": {"url": "http://far.example/", "secret_file": "s"}}, "https://"),
        ({"webhook": {"url": "https://u:p@far.example/", "secret_file": "s"}}, "password"),
        ({"webhook": {"url": "ftp://far.example/", "secret_file": "s"}}, "https://"),
        ({"webhook": {"url": "https://far.example/ x", "secret_file": "s"}}, "space"),
        ({"webhook": {"url": "https://far.example:port/", "secret_file": "s"}}, "no address"),
        ({"page_url": "javascript:x"}, "page_url"),
    ],
)
def test_section_when_it_cannot_be_meant_is_refused(table: dict[str, Any], problem: str) -> None:
    """Said when the node starts, not when something has gone wrong."""
    with pytest.raises(ValidationError, match=problem):
        NotifySection.model_validate(table)


# --- what is told, and how often -----------------------------------------------------------------


@dataclass
class Listener:
    """A channel that remembers what it was told; or refuses, or dies."""

    name: str = "mail"
    told: list[Digest] = field(default_factory=list)
    receiver: str = "physics"
    refuses: bool = False
    refuses_some: tuple[str, ...] = ()
    dies: bool = False

    def send(self, digest: Digest, _now: datetime) -> tuple[str, ...]:
        if self.refuses:
            raise NotToldError("no")
        self.told.append(digest)
        if self.dies:
            raise KeyboardInterrupt  # as a power cut: nothing after it is done
        return self.refuses_some

    @property
    def codes(self) -> list[list[str]]:
        return [[n.news.code for n in one.notices] for one in self.told]


@dataclass
class Desk:
    """An index in which things go wrong, and a notifier that looks at it."""

    index: Index
    root: Path
    clock: Clock = field(default_factory=Clock)
    listener: Listener = field(default_factory=Listener)
    free_bytes: int = 1000

    def __post_init__(self) -> None:
        self.index.create()
        self.notifier = self.new_notifier()
        self.notifier.run()

    def new_notifier(self) -> Notifier:
        """Return the notifier of a process that starts now."""
        config = Config(node=NodeSection(data=self.root), notify=NotifySection(every_min=15.0))
        disk = DiskCalls(room=lambda _path: DiskRoom(self.free_bytes, 1000))
        return Notifier(config, self.index, self.clock, [self.listener], disk)

    def page(self, case_id: str, state: str, *, revision: int = 1, findings: Any = ()) -> None:
        """Let a case come to a state."""
        now = utc_text(self.clock())
        row = dict.fromkeys(("patient_key", "protocol", "ct_series_uid", "structure_set_uid",
                             "reason", "fingerprint", "seen", "findings"), "")  # fmt: skip
        with self.index.begin() as connection:
            if not connection.scalar(sa.select(CASES.c.case_id).where(CASES.c.case_id == case_id)):
                connection.execute(CASES.insert().values(
                    **row, case_id=case_id, state=state, revision=revision, look_again=False,
                    created_at=now, updated_at=now,
                ))  # fmt: skip
                connection.execute(REVISIONS.insert().values(
                    case_id=case_id, revision=revision, fingerprint="", attempt=0, next_try_at=now,
                    begun=0, failures=0, job="", summary=json.dumps({"findings": findings}),
                    created_at=now, finished_at=now,
                ))  # fmt: skip
            connection.execute(HISTORY.insert().values(
                case_id=case_id, revision=revision, state=state, reason=MARKED, at=now
            ))  # fmt: skip

    def run(self, **time: float) -> list[list[str]]:
        """Let time pass, look; return the codes of every message so far."""
        self.clock.advance(**time)
        self.notifier.run()
        return self.listener.codes

    def states(self) -> list[str]:
        with self.index.read() as connection:
            query = sa.select(NOTICES.c.state).order_by(NOTICES.c.id)
            return list(connection.scalars(query))


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    found = Desk(Index(f"sqlite:///{tmp_path / 'index.sqlite'}"), tmp_path)
    yield found
    found.index.close()


def test_case_when_it_needs_a_person_is_told_once(desk: Desk) -> None:
    """Issue 8, 4: failed, rejected, undelivered; nothing else, and no text of a finding."""
    for number, state in enumerate(("waiting", "failed", "rejected", "undelivered", "delivered")):
        desk.page(f"c{number}", state)
    assert desk.run() == [["case-failed", "case-rejected", "case-undelivered"]]
    (told,) = desk.listener.told
    assert MARKED not in told.text + json.dumps(told.to_json())
    assert desk.run(hours=1) == [["case-failed", "case-rejected", "case-undelivered"]]


def test_receiver_when_refused_beside_others_is_told_to_the_log(
    desk: Desk, caplog: pytest.LogCaptureFixture
) -> None:
    """The others have it: it counts as told; the address stays out of the log."""
    desk.listener.refuses_some = ("gone@clinic.example",)
    desk.page("c1", "failed")
    with caplog.at_level(logging.WARNING):
        desk.run()
    assert [r.message for r in caplog.records] == ["notice.refused_for_some"]
    assert "gone" not in str(vars(caplog.records[0]))
    assert desk.states() == ["told"]


def test_finding_of_severity_failure_is_told_and_others_are_not(desk: Desk) -> None:
    """Issue 8, 4: e-mail or webhook on findings of severity failure."""
    findings = [
        {"code": "gate-refused", "severity": "failure", "text": MARKED},
        {"code": "small", "severity": "warning", "text": ""},
        {"code": "gate-refused", "severity": "failure", "text": "again"},
    ]
    desk.page("c1", "delivering", findings=findings)
    desk.page("c1", "delivered", findings=findings)
    assert desk.run() == [["gate-refused"]]
    assert MARKED not in desk.listener.told[0].text


def test_news_when_there_is_much_goes_into_one_message(desk: Desk) -> None:
    """Issue 8, 4: the first at once, the others together, not more often than configured."""
    desk.page("c0", "failed")
    assert desk.run() == [["case-failed"]]
    for number in range(1, 10):
        desk.page(f"c{number}", "failed")
        desk.run(seconds=30)
    assert desk.listener.codes == [["case-failed"]]
    assert [len(codes) for codes in desk.run(minutes=15)] == [1, 9]
    assert "9 notices, 9 of them failures" in desk.listener.told[1].headline


def test_what_was_before_notification_was_on_is_no_news(tmp_path: Path) -> None:
    """Who switches it on is not told a year of history."""
    index = Index(f"sqlite:///{tmp_path / 'index.sqlite'}")
    index.create()
    desk = Desk.__new__(Desk)
    desk.index, desk.clock = index, Clock()
    desk.page("old", "failed")
    fresh = Desk(index, tmp_path, desk.clock)
    fresh.page("new", "failed")
    assert fresh.run() == [["case-failed"]]
    assert fresh.listener.told[0].notices[0].news.case_id == "new"
    index.close()


def test_channel_when_it_refuses_is_tried_again_until_the_news_is_too_old(desk: Desk) -> None:
    """Issue 8, 4: retries with pauses, and an end."""
    desk.page("c1", "failed")
    desk.listener.refuses = True
    for _ in range(10):
        desk.run(minutes=30)
    assert desk.states() == ["owed"]
    desk.listener.refuses = False
    assert desk.run(minutes=LONGEST_PAUSE.total_seconds() / 60) == [["case-failed"]]
    desk.page("c2", "failed")
    desk.listener.refuses = True
    for _ in range(20):
        desk.run(hours=4)
    assert desk.states() == ["told", "given up"]


def test_process_when_it_dies_while_it_tells_loses_nothing_and_repeats_it_seldom(
    desk: Desk,
) -> None:
    """Issue 8, 4: a crash neither loses nor repeats for ever."""
    desk.page("c1", "failed")
    desk.listener.dies = True
    for _ in range(3 * 80):
        desk.clock.advance(minutes=20)
        try:
            desk.notifier.run()
        except KeyboardInterrupt:
            desk.notifier = desk.new_notifier()
    assert desk.states() == ["given up"]
    assert 2 <= len(desk.listener.told) <= 80
    assert len({one.message_id for one in desk.listener.told}) == 1


def test_notice_when_another_process_tells_it_is_left_to_that(desk: Desk) -> None:
    """Several processes share the index: each news is told by one."""
    desk.page("c1", "failed")
    book = NoticeBook(desk.index)
    book.look(["mail"], desk.clock())
    taken = book.take("mail", desk.clock())
    assert len(taken.notices) == 1
    assert desk.run(seconds=30) == []
    book.settle(taken.notices, NoticeState.TOLD, desk.clock())
    assert desk.run(hours=2) == []


def test_breaker_and_disk_when_they_need_a_person_are_told(desk: Desk) -> None:
    """Issue 8, 4: a peer's breaker opening, disk low; once each, the disk daily."""
    standings = StandingBook(desk.index)
    pause = timedelta(minutes=5)
    standings.came_to_nothing("tps", "no answer", desk.clock(), most=1, pause=pause)
    assert desk.run() == [["peer-left-alone"]]
    desk.free_bytes = 10
    assert desk.run(hours=1)[1:] == [["disk-low"]]
    assert desk.run(hours=1)[2:] == []
    assert desk.run(days=1)[2:] == [["disk-low"]]


def test_channel_when_it_is_gone_owes_nothing_and_old_notices_are_forgotten(desk: Desk) -> None:
    """Nothing grows without bound."""
    book = NoticeBook(desk.index)
    news = [News(f"x:{n}", "test", "warning") for n in range(3)]
    book.owe(news, ["mail", "webhook"], desk.clock())
    book.settle(book.take("mail", desk.clock()).notices, NoticeState.TOLD, desk.clock())
    desk.run(days=31)
    assert desk.states() == []


# --- the command ---------------------------------------------------------------------------------


def configured(tmp_path: Path, mail_port: int, hook_port: int) -> Path:
    """Return a configuration that tells by both ways."""
    (tmp_path / "secret").write_text("correct horse")
    text = f"""
        [[protocol]]
        name = "p"
        targets = ["GTV*"]
        [notify.mail]
        host = "127.0.0.1"
        port = {mail_port}
        security = "none"
        sender = "hilum@clinic.example"
        to = ["physics@clinic.example", "gone@clinic.example"]
        [notify.webhook]
        url = "http://127.0.0.1:{hook_port}/key-in-the-path"
        secret_file = "{tmp_path / "secret"}"
    """
    path = tmp_path / "hilum.toml"
    path.write_text(text)
    return path


def test_command_tells_how_each_way_took_the_test(tmp_path: Path) -> None:
    """Tried as an operator does: both taken, one address refused, one server away, none at all."""
    with mail_server() as box, webhook() as hook:
        config = str(configured(tmp_path, box.port, hook.port))
        done = hilum_here("notify", "test", "--config", config, "--json")
        assert done.returncode == 0, done.stderr
        assert [(one["channel"], one["told"]) for one in json.loads(done.stdout)] == [
            ("mail", True),
            ("webhook", True),
        ]
        assert "this is a test; nothing is wrong" in box.messages[0][2]
        (sent,) = json.loads(hook.requests[0][2])["notices"]
        assert (sent["code"], sent["severity"], sent["case_id"]) == ("test", "info", "")
        box.refuses = ("gone@clinic.example",)
        hook.status = 500
        done = hilum_here("notify", "test", "--config", config)
    assert done.returncode == 1
    assert "mail to physics@clinic.example" in done.stdout
    assert "the server refused gone@clinic.example" in done.stderr
    assert f"webhook to 127.0.0.1:{hook.port}: the webhook answered 500" in done.stderr
    assert "key-in-the-path" not in done.stdout + done.stderr
    nobody = hilum_here("notify", "test")
    assert nobody.returncode == 1
    assert "nobody is told anything" in nobody.stderr
