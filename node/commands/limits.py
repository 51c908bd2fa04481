"""`hilum limits`: the organ limits that plans are held to, and where each comes from."""

from collections.abc import Sequence
from dataclasses import asdict
from fnmatch import fnmatchcase
from typing import Annotated

import typer

from handlers.dose_results import Limit
from node.config import Config, read_config
from node.console import OUT, ConfigOption, JsonOption, clean, print_json
from node.errors import NodeError
from node.limit_tables import CONVENTIONAL, RECALLED, limits_of
from node.protocol import SHIPPED_LIMITS


def add_commands(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command("limits")(list_limits)


def _fractions(text: str) -> str:
    """Return the option as it is, if it can be one."""
    if text and text != CONVENTIONAL and not (text.isascii() and text.isdigit() and int(text)):
        raise typer.BadParameter(f"a number of fractions, or {CONVENTIONAL}")
    return text


def list_limits(
    table: Annotated[str, typer.Option(help="Only this table.")] = "",
    fractions: Annotated[
        str,
        typer.Option(help="Only what holds for so many, or 'conventional'.", callback=_fractions),
    ] = "",
    organ: Annotated[str, typer.Option(help="Only organs that fit this pattern, as 'Bowel*'.")] = (
        "*"
    ),
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """List the organ limits that plans can be held to, with source and how sure each number is.

    With --config a department's own tables are among them. Rows marked * are used only where the
    protocol says unchecked_limits. All of it is explained in deploy/limits.md.
    """
    rows = [
        limit
        for limit in _limits(read_config(config), table)
        if fnmatchcase(limit.organ.casefold(), organ.casefold())
        and fractions in ("", _fractions_told(limit))
    ]
    if as_json:
        print_json({"limits": [asdict(limit) for limit in rows]})
        return
    _print(rows)


def in_words(limit: Limit) -> str:
    """Return what a limit asks for, as `D5cc < 18 Gy`."""
    relation = ">=" if limit.metric.startswith("CV") else "<"
    return f"{limit.metric} {relation} {limit.bound:g} {limit.unit}"


def _fractions_told(limit: Limit) -> str:
    return CONVENTIONAL if limit.fractions is None else str(limit.fractions)


def _limits(config: Config, table: str) -> tuple[Limit, ...]:
    """Return all rows that a protocol could use, or those of one table.

    Raises:
        NodeError: There is no such table.
    """
    known = (*SHIPPED_LIMITS, *config.own_limits)
    if table and table not in known:
        raise NodeError(f"no table {table!r}", hint=f"there are: {', '.join(known)}")
    return limits_of([table] if table else known, config.own_limits, unchecked=True)


def _print(limits: Sequence[Limit]) -> None:
    """Print rows for people, and below them where their numbers come from."""
    rows = [("table", "organ", "limit", "fractions", "certainty", "endpoint")]
    for limit in limits:
        mark = " *" if limit.certainty == RECALLED else ""
        cells = (limit.organ, in_words(limit), _fractions_told(limit), limit.certainty + mark)
        rows.append((limit.table, *cells, limit.endpoint))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        told = "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True))
        OUT.print(clean(told.rstrip()))
    OUT.print()
    for table, source in dict.fromkeys((limit.table, limit.source) for limit in limits):
        OUT.print(clean(f"{table}: {source}"))
    OUT.print(f"{len(limits)} limits; * only with unchecked_limits. To be confirmed before use.")
