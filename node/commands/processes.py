"""`hilum processes`: who works for this node, which version each runs, who has fallen silent."""

from datetime import UTC, datetime

import typer
from rich.table import Table

from node.config import read_config
from node.console import OUT, ConfigOption, JsonOption, open_index, print_json
from node.index.heartbeats import Heartbeats, Sign
from node.membership import versions_at_work


def add_commands(app: typer.Typer) -> None:
    """Add the command of this module."""
    app.command()(processes)


def processes(config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Tell which processes work for this node, the version of each, and who fell silent."""
    settings = read_config(config)
    limit_s = settings.node.heartbeat_limit_s
    with open_index(settings) as index:
        signs, now = Heartbeats(index).signs(), datetime.now(UTC)
    if as_json:
        print_json([_document(sign, now, limit_s) for sign in signs])
        return
    if not signs:
        OUT.print("none works now")
        return
    table = Table("process", "role", "host", "version", "last sign of life")
    for sign in signs:
        who = sign.identity
        late = "" if _is_alive(sign, now, limit_s) else ": silent"
        told = f"{_age_s(sign, now):.0f} s ago{late}"
        table.add_row(who.name, who.role, who.host, who.version, told)
    OUT.print(table)
    if len(versions_at_work(signs, now, limit_s)) > 1:
        OUT.print("several versions work: bring all to one")


def _document(sign: Sign, now: datetime, limit_s: float) -> dict[str, object]:
    who = sign.identity
    return {
        "name": who.name,
        "role": who.role,
        "host": who.host,
        "version": who.version,
        "beat_at": sign.beat_at.isoformat(),
        "alive": _is_alive(sign, now, limit_s),
    }


def _is_alive(sign: Sign, now: datetime, limit_s: float) -> bool:
    return _age_s(sign, now) <= limit_s


def _age_s(sign: Sign, now: datetime) -> float:
    return max(0.0, (now - sign.beat_at).total_seconds())
