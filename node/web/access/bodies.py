"""What is sent with a request, read whole before anybody acts on it: bounded in size.

In time it is bounded by the connection (`node.web.patience`), which is cut.
"""

from starlette.exceptions import HTTPException
from starlette.types import Message, Receive

LARGEST_BODY_BYTES = 1 << 20
"""Of a request of somebody who is known; nothing that the page or its API takes is longer."""

LARGEST_STRANGERS_BYTES = 1 << 14
"""Of a request of somebody who is not: a name and a password."""


async def read_body(receive: Receive, *, announced: str | None, most_bytes: int) -> bytes:
    """Return the whole body of a request.

    Args:
        receive: Gives it in pieces.
        announced: The `Content-Length` header.
        most_bytes: A longer one is not read to its end.

    Raises:
        HTTPException: 413, too long; 400, broken off.
    """
    if announced is not None and not (announced.isdecimal() and int(announced) <= most_bytes):
        raise _too_long(most_bytes)
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise HTTPException(400, "the request was broken off")
        body += message.get("body", b"")
        if len(body) > most_bytes:
            raise _too_long(most_bytes)
        if not message.get("more_body", False):
            return bytes(body)


def replayed(body: bytes, receive: Receive) -> Receive:
    """Return a source that gives a body once more, and then what `receive` gives."""
    waiting: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def again() -> Message:
        return waiting.pop() if waiting else await receive()

    return again


def _too_long(most_bytes: int) -> HTTPException:
    return HTTPException(
        413, f"the request is longer than {most_bytes} bytes", headers={"connection": "close"}
    )
