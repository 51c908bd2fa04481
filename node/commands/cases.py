"""`hilum cases`: look at cases, retry them, compute them under another protocol, abandon them."""

import getpass
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from node.audit.events import AuditEvent, Kind
from node.audit.trail import tell_from_command
from node.case_orders import CaseOrders
from node.compute_job import summary_lines
from node.config import read_config
from node.console import (
    ERR,
    OUT,
    ConfigOption,
    JsonOption,
    clean,
    findings_told,
    open_index,
    print_json,
)
from node.errors import NodeError
from node.index.cases import CaseBook
from node.index.states import UNSETTLED, CaseState

PeerOption = Annotated[str | None, typer.Option("--peer", help="Only the delivery to this peer.")]

cases_app = typer.Typer(
    help="Look at cases, retry them, rerun them, abandon them.", no_args_is_help=True
)


@cases_app.command("list")
def list_cases(
    config: ConfigOption = None,
    state: Annotated[CaseState | None, typer.Option(help="Only cases in this state.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="How many at most.")] = 50,
    everything: Annotated[
        bool, typer.Option("--all", help="Every case, however many there are.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """List the cases, newest change first."""
    with open_index(read_config(config)) as index:
        records = CaseBook(index).cases(state, None if everything else limit + 1)
    if not everything and len(records) > limit:
        records = records[:limit]
        ERR.print(f"the {limit} newest; there are more: --all, or a larger --limit, shows them")
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
    is_left_alone = False
    with _orders(config, "retry", case_id, peer) as orders:
        if peer is None:
            orders.retry(case_id)
        else:
            is_left_alone = not orders.retry_delivery(case_id, peer)
    what = f"case {case_id}" if peer is None else f"the delivery of case {case_id} to {peer}"
    OUT.print(f"{what} is begun again by the running node")
    if is_left_alone:
        OUT.print(f"{peer} is left alone for now: `hilum peers resume {peer}` tries it at once")


@cases_app.command()
def abandon(case_id: str, config: ConfigOption = None, peer: PeerOption = None) -> None:
    """Stop all work on a case; new objects revive it. With --peer: give up that delivery only."""
    with _orders(config, "abandon", case_id, peer) as orders:
        if peer is None:
            orders.abandon(case_id)
        else:
            orders.abandon_delivery(case_id, peer)
    what = f"case {case_id}" if peer is None else f"the delivery of case {case_id} to {peer}"
    OUT.print(f"{what} is abandoned")


@cases_app.command()
def rerun(
    case_id: str,
    protocol: Annotated[str, typer.Option("--protocol", help="Compute it under this protocol.")],
    config: ConfigOption = None,
) -> None:
    """Compute the objects of a case anew, under a protocol of your choice, now and from now on."""
    with _orders(config, "rerun", case_id) as orders:
        orders.rerun(case_id, protocol)
    OUT.print(f"the objects of case {case_id} are computed under {protocol} by the running node")


@contextmanager
def _orders(
    config: Path | None, action: str, case_id: str, peer: str | None = None
) -> Iterator[CaseOrders]:
    """Give what takes orders, for a block; one that was carried out stands in the audit trail."""
    settings = read_config(config)
    with open_index(settings) as index:
        yield CaseOrders(settings, index, _now, _operator())
        what = {"case_id": case_id, "action": action, **({"peer": peer} if peer else {})}
        tell = tell_from_command(settings, index, _now)
        tell(AuditEvent(Kind.CASE_CHANGED, what=what))


def _now() -> datetime:
    return datetime.now(UTC)


def _operator() -> str:
    """Return who gives a command, for the history."""
    try:
        return f"operator {getpass.getuser()}"
    except (OSError, KeyError):  # a container without a name for its user
        return "operator"
