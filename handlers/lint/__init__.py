"""DICOM objects -> what a planning system or an archive will refuse or misread in them.

`lint` is the door: datasets in, problems out; nothing is changed, no file is read. One module per
kind of object lies behind it; in each, a rule (a record with source and mend) stands beside the
function that looks for it. A problem names a place and numbers, never a value of the object.
"""

import warnings
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from handlers.lint import (  # noqa: F401 - each registers its checks
    attribute_types,
    contours,
    documents,
    dose,
    elements,
    enumerated_values,
    identity,
    images,
    planning_systems,
    registration,
    structure_set,
    structure_set_on_images,
)
from handlers.lint.rule import CHECKS, Broken, Level, NotChecked, Place, PlanningSystem, Rule
from handlers.lint.subject import Subject, Together

__all__ = [
    "RULES",
    "Level",
    "Place",
    "PlanningSystem",
    "Problem",
    "Report",
    "Rule",
    "Subject",
    "lint",
]

RULES: tuple[Rule, ...] = tuple(dict.fromkeys(rule for rules, _ in CHECKS for rule in rules))
"""Every rule, in the order of the modules."""


@dataclass(frozen=True, slots=True)
class Problem:
    """A rule that an object breaks.

    Attributes:
        name: Of the object, as the caller named it.
        series_uid: Of the object.
        detail: Numbers that help to find it.
    """

    name: str
    series_uid: str
    rule: Rule
    place: Place
    detail: str


@dataclass(frozen=True, slots=True)
class Report:
    """What was found.

    Attributes:
        problems: In the order of the objects.
        not_checked: By object name: what could not be checked, and what to give for that.
    """

    problems: tuple[Problem, ...]
    not_checked: tuple[tuple[str, str], ...]

    @property
    def errors(self) -> tuple[Problem, ...]:
        """Return the problems that are errors."""
        return tuple(p for p in self.problems if p.rule.level is Level.ERROR)


def lint(
    subjects: Sequence[Subject],
    tps: Collection[PlanningSystem] = (),
    *,
    only: Iterable[Subject] | None = None,
) -> Report:
    """Return what is wrong with objects, alone and beside each other.

    Args:
        subjects: All that is known: objects that refer to each other are compared.
        tps: Planning systems whose importers will read them; none: the standard alone.
        only: Those to be told about; the others serve as reference. None: all.
    """
    together = Together(subjects)
    told = together.subjects if only is None else tuple(only)
    problems: list[Problem] = []
    not_checked: list[tuple[str, str]] = []
    with warnings.catch_warnings():
        # pydicom's warnings quote values, and a value may be a name
        warnings.simplefilter("ignore")
        for subject in told:
            for rules, check in CHECKS:
                wanted = [r for r in rules if _concerns(r, subject, tps)]
                if not wanted:
                    continue
                for found in check(subject, together):
                    if isinstance(found, NotChecked):
                        not_checked.append((subject.name, found.text))
                        continue
                    rule = found.rule or rules[0]
                    if rule in wanted:
                        problems.append(_problem(subject, rule, found))
    return Report(tuple(problems), tuple(dict.fromkeys(not_checked)))


def _problem(subject: Subject, rule: Rule, found: Broken) -> Problem:
    return Problem(subject.name, subject.series_uid, rule, found.place, found.detail)


def _concerns(rule: Rule, subject: Subject, tps: Collection[PlanningSystem]) -> bool:
    return (not rule.objects or subject.sop_class_uid in rule.objects) and (
        not rule.tps or any(each in tps for each in rule.tps)
    )
