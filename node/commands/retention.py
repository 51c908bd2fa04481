"""`hilum retention`: what may be removed now, what keeps the rest; remove it at once."""

from dataclasses import asdict
from datetime import UTC, datetime
from typing import Annotated, Any

import typer
from rich.table import Table

from node.audit.trail import tell_from_command
from node.config import read_config
from node.console import OUT, ConfigOption, JsonOption, open_index, print_json
from node.index.removals import Tally
from node.retention import BYTES_PER_MIB, Retention, Survey

MOST_ROUNDS = 10_000


def add_commands(app: typer.Typer) -> None:
    """Add the command of this module."""
    app.command()(retention)


def retention(
    config: ConfigOption = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only tell what would go, and why not the rest.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Remove now what [retention] allows; the running node does it by itself, in small parts."""
    settings = read_config(config)
    with open_index(settings) as index:
        tell = tell_from_command(settings, index, lambda: datetime.now(UTC))
        keeper = Retention(settings, index, lambda: datetime.now(UTC), audit=tell)
        survey = keeper.survey()
        if dry_run:
            _tell(survey, removes=settings.retention.removes, as_json=as_json)
            return
        counts: dict[str, int] = {}
        freed = 0
        for _ in range(MOST_ROUNDS):
            done = keeper.run()
            freed += done.freed_bytes
            for kind, count in done.counts.items():
                counts[kind] = counts.get(kind, 0) + count
            if not done.is_more_due:
                break
    if as_json:
        print_json({"removed": counts, "freed_bytes": freed})
    else:
        told = ", ".join(f"{kind} of {count}" for kind, count in counts.items()) or "nothing"
        OUT.print(f"removed: {told}; {freed / BYTES_PER_MIB:.0f} MiB")


def _tell(survey: Survey, *, removes: bool, as_json: bool) -> None:
    if as_json:
        print_json(asdict(survey))
        return
    if not removes:
        OUT.print("the configuration lets nothing be removed: see [retention]")
    free, wanted = survey.free_bytes / BYTES_PER_MIB, survey.wanted_bytes / BYTES_PER_MIB
    OUT.print(f"free: {free:.0f} MiB, to be kept free: {wanted:.0f} MiB")
    table = Table("what", "how many", "objects", "MiB", "why")
    for what, tallies in (("patients", survey.objects), ("result sets", survey.results)):
        for one in tallies:
            table.add_row(*_row(what, one))
    if OUT.is_terminal:
        OUT.print(table)
    else:
        for what, tallies in (("patients", survey.objects), ("result sets", survey.results)):
            for one in tallies:
                OUT.print("\t".join(_row(what, one)))
    for what, patients in (("names", survey.names_due), ("cases", survey.cases_due)):
        if patients:
            OUT.print(f"{what} of {patients} patients may be removed: nothing else is left of them")


def _row(what: str, one: Tally) -> tuple[Any, ...]:
    size = f"{one.size_bytes / BYTES_PER_MIB:.0f}" if one.size_bytes else ""
    return what, str(one.units), str(one.objects), size, one.kept.value
