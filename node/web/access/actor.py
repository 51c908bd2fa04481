"""Who asks, and what they may: the two dependencies that every route names one of."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated

from fastapi import Depends, HTTPException, Request, status


class WebRole(StrEnum):
    """What a user may do; whoever may operate may also view."""

    VIEW = "view"
    OPERATE = "operate"


@dataclass(frozen=True, slots=True)
class Actor:
    """Who asks: a person who logged in, a program with a token, or whoever sits at this machine."""

    name: str
    role: WebRole


def asking(request: Request) -> Actor:
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
