"""Cookies of the page, and the CSRF token that is bound to them.

A browser holds one of two: a session after login, or before it (and on loopback, where nobody logs
in) a visit. Both are random numbers that no script can read. The CSRF token is a hash of the one
that counts: who cannot read our pages cannot know it, and it is worth nothing beside another one.
"""

import hashlib
import hmac
import re
import secrets

CSRF_FIELD = "csrf_token"
CSRF_HEADER = "x-csrf-token"

_SECRET = re.compile(r"[A-Za-z0-9_-]{43}")


def new_secret() -> str:
    """Return 256 random bits as text."""
    return secrets.token_urlsafe(32)


def session_cookie(*, is_encrypted: bool) -> str:
    """Return the name of the cookie that holds the session."""
    return _named("hilum_session", is_encrypted=is_encrypted)


def visit_cookie(*, is_encrypted: bool) -> str:
    """Return the name of the cookie that a browser without session holds."""
    return _named("hilum_visit", is_encrypted=is_encrypted)


def _named(name: str, *, is_encrypted: bool) -> str:
    # the prefix: no other host of the domain, and nobody over http, can have set it (RFC 6265bis)
    return f"__Host-{name}" if is_encrypted else name


def read_secret(header: str, name: str) -> str | None:
    """Return the random number in a cookie, or None if there is none of the right form.

    Args:
        header: The `Cookie` header.
        name: Of the cookie.
    """
    for part in header.split(";"):
        found, _, value = part.strip().partition("=")
        if found == name:
            return value if _SECRET.fullmatch(value) else None
    return None


def set_cookie(name: str, secret: str, *, is_encrypted: bool) -> str:
    """Return the `Set-Cookie` header that gives a browser a secret, until it is closed."""
    return _cookie(name, secret, is_encrypted=is_encrypted)


def drop_cookie(name: str, *, is_encrypted: bool) -> str:
    """Return the `Set-Cookie` header that takes a cookie away."""
    return _cookie(name, "", is_encrypted=is_encrypted) + "; Max-Age=0"


def _cookie(name: str, value: str, *, is_encrypted: bool) -> str:
    flags = "; Path=/; HttpOnly; SameSite=Lax" + ("; Secure" if is_encrypted else "")
    return f"{name}={value}{flags}"


def csrf_token(secret: str) -> str:
    """Return the CSRF token of a session or visit."""
    return hashlib.sha256(b"hilum csrf " + secret.encode("ascii")).hexdigest()


def is_csrf_token(shown: str, secret: str) -> bool:
    """Tell whether a CSRF token belongs to a session or visit."""
    return hmac.compare_digest(shown.encode("utf-8", "replace"), csrf_token(secret).encode())
