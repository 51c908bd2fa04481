"""`hilum cases`: look at cases, retry them, abandon them."""

import getpass
from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

import typer
from rich.table import Table

from node.compute_job import summary_lines
from node.config import Config, read_config
from node.console import OUT, ConfigOption, JsonOption, clean, findings_told, open_index, print_json
from node.errors import NodeError
from node.index.cases import CaseBook, CaseRecord
from node.index.delivery_orders import DeliveryOrders
from node.index.standings import StandingBook
from node.index.states import UNSETTLED, CaseState

PeerOption = Annotated[str | None, typer.Option("--peer", help="Only the delivery to this peer.")]

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
def show_case(
    case_id: str,
    config: ConfigOption = None,
    receipts: Annotated[
        bool, typer.Option("--receipts", help="Also what each peer answered, by kind of object.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
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
    findings = (*told, *record.delivery_findings)
    for line in (*summary_lines(record.summary), *findings_told(findings)):
        OUT.print(clean(line))
    for page in record.history:
        line = f"{page['at'][:19]}  rev {page['revision']}  {page['state']}  {page['reason']}"
        OUT.print(clean(line))
    for delivery in record.deliveries:
        OUT.print(clean(_delivery_line(delivery)))
    for receipt in record.receipts if receipts else ():
        OUT.print(clean(_receipt_line(receipt)))
    OUT.print(f"{len(record.results)} result objects")


def _delivery_line(delivery: Mapping[str, Any]) -> str:
    line = (
        f"to {delivery['peer']}, rev {delivery['revision']}: {delivery['state']}, "
        f"attempt {delivery['attempt'] + 1}"
    )
    if delivery["state"] in UNSETTLED:
        line += f", next at {delivery['next_try_at'][:19].replace('T', ' ')} UTC"
    return f"{line} {delivery['reason']}"


def _receipt_line(receipt: Mapping[str, Any]) -> str:
    status = receipt["status"]
    told = [
        "no status" if status is None else f"status 0x{status:04X}",
        receipt["outcome"].replace("_", " "),
        receipt["reason"].removeprefix(f"status 0x{status or 0:04X}: "),
        receipt["commitment"],
        receipt["commitment_reason"],
    ]
    answer = ", ".join(text for text in told if text)
    return f"{receipt['peer']}  {receipt['output']}  {receipt['objects']}  {answer}"


@cases_app.command()
def retry(case_id: str, config: ConfigOption = None, peer: PeerOption = None) -> None:
    """Begin again what was rejected, failed, abandoned or not delivered."""
    settings = read_config(config)
    with open_index(settings) as index:
        record, now = CaseBook(index).case(case_id), datetime.now(UTC)
        are_whole = record is not None and all(
            (settings.node.data / path).exists() for path in record.results
        )
        give_up = _patience(settings, record)
        if peer is not None and record is not None and not are_whole:
            raise NodeError(
                f"result files of case {case_id} are gone",
                hint=f"`hilum cases retry {case_id}` computes them anew",
            )
        is_left_alone = False
        if peer is not None:
            DeliveryOrders(index).reopen_for(case_id, peer, give_up, _operator(), now)
            is_left_alone = StandingBook(index).standing(peer).open_since is not None
        elif record is not None and record.state is CaseState.UNDELIVERED and are_whole:
            DeliveryOrders(index).reopen(case_id, give_up, now)
        else:
            CaseBook(index).ask_again(case_id, now)
    what = f"case {case_id}" if peer is None else f"the delivery of case {case_id} to {peer}"
    OUT.print(f"{what} is begun again by the running node")
    if is_left_alone:
        OUT.print(f"{peer} is left alone for now: `hilum peers resume {peer}` tries it at once")


@cases_app.command()
def abandon(case_id: str, config: ConfigOption = None, peer: PeerOption = None) -> None:
    """Stop all work on a case; new objects revive it. With --peer: give up that delivery only."""
    with open_index(read_config(config)) as index:
        now = datetime.now(UTC)
        if peer is None:
            CaseBook(index).abandon(case_id, now)
        else:
            DeliveryOrders(index).abandon_for(case_id, peer, _operator(), now)
    what = f"case {case_id}" if peer is None else f"the delivery of case {case_id} to {peer}"
    OUT.print(f"{what} is abandoned")


def _patience(settings: Config, record: CaseRecord | None) -> timedelta:
    """Return how long a delivery that is begun again may take."""
    protocol = None if record is None else settings.protocol_named(record.protocol)
    hours = None if protocol is None else protocol.delivery_give_up_h
    return timedelta(hours=settings.node.delivery_give_up_h if hours is None else hours)


def _operator() -> str:
    """Return who gives a command, for the history."""
    try:
        return f"operator {getpass.getuser()}"
    except (OSError, KeyError):  # a container without a name for its user
        return "operator"
