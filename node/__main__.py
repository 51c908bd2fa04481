"""The command line: `hilum serve | process | demo | phantom | commission | doctor | echo | ...`.

Every command exits 0, 1 when the thing failed, 2 when it was called wrongly; `--json` prints what a
script can read. No traceback reaches a user.
"""

import os
import signal
import sys
import tempfile
import threading
import traceback
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.table import Column, Table

from node import process as processing
from node.allocator import share_one_arena
from node.case_job import software_version
from node.commands.backup import add_commands as add_backup_commands
from node.commands.cases import cases_app
from node.commands.cohort import add_commands as add_cohort_commands
from node.commands.limits import add_commands as add_limit_commands
from node.commands.lint import add_commands as add_lint_commands
from node.commands.notify import add_commands as add_notify_commands
from node.commands.peers import add_commands as add_peer_commands
from node.commands.processes import add_commands as add_process_commands
from node.commands.query import add_commands as add_query_commands
from node.commands.retention import add_commands as add_retention_commands
from node.commands.users import add_commands as add_user_commands
from node.commands.worker import add_commands as add_worker_commands
from node.compute_job import summary_lines
from node.config import Config, read_config
from node.console import (
    ERR,
    FAILED,
    OUT,
    PRIVATE,
    STOPPED,
    WRONG_USE,
    ConfigOption,
    JsonOption,
    LogLevel,
    clean,
    findings_told,
    print_json,
    progress,
    say,
)
from node.errors import ConfigError, NodeError
from node.log import configure_logging

app = typer.Typer(
    help="Registers MR to the planning CT, proposes a refined target, sends the results back. "
    "Not a medical device: every result is a proposal for a clinician.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=True,
)
app.add_typer(cases_app, name="cases")
add_peer_commands(app)
add_process_commands(app)
add_query_commands(app)
add_lint_commands(app)
add_limit_commands(app)
add_cohort_commands(app)
add_retention_commands(app)
add_backup_commands(app)
add_notify_commands(app)
add_user_commands(app)
add_worker_commands(app)


@app.command()
def serve(
    config: ConfigOption = None,
    log_level: Annotated[LogLevel, typer.Option(help="Least severity that is logged.")] = (
        LogLevel.INFO
    ),
) -> None:
    """Run the node: receive, compute, deliver, until SIGTERM or Ctrl-C."""
    from node.service import Node  # a second of imports that no other command needs

    share_one_arena()
    settings = read_config(config)
    os.umask(PRIVATE)
    configure_logging(log_level, as_json=True)
    stopping = threading.Event()
    for name in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(name, lambda _number, _frame: stopping.set())
    node = Node(settings)
    port = node.start()
    _announce(settings, port, node.web_port)
    stopping.wait()
    node.stop()


def _announce(config: Config, port: int, web_port: int) -> None:
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
    if web_port:
        scheme = "https" if config.web.speaks_tls else "http"
        OUT.print(f"page      {scheme}://{config.web.host}:{web_port}")
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
        with progress(processing.STEPS, quiet=as_json) as on_step:
            outcome = processing.process(
                inputs, out, settings, protocol_name=protocol, on_step=on_step
            )
    except processing.NoCaseError as error:
        if as_json:
            print_json({"kind": "no case", "reasons": error.reasons, "hint": error.hint})
        raise
    if as_json:
        print_json({**outcome.model_dump(), "out": str(out)})
    elif outcome.kind == "done":
        for line in (*summary_lines(outcome.summary), *findings_told(outcome.summary["findings"])):
            OUT.print(clean(line))
        OUT.print(f"{len(outcome.results)} objects and metrics.json in {out}")
    if outcome.kind != "done":
        if not as_json:
            for reason in outcome.reasons:
                ERR.print(clean(f"{outcome.kind}: {reason}"))
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
    with progress(demonstration.STEPS, quiet=as_json) as on_step:
        visit = demonstration.visit(
            settings, folder, timeout_s=timeout_s, seed=seed, on_step=on_step
        )
    if as_json:
        document = {**asdict(visit), "received": {u: str(p) for u, p in visit.received.items()}}
        print_json(document)
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
    prior: Annotated[
        bool, typer.Option("--prior", help="Add an earlier course: CT, structures, plan, dose.")
    ] = False,
    second_plan: Annotated[
        bool, typer.Option("--second-plan", help="Add a second plan and its dose.")
    ] = False,
    beams: Annotated[bool, typer.Option("--beams", help="Write the dose beam by beam.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Write a synthetic study with known truth: CT, MR, structures, plan, dose, and the truth."""
    from node.phantom import PhantomOptions, export, make_study  # likewise

    export.check_folder(out)
    options = PhantomOptions.for_seed(
        seed, hard=hard, small=small, hidden_by=hidden_by or "nothing"
    )
    options = replace(options, prior=prior, second_plan=second_plan, dose_by_beam=beams)
    with progress(("make the patient", "write"), quiet=as_json) as on_step:
        study = make_study(options)
        on_step("write")
        count = export.write_study(study, out)
    features = options.features
    if as_json:
        print_json({"out": str(out), "seed": seed, "objects": count, "features": features})
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
        with progress(commissioning.steps(order), quiet=as_json) as on_step:
            verdict = commissioning.commission(order, out, on_step)
    except commissioning.OrderError as error:
        say(error)
        raise typer.Exit(WRONG_USE) from error
    if as_json:
        print_json(
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
def doctor(
    files: Annotated[
        list[Path] | None,
        typer.Option(help="Look at an export instead: files or folders that were to form a case."),
    ] = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Check configuration, port, disk, clock and peers, or exported files; say what to mend."""
    from node.doctor import run_checks  # likewise
    from node.doctor_files import check_files

    settings = read_config(config)
    checks = check_files(settings, files) if files else run_checks(settings, echo_timeout_s=5.0)
    if as_json:
        print_json([asdict(check) for check in checks])
    else:
        table = Table(
            *(Column(name, overflow="fold") for name in ("check", "status", "finding", "mend"))
        )
        for check in checks:
            table.add_row(check.name, str(check.status), check.text, check.mend)
        OUT.print(table)
    if any(check.status == "fail" for check in checks):
        raise typer.Exit(FAILED)


@app.command()
def conformance(config: ConfigOption = None) -> None:
    """Print the DICOM conformance statement, from the running tables."""
    from node.statement import conformance_statement  # likewise

    sys.stdout.write(conformance_statement(read_config(config)))


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
            ERR.print(clean(f"no case: {reason}"))
        if error.hint:
            ERR.print(error.hint)
        sys.exit(FAILED)
    except NodeError as error:
        say(error)
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


if __name__ == "__main__":
    main()
