"""Tables of organ limits and of organ names: those that come with Hilum, and a department's own.

Part of the configuration: read and checked when it is. Judges nothing.
"""

import difflib
import tomllib
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import (
    BeforeValidator,
    Field,
    Strict,
    ValidationError,
    field_validator,
    model_validator,
)

from handlers.dose_results import Limit
from handlers.limit_metrics import metric_of
from handlers.organ_names import LESS_TUMOR, Organ, OrganNames, Sides, organ_names
from node.key_problems import key_problems
from node.protocol import SHIPPED_LIMITS, OrganRule, Pattern, Positive, Section

OWN_SUFFIX = ".toml"
"""What tells the file of a department from a table that comes with Hilum."""

DEPARTMENT: Final = "department"
"""How sure the rows of a department's own table are, where it does not say."""

RECALLED = "recalled"
"""Rows that are used only where a protocol asks for unchecked ones."""

CONVENTIONAL = "conventional"
"""What stands for the number of fractions in rows of conventional fractionation."""

MOST_FRACTIONS = 100

LEAST_LIKENESS = 0.8
"""From which likeness on an unknown organ counts as a slip of the pen, if the length fits."""

LANGUAGES = ("en", "de", "fr", "tr")

Certainty = Literal["verified", "secondary copy", "recalled", "department"]
Texts = Annotated[tuple[Pattern, ...], Strict(strict=False)]


def _fractions(value: Any) -> Any:
    """Return for how many fractions a row holds."""
    if value == CONVENTIONAL or (type(value) is int and 1 <= value <= MOST_FRACTIONS):
        return value
    raise ValueError(f"must be a number from 1 to {MOST_FRACTIONS}, or {CONVENTIONAL!r}")


class LimitRow(Section):
    """One row of a table; as `Limit`."""

    organ: Pattern
    metric: Pattern
    bound: Positive
    unit: Literal["Gy", "%", "cm3"]
    fractions: Annotated[int | Literal["conventional"], BeforeValidator(_fractions)]
    endpoint: Pattern
    source: str = ""
    certainty: Certainty = DEPARTMENT

    @field_validator("organ")
    @classmethod
    def _check_organ(cls, organ: str) -> str:
        if near := _likely(organ):
            raise ValueError(f"{organ!r}: did you mean {near}?")
        return organ

    @field_validator("metric")
    @classmethod
    def _check_metric(cls, metric: str) -> str:
        metric_of(metric)
        return metric

    @model_validator(mode="after")
    def _check(self) -> "LimitRow":
        units = metric_of(self.metric).units
        if self.unit not in units:
            raise ValueError(f"{self.metric} has the unit {' or '.join(units)}, not {self.unit}")
        if self.unit == "%" and self.bound > 100:
            raise ValueError(f"bound {self.bound:g} is more than 100 %")
        return self


class LimitTable(Section):
    """A file of organ limits.

    Attributes:
        title: How people call it.
        source: Publication, for every row that names none of its own.
        seen: Where the numbers were read, by how sure they are.
    """

    title: Pattern
    source: Pattern
    seen: dict[Certainty, Pattern] = Field(default_factory=dict)
    limit: Annotated[tuple[LimitRow, ...], Strict(strict=False)]

    @model_validator(mode="after")
    def _check(self) -> "LimitTable":
        if not self.limit:
            raise ValueError("limit: there is none")
        return self


class _Language(Section):
    left: Texts
    right: Texts
    both: Texts


class _OrganRow(Section):
    """One entry of `organs.toml`; as `Organ`."""

    name: Pattern
    en: Texts = ()
    de: Texts = ()
    fr: Texts = ()
    tr: Texts = ()
    left: str = ""
    right: str = ""
    sides: bool = False
    numbers: int = 0
    holds: Texts = ()


class _OrganFile(Section):
    followers: Texts
    sides: dict[str, _Language]
    organ: Annotated[tuple[_OrganRow, ...], Strict(strict=False)]


@cache
def shipped_table(name: str) -> LimitTable:
    """Return a table that comes with Hilum."""
    return LimitTable.model_validate(tomllib.loads(_shipped_text(name)))


@cache
def _organ_file() -> _OrganFile:
    return _OrganFile.model_validate(tomllib.loads(_shipped_text("organs")))


@cache
def _shipped_names() -> OrganNames:
    return names_of(())


@cache
def _shipped_organs() -> frozenset[str]:
    rows = _organ_file().organ
    return frozenset(name for row in rows for name in (row.name, row.left, row.right) if name)


def _shipped_text(name: str) -> str:
    return (files("node") / "tables" / f"{name}.toml").read_text(encoding="utf-8")


def table_name(entry: str) -> str:
    """Return what a table is called that a protocol names: no path of the machine."""
    return Path(entry).stem if entry.endswith(OWN_SUFFIX) else entry


def limits_of(
    tables: Sequence[str], own: Mapping[str, LimitTable], *, unchecked: bool
) -> tuple[Limit, ...]:
    """Return the rows of tables, in their order.

    Args:
        tables: What a protocol names.
        own: Tables of the department by `table_name`.
        unchecked: Whether `RECALLED` rows are among them.
    """
    return tuple(
        _limit(row, table, name)
        for name in dict.fromkeys(map(table_name, tables))
        for table in [own[name] if name in own else shipped_table(name)]
        for row in table.limit
        if unchecked or row.certainty != RECALLED
    )


