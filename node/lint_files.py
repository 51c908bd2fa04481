"""Files for `hilum lint`: reading what was named, telling what was found.

Apart from the command, since it needs a second of imports that no other command needs. Tells file
names as the user gave them, places and numbers; never a value of an object.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from handlers.lint import RULES, Level, Problem, Report, Rule, Subject
from node.console import OUT, clean, print_json
from node.gate import read_object

PREAMBLE_BYTES = 128
MARK = b"DICM"
"""What a DICOM file has after its preamble (PS3.10 7.1)."""

MOST_ALIKE = 3
"""Problems of one kind that are told for one series; the rest is counted."""

UNREADABLE = Rule(
    "file.unreadable",
    Level.ERROR,
    "the file cannot be read as DICOM",
    "PS3.10 7.1",
    "name DICOM files only; send a broken one again",
)


@dataclass(frozen=True, slots=True)
class Given:
    """What the user's files hold.

    Attributes:
        broken: Files that cannot be read, with the reason.
        passed_over: Files in folders that are no DICOM.
    """

    subjects: tuple[Subject, ...]
    broken: tuple[tuple[str, str], ...]
    passed_over: tuple[str, ...]


def read_files(given: Sequence[Path]) -> Given:
    """Read each file once; what is broken is reported, not fatal."""
    subjects: list[Subject] = []
    broken: list[tuple[str, str]] = []
    skipped: list[str] = []
    seen = set()
    for path, is_named in _files(given):
        real = path.resolve()
        if real in seen:
            continue
        seen.add(real)
        try:
            if not is_named and not _has_mark(path):
                skipped.append(str(path))
                continue
            subjects.append(Subject(str(path), read_object(path)))
        except OSError as error:
            broken.append((str(path), error.strerror or type(error).__name__))
        except ValueError as error:
            broken.append((str(path), str(error)))
    return Given(tuple(subjects), tuple(broken), tuple(skipped))


def _files(given: Iterable[Path]) -> Iterator[tuple[Path, bool]]:
    for path in given:
        if path.is_dir():
            for each in sorted(path.rglob("*")):
                is_hidden = any(part.startswith(".") for part in each.relative_to(path).parts)
                if each.is_file() and not is_hidden:
                    yield each, False
        else:
            yield path, True


def _has_mark(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(PREAMBLE_BYTES + len(MARK))[PREAMBLE_BYTES:] == MARK


def tell(report: Report, given: Given, *, every: bool) -> None:
    """Print a report for people: errors first, alike ones together."""
    for name, reason in given.broken:
        OUT.print(clean(f"{name}: error {UNREADABLE.id}: {reason}"))
    alike: dict[tuple[object, ...], list[Problem]] = {}
    for problem in report.problems:
        key = (problem.rule.id, problem.series_uid, problem.place.tags)
        alike.setdefault(key, []).append(problem)
    for those in sorted(alike.values(), key=lambda t: t[0].rule.level is not Level.ERROR):
        rule = those[0].rule
        told = those if every else those[:MOST_ALIKE]
        for p in told:
            detail = f": {p.detail}" if p.detail else ""
            OUT.print(clean(f"{p.name}: {rule.level} {rule.id} {p.place}{detail}"))
        if len(told) < len(those):
            OUT.print(f"    and {len(those) - len(told)} more like this (--all tells each)")
        doubt = "" if rule.is_confirmed else " (unconfirmed)"
        OUT.print(clean(f"    {rule.what}{doubt}"))
        OUT.print(clean(f"    mend: {rule.mend}"))
        OUT.print(clean(f"    source: {rule.source}"))
    for name, what in report.not_checked:
        OUT.print(clean(f"{name}: not checked: {what}"))
    if given.passed_over:
        OUT.print(
            f"{len(given.passed_over)} files in the folders are no DICOM and were passed over"
        )
    counts = Counter(p.rule.level for p in report.problems)
    OUT.print(
        f"{len(given.subjects)} objects: {counts[Level.ERROR] + len(given.broken)} errors, "
        f"{counts[Level.WARNING]} warnings"
    )


def document(report: Report, given: Given) -> dict[str, Any]:
    """Return a report as plain values, each problem by itself."""
    unreadable = [
        {"file": name, **_rule(UNREADABLE), "place": "", "detail": reason}
        for name, reason in given.broken
    ]
    return {
        "objects": len(given.subjects),
        "problems": unreadable
        + [
            {"file": p.name, **_rule(p.rule), "place": str(p.place), "detail": p.detail}
            for p in report.problems
        ],
        "not_checked": [{"file": name, "what": what} for name, what in report.not_checked],
        "passed_over": list(given.passed_over),
    }


def _rule(rule: Rule) -> dict[str, Any]:
    return {
        "level": str(rule.level),
        "rule": rule.id,
        "what": rule.what,
        "source": rule.source,
        "mend": rule.mend,
        "confirmed": rule.is_confirmed,
    }


def tell_rules(*, as_json: bool) -> None:
    """Print every rule with its source."""
    every = (UNREADABLE, *RULES)
    if as_json:
        print_json([{**_rule(r), "objects": list(r.objects), "tps": list(r.tps)} for r in every])
        return
    for rule in every:
        system = f" ({', '.join(rule.tps)})" if rule.tps else ""
        doubt = "" if rule.is_confirmed else ", unconfirmed"
        OUT.print(f"{rule.id}{system}: {rule.level}{doubt}")
        OUT.print(f"    {rule.what}")
        OUT.print(f"    mend: {rule.mend}")
        OUT.print(f"    source: {rule.source}")
