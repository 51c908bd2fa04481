"""A backup of a node that goes on working.

In this order, for which every row of the saved index finds its file: retention pauses; the journals
are copied; the index is copied as it is at one moment; then the files that it names, and those that
the journals name, which no longer change. What was promised before the backup began is in the
index, or else in a journal. Settings are copied without what is secret, unless it is asked for; but
the secret behind the pseudonyms of the audit trail comes along: it guards the trail by itself only.
"""

import json
import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from heapq import merge
from itertools import groupby
from pathlib import Path

from node.audit.subjects import SECRET_FILE
from node.audit.trail import AUDIT_FOLDER
from node.backup_files import BackupError, BackupWriter, forget_older, only_one
from node.case_job import software_version
from node.compute_job import RESULTS_FOLDER
from node.config import Config
from node.database import is_postgresql
from node.index import Index
from node.index.snapshot import object_paths, removed_results, result_sets, take_snapshot
from node.index.sqlite_copy import copy_database
from node.index.tables import SCHEMA_VERSION
from node.journal import FOLDER_PREFIX, payloads_in
from node.ownership import give_to_owner
from node.receipt import Receipt
from node.retention import paused
from node.storage import ObjectStore
from node.view_files import VIEW_FOLDER

INDEX_FILE, WORKFLOW_FILE = "index.sqlite", "workflow.sqlite"
SETTINGS_FOLDER = "settings"

RECORD_FILE = "last-backup.json"
"""In the data folder: when the last backup was made, and where."""

BYTES_PER_MIB = 1 << 20

