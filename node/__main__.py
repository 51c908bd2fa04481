"""The command line: `hilum serve | process | demo | phantom | commission | doctor | echo | ...`.

Every command exits 0, 1 when the thing failed, 2 when it was called wrongly; `--json` prints what a
script can read. No traceback reaches a user.
"""

import json
import os
import signal
import sys
import tempfile
import threading
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from node import process as processing
from node.case_job import software_version
from node.compute_job import summary_lines
from node.config import Config, Peer, read_config
from node.conformance import conformance_statement
from node.delivery import InstanceOutcome, echo, send_instances
from node.errors import ConfigError, NodeError
from node.index import Index
from node.index.cases import CaseBook
from node.index.deliveries import DeliveryBook
from node.index.states import CaseState
from node.log import configure_logging

PRIVATE = 0o027
"""What others may not do with the files of the node: patients are named in them."""

FAILED = 1
WRONG_USE = 2
STOPPED = 128
"""Added to the number of the signal that stopped a command, as shells do."""


class LogLevel(StrEnum):
    """Severities of the log."""

    DEBUG = "DEBUG"
    INFO = "INFO"
    WARNING = "WARNING"
    ERROR = "ERROR"


OUT = Console(soft_wrap=True, highlight=False, markup=False)
ERR = Console(stderr=True, soft_wrap=True, highlight=False, markup=False)

app = typer.Typer(
    help="Registers MR to the planning CT, proposes a refined target, sends the results back. "
    "Not a medical device: every result is a proposal for a clinician.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=True,
)
cases_app = typer.Typer(help="Look at cases, retry them, abandon them.", no_args_is_help=True)
app.add_typer(cases_app, name="cases")

ConfigOption = Annotated[
    Path | None, typer.Option("--config", help="Configuration file (TOML); none: the defaults.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print what a script can read.")]


@app.command()
def serve(
    config: ConfigOption = None,
    log_level: Annotated[LogLevel, typer.Option(help="Least severity that is logged.")] = (
        LogLevel.INFO
    ),
) -> None:
    """Run the node: receive, compute, deliver, until SIGTERM or Ctrl-C."""
    from node.service import Node  # a second of imports that no other command needs

    settings = read_config(config)
    os.umask(PRIVATE)
    configure_logging(log_level, as_json=True)
    stopping = threading.Event()
    for name in (signal.SIGTERM, signal.SIGINT):
        signal.signal(name, lambda _number, _frame: stopping.set())
    node = Node(settings)
    port = node.start()
    _announce(settings, port)
    stopping.wait()
    node.stop()


def _announce(config: Config, port: int) -> None:
    OUT.print(f"Hilum {software_version()}: not a medical device, every result is a proposal.")
    tls, listener = config.tls, f"listens   AE {config.node.ae_title} on {config.node.host}"
    if tls is None or not tls.require:
        OUT.print(f"{listener}:{port} (DICOM)")
    if tls is not None:
        OUT.print(f"{listener}:{port if tls.require else tls.port} (DICOM over TLS)")
    for peer in config.peer:
        at = f"{peer.host}:{peer.port}" if peer.port else peer.host
        OUT.print(f"peer      {peer.name}: AE {peer.ae_title} at {at}, may {', '.join(peer.roles)}")
    for protocol in config.protocol:
        to = ", ".join(protocol.destinations) or "nobody (results stay in the data folder)"
        OUT.print(
            f"protocol  {protocol.name}: targets {', '.join(protocol.targets)}; sends to {to}"
        )
    OUT.print(f"data      {config.node.data.resolve()}")
    if config.origin == "defaults":
        OUT.print("no configuration file: only this machine may send (loopback)")
    OUT.print("ready; Ctrl-C stops it")


