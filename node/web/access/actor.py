"""Who asks, and what they may: the two dependencies that every route names one of."""

from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, HTTPException, Request, Security, status
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from node.web.access.roles import WebRole

__all__ = ["Actor", "Operator", "Viewer", "WebRole", "asking", "asking_to_operate"]


@dataclass(frozen=True, slots=True)
class Actor:
    """Who asks: a person who logged in, a program with a token, or whoever sits at this machine."""

    name: str
    role: WebRole


_TOKEN = HTTPBearer(
    scheme_name="token",
    description="Of `hilum tokens add`. People use the page, which keeps a session.",
    auto_error=False,
)
"""Only for the description of the API: tokens are looked at by the guard, before any route."""


def asking(
    request: Request,
    _token: Annotated[HTTPAuthorizationCredentials | None, Security(_TOKEN)] = None,
) -> Actor:
    """Return who asks.

    Raises:
        HTTPException: 401, nobody is known.
    """
    actor = getattr(request.state, "actor", None)
    if not isinstance(actor, Actor):
        raise HTTPException(status.HTTP_401_UNAUTHORIZED, "log in first")
    return actor


def asking_to_operate(actor: Annotated[Actor, Depends(asking)]) -> Actor:
    """Return who asks, if they may change something.

    Raises:
        HTTPException: 401, nobody is known; 403, they may only look.
    """
    if actor.role is not WebRole.OPERATE:
        raise HTTPException(status.HTTP_403_FORBIDDEN, "this needs the role 'operate'")
    return actor


Viewer = Annotated[Actor, Depends(asking)]
"""Of a route that shows something."""

Operator = Annotated[Actor, Depends(asking_to_operate)]
"""Of a route that changes something."""
