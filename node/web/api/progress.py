"""How far a running revision is, by the step it is at."""

from collections.abc import Mapping
from datetime import datetime

from node.web.api.documents import Document

SHARE_AT: Mapping[str, float] = {
    "read": 0.0,
    "decode": 0.01,
    "second opinion": 0.04,
    "structures": 0.05,
    "registration": 0.07,
    "resampling": 0.67,
    "refinement": 0.70,
    "metrics": 0.77,
    "dose": 0.89,
    "encode": 0.95,
}
"""Part of the time that has passed when a step begins: of a synthetic patient with four MR series.
A guess for any other."""


class Progress(Document):
    """What a running revision is at.

    Attributes:
        step: Name of the step.
        since: When it began.
        share: Part of the work that is done, by how long the steps usually take.
    """

    step: str
    since: datetime | None
    share: float


def progress_of(step: str, since: str | None) -> Progress:
    """Return how far a running revision is; before its first step it starts."""
    at = None if since is None else datetime.fromisoformat(since)
    return Progress(step=step or "start", since=at, share=SHARE_AT.get(step, 0.0))
