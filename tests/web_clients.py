"""Browsers and programs that ask the page, in this process, as the guard expects them to come."""

import re
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from fastapi.testclient import TestClient
from httpx import Response

from node.audit.events import AuditEvent
from node.config import Config
from node.index import Index
from node.index.access import AccessBook
from node.web.access.actor import Operator, Viewer
from node.web.access.cookies import CSRF_HEADER, new_secret, session_cookie
from node.web.access.passwords import hashed_password
from node.web.app import make_app
from node.web.desk import Desk

ADDRESS = "127.0.0.1"
HERE = f"http://{ADDRESS}:8080"
PAGE = {"accept": "text/html"}
SECRET_OF = {"ann": "correct horse battery", "vic": "a quiet blue morning"}
ROLE_OF = {"ann": "operate", "vic": "view"}


class Browser(TestClient):
    """A browser at this machine: holds cookies, names its origin, shows the CSRF token.

    Args:
        app: The page.
        here: What stands in its address bar.
        address: Where it calls from.
    """

    def __init__(self, app: FastAPI, here: str = HERE, address: str = ADDRESS) -> None:
        super().__init__(
            app, base_url=here, client=(address, 50000), follow_redirects=False, headers=PAGE
        )
        self.here = here

    def csrf_token(self, page: str = "/login") -> str:
        """Return the CSRF token that stands on a page."""
        found = re.search(r'data-csrf="(\w+)"', self.get(page).text)
        assert found is not None, page
        return found[1]

    def change(self, address: str, method: str = "POST", **content: Any) -> Response:
        """Ask for a change, as a script of the page does."""
        headers = {"origin": self.here, CSRF_HEADER: self.csrf_token()}
        return self.request(method, address, headers=headers, **content)

    def log_in(self, user: str, password: str | None = None, after: str = "/") -> Response:
        """Fill in the form, by default with the right password, and send it."""
        form = {
            "user": user,
            "password": SECRET_OF[user] if password is None else password,
            "next": after,
            "csrf_token": self.csrf_token(),
        }
        return self.post("/login", data=form, headers={"origin": self.here})


def program(app: FastAPI, token: str) -> TestClient:
    """Return a client with a token, elsewhere in the network."""
    return TestClient(
        app,
        base_url="http://10.1.2.3:8080",
        client=("10.9.9.9", 50000),
        follow_redirects=False,
        headers={"authorization": f"Bearer {token}"},
    )


@dataclass
class Scene:
    """A page with its index, its clock, and what it told the audit trail."""

    app: FastAPI
    index: Index
    book: AccessBook
    told: list[AuditEvent]
    now: datetime = field(default_factory=lambda: datetime.now(UTC))

    def browser(self, user: str | None = None) -> Browser:
        """Return a browser at this machine, in which somebody has logged in."""
        browser = Browser(self.app)
        if user is not None:  # past the form: comparing a password takes a tenth of a second
            secret = new_secret()
            assert self.book.open_session(user, _kept(user), secret, ADDRESS, self.now)
            browser.cookies.set(session_cookie(is_encrypted=False), secret, ADDRESS)
        return browser

    def add_users(self, *names: str) -> None:
        """Let `ann` (operate) or `vic` (view) log in."""
        for name in names:
            self.book.add_user(name, ROLE_OF[name], _kept(name), self.now)

    def add_token(self, name: str, role: str, days: float = 1) -> str:
        """Let a program ask; return its token."""
        secret = new_secret()
        self.book.add_token(name, role, secret, self.now + timedelta(days=days), self.now)
        return secret

    def clear(self) -> None:
        """Let the scene be as new: nobody is known, and what was tried is long ago."""
        for user in self.book.users():
            self.book.remove_user(user.name)
        for token in self.book.tokens():
            self.book.remove_token(token.name)
        self.told.clear()
        self.now += timedelta(days=100)

    def index_rows(self, table: str) -> int:
        """Return how many rows a table has."""
        with self.index.read() as connection:
            return int(connection.exec_driver_sql(f"SELECT count(*) FROM {table}").scalar_one())  # noqa: S608


def scene(folder: Path, **web: Any) -> Scene:
    """Return a page with an empty index and these keys of `[web]`.

    Two routes are added, so that the guard can be tried whatever else the page has.
    """
    config = Config.model_validate({"node": {"data": folder}, "web": web})
    index = Index(config.node.database_url)
    index.create()
    told: list[AuditEvent] = []
    made = Scene(FastAPI(), index, AccessBook(index), told)
    made.app = make_app(Desk(config, index, lambda: made.now, told.append))

    @made.app.get("/api/probe")
    def look(actor: Viewer) -> dict[str, str]:
        return {"actor": actor.name, "role": actor.role}

    @made.app.post("/api/probe")
    def act(actor: Operator) -> dict[str, str]:
        return {"actor": actor.name, "role": actor.role}

    return made


@cache
def _kept(name: str) -> str:
    return hashed_password(SECRET_OF[name], name)
