"""The doctor's checks of what an operator keeps up: database, page, backup, retention, journals.

Looks and reports; changes nothing, and makes no table.
"""

import errno
import json
import socket
from datetime import UTC, datetime, timedelta
from pathlib import Path

from node.backup import RECORD_FILE
from node.config import Config, NodeSection
from node.doctor_machine import BYTES_PER_MIB, Check, CheckStatus
from node.errors import ConfigError, NodeError
from node.index import Index
from node.index.access import AccessBook
from node.index.heartbeats import Heartbeats
from node.index.instances import InstanceBook
from node.index.removable import Kept
from node.index.tables import SCHEMA_VERSION
from node.journal import FOLDER_PREFIX, Journal
from node.process_name import is_held, lock_of
from node.retention import Retention
from node.web.section import WebSection

BACKUP_DUE = timedelta(days=7)
"""A last backup older than this is pointed out."""


def check_upkeep(config: Config, now: datetime) -> tuple[Check, ...]:
    """Return what is found about the database and what rests on it."""
    node = config.node
    database, index = check_database(node)
    found = [database]
    if index is None:
        return (*found, *check_page(config.web, None), *check_retention_keys(config))
    try:
        found += check_page(config.web, index)
        found += check_backup(node.data, now)
        found += check_retention(config, index, now)
        found += check_journals(node.data, index)
    except NodeError as error:
        found.append(Check("database", CheckStatus.FAIL, str(error), error.hint))
    finally:
        index.close()
    return tuple(found)


def check_database(node: NodeSection) -> tuple[Check, Index | None]:
    """Tell whether the index can be opened; give it, if it has the tables of this version."""
    name = "database"
    if node.database is None and not (node.data / "index.sqlite").exists():
        return Check(name, CheckStatus.OK, "SQLite, made at the first start"), None
    try:
        index = Index(node.database_url)
        version = index.checked_version()
    except ConfigError as error:
        return Check(name, CheckStatus.FAIL, str(error), "correct node.database"), None
    except NodeError as error:
        return Check(name, CheckStatus.FAIL, str(error), error.hint), None
    if version == SCHEMA_VERSION:
        beat = Heartbeats(index).last()
        lived = (
            f"a node last worked on it at {beat:%Y-%m-%d %H:%M:%S} UTC" if beat else "no node yet"
        )
        return Check(name, CheckStatus.OK, f"opens; {lived}"), index
    index.close()
    if version is None:
        return Check(name, CheckStatus.OK, "empty: its tables are made at the first start"), None
    text = f"its tables are of version {version}, this program's of {SCHEMA_VERSION}"
    mend = "back it up; the next start brings it up to date and keeps a copy of a SQLite index"
    return Check(name, CheckStatus.WARN, text, mend), None


def check_page(section: WebSection, index: Index | None) -> list[Check]:
    """Tell whether the page can listen and whether anybody may look at it."""
    if not section.enabled:
        return [Check("page", CheckStatus.OK, "is off")]
    where = f"{section.host} port {section.port}"
    if section.needs_login and (index is None or not AccessBook(index).has_users()):
        mend = "`hilum users add NAME --role operate` makes the first user"
        text = f"{where}: needs a login, and there is no user: the node does not start"
        return [Check("page", CheckStatus.FAIL, text, mend)]
    if section.port == 0:
        return [Check("page", CheckStatus.OK, f"{section.host}, a port that the system chooses")]
    try:
        family = socket.AF_INET6 if ":" in section.host else socket.AF_INET
        with socket.create_server((section.host, section.port), family=family):
            return [Check("page", CheckStatus.OK, f"{where} is free")]
    except OSError as error:
        if error.errno == errno.EADDRINUSE and _answers_as_ours(section):
            return [Check("page", CheckStatus.OK, f"{where}: the node's page answers")]
        mend = "stop the program that listens there, or change web.host or web.port"
        return [Check("page", CheckStatus.FAIL, f"{where}: {error.strerror}", mend)]


