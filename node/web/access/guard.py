"""The guard: every request passes it before anything else of the page sees it.

It asks, in this order: does the browser believe to talk to this node; who asks; may anybody ask
that without being known; and where something is to be changed: does a page of ours ask? What passes
carries its actor. Every answer leaves with the headers of `headers`, and what changed something is
told to the audit trail.

Whether an actor may do what they ask for is said by the route (`actor`); only the guard knows
cookies and tokens.
"""

import logging
from urllib.parse import parse_qs, quote

from fastapi import FastAPI, Request
from fastapi.responses import RedirectResponse, Response
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from node.audit.events import AuditEvent, Kind, Outcome
from node.peer import is_loopback
from node.web.access.actor import Actor, WebRole
from node.web.access.bodies import (
    LARGEST_BODY_BYTES,
    LARGEST_STRANGERS_BYTES,
    read_body,
    replayed,
)
from node.web.access.calls import Call, call_of, is_known_host, is_same_origin
from node.web.access.cookies import (
    CSRF_FIELD,
    CSRF_HEADER,
    csrf_token,
    is_csrf_token,
    new_secret,
    read_secret,
    session_cookie,
    set_cookie,
    visit_cookie,
)
from node.web.access.doors import Doors
from node.web.access.headers import STATIC_PREFIX, add_headers
from node.web.access.problems import ProblemTeller, problem_of, route_of
from node.web.desk import Desk
from node.web.monitoring import METRICS, may_read_metrics

LOGGER = logging.getLogger(__name__)

LOGIN, LOGOUT, ACCOUNT = "/login", "/logout", "/account"
PROBES = frozenset({"/health", "/ready"})
"""Asked by supervisors, under whatever name or address they know us."""

THIS_MACHINE = Actor("this machine", WebRole.OPERATE)
"""Who asks over loopback while there are no users."""

TELL_THEMSELVES = frozenset({LOGIN, LOGOUT, ACCOUNT})
"""What the audit trail is told of by their own routes."""

LONGEST_TOLD = 64
"""Characters of a part of an address that the audit trail is told."""

_FORM = "application/x-www-form-urlencoded"


def guard(app: FastAPI, desk: Desk, teller: ProblemTeller) -> None:
    """Let nothing reach the routes of an application but through the guard.

    Args:
        app: The application.
        desk: Whose users may look at what.
        teller: Answers what is refused.
    """
    app.add_middleware(Guard, desk=desk, teller=teller)


