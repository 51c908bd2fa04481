"""Logging in and out, and changing one's own password: nobody's else is ever named."""

import re
from datetime import timedelta
from functools import partial
from typing import Annotated, Literal

from anyio import CapacityLimiter, to_thread
from fastapi import APIRouter, Form, HTTPException, Request
from fastapi.responses import RedirectResponse, Response

from node.audit.events import AuditEvent, Kind, Outcome
from node.errors import NodeError
from node.index.access_rows import LONGEST_NAME
from node.web.access.actor import Actor, Viewer
from node.web.access.attempts import Attempts
from node.web.access.cookies import drop_cookie, session_cookie, set_cookie
from node.web.access.doors import Doors
from node.web.access.guard import ACCOUNT, LOGIN, LOGOUT
from node.web.access.passwords import SHORTEST
from node.web.desk import Desk
from node.web.pages.rendering import Pages

_OWN_ADDRESS = re.compile(r"/(?![/\\])[!-\[\]-~]*")
"""A path of ours with its query: no host, no backslash (browsers take it for a slash), no blank."""

MOST_COUNTING = 4
"""Threads that count attempts; the others are for those who are known."""

_WRONG = "User or password is wrong."
_CHANGED = "The password is changed. Log in with the new one."

Told = tuple[Literal["good", "bad"], str]
UserField = Annotated[str, Form()]
PasswordField = Annotated[str, Form()]


def login_routes(desk: Desk, pages: Pages) -> APIRouter:
    """Return the routes of the way in and out.

    Args:
        desk: Whose users.
        pages: Makes their pages.
    """
    routes = APIRouter(include_in_schema=False)
    desk_clerk = Clerk(desk, pages)
    routes.get(LOGIN)(desk_clerk.show_login)
    routes.post(LOGIN)(desk_clerk.log_in)
    routes.post(LOGOUT)(desk_clerk.log_out)
    routes.get(ACCOUNT)(desk_clerk.show_password)
    routes.post(ACCOUNT)(desk_clerk.change_password)
    return routes


class Clerk:
    """Lets people in and out.

    Args:
        desk: Whose users.
        pages: Makes the pages.
    """

    def __init__(self, desk: Desk, pages: Pages) -> None:
        self._doors = Doors(desk)
        self._audit = desk.audit
        self._attempts = Attempts(desk.index, desk.clock)
        self._pages = pages
        self._is_encrypted = desk.config.web.is_encrypted
        self._comparing = CapacityLimiter(1)
        """Comparing takes 64 MiB and a core: strangers must not take the node's."""
        self._counting = CapacityLimiter(MOST_COUNTING)

    def show_login(self, request: Request, next: str = "/", changed: bool = False) -> Response:
        """Show the form."""
        return self._login_page(request, next, told=("good", _CHANGED) if changed else None)

    async def log_in(
        self,
        request: Request,
        user: UserField,
        password: PasswordField,
        next: Annotated[str, Form()] = "/",
    ) -> Response:
        """Begin a session, under a number that nobody knew before, or say that it cannot be."""
        name, address = user.strip().casefold()[:LONGEST_NAME], request.state.address
        if wait := await self._waits(name, address):
            return self._put_off(request, wait, next)
        secret = await to_thread.run_sync(
            self._doors.log_in, name, password, address, limiter=self._comparing
        )
        if secret is None:
            # a password typed into the wrong field must not come into the audit trail
            is_known = await to_thread.run_sync(self._doors.has_user, name)
            await self._tell(Kind.LOGIN, name if is_known else "", address, "failure")
            return self._login_page(request, next, told=("bad", _WRONG), status_code=401)
        await self._was_right(name, address)
        await self._end_session(request)
        await self._tell(Kind.LOGIN, name, address, "success")
        answer = RedirectResponse(own_address(next), 303)
        cookie = session_cookie(is_encrypted=self._is_encrypted)
        answer.headers["set-cookie"] = set_cookie(cookie, secret, is_encrypted=self._is_encrypted)
        return answer

    async def log_out(self, request: Request, actor: Viewer) -> Response:
        """End the session."""
        await self._end_session(request)
        await self._tell(Kind.LOGOUT, actor.name, request.state.address, "success")
        answer = RedirectResponse(LOGIN, 303)
        cookie = session_cookie(is_encrypted=self._is_encrypted)
        answer.headers["set-cookie"] = drop_cookie(cookie, is_encrypted=self._is_encrypted)
        return answer

    def show_password(self, request: Request, actor: Viewer) -> Response:
        """Show the form for another password of one's own."""
        _must_have_password(request)
        return self._password_page(request, actor)

    async def change_password(
        self, request: Request, actor: Viewer, present: PasswordField, new: PasswordField
    ) -> Response:
        """Give whoever is logged in another password; all their sessions end."""
        _must_have_password(request)
        address = request.state.address
        if wait := await self._waits(actor.name, address):
            return self._put_off(request, wait, "/")
        change = partial(self._doors.change_password, actor.name, present, new)
        try:
            await to_thread.run_sync(change, limiter=self._comparing)
        except NodeError as error:
            await self._tell(Kind.ACCOUNT_CHANGED, actor.name, address, "failure")
            return self._password_page(request, actor, error)
        await self._was_right(actor.name, address)
        await self._tell(Kind.ACCOUNT_CHANGED, actor.name, address, "success")
        return RedirectResponse(f"{LOGIN}?changed=true", 303)

    async def _waits(self, name: str, address: str) -> timedelta | None:
        return await to_thread.run_sync(
            self._attempts.try_now, name, address, limiter=self._counting
        )

    async def _was_right(self, name: str, address: str) -> None:
        await to_thread.run_sync(self._attempts.succeeded, name, address, limiter=self._counting)

    async def _end_session(self, request: Request) -> None:
        if request.state.has_session:
            await to_thread.run_sync(self._doors.log_out, request.state.session)

    async def _tell(self, kind: Kind, actor: str, address: str, outcome: Outcome) -> None:
        what = {"action": "password", "user": actor} if kind is Kind.ACCOUNT_CHANGED else {}
        await to_thread.run_sync(self._audit, AuditEvent(kind, actor, address, outcome, what))

    def _put_off(self, request: Request, wait: timedelta, back: str) -> Response:
        minutes = int(wait.total_seconds() // 60) + 1
        told: Told = ("bad", f"Too many attempts. Try again in {minutes} min.")
        answer = self._login_page(request, back, told=told, status_code=429)
        answer.headers["retry-after"] = str(60 * minutes)
        return answer

    def _login_page(
        self,
        request: Request,
        back: str,
        *,
        told: Told | None,
        status_code: int = 200,
    ) -> Response:
        return self._pages.page(
            request, "login.html", told=told, status_code=status_code, next=own_address(back)
        )

    def _password_page(
        self, request: Request, actor: Actor, error: NodeError | None = None
    ) -> Response:
        return self._pages.page(
            request,
            "account.html",
            told=None if error is None else ("bad", f"Nothing is changed: {error.with_hint}."),
            status_code=200 if error is None else 400,
            user=actor.name,
            shortest=SHORTEST,
        )


def own_address(text: str) -> str:
    """Return where to go after login: what was asked for if it is an address of ours, else `/`.

    Example:
        >>> own_address("/cases/7?tab=dvh"), own_address("//elsewhere.example")
        ('/cases/7?tab=dvh', '/')
    """
    is_ours = _OWN_ADDRESS.fullmatch(text) and not text.startswith(LOGIN)
    return text if is_ours else "/"


def _must_have_password(request: Request) -> None:
    if not request.state.has_session:
        raise HTTPException(403, "only a user who logged in has a password")
