"""Connections of the page, bounded: uvicorn by itself waits for ever for a request to be whole."""

import asyncio
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

SLOWEST_REQUEST_S = 15.0
"""From the connection, or the first byte of a further request, to the last byte of its body."""

SLOWEST_READER_S = 60.0
"""So long a caller may take none of an answer that waits for it."""

MOST_CONNECTIONS = 200
"""Open at a time; the node needs its file handles for DICOM, too."""


class BoundedConnection(H11Protocol):
    """One connection that ends by itself when the other end does not go on."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._request_limit: asyncio.TimerHandle | None = None
        self._reader_limit: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin, unless there are too many."""
        super().connection_made(transport)
        if len(self.connections) > MOST_CONNECTIONS:
            transport.abort()
        else:
            self._wait_for_request()

    def data_received(self, data: bytes) -> None:
        """Take a part of a request."""
        super().data_received(data)
        if self.conn.their_state in (h11.IDLE, h11.SEND_BODY):
            self._wait_for_request()
        else:
            self._end_waiting()

    def pause_writing(self) -> None:
        """Wait until the other end has taken a part of the answer."""
        super().pause_writing()
        self._end_reading()
        self._reader_limit = self.loop.call_later(SLOWEST_READER_S, self.transport.abort)

    def resume_writing(self) -> None:
        """Go on with the answer."""
        self._end_reading()
        super().resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        """End."""
        self._end_waiting()
        self._end_reading()
        super().connection_lost(exc)

    def _wait_for_request(self) -> None:
        if self._request_limit is None:
            self._request_limit = self.loop.call_later(SLOWEST_REQUEST_S, self.transport.abort)

    def _end_waiting(self) -> None:
        if self._request_limit is not None:
            self._request_limit.cancel()
            self._request_limit = None

    def _end_reading(self) -> None:
        if self._reader_limit is not None:
            self._reader_limit.cancel()
            self._reader_limit = None