def _answers_as_ours(section: WebSection) -> bool:
    """Tell whether what listens where the page should is a page of ours, by its `/health`."""
    host = "127.0.0.1" if section.host in ("0.0.0.0", "::") else section.host  # noqa: S104
    if section.speaks_tls:
        return True  # what it is, its certificate says to browsers
    try:
        with socket.create_connection((host, section.port), timeout=3) as line:
            line.settimeout(3)
            line.sendall(f"GET /health HTTP/1.0\r\nHost: {host}\r\n\r\n".encode())
            answer = b""
            while piece := line.recv(4096):
                answer += piece
    except OSError:
        return False
    return b'"status"' in answer


def check_backup(data: Path, now: datetime) -> list[Check]:
    """Tell when the last backup was made, and whether it is still where it was made."""
    mend = "`hilum backup FOLDER`, each night, on another disk; see operations.md"
    try:
        record = json.loads((data / RECORD_FILE).read_text(encoding="utf-8"))
        at, folder = datetime.fromisoformat(record["at"]), Path(record["folder"])
    except (OSError, ValueError, KeyError):
        return [Check("backup", CheckStatus.WARN, "none was ever made with `hilum backup`", mend)]
    age = now - at
    text = f"the last one is of {at.astimezone(UTC):%Y-%m-%d %H:%M} UTC"
    if age > BACKUP_DUE:
        return [Check("backup", CheckStatus.WARN, f"{text}, {age.days} days old", mend)]
    if not folder.exists():
        text = f"{text}; {folder} is not there now"
        return [Check("backup", CheckStatus.WARN, text, "connect its disk, or make a new one")]
    return [Check("backup", CheckStatus.OK, text)]


def check_retention_keys(config: Config) -> list[Check]:
    """Tell what is never removed: then the disk fills up one day."""
    keep = config.retention
    if keep.removes:
        return [Check("retention", CheckStatus.OK, "old objects and results are removed")]
    return [Check("retention", CheckStatus.OK, "nothing is removed; see [retention]")]


def check_retention(config: Config, index: Index, now: datetime) -> list[Check]:
    """Tell whether retention can do what it is to do."""
    keep = config.retention
    if keep.make_room_below_mib is None:
        return check_retention_keys(config)
    survey = Retention(config, index, lambda: now).survey()
    floor_mib = survey.total_bytes * config.node.min_free_percent / 100 / BYTES_PER_MIB
    if keep.make_room_below_mib <= floor_mib:
        text = (
            f"room is made below {keep.make_room_below_mib:.0f} MiB, but senders are refused below "
            f"{floor_mib:.0f} MiB already (node.min_free_percent)"
        )
        mend = "raise retention.make_room_below_mib, or lower node.min_free_percent"
        return [Check("retention", CheckStatus.FAIL, text, mend)]
    due = [t for t in (*survey.objects, *survey.results) if t.kept is Kept.DUE]
    if survey.is_short and not due:
        text = "room is short, and nothing may be removed"
        mend = "`hilum retention --dry-run` says what keeps everything; deliver it, or add room"
        return [Check("retention", CheckStatus.FAIL, text, mend)]
    return check_retention_keys(config)


def check_journals(data: Path, index: Index) -> list[Check]:
    """Tell what was promised to senders by nodes that no longer run, and waits for their start."""
    book, waiting = InstanceBook(index), 0
    for folder in sorted(data.glob(f"{FOLDER_PREFIX}*")):
        name = folder.name.removeprefix(FOLDER_PREFIX)
        if not is_held(lock_of(data, name)):
            filed = book.filed_up_to(name)
            waiting += sum(1 for sequence, _ in Journal(folder).look() if sequence > filed)
    if not waiting:
        return [Check("journal", CheckStatus.OK, "everything that was promised is in the index")]
    text = f"{waiting} objects were promised and are not in the index yet: the node was not stopped"
    return [Check("journal", CheckStatus.WARN, text, "start the node: it files them first")]
