"""`hilum cases`: look at cases, retry them, abandon them."""

from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from typing import Annotated

import typer
from rich.table import Table

from node.compute_job import summary_lines
from node.config import read_config
from node.console import OUT, ConfigOption, JsonOption, clean, findings_told, open_index, print_json
from node.errors import NodeError
from node.index.cases import CaseBook
from node.index.deliveries import DeliveryBook
from node.index.states import CaseState

cases_app = typer.Typer(help="Look at cases, retry them, abandon them.", no_args_is_help=True)


@cases_app.command("list")
def list_cases(
    config: ConfigOption = None,
    state: Annotated[CaseState | None, typer.Option(help="Only cases in this state.")] = None,
    as_json: JsonOption = False,
) -> None:
    """List the cases, newest change first."""
    with open_index(read_config(config)) as index:
        records = [r for r in CaseBook(index).cases() if state is None or r.state is state]
    if as_json:
        print_json([asdict(record) for record in records])
        return
    table = Table("case", "rev", "state", "protocol", "changed (UTC)", "why")
    table.columns[0].no_wrap = True
    for record in records:
        changed = record.updated_at[:19].replace("T", " ")
        revision = str(record.revision)
        row = [record.case_id, revision, record.state, record.protocol, changed, record.reason]
        if OUT.is_terminal:
            table.add_row(*map(clean, row))
        else:
            OUT.print("\t".join(map(clean, row)))
    if OUT.is_terminal:
        OUT.print(table)


@cases_app.command("show")
def show_case(case_id: str, config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Show one case: what it waits for, what was found, where its results went."""
    with open_index(read_config(config)) as index:
        record = CaseBook(index).case(case_id)
    if record is None:
        raise NodeError(f"no case {case_id}", hint="`hilum cases list` shows them")
    if as_json:
        print_json(asdict(record))
        return
    OUT.print(f"case {record.case_id}, revision {record.revision}, protocol {record.protocol}")
    OUT.print(clean(f"state: {record.state}" + (f": {record.reason}" if record.reason else "")))
    told = record.summary.get("findings") or record.findings
    for line in (*summary_lines(record.summary), *findings_told(told)):
        OUT.print(clean(line))
    for page in record.history:
        line = f"{page['at'][:19]}  rev {page['revision']}  {page['state']}  {page['reason']}"
        OUT.print(clean(line))
    for delivery in record.deliveries:
        OUT.print(
            f"to {delivery['peer']}, rev {delivery['revision']}: {delivery['state']}, "
            f"attempt {delivery['attempt'] + 1} {delivery['reason']}"
        )
    OUT.print(f"{len(record.results)} result objects")


@cases_app.command()
def retry(case_id: str, config: ConfigOption = None) -> None:
    """Begin again what was rejected, failed, abandoned or not delivered."""
    settings = read_config(config)
    with open_index(settings) as index:
        record = CaseBook(index).case(case_id)
        now = datetime.now(UTC)
        are_whole = record is not None and all(
            (settings.node.data / path).exists() for path in record.results
        )
        if record is not None and record.state is CaseState.UNDELIVERED and are_whole:
            give_up = timedelta(hours=settings.node.delivery_give_up_h)
            DeliveryBook(index).reopen(case_id, give_up, now)
        else:
            CaseBook(index).ask_again(case_id, now)
    OUT.print(f"case {case_id} is begun again by the running node")


@cases_app.command()
def abandon(case_id: str, config: ConfigOption = None) -> None:
    """Stop all work on a case; new objects revive it."""
    with open_index(read_config(config)) as index:
        CaseBook(index).abandon(case_id, datetime.now(UTC))
    OUT.print(f"case {case_id} is abandoned")
