"""`hilum backup` and `hilum restore`: a node's data on another disk, and back."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from node.backup import BYTES_PER_MIB, take_backup
from node.backup_files import backups_in, damaged_in, newest_in
from node.backup_restore import restore as restore_backup
from node.config import read_config
from node.console import ERR, FAILED, OUT, WRONG_USE, ConfigOption, JsonOption, print_json, progress
from node.database import complete_address, is_postgresql

MOST_NAMED = 20
"""So many damaged files are named; the others are counted."""


def add_commands(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command()(backup)
    app.command()(restore)


def backup(
    folder: Annotated[Path, typer.Argument(help="Folder of the backups, on another disk.")],
    config: ConfigOption = None,
    keep: Annotated[
        int | None, typer.Option(help="So many backups stay, this one included.", min=1)
    ] = None,
    with_secrets: Annotated[
        bool, typer.Option("--with-secrets", help="Save passcodes, passwords and keys, too.")
    ] = False,
    verify: Annotated[
        bool, typer.Option("--verify", help="Make none: check every file of those that are there.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Back up the node, running or not; what the last backup has, too, takes no room again."""
    if verify:
        _verify(folder, as_json=as_json)
        return
    settings = read_config(config)
    with progress(("index", "files", "settings", "finish"), quiet=as_json) as on_step:
        report = take_backup(
            settings,
            folder,
            settings=config,
            with_secrets=with_secrets,
            keep=keep,
            on_step=on_step,
        )
    if as_json:
        print_json({**asdict(report), "folder": str(report.folder)})
    else:
        OUT.print(
            f"{report.folder}: {report.copied} files copied "
            f"({report.copied_bytes / BYTES_PER_MIB:.0f} MiB), {report.linked} as before"
        )
        _name(report.missing, "is named by the index and gone: restore it, or let it be sent again")
    if report.missing:
        raise typer.Exit(FAILED)


def restore(
    source: Annotated[Path, typer.Argument(help="A backup, or the folder of the backups.")],
    data: Annotated[Path, typer.Option("--data", help="The new data folder; absent or empty.")],
    database: Annotated[
        str | None,
        typer.Option(help="Address of an empty PostgreSQL database, as in node.database."),
    ] = None,
    password_file: Annotated[
        Path | None, typer.Option(help="The database's, as node.database_password_file.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Make a data folder of a backup, every file checked; a node started on it goes on."""
    url = None
    if database is not None:
        if not is_postgresql(database):
            ERR.print("--database is for PostgreSQL; SQLite lies in the data folder by itself")
            raise typer.Exit(WRONG_USE)
        url = complete_address(database, password_file)
    with progress(("files", "index"), quiet=as_json) as on_step:
        report = restore_backup(source, data, database_url=url, on_step=on_step)
    if as_json:
        print_json({"backup": str(report.backup), "data": str(data), "files": report.files})
    else:
        OUT.print(f"restored {report.files} files of {report.about['at']} into {data}")
        OUT.print("next: name this folder in node.data, look at settings/ in it, start the node")
    if report.about["missing"]:
        _name(report.about["missing"], "was lost before the backup was made")


def _verify(folder: Path, *, as_json: bool) -> None:
    newest_in(folder)
    damaged = {backup.name: list(damaged_in(backup)) for backup in backups_in(folder)}
    if as_json:
        print_json(damaged)
    else:
        for name, problems in damaged.items():
            OUT.print(f"{name}: {len(problems) or 'nothing'} damaged")
            _name(problems, "")
    if any(damaged.values()):
        raise typer.Exit(FAILED)


def _name(problems: "list[str] | tuple[str, ...]", what: str) -> None:
    for problem in problems[:MOST_NAMED]:
        ERR.print(f"{problem} {what}".strip())
    if len(problems) > MOST_NAMED:
        ERR.print(f"and {len(problems) - MOST_NAMED} more")
