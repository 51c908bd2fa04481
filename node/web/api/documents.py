"""What all documents of the API share, and the parameters that several addresses take."""

from typing import Annotated

from fastapi import Path, Query
from pydantic import BaseModel, ConfigDict

CaseId = Annotated[str, Path(max_length=32, pattern="^[0-9A-Za-z_-]+$", description="Of the case.")]
PeerName = Annotated[
    str, Path(max_length=32, pattern="^[0-9A-Za-z_-]+$", description="Of the peer.")
]
Revision = Annotated[int, Path(ge=1, le=1_000_000, description="Number of the revision.")]
PageSize = Annotated[int, Query(ge=1, le=200, description="How many at most.")]


class Document(BaseModel):
    """A part of an answer: frozen, without keys that its description does not name."""

    model_config = ConfigDict(frozen=True, extra="forbid", from_attributes=True)


class Done(Document):
    """An order was taken; the running node carries it out.

    Attributes:
        told: What was ordered, in a sentence.
    """

    told: str
