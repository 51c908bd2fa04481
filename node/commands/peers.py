"""`hilum echo | send`: talk to a configured peer."""

from dataclasses import asdict
from pathlib import Path

import typer

from node.config import read_config
from node.console import (
    ERR,
    FAILED,
    OUT,
    ConfigOption,
    JsonOption,
    counted,
    peer_to_call,
    print_json,
)
from node.delivery import InstanceOutcome, echo, send_instances


def add_commands(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command("echo")(echo_peer)
    app.command()(send)


def echo_peer(peer: str, config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Ask a configured peer whether it hears us (C-ECHO)."""
    settings = read_config(config)
    result = echo(
        peer_to_call(settings, peer),
        settings.node.ae_title,
        timeout_s=settings.node.network_timeout_s,
        tls=settings.tls,
    )
    if as_json:
        print_json(asdict(result))
    else:
        OUT.print(f"{peer} answered in {1000 * result.seconds:.0f} ms")


def send(
    peer: str,
    files: list[Path],
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Send DICOM files to a configured peer (C-STORE)."""
    settings = read_config(config)
    with counted(len(files), quiet=as_json) as advance:
        answers = send_instances(
            peer_to_call(settings, peer),
            settings.node.ae_title,
            files,
            timeout_s=settings.node.network_timeout_s,
            on_result=lambda _answer: advance(),
            tls=settings.tls,
        )
    taken = [a for a in answers if a.outcome in (InstanceOutcome.SENT, InstanceOutcome.WARNED)]
    if as_json:
        print_json([asdict(answer) for answer in answers])
    else:
        OUT.print(f"{peer} took {len(taken)} of {len(answers)} objects")
        for reason in sorted({a.reason for a in answers if a not in taken}):
            ERR.print(f"not taken: {reason}")
    if len(taken) < len(answers):
        raise typer.Exit(FAILED)