def _limit(row: LimitRow, table: LimitTable, name: str) -> Limit:
    source = row.source or table.source
    seen = "" if row.source else table.seen.get(row.certainty, "")
    return Limit(
        organ=row.organ,
        metric=row.metric,
        bound=row.bound,
        unit=row.unit,
        fractions=row.fractions if isinstance(row.fractions, int) else None,
        endpoint=row.endpoint,
        source=f"{source}, {seen}" if seen else source,
        certainty=row.certainty,
        table=name,
    )


def names_of(rules: Iterable[OrganRule], limits: Iterable[Limit] = ()) -> OrganNames:
    """Return all organs that are known.

    Args:
        rules: What the department calls them.
        limits: Their organs are known by their own names at least.
    """
    file, known = _organ_file(), _shipped_organs()
    asked = {limit.organ for limit in limits if not limit.organ.endswith(LESS_TUMOR)}
    shipped = [
        Organ(
            name=row.name,
            words={language: getattr(row, language) for language in LANGUAGES},
            left=row.left,
            right=row.right,
            has_sides=row.sides,
            numbers=row.numbers,
            holds=row.holds,
        )
        for row in file.organ
    ]
    return organ_names(
        [*shipped, *(Organ(name, {}) for name in sorted(asked - known))],
        {name: Sides(each.left, each.right, each.both) for name, each in file.sides.items()},
        file.followers,
        {roi_name: rule.name for rule in rules for roi_name in rule.roi_names},
    )


def own_tables(
    document: Mapping[str, Any], folder: Path
) -> tuple[dict[str, LimitTable], list[str]]:
    """Return the tables of a department by name, and what is wrong with them and with its organs.

    Args:
        document: The configuration, which may be unsound.
        folder: To which files are relative.
    """
    entries = dict.fromkeys(
        entry for protocol in _tables(document, "protocol") for entry in _limit_entries(protocol)
    )
    found: dict[str, LimitTable] = {}
    problems: list[str] = []
    for entry in entries:
        name = table_name(entry)
        if not entry.endswith(OWN_SUFFIX):
            if entry not in SHIPPED_LIMITS:
                problems.append(
                    f"protocol.dose.limits {entry!r} is none of {', '.join(SHIPPED_LIMITS)}, nor "
                    f"a file ({OWN_SUFFIX})"
                )
        elif name in found or name in SHIPPED_LIMITS:
            problems.append(f"protocol.dose.limits {entry!r}: another table is called {name!r}")
        elif isinstance(table := _read(folder / entry), LimitTable):
            found[name] = table
        else:
            problems += [f"{entry}: {problem}" for problem in table]
    return found, [*problems, *_organ_problems(_tables(document, "organ"), found)]


def _read(path: Path) -> LimitTable | list[str]:
    """Return a department's own table, or what is wrong with it."""
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8-sig"))
        return LimitTable.model_validate(document)
    except OSError as error:
        return [error.strerror or "cannot be read"]
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        return [f"not valid TOML: {error}"]
    except ValidationError as error:
        return key_problems(error, LimitTable, {"limit": LimitRow})


def _organ_problems(rules: Sequence[Mapping[str, Any]], own: Mapping[str, LimitTable]) -> list[str]:
    """Return slips of the pen in names of organs, and ROI names that would be two organs."""
    wanted = {row.organ for table in own.values() for row in table.limit}
    problems: list[str] = []
    organ_of: dict[str, str] = {}
    for at, rule in enumerate(rules, start=1):
        name, roi_names = rule.get("name"), rule.get("roi_names")
        if not isinstance(name, str):
            continue
        if near := _likely(name, wanted):
            problems.append(f"organ[{at}].name {name!r}: did you mean {near}?")
        for roi_name in roi_names if isinstance(roi_names, list | tuple) else ():
            key = str(roi_name).strip().casefold()
            if organ_of.setdefault(key, name) != name:
                problems.append(
                    f"organ[{at}].roi_names {roi_name!r} is already said to be {organ_of[key]}"
                )
    return problems


def _likely(name: str, more: Collection[str] = ()) -> str:
    """Return the organ that was probably meant; empty: `name` is one, or like none.

    Args:
        name: As somebody wrote it.
        more: Organs beside those that come with Hilum.
    """
    known = {*_shipped_organs(), *more}
    if name.removesuffix(LESS_TUMOR) in known:
        return ""
    if meant := _shipped_names().organ_of(name):
        return meant
    near = difflib.get_close_matches(name, known, cutoff=LEAST_LIKENESS)
    return next((each for each in near if abs(len(each) - len(name)) <= 1), "")


def _tables(document: Mapping[str, Any], key: str) -> list[Mapping[str, Any]]:
    found = document.get(key)
    return [t for t in found if isinstance(t, Mapping)] if isinstance(found, list | tuple) else []


def _limit_entries(protocol: Mapping[str, Any]) -> list[str]:
    dose = protocol.get("dose")
    entries = dose.get("limits") if isinstance(dose, Mapping) else None
    return [e for e in entries if isinstance(e, str)] if isinstance(entries, list | tuple) else []
