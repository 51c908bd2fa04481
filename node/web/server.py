"""Runs the page in a thread of the node."""

import logging
import socket
import threading

import uvicorn
from fastapi import FastAPI

from node.errors import NodeError
from node.web.encryption import page_context
from node.web.patience import BoundedConnection
from node.web.section import WebSection

LOGGER = logging.getLogger(__name__)

STOP_LIMIT_S = 5.0
"""How long requests that are being answered may take to end when the node stops."""

LONGEST_HEAD_BYTES = 1 << 14
"""Of the address and headers of a request; more is refused as soon as it is noticed."""


class WebServer:
    """The page's listener.

    Args:
        app: What answers.
        section: Where it listens.

    Raises:
        ConfigError: Its certificate or key cannot be used.
    """

    def __init__(self, app: FastAPI, section: WebSection) -> None:
        self._section = section
        config = uvicorn.Config(
            app,
            http=BoundedConnection,
            ws="none",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,  # whom to believe is the guard's business
            lifespan="off",
            h11_max_incomplete_event_size=LONGEST_HEAD_BYTES,
            timeout_graceful_shutdown=int(STOP_LIMIT_S),
        )
        if section.certificate is not None and section.key is not None:
            config.load()
            config.ssl = page_context(section.certificate, section.key)
        self._server = uvicorn.Server(config)
        self._thread: threading.Thread | None = None

    def start(self) -> int:
        """Listen; return the port, which the system chooses if the configured one is 0.

        Raises:
            NodeError: The address or port cannot be used.
        """
        host, port = self._section.host, self._section.port
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        try:
            listener = socket.create_server((host, port), family=family)
        except OSError as error:
            raise NodeError(
                f"the page cannot listen on {host}, port {port}: {error.strerror}",
                hint="choose another web.host or web.port, or set web.enabled = false",
            ) from error
        found = int(listener.getsockname()[1])
        self._thread = threading.Thread(
            target=self._server.run, args=([listener],), name="web", daemon=True
        )
        self._thread.start()
        LOGGER.info("web.listening", extra={"host": host, "port": found})
        return found

    def stop(self) -> None:
        """Answer what was asked, then listen no longer."""
        self._server.should_exit = True
        if self._thread is not None:
            self._thread.join(2 * STOP_LIMIT_S)
