"""What a rule is, where an object breaks it, and how checks are registered beside their rules.

A rule is a record: an identifier, the objects and planning systems that it concerns, words, a
source, the mend. Beside it stands the function that looks for it. Knows no rule itself.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Literal

from pydicom.datadict import keyword_for_tag, tag_for_keyword
from pydicom.tag import Tag

if TYPE_CHECKING:
    from handlers.lint.subject import Subject, Together

PlanningSystem = Literal["eclipse", "raystation", "monaco", "pinnacle"]
"""The planning systems of which importers' habits are known."""


class Level(StrEnum):
    """How bad it is.

    `error`: the standard forbids it, or every importer refuses it. `warning`: some importer refuses
    or misreads it.
    """

    ERROR = "error"
    WARNING = "warning"


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule.

    Attributes:
        id: As `contour.too-few-points`; scripts depend on it.
        what: What is wrong, for whoever made the object.
        source: Section of the standard, issue thread (`owner/repository#number`), or report.
        mend: What to do.
        objects: SOP Class UIDs; none: every object.
        tps: Planning systems; none: the rule holds whatever the destination is.
        is_confirmed: Whether the source was read; otherwise it is general knowledge, and is told
            as such.
    """

    id: str
    level: Level
    what: str
    source: str
    mend: str
    objects: tuple[str, ...] = ()
    tps: tuple[PlanningSystem, ...] = ()
    is_confirmed: bool = True


@dataclass(frozen=True, slots=True)
class Place:
    """Where in an object something is: tags, with the number of the item (from 1) in a sequence.

    Example:
        >>> str(Place.of("ROIContourSequence", 2, "ContourSequence", 17, "ContourData"))
        '(3006,0039)[2].(3006,0040)[17].(3006,0050) ContourData'
    """

    steps: tuple[tuple[int, int | None], ...] = ()

    @classmethod
    def of(cls, *names: str | int) -> "Place":
        """Return the place that keywords and, after those of sequences, item numbers name."""
        place = cls()
        for name in names:
            if isinstance(name, int):
                place = place.item(name)
            else:
                tag = tag_for_keyword(name)
                if tag is None:
                    raise ValueError(f"{name} is no keyword")
                place = place.element(tag)
        return place

    def element(self, tag: int) -> "Place":
        """Return the place of an element in the item that this place is."""
        return Place((*self.steps, (tag, None)))

    def item(self, number: int) -> "Place":
        """Return the place of an item of the sequence that this place is."""
        return Place((*self.steps[:-1], (self.steps[-1][0], number)))

    @property
    def tags(self) -> tuple[int, ...]:
        """Return the tags alone: equal for the same place of different items."""
        return tuple(tag for tag, _ in self.steps)

    def __str__(self) -> str:
        told = []
        for tag, number in self.steps:
            word = Tag(tag)
            told.append(
                f"({word.group:04x},{word.element:04x})" + (f"[{number}]" if number else "")
            )
        name = keyword_for_tag(self.steps[-1][0]) if self.steps else ""
        return ".".join(told) + (f" {name}" if name else "")


@dataclass(frozen=True, slots=True)
class Broken:
    """A rule is broken here.

    Attributes:
        place: Where.
        detail: Numbers that help to find it; never a text of the object.
        rule: Which, where the check serves several.
    """

    place: Place
    detail: str = ""
    rule: Rule | None = None


@dataclass(frozen=True, slots=True)
class NotChecked:
    """Something could not be checked, and what would have to be given too."""

    text: str


Check = Callable[["Subject", "Together"], Iterator[Broken | NotChecked]]

CHECKS: list[tuple[tuple[Rule, ...], Check]] = []
"""Every check with the rules that it looks for, in the order of the modules."""


def looks_for(*rules: Rule) -> Callable[[Check], Check]:
    """Register a check beside its rules; one that serves several says which is broken.

    Rules of one check concern the same objects, and either all of them the same planning systems
    or each a subset that `handlers.lint.lint` sorts out afterwards.
    """

    def register(check: Check) -> Check:
        CHECKS.append((rules, check))
        return check

    return register