@app.command()
def process(
    inputs: Annotated[list[Path], typer.Argument(help="Files and folders of one case.")],
    out: Annotated[Path, typer.Option("--out", help="Folder for the result set.")],
    config: ConfigOption = None,
    protocol: Annotated[str | None, typer.Option(help="Use this protocol.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Compute one case from files, without network: the same result set, on disk."""
    settings = read_config(config)
    try:
        with _progress(processing.STEPS, quiet=as_json) as on_step:
            outcome = processing.process(
                inputs, out, settings, protocol_name=protocol, on_step=on_step
            )
    except processing.NoCaseError as error:
        if as_json:
            _print_json({"kind": "no case", "reasons": error.reasons, "hint": error.hint})
        raise
    if as_json:
        _print_json({**outcome.model_dump(), "out": str(out)})
    elif outcome.kind == "done":
        for line in (*summary_lines(outcome.summary), *_findings(outcome.summary["findings"])):
            OUT.print(_clean(line))
        OUT.print(f"{len(outcome.results)} objects and metrics.json in {out}")
    if outcome.kind != "done":
        if not as_json:
            for reason in outcome.reasons:
                ERR.print(_clean(f"{outcome.kind}: {reason}"))
        raise typer.Exit(FAILED)


@app.command()
def demo(
    config: ConfigOption = None,
    out: Annotated[Path | None, typer.Option(help="Keep what comes back here.")] = None,
    timeout_s: Annotated[float, typer.Option(help="Longest wait for the results.")] = 300.0,
    seed: Annotated[int, typer.Option(help="Which synthetic patient.")] = 1,
    as_json: JsonOption = False,
) -> None:
    """Send a synthetic patient to the running node; a stand-in TPS takes the results."""
    from node import demo as demonstration  # likewise

    settings = read_config(config)
    folder = out if out is not None else Path(tempfile.mkdtemp(prefix="hilum-demo-results-"))
    with _progress(demonstration.STEPS, quiet=as_json) as on_step:
        visit = demonstration.visit(
            settings, folder, timeout_s=timeout_s, seed=seed, on_step=on_step
        )
    if as_json:
        document = {**asdict(visit), "received": {u: str(p) for u, p in visit.received.items()}}
        _print_json(document)
    else:
        OUT.print(f"sent {visit.sent} objects, {len(visit.received)} came back:")
        for line in visit.lines:
            OUT.print(f"  {line}")
        OUT.print(f"look at them in {folder}")
        for problem in visit.problems:
            ERR.print(f"wrong: {problem}")
    if visit.problems:
        raise typer.Exit(FAILED)


@app.command()
def phantom(
    seed: Annotated[int, typer.Option(help="Which synthetic case.", min=0)],
    out: Annotated[Path, typer.Option("--out", help="A new or empty folder.")],
    hard: Annotated[bool, typer.Option("--hard", help="Draw from the hard ranges.")] = False,
    small: Annotated[bool, typer.Option("--small", help="Small grids, made in seconds.")] = False,
    hidden_by: Annotated[
        Literal["gas", "scar"] | None,
        typer.Option(help="Hide a part of the node in the CT: drawn without it, seen in the MR."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Write a synthetic study with known truth: CT, MR, structures, plan, dose, and the truth."""
    from node.phantom import PhantomOptions, export, make_study  # likewise

    export.check_folder(out)
    options = PhantomOptions.for_seed(
        seed, hard=hard, small=small, hidden_by=hidden_by or "nothing"
    )
    with _progress(("make the patient", "write"), quiet=as_json) as on_step:
        study = make_study(options)
        on_step("write")
        count = export.write_study(study, out)
    features = options.features
    if as_json:
        _print_json({"out": str(out), "seed": seed, "objects": count, "features": features})
    else:
        OUT.print(f"{count} objects in {out / export.STUDY_FOLDER}, the truth in {out / 'truth'}")
        OUT.print(f"the case: {', '.join(features) or 'nothing uncommon'}")


@app.command()
def commission(
    out: Annotated[Path, typer.Option("--out", help="A new or empty folder for the report.")],
    cases: Annotated[int, typer.Option(help="Cases of the kit; 0: own pairs only.", min=0)] = 12,
    seed: Annotated[int, typer.Option(help="The kit's first case.", min=0)] = 1000,
    own: Annotated[
        list[Path] | None,
        typer.Option(help="Folder with an own pair: CT, MR, RTSTRUCT, and REG or landmarks (CSV)."),
    ] = None,
    small: Annotated[bool, typer.Option("--small", help="Small grids: a rehearsal.")] = False,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Commission the registration as AAPM TG-132 asks; write a report to be signed (PDF, CSV)."""
    from node import commission as commissioning  # likewise

    if cases == 0 and not own:
        raise typer.BadParameter("name own pairs with --own, or ask for cases of the kit")
    order = commissioning.Order(
        cases=cases,
        seed=seed,
        own=tuple(own or ()),
        size="small" if small else "full",
        config=read_config(config),
    )
    try:
        with _progress(commissioning.steps(order), quiet=as_json) as on_step:
            verdict = commissioning.commission(order, out, on_step)
    except commissioning.OrderError as error:
        _say(error)
        raise typer.Exit(WRONG_USE) from error
    if as_json:
        _print_json(
            {
                "outcome": verdict.outcome,
                "files": [str(path) for path in verdict.files],
                "not_met": [asdict(row) for row in verdict.not_met],
            }
        )
    else:
        for line in commissioning.lines(verdict):
            OUT.print(line)
    if verdict.outcome != "met":
        raise typer.Exit(FAILED)


@app.command()
def doctor(config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Check configuration, port, disk, clock and peers; say what to mend."""
    from node.doctor import run_checks  # likewise

    checks = run_checks(read_config(config), echo_timeout_s=5.0)
    if as_json:
        _print_json([asdict(check) for check in checks])
    else:
        table = Table("check", "status", "finding", "mend")
        for check in checks:
            table.add_row(check.name, str(check.status), check.text, check.mend)
        OUT.print(table)
    if any(check.status == "fail" for check in checks):
        raise typer.Exit(FAILED)


@app.command("echo")
def echo_peer(peer: str, config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Ask a configured peer whether it hears us (C-ECHO)."""
    settings = read_config(config)
    result = echo(
        _peer(settings, peer),
        settings.node.ae_title,
        timeout_s=settings.node.network_timeout_s,
        tls=settings.tls,
    )
    if as_json:
        _print_json(asdict(result))
    else:
        OUT.print(f"{peer} answered in {1000 * result.seconds:.0f} ms")


@app.command()
def send(
    peer: str,
    files: list[Path],
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Send DICOM files to a configured peer (C-STORE)."""
    settings = read_config(config)
    with _count(len(files), quiet=as_json) as advance:
        answers = send_instances(
            _peer(settings, peer),
            settings.node.ae_title,
            files,
            timeout_s=settings.node.network_timeout_s,
            on_result=lambda _answer: advance(),
            tls=settings.tls,
        )
    taken = [a for a in answers if a.outcome in (InstanceOutcome.SENT, InstanceOutcome.WARNED)]
    if as_json:
        _print_json([asdict(answer) for answer in answers])
    else:
        OUT.print(f"{peer} took {len(taken)} of {len(answers)} objects")
        for reason in sorted({a.reason for a in answers if a not in taken}):
            ERR.print(f"not taken: {reason}")
    if len(taken) < len(answers):
        raise typer.Exit(FAILED)


@app.command()
def conformance(config: ConfigOption = None) -> None:
    """Print the DICOM conformance statement, from the running tables."""
    sys.stdout.write(conformance_statement(read_config(config)))


@cases_app.command("list")
def list_cases(
    config: ConfigOption = None,
    state: Annotated[CaseState | None, typer.Option(help="Only cases in this state.")] = None,
    as_json: JsonOption = False,
) -> None:
    """List the cases, newest change first."""
    with _index(read_config(config)) as index:
        records = [r for r in CaseBook(index).cases() if state is None or r.state is state]
    if as_json:
        _print_json([asdict(record) for record in records])
        return
    table = Table("case", "rev", "state", "protocol", "changed (UTC)", "why")
    table.columns[0].no_wrap = True
    for record in records:
        changed = record.updated_at[:19].replace("T", " ")
        revision = str(record.revision)
        row = [record.case_id, revision, record.state, record.protocol, changed, record.reason]
        if OUT.is_terminal:
            table.add_row(*map(_clean, row))
        else:
            OUT.print("\t".join(map(_clean, row)))
    if OUT.is_terminal:
        OUT.print(table)


@cases_app.command("show")
def show_case(case_id: str, config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Show one case: what it waits for, what was found, where its results went."""
    with _index(read_config(config)) as index:
        record = CaseBook(index).case(case_id)
    if record is None:
        raise NodeError(f"no case {case_id}", hint="`hilum cases list` shows them")
    if as_json:
        _print_json(asdict(record))
        return
    OUT.print(f"case {record.case_id}, revision {record.revision}, protocol {record.protocol}")
    OUT.print(_clean(f"state: {record.state}" + (f": {record.reason}" if record.reason else "")))
    told = record.summary.get("findings") or record.findings
    for line in (*summary_lines(record.summary), *_findings(told)):
        OUT.print(_clean(line))
    for page in record.history:
        line = f"{page['at'][:19]}  rev {page['revision']}  {page['state']}  {page['reason']}"
        OUT.print(_clean(line))
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
    with _index(settings) as index:
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
    with _index(read_config(config)) as index:
        CaseBook(index).abandon(case_id, datetime.now(UTC))
    OUT.print(f"case {case_id} is abandoned")


def _findings(findings: Iterable[Mapping[str, Any]]) -> list[str]:
    return [f"{f['severity']}: {f['text']}" for f in findings]


def _clean(text: str) -> str:
    """Return text without what could steer a terminal: ROI names come from others."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)


def _peer(config: Config, name: str) -> Peer:
    peer = config.peer_named(name)
    if peer is None or peer.port is None:
        known = ", ".join(p.name for p in config.peer if p.port) or "none"
        raise NodeError(f"no peer {name!r} with a port", hint=f"the configuration has: {known}")
    return peer


@contextmanager
def _index(config: Config) -> Iterator[Index]:
    if config.node.database is None and not (config.node.data / "index.sqlite").exists():
        raise NodeError(
            f"no node has worked in {config.node.data}", hint="name its file with --config"
        )
    index = Index(config.node.database_url)
    index.create()
    try:
        yield index
    finally:
        index.close()


@contextmanager
def _progress(steps: tuple[str, ...], *, quiet: bool) -> Iterator[Callable[[str], None]]:
    """Show steps as a bar that fills, on the error stream, where a person sits before it."""
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        TimeElapsedColumn(),
    )
    with Progress(
        *columns, console=ERR, transient=True, disable=quiet or not ERR.is_terminal
    ) as bar:
        task = bar.add_task(steps[0], total=len(steps))
        yield lambda step: bar.update(
            task, description=step, completed=steps.index(step) if step in steps else 0
        )


@contextmanager
def _count(total: int, *, quiet: bool) -> Iterator[Callable[[], None]]:
    with Progress(console=ERR, transient=True, disable=quiet or not ERR.is_terminal) as bar:
        task = bar.add_task("sending", total=total)
        yield lambda: bar.advance(task)


def _print_json(document: Any) -> None:
    sys.stdout.write(json.dumps(document, default=str, indent=1) + "\n")


def main() -> None:
    """Run the command line; errors end in clear lines and an exit code, never in a traceback."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda got, _frame: sys.exit(STOPPED + got))
    try:
        app()
    except ConfigError as error:
        for problem in error.problems:
            ERR.print(f"configuration: {problem}")
        sys.exit(WRONG_USE)
    except processing.NoCaseError as error:
        for reason in error.reasons:
            ERR.print(_clean(f"no case: {reason}"))
        if error.hint:
            ERR.print(error.hint)
        sys.exit(FAILED)
    except NodeError as error:
        _say(error)
        sys.exit(FAILED)
    except KeyboardInterrupt:
        sys.exit(STOPPED + signal.SIGINT)
    except OSError as error:
        ERR.print(f"{error.filename or 'the system'}: {error.strerror or type(error).__name__}")
        sys.exit(FAILED)
    except Exception as error:  # noqa: BLE001 - the boundary of the program
        # a foreign error's text may quote a name: only its place is told
        place = traceback.extract_tb(error.__traceback__)[-1]
        name = f"{type(error).__name__} at {Path(place.filename).name}:{place.lineno}"
        ERR.print(f"internal error {name}: please report it")
        sys.exit(FAILED)


def _say(error: NodeError) -> None:
    ERR.print(_clean(str(error)))
    if error.hint:
        ERR.print(error.hint)


if __name__ == "__main__":
    main()