_SECRET = re.compile(r"^(\s*(?:passcode|password|secret|token)\s*=\s*).*$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class BackupReport:
    """What a backup became.

    Attributes:
        folder: Where it is.
        missing: Files that the index names and that were lost before.
        forgotten: Older backups that were removed.
    """

    folder: Path
    copied: int
    linked: int
    copied_bytes: int
    missing: tuple[str, ...]
    forgotten: int


def take_backup(
    config: Config,
    folder: Path,
    *,
    settings: Path | None = None,
    with_secrets: bool = False,
    keep: int | None = None,
    now: datetime | None = None,
    on_step: Callable[[str], None] = lambda _step: None,
) -> BackupReport:
    """Back up a node, running or not.

    Args:
        config: Of the node.
        folder: Of the backups; made if absent. What the newest in it has, too, is linked to it.
        settings: File of the configuration, if there is one.
        with_secrets: Whether passcodes, passwords and keys are saved.
        keep: How many backups stay in the folder, this one included; None: all.
        now: The time, aware; names the backup.
        on_step: Told what is being done.

    Raises:
        NodeError: It cannot be made; nothing of earlier backups was touched.
    """
    data = config.node.data
    if folder.resolve().is_relative_to(data.resolve()):
        raise BackupError(
            "the backup would lie in the data folder", hint="choose a folder elsewhere"
        )
    if not is_postgresql(config.node.database) and not (data / INDEX_FILE).exists():
        raise BackupError(f"no node has worked in {data}", hint="name its file with --config")
    at = now or datetime.now(UTC)
    index = Index(config.node.database_url)
    try:
        index.require_tables()
        with only_one(folder, "a backup is being made in"), paused(data):
            writer = BackupWriter(folder, f"{at:%Y-%m-%dT%H%M%SZ}", _floor_bytes(config, folder))
            try:
                missing = _write(config, index, writer, settings, with_secrets, on_step)
                on_step("finish")
                final = writer.finish(_about(config, at, missing))
            except BaseException:
                writer.discard()
                raise
            forgotten = forget_older(folder, keep) if keep is not None else []
    finally:
        index.close()
    _note(data, at, final)
    return BackupReport(
        final, writer.copied, writer.linked, writer.copied_bytes, missing, len(forgotten)
    )


def _write(
    config: Config,
    index: Index,
    writer: BackupWriter,
    settings: Path | None,
    with_secrets: bool,
    on_step: Callable[[str], None],
) -> tuple[str, ...]:
    data = config.node.data
    on_step("index")
    promised = sorted(set(_save_journals(data, writer)))
    take_snapshot(index, writer.part / INDEX_FILE)
    writer.note_made(INDEX_FILE)
    if not is_postgresql(config.node.database) and (data / WORKFLOW_FILE).exists():
        copy_database(data / WORKFLOW_FILE, writer.part / WORKFLOW_FILE)
        writer.note_made(WORKFLOW_FILE)
    on_step("files")
    missing = []
    for path, is_named in _kept_paths(data, writer.part / INDEX_FILE, promised):
        if not writer.add_kept(data / path, path) and is_named:
            missing.append(path)
    on_step("settings")
    _save_settings(config, settings, writer, with_secrets=with_secrets)
    for record in (data / SECRET_FILE, *sorted((data / AUDIT_FOLDER).rglob("*"))):
        if record.is_file():
            with suppress(FileNotFoundError):  # the oldest one may go meanwhile
                writer.add(record, str(record.relative_to(data)))
    return tuple(missing)


def _kept_paths(data: Path, snapshot: Path, promised: list[str]) -> Iterator[tuple[str, bool]]:
    """Yield the files that never change, in the order of their paths, and whether a row names them.

    An object of a journal may have been filed under the name of an earlier copy meanwhile.
    """
    named = ((path, True) for path, _size in object_paths(snapshot))
    found = merge(named, ((path, False) for path in promised))
    for path, group in groupby(found, key=lambda one: one[0]):
        yield path, any(is_named for _, is_named in group)
    gone = removed_results(snapshot)
    for case_id, revision in result_sets(snapshot):
        folder = data / RESULTS_FOLDER / case_id / str(revision)
        paths = sorted(
            str(path.relative_to(data))
            for path in folder.rglob("*")
            if path.is_file() and path.relative_to(folder).parts[0] != VIEW_FOLDER
        )
        yield from ((path, True) for path in paths)
        if not paths and (case_id, revision) not in gone:
            yield str(folder.relative_to(data) / "outcome.json"), True


def _save_journals(data: Path, writer: BackupWriter) -> Iterator[str]:
    """Copy the journals; yield the objects that they promise."""
    for folder in sorted(data.glob(f"{FOLDER_PREFIX}*")):
        for path in sorted(folder.iterdir()):
            saved = f"{folder.name}/{path.name}"
            try:
                writer.add(path, saved)
            except FileNotFoundError:
                continue  # forgotten meanwhile: all of it is in the index
            for payload in payloads_in(writer.part / saved):
                receipt = Receipt.from_bytes(payload)
                if receipt.path.startswith(f"{ObjectStore.OBJECTS}/"):
                    yield receipt.path


def _save_settings(
    config: Config, settings: Path | None, writer: BackupWriter, *, with_secrets: bool
) -> None:
    if settings is None:
        return
    writer.part.joinpath(SETTINGS_FOLDER).mkdir()
    text = settings.read_text(encoding="utf-8-sig")
    if not with_secrets:
        text = _SECRET.sub(r'\1"not in the backup"', text)
    saved = writer.part / SETTINGS_FOLDER / settings.name
    saved.write_text(text, encoding="utf-8")
    writer.note_made(f"{SETTINGS_FOLDER}/{settings.name}")
    for name in _named_files(config, settings, with_secrets=with_secrets):
        path = settings.parent / name
        if path.is_file() and path != settings:
            writer.add(path, f"{SETTINGS_FOLDER}/{name}")


def _named_files(config: Config, settings: Path, *, with_secrets: bool) -> list[str]:
    """Return the files that a configuration names and that lie beside it, as relative paths."""
    public: set[Path] = set()
    secret: set[Path] = set()

    def sort(value: object, key: str) -> None:
        if isinstance(value, Path):
            is_secret = key == "key" or key.endswith(
                ("passcode_file", "password_file", "secret_file")
            )
            (secret if is_secret else public).add(value)
        elif isinstance(value, dict):
            for name, inner in value.items():
                sort(inner, name)
        elif isinstance(value, list | tuple):
            for inner in value:
                sort(inner, key)
        elif isinstance(value, str) and key in ("limits", "certificate"):
            public.add(settings.parent / value)

    sort(config.model_dump(exclude={"own_limits"}), "")
    wanted = public | secret if with_secrets else public
    root = settings.parent.resolve()
    found = (path.resolve() for path in wanted if path.is_file())
    return sorted(str(path.relative_to(root)) for path in found if path.is_relative_to(root))


def _about(config: Config, at: datetime, missing: tuple[str, ...]) -> dict[str, object]:
    return {
        "at": at.isoformat(timespec="seconds"),
        "version": software_version(),
        "schema_version": SCHEMA_VERSION,
        "ae_title": config.node.ae_title,
        "database": "postgresql" if is_postgresql(config.node.database) else "sqlite",
        "missing": list(missing),
    }


def _floor_bytes(config: Config, folder: Path) -> int:
    """Return what must stay free where backups go: on the disk of the node, what the node needs."""
    place = folder.absolute()
    while not place.exists():
        place = place.parent
    is_same_disk = place.stat().st_dev == config.node.data.stat().st_dev
    return int(config.node.min_free_mib * BYTES_PER_MIB) if is_same_disk else 0


def _note(data: Path, at: datetime, final: Path) -> None:
    record = {"at": at.isoformat(timespec="seconds"), "folder": str(final)}
    part = data / f"{RECORD_FILE}.part"
    part.write_text(json.dumps(record), encoding="utf-8")
    give_to_owner(data, part)
    part.replace(data / RECORD_FILE)
