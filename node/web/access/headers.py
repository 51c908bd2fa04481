"""The headers that every answer carries: what browsers must not do with it."""

from collections.abc import Mapping

from starlette.datastructures import MutableHeaders

from node.web.assets import own_stamp

CONTENT_POLICY = (
    "default-src 'self'; img-src 'self' data: blob:; object-src 'none'; base-uri 'none'; "
    "form-action 'self'; frame-ancestors 'none'"
)
"""Only what the node itself serves is loaded, run or sent to; nobody shows us in a frame."""

SANDBOX_POLICY = (
    "sandbox; default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'"
)
"""Of a document that stands alone: it runs nothing, loads nothing, and has no origin."""

_ALWAYS: Mapping[str, str] = {
    "content-security-policy": CONTENT_POLICY,
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "same-origin",  # "no-referrer" would take the Origin from our own forms, too
    "permissions-policy": "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
}

_ENCRYPTED = "max-age=31536000"
"""Browsers come back by https only, for a year (RFC 6797)."""

_FOREVER = "public, max-age=31536000, immutable"
_ASK_AGAIN = "no-cache"

STATIC_PREFIX = "/static/"


def sandboxed() -> dict[str, str]:
    """Return the headers of a document whose markup is not the page's own.

    For `report.html` of a case and its like: opened as a page of its own it shows text, pictures
    and its own styles, but no script of it runs and no form of it is sent.
    """
    return {"content-security-policy": SANDBOX_POLICY}


def add_headers(
    headers: MutableHeaders, *, path: str, query: bytes, status: int, is_encrypted: bool
) -> None:
    """Add to an answer's headers what is not there yet.

    Args:
        headers: Of the answer; changed.
        path: What was asked for.
        query: The rest of the address; static files with their own stamp in it are kept for good.
        status: Of the answer.
        is_encrypted: Whether browsers reach the node by https alone.
    """
    if path.startswith(STATIC_PREFIX) and status < 400:
        stamp = f"v={own_stamp()}".encode()
        headers.setdefault("cache-control", _FOREVER if query == stamp else _ASK_AGAIN)
    for name, value in _ALWAYS.items():
        headers.setdefault(name, value)
    if is_encrypted:
        headers.setdefault("strict-transport-security", _ENCRYPTED)
