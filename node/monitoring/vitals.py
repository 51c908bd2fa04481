"""Whether a process lives and whether it takes objects: signs that are looked at when asked.

A sign of life looks at memory only: it waits for no lock that is held for long, no disk and no
database, so that what is stuck is told at once instead of getting whoever asks stuck, too.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

LOGGER = logging.getLogger(__name__)

STALLED_S = 120.0
"""A thread that has not come round for so long is stuck: the longest wait that is none is that for
the database's lock, 30 s."""

NOT_WRITTEN_S = 60.0
"""An index that has not been written for so long cannot be: a sign of life goes there every 10 s.
"""


@dataclass(frozen=True, slots=True)
class Sign:
    """One thing that must hold.

    Attributes:
        name: A word.
        trouble: Returns what is wrong, in a sentence without secrets; empty if nothing is.
    """

    name: str
    trouble: Callable[[], str]


@dataclass(frozen=True, slots=True)
class Measured:
    """A number that rises and falls.

    Attributes:
        name: Of the metric.
        text: What it measures, for people.
        labels: Names of its labels.
        read: Returns its values by the values of the labels; the empty tuple where there are none.
    """

    name: str
    text: str
    labels: tuple[str, ...]
    read: Callable[[], Mapping[tuple[str, ...], float]]


@dataclass(frozen=True, slots=True)
class Vitals:
    """What can be seen of a process from outside.

    Attributes:
        life: What must hold, or a supervisor should start it anew.
        readiness: What must hold besides, or senders had better go elsewhere for now.
        measures: Numbers of this process that others cannot know.
    """

    life: Sequence[Sign] = ()
    readiness: Sequence[Sign] = ()
    measures: Sequence[Measured] = ()

    def troubles_of_life(self) -> dict[str, str]:
        """Return what is stuck, by name; nothing: the process lives."""
        return _troubles(self.life)

    def troubles(self) -> dict[str, str]:
        """Return what keeps the process from its work, by name; nothing: it is ready."""
        return _troubles((*self.life, *self.readiness))


def too_old(age_s: float, limit_s: float, what: str) -> str:
    """Return that something is too long ago, or an empty text.

    Args:
        age_s: How long ago it was.
        limit_s: How long that may be.
        what: What did not happen, with its verb, as in "nothing was filed".
    """
    return f"{what} for {age_s:.0f} s" if age_s > limit_s else ""


def _troubles(signs: Sequence[Sign]) -> dict[str, str]:
    found = {}
    for sign in signs:
        try:
            trouble = sign.trouble()
        except Exception as error:
            # a sign that cannot be read is a bad sign; its text may quote what nobody should see
            LOGGER.exception("vitals.unreadable", extra={"sign": sign.name})
            trouble = f"cannot be told ({type(error).__name__})"
        if trouble:
            found[sign.name] = trouble
    return found


NOTHING_SEEN = Vitals()
"""Of a process that shows nothing of itself: in tests of single parts."""
