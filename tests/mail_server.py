"""A mail server and a webhook for tests: what a hospital has, on a port of this machine."""

import json
import socketserver
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any


@dataclass
class Mailbox:
    """What a mail server took, and how it behaves.

    Attributes:
        messages: Each with its envelope: sender, receivers, text.
        refuses: Receivers that it refuses.
        rejects_all: Whether it takes no message now.
        logins: What was given to log in, as it came.
        context: For STARTTLS, or TLS from the start.
    """

    context: ssl.SSLContext | None = None
    is_tls: bool = False
    refuses: tuple[str, ...] = ()
    rejects_all: bool = False
    port: int = 0
    messages: list[tuple[str, list[str], str]] = field(default_factory=list)
    logins: list[str] = field(default_factory=list)


class _Smtp(socketserver.StreamRequestHandler):
    mailbox: Mailbox

    def handle(self) -> None:
        if self.mailbox.is_tls and self.mailbox.context is not None:
            self._secure()
        self._say("220 mail.test")
        sender, receivers = "", list[str]()
        while line := self.rfile.readline().decode().rstrip("\r\n"):
            word = line.split(maxsplit=1)[0].upper()
            if word == "EHLO":
                self._say("250-mail.test\r\n250-STARTTLS\r\n250 AUTH PLAIN")
            elif word == "STARTTLS" and self.mailbox.context is not None:
                self._say("220 go on")
                self._secure()
            elif word == "AUTH":
                self.mailbox.logins.append(line)
                self._say("235 welcome")
            elif word == "MAIL":
                sender, receivers = _within(line), []
                self._say("451 try later" if self.mailbox.rejects_all else "250 yes")
            elif word == "RCPT":
                is_refused = _within(line) in self.mailbox.refuses
                receivers += [] if is_refused else [_within(line)]
                self._say("550 no such user" if is_refused else "250 yes")
            elif word == "DATA":
                self._say("354 go on")
                text = ""
                while (more := self.rfile.readline().decode()) not in (".\r\n", ""):
                    text += more
                self.mailbox.messages.append((sender, receivers, text))
                self._say("250 taken")
            elif word == "QUIT":
                self._say("221 bye")
                return
            else:
                self._say("250 yes")

    def finish(self) -> None:
        super().finish()
        self.connection.close()  # that of TLS: the server knows the plain one only

    def _secure(self) -> None:
        assert self.mailbox.context is not None
        self.connection = self.mailbox.context.wrap_socket(self.connection, server_side=True)
        self.rfile = self.connection.makefile("rb")
        self.wfile = self.connection.makefile("wb")  # type: ignore[assignment]

    def _say(self, text: str) -> None:
        self.wfile.write(f"{text}\r\n".encode())
        self.wfile.flush()


def _within(line: str) -> str:
    return line.partition("<")[2].partition(">")[0]


class _Quiet(socketserver.ThreadingTCPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A caller who does not trust us hangs up: no news."""


@contextmanager
def mail_server(**settings: Any) -> Iterator[Mailbox]:
    """Give a mail server that runs."""
    mailbox = Mailbox(**settings)
    handler = type("Handler", (_Smtp,), {"mailbox": mailbox})
    with _Quiet(("127.0.0.1", 0), handler) as server:
        mailbox.port = server.server_address[1]
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        yield mailbox
        server.shutdown()
        thread.join(60)


@dataclass
class Hook:
    """What a webhook got, and what it answers.

    Attributes:
        requests: Path, headers by lower-case name, body as it came.
        status: Of its answers.
        location: Where it redirects to.
    """

    status: int = 204
    location: str = ""
    port: int = 0
    requests: list[tuple[str, dict[str, str], bytes]] = field(default_factory=list)

    @property
    def documents(self) -> list[Any]:
        """The bodies, read as JSON."""
        return [json.loads(body) for _, _, body in self.requests]


class _QuietHttp(HTTPServer):
    def handle_error(self, request: Any, client_address: Any) -> None:
        """A caller who does not trust us hangs up: no news."""


@contextmanager
def webhook(context: ssl.SSLContext | None = None, **settings: Any) -> Iterator[Hook]:
    """Give a webhook that runs."""
    hook = Hook(**settings)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            named = {name.lower(): value for name, value in self.headers.items()}
            hook.requests.append((self.path, named, body))
            self.send_response(hook.status)
            if hook.location:
                self.send_header("Location", hook.location)
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:
            pass

    with _QuietHttp(("127.0.0.1", 0), Handler) as server:
        hook.port = server.server_address[1]
        if context is not None:
            server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        yield hook
        server.shutdown()
        thread.join(60)
