"""Makes a data folder of a backup: checked while it is copied, brought up to date, whole or not."""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from node.audit.subjects import SECRET_FILE
from node.audit.trail import AUDIT_FOLDER
from node.backup import INDEX_FILE, SETTINGS_FOLDER, WORKFLOW_FILE
from node.backup_files import (
    ABOUT_FILE,
    BackupError,
    Summed,
    copy_checked,
    newest_in,
    read_about,
    sums_of,
)
from node.index import Index
from node.index.snapshot import load_snapshot, problem_of
from node.index.tables import SCHEMA_VERSION
from node.journal import FOLDER_PREFIX

_PLACES = ("objects", "results", AUDIT_FOLDER, SETTINGS_FOLDER, FOLDER_PREFIX)
_FILES = (INDEX_FILE, WORKFLOW_FILE, SECRET_FILE)


@dataclass(frozen=True, slots=True)
class RestoreReport:
    """What was restored.

    Attributes:
        backup: From which.
        about: What it says of itself.
        files: How many there are.
    """

    backup: Path
    about: dict[str, Any]
    files: int


def restore(
    source: Path,
    data: Path,
    *,
    database_url: str | None = None,
    on_step: Callable[[str], None] = lambda _step: None,
) -> RestoreReport:
    """Make a data folder of a backup; a node that is started on it goes on.

    Args:
        source: A backup, or a folder of backups, of which the newest is taken.
        data: The data folder: absent or empty.
        database_url: Of an empty PostgreSQL database that gets the index; None: SQLite in `data`.
        on_step: Told what is being done.

    Raises:
        NodeError: It cannot be restored; nothing is left behind.
    """
    backup = newest_in(source)
    about = read_about(backup)
    if about["schema_version"] > SCHEMA_VERSION:
        raise BackupError(
            f"the backup was made by a newer version ({about['version']})",
            hint="restore it with that version of Hilum",
        )
    if data.exists() and (not data.is_dir() or any(data.iterdir())):
        raise BackupError(f"{data} is not empty", hint="restore into a new folder")
    was_there = data.exists()
    try:
        data.mkdir(parents=True, exist_ok=True)
        on_step("files")
        files = copy_checked(backup, data, _wanted(backup, about["files"]))
        on_step("index")
        _open(data, database_url)
        (data / ABOUT_FILE).write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
    except BaseException:
        if was_there:
            for path in data.iterdir():
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        else:
            shutil.rmtree(data, ignore_errors=True)
        raise
    return RestoreReport(backup, about, files)


def _wanted(backup: Path, count: int) -> list[Summed]:
    """Return the files of a backup, all of which must be such as a backup has."""
    listed = list(sums_of(backup))
    if len(listed) != count or not all(_is_expected(one.path) for one in listed):
        raise BackupError(f"{backup} lists other files than it was written with")
    return listed


def _is_expected(path: str) -> bool:
    return path in _FILES or path.split("/")[0].startswith(_PLACES)


def _open(data: Path, database_url: str | None) -> None:
    """Bring the index up to date, and into its database."""
    snapshot = data / INDEX_FILE
    if problem := problem_of(snapshot):
        raise BackupError(f"the index of the backup cannot be read ({problem})")
    index = Index(database_url or f"sqlite:///{snapshot}")
    try:
        if database_url is None:
            index.create()
        else:
            load_snapshot(snapshot, index)
    finally:
        index.close()
    if database_url is not None:
        snapshot.unlink()
        # the durable work of one process is not that of many: what is due begins again
        (data / WORKFLOW_FILE).unlink(missing_ok=True)