class Guard:
    """Stands before the routes (ASGI).

    Args:
        app: What is guarded.
        desk: Whose users may look at what.
        teller: Answers what is refused.
    """

    def __init__(self, app: ASGIApp, desk: Desk, teller: ProblemTeller) -> None:
        self._app = app
        self._section = desk.config.web
        self._audit = desk.audit
        self._doors = Doors(desk)
        self._teller = teller

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or pass it on with its actor."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
        elif scope["type"] == "http":
            await self._guarded(scope, receive, send)
        else:  # web sockets: the page has none
            await send({"type": "websocket.close", "code": 1008})

    async def _guarded(self, scope: Scope, receive: Receive, send: Send) -> None:
        call, request = call_of(scope, self._section), Request(scope)
        state = request.state
        state.actor, state.has_session, state.csrf_token = None, False, ""
        state.address = call.address
        leaving = Leaving(call, scope, send, is_encrypted=self._section.is_encrypted)
        try:
            passed = await self._admitted(call, request, receive, leaving)
            await self._app(scope, passed, leaving)
        except HTTPException as error:
            if call.changes_something:
                LOGGER.info(
                    "web.refused", extra={"status": error.status_code, "address": call.address}
                )
            answer = self._refusal(call, request, error)
            await answer(scope, receive, leaving)
        except Exception as error:  # noqa: BLE001 - the boundary of a request
            answer = self._teller.unforeseen(request, error)
            if leaving.status:  # too late for another answer: let it end short
                return
            await answer(scope, receive, leaving)
        finally:
            await self._tell(call, request, leaving.status)

    async def _admitted(
        self, call: Call, request: Request, receive: Receive, leaving: "Leaving"
    ) -> Receive:
        """Return where the body of an admitted request comes from; its state is set.

        Raises:
            HTTPException: It is refused.
        """
        if is_for_anybody(call) or self._is_for_monitoring(call):
            return receive
        state = request.state
        token, binding = _bearer(call), ""
        if token is None:
            self._check_way(call)
            binding = await self._recognize(call, request, leaving)
            state.csrf_token = csrf_token(binding)
        else:
            state.actor = await run_in_threadpool(self._doors.actor_of_token, token)
            if state.actor is None:
                raise HTTPException(401, "this token does not count: it is unknown or has expired")
        if state.actor is None and call.path != LOGIN:
            raise HTTPException(401, "log in first")
        if not call.changes_something:
            return receive
        body = await self._body(call, receive, is_known=state.actor is not None)
        if token is None:
            self._check_page(call, binding, body)
        return replayed(body, receive)

    def _is_for_monitoring(self, call: Call) -> bool:
        """Tell whether the metrics are asked for, from where they are open without login."""
        if call.path != METRICS or call.changes_something or _bearer(call) is not None:
            return False
        if not may_read_metrics(call.address, self._section):
            return False
        is_ours = call.is_from_here and is_known_host(call, self._section)
        return is_ours or not is_loopback(call.address)

    def _check_way(self, call: Call) -> None:
        """Refuse what came by a way that a browser of ours would not take."""
        if self._section.behind_proxy and not call.is_through_proxy:
            raise HTTPException(403, "this page is reached through its reverse proxy only")
        if not is_known_host(call, self._section):
            raise HTTPException(
                421,
                "this node is not known under the host name that was asked for; "
                "its operator can add names to web.hosts",
            )

    async def _recognize(self, call: Call, request: Request, leaving: "Leaving") -> str:
        """Find out who asks; return the secret that the CSRF token is bound to."""
        is_encrypted = self._section.is_encrypted
        cookies = "; ".join(call.headers.getlist("cookie"))
        secret = read_secret(cookies, session_cookie(is_encrypted=is_encrypted))
        if secret is not None:
            actor = await run_in_threadpool(self._doors.actor_of_session, secret)
            if actor is not None:
                request.state.actor, request.state.has_session = actor, True
                request.state.session = secret
                return secret
        if call.is_from_here and await run_in_threadpool(self._doors.is_open_here):
            request.state.actor = THIS_MACHINE
        name = visit_cookie(is_encrypted=is_encrypted)
        visit = read_secret(cookies, name)
        if visit is None:
            visit = new_secret()
            leaving.page_cookie = set_cookie(name, visit, is_encrypted=is_encrypted)
        return visit

    async def _body(self, call: Call, receive: Receive, *, is_known: bool) -> bytes:
        return await read_body(
            receive,
            announced=call.headers.get("content-length"),
            most_bytes=LARGEST_BODY_BYTES if is_known else LARGEST_STRANGERS_BYTES,
        )

    def _check_page(self, call: Call, binding: str, body: bytes) -> None:
        """Refuse a change that no page of ours asked for."""
        if not is_same_origin(call, self._section):
            raise HTTPException(
                403, "only pages of this node may ask for changes; programs need a token"
            )
        shown = call.headers.get(CSRF_HEADER, "")
        if not shown and call.headers.get("content-type", "").split(";")[0].strip() == _FORM:
            fields = parse_qs(body.decode("latin-1"), max_num_fields=100)
            shown = fields.get(CSRF_FIELD, [""])[0]
        if not is_csrf_token(shown, binding):
            raise HTTPException(403, "the page is out of date: load it again, then repeat this")

    def _refusal(self, call: Call, request: Request, error: HTTPException) -> Response:
        if error.status_code == 401 and call.wants_page:
            wanted = call.path + (f"?{query}" if (query := request.url.query) else "")
            back = "" if call.changes_something or wanted == "/" else f"?next={quote(wanted)}"
            return RedirectResponse(LOGIN + back, 303)
        headers = dict(error.headers or {})
        if error.status_code == 401:
            headers["www-authenticate"] = "Bearer"
        return self._teller.answer(
            request, problem_of(error.status_code, str(error.detail)), headers
        )

    async def _tell(self, call: Call, request: Request, status: int) -> None:
        """Tell the audit trail that somebody changed something, or was not let."""
        actor = request.state.actor
        if actor is None or not call.changes_something or call.path in TELL_THEMSELVES:
            return
        named = {name: _short(value) for name, value in request.path_params.items()}
        what = {"method": call.method, "route": route_of(request), "status": str(status), **named}
        outcome: Outcome = "success" if 0 < status < 400 else "failure"
        event = AuditEvent(Kind.REQUEST, actor.name, call.address, outcome, what)
        await run_in_threadpool(self._audit, event)


class Leaving:
    """Gives every answer its headers on the way out, and remembers its status.

    Args:
        call: What is answered.
        scope: Likewise, as the server gave it.
        send: Where the answer goes.
        is_encrypted: Whether browsers reach the node by https alone.

    Attributes:
        status: Of the answer; 0: nothing was answered yet.
        page_cookie: A `Set-Cookie` header for a page, if the answer is one.
    """

    def __init__(self, call: Call, scope: Scope, send: Send, *, is_encrypted: bool) -> None:
        self._call = call
        self._query = bytes(scope.get("query_string", b""))
        self._send = send
        self._is_encrypted = is_encrypted
        self.status = 0
        self.page_cookie: str | None = None

    async def __call__(self, message: Message) -> None:
        """Pass a part of the answer on."""
        if message["type"] == "http.response.start":
            self.status = int(message["status"])
            headers = MutableHeaders(scope=message)
            add_headers(
                headers,
                path=self._call.path,
                query=self._query,
                status=self.status,
                is_encrypted=self._is_encrypted,
            )
            is_page = headers.get("content-type", "").startswith("text/html")
            if is_page and self.page_cookie is not None:
                headers.append("set-cookie", self.page_cookie)
        await self._send(message)


def is_for_anybody(call: Call) -> bool:
    """Tell whether strangers may ask for it without anybody looking who they are."""
    is_static = call.path.startswith(STATIC_PREFIX)
    return not call.changes_something and (is_static or call.path in PROBES)


def _bearer(call: Call) -> str | None:
    """Return the token that a program shows, or None if it shows none."""
    kind, _, token = call.headers.get("authorization", "").partition(" ")
    return token.strip() if kind.lower() == "bearer" else None


def _short(value: object) -> str:
    """Return a part of an address for the audit trail."""
    return "".join(c for c in str(value)[:LONGEST_TOLD] if c.isprintable())
