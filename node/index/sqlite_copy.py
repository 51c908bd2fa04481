"""A consistent copy of a SQLite database that others may be writing to."""

import os
import sqlite3
from contextlib import closing
from pathlib import Path

from node.disk import sync_folder
from node.errors import StorageFullError

PAGES_AT_ONCE = 4096
"""How much is copied between two looks at whether the source has changed."""


def copy_database(source: Path, target: Path) -> None:
    """Copy a database to a new file, as it is at one moment; whole and durable, or not there.

    Readers and writers of the source go on.

    Raises:
        StorageFullError: No room for the copy, or the source cannot be read.
    """
    part = target.with_name(f"{target.name}.part")
    part.unlink(missing_ok=True)
    try:
        with (
            closing(sqlite3.connect(f"file:{source}?mode=ro", uri=True, timeout=60)) as reading,
            closing(sqlite3.connect(part)) as writing,
        ):
            # one transaction around it: writers do not make it begin again
            reading.execute("BEGIN")
            reading.execute("SELECT count(*) FROM sqlite_master").fetchone()
            reading.backup(writing, pages=PAGES_AT_ONCE)
            writing.execute("PRAGMA journal_mode = DELETE")  # one file, with nothing beside it
        sync_file(part)
        part.replace(target)
        sync_folder(target.parent)
    except (sqlite3.Error, OSError) as error:
        part.unlink(missing_ok=True)
        raise StorageFullError(
            f"the database {source.name} cannot be copied ({type(error).__name__})",
            hint="make room beside it, and see that it is undamaged",
        ) from error


def sync_file(path: Path) -> None:
    """Bring what a file holds to stable storage."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
