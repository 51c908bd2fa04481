"""`hilum notify test`: does a message come to those who are to be told?"""

from dataclasses import asdict
from datetime import UTC, datetime

import typer

from node.config import read_config
from node.console import ERR, FAILED, OUT, ConfigOption, JsonOption, clean, print_json
from node.errors import NodeError
from node.notify.trial import Trial, send_trial

notify_app = typer.Typer(
    help="Whom the node tells when something needs a person.", no_args_is_help=True
)


def add_commands(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.add_typer(notify_app, name="notify")


@notify_app.callback()
def _group() -> None:
    """Keep `test` a word of its own: a single command would take the place of its group."""


@notify_app.command("test")
def send_test(config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Send a test message by every way of [notify]; fails unless everybody took it."""
    trials = send_trial(read_config(config), datetime.now(UTC))
    if not trials:
        raise NodeError(
            "nobody is told anything: the configuration has neither [notify.mail] nor "
            "[notify.webhook]",
            hint="deploy/hilum.example.toml shows both; with --config name the file that has them",
        )
    if as_json:
        print_json([asdict(one) for one in trials])
    else:
        for one in trials:
            _tell(one)
    if not all(one.is_good for one in trials):
        raise typer.Exit(FAILED)


def _tell(one: Trial) -> None:
    way = f"{one.channel} to {one.receiver}"
    if not one.told:
        ERR.print(clean(f"{way}: {one.reason}"))
        if one.hint:
            ERR.print(f"  {one.hint}")
        return
    OUT.print(clean(f"{way}: taken in {one.seconds:.1f} s; look whether it came"))
    for address in one.refused:
        ERR.print(clean(f"  the server refused {address}: look at notify.mail.to"))
