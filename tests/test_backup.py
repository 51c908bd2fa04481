"""Backups of a node that works, and nodes that go on from them."""

import hashlib
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa

from node.backup import RECORD_FILE, BackupReport, take_backup
from node.backup_files import BackupError, backups_in, damaged_in, newest_in
from node.backup_restore import restore
from node.config import Config, NodeSection, Protocol, read_config
from node.errors import NodeError, StorageFullError
from node.index import Index
from node.index.cases import CaseBook
from node.index.tables import INSTANCES, METADATA, SCHEMA
from node.phantom import PhantomOptions, make_study
from node.receiver import StandInReceiver
from node.retention import paused
from tests.nodes import (
    LONG_S,
    ROOT,
    NodeProcess,
    run_hilum,
    wait_for,
    without_contrast,
    write_datasets,
)
from tests.postgres import PostgresServer
from tests.shelf import Shelf
from tests.version_2 import STATES, restore_index

NOON = datetime(2026, 6, 1, 12, tzinfo=UTC)


@pytest.fixture
def shelf(tmp_path: Path) -> Iterator[Shelf]:
    index = Index(f"sqlite:///{tmp_path / 'data' / 'index.sqlite'}")
    index.create()
    found = Shelf(tmp_path / "data", index)
    found.delivered("A", "a")
    found.store("B", "1")
    yield found
    index.close()


def config_of(data: Path, **node: object) -> Config:
    section = NodeSection.model_validate({"data": data, "min_free_mib": 0.0, **node})
    return Config(node=section, protocol=(Protocol(name="liver", targets=("GTV*",)),))


def backed_up(shelf: Shelf, folder: Path, *, minutes: int = 0, **given: int) -> BackupReport:
    now = NOON + timedelta(minutes=minutes)
    return take_backup(config_of(shelf.root), folder, now=now, **given)


def rows_of(path: Path) -> dict[str, int]:
    """Return how many rows each table of a SQLite index has."""
    with closing(sqlite3.connect(path)) as index:
        return {
            name: index.execute(f"SELECT count(*) FROM {name}").fetchone()[0]  # noqa: S608
            for name in METADATA.tables
        }


def files_below(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


def test_what_is_restored_is_what_was_there(shelf: Shelf, tmp_path: Path) -> None:
    """Rows and files; not the pictures of the page, which are made again."""
    trail = shelf.root / "audit" / "host" / "audit-2026-06-01.0000.log"
    trail.parent.mkdir(parents=True)
    trail.write_text("<an event/>")
    (shelf.root / "audit.secret").write_text("0123")
    report = backed_up(shelf, tmp_path / "backups")
    assert (report.linked, report.missing) == (0, ())
    restored = restore(tmp_path / "backups", tmp_path / "new")
    assert restored.about["at"] == "2026-06-01T12:00:00+00:00"
    assert rows_of(tmp_path / "new" / "index.sqlite") == rows_of(shelf.root / "index.sqlite")
    kept = [path for path in files_below(shelf.root) if path.startswith(("objects", "results"))]
    found = [p for p in files_below(tmp_path / "new") if p.startswith(("objects", "results"))]
    assert found == [path for path in kept if "/view/" not in path]
    assert len(found) == 3 + 2
    found += ["audit.secret", str(trail.relative_to(shelf.root))]
    for path in found:
        assert (tmp_path / "new" / path).read_bytes() == (shelf.root / path).read_bytes()
    assert json.loads((shelf.root / RECORD_FILE).read_text())["folder"] == str(report.folder)


def test_next_backup_copies_only_what_is_new(shelf: Shelf, tmp_path: Path) -> None:
    """Unchanged files take no room again, and an earlier backup can go without the later one."""
    folder = tmp_path / "backups"
    first = backed_up(shelf, folder)
    shelf.store("C", "1", "2")
    second = backed_up(shelf, folder, minutes=1)
    assert (second.linked, second.copied) == (5, 2 + 1)  # two objects, the index
    for path in files_below(second.folder / "objects"):
        links = (second.folder / "objects" / path).stat().st_nlink
        assert links == (2 if (first.folder / "objects" / path).exists() else 1)
    shutil.rmtree(first.folder)
    assert list(damaged_in(second.folder)) == []
    third = backed_up(shelf, folder, minutes=2, keep=1)
    assert backups_in(folder) == [third.folder]


def test_coreutils_can_check_a_backup(shelf: Shelf, tmp_path: Path) -> None:
    """Whoever finds the disk in ten years needs no Hilum to know that it is whole."""
    report = backed_up(shelf, tmp_path / "backups")
    command = ["sha256sum", "--quiet", "--check", "SHA256SUMS"]
    done = subprocess.run(command, cwd=report.folder, capture_output=True, check=False)
    assert (done.returncode, done.stdout) == (0, b"")


@pytest.mark.parametrize("how", ["changed", "gone", "list"])
def test_damaged_file_is_named_and_nothing_restored(shelf: Shelf, tmp_path: Path, how: str) -> None:
    """A bad sector is told with the name of the file, and no half data folder is left."""
    report = backed_up(shelf, tmp_path / "backups")
    name = files_below(report.folder / "objects")[0]
    victim = report.folder / "objects" / name
    if how == "changed":
        victim.write_bytes(b"x" + victim.read_bytes()[1:])
    elif how == "gone":
        victim.unlink()
    else:
        sums = report.folder / "SHA256SUMS"
        sums.write_text("\n".join(sums.read_text().splitlines()[1:]) + "\n")
    (problem, *_) = damaged_in(report.folder)
    assert (name in problem) is (how != "list")
    with pytest.raises(BackupError, match=name if how != "list" else "other files"):
        restore(report.folder, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_lost_file_is_told_and_found_in_the_backup_before(shelf: Shelf, tmp_path: Path) -> None:
    """What the index names and the folder lacks: an alarm, but the earlier copy is kept on."""
    folder = tmp_path / "backups"
    backed_up(shelf, folder)
    lost = files_below(shelf.root / "objects")[0]
    (shelf.root / "objects" / lost).unlink()
    shelf.store("C", "1")
    new = set(files_below(shelf.root / "objects")) - set(files_below(folder))
    gone = next(path for path in sorted(new) if (shelf.root / "objects" / path).exists())
    report = backed_up(shelf, folder, minutes=1)
    assert report.missing == (f"objects/{lost}",)
    assert (report.folder / "objects" / lost).is_file()
    assert list(damaged_in(report.folder)) == []
    assert gone


def test_backup_pauses_retention(shelf: Shelf) -> None:
    """A file that a saved row names must not go before it is copied."""
    shelf.clock.advance(days=5000)
    shelf.store("NEW", "1")
    keeper = shelf.retention()
    with paused(shelf.root):
        assert keeper.run().counts == {}
    assert keeper.run().counts["objects"] == 2


def test_settings_are_saved_without_what_is_secret(shelf: Shelf, tmp_path: Path) -> None:
    """Passcodes and keys are in a backup only where that was asked for."""
    (tmp_path / "our.key").write_text("KEY")
    (tmp_path / "our.pem").write_text("CERTIFICATE")
    (tmp_path / "tps.passcode").write_text("FILED-SECRET")
    settings = tmp_path / "hilum.toml"
    settings.write_text(
        '[node]\ndata = "data"\nmin_free_mib = 0\n'
        '[tls]\ncertificate = "our.pem"\nkey = "our.key"\npeer_authorities = "our.pem"\n'
        '[[peer]]\nname = "a"\nae_title = "A"\nhost = "127.0.0.1"\nroles = ["send"]\n'
        'username = "a"\npasscode = "INLINE-SECRET"\n'
        '[[peer]]\nname = "b"\nae_title = "B"\nhost = "127.0.0.1"\nroles = ["send"]\n'
        'username = "b"\npasscode_file = "tps.passcode"\n'
        '[[protocol]]\nname = "p"\ntargets = ["GTV*"]\n'
    )
    found = {}
    for with_secrets in (False, True):
        report = take_backup(
            read_config(settings), tmp_path / "backups", settings=settings,
            with_secrets=with_secrets, now=NOON + timedelta(days=with_secrets),
        )  # fmt: skip
        files = sorted((report.folder / "settings").iterdir())
        found[with_secrets] = {path.name: path.read_text() for path in files}
    assert sorted(found[False]) == ["hilum.toml", "our.pem"]
    assert "INLINE-SECRET" not in found[False]["hilum.toml"]
    assert 'name = "a"' in found[False]["hilum.toml"]
    assert sorted(found[True]) == ["hilum.toml", "our.key", "our.pem", "tps.passcode"]
    assert "INLINE-SECRET" in found[True]["hilum.toml"]


def test_backup_that_would_fill_the_disk_of_the_node_is_given_up(
    shelf: Shelf, tmp_path: Path
) -> None:
    """The node must go on receiving; earlier backups stay as they are."""
    first = backed_up(shelf, tmp_path / "backups")
    before = files_below(tmp_path / "backups")
    shelf.store("C", "1")
    with pytest.raises(StorageFullError, match="less room"):
        take_backup(
            config_of(shelf.root, min_free_mib=1e7),
            tmp_path / "backups",
            now=NOON + timedelta(minutes=1),
        )
    with pytest.raises(BackupError, match="exists already"):
        backed_up(shelf, tmp_path / "backups")
    assert files_below(tmp_path / "backups") == before
    assert backups_in(tmp_path / "backups") == [first.folder]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make a small disk (tmpfs)")
def test_full_disk_is_told_and_leaves_earlier_backups(shelf: Shelf, tmp_path: Path) -> None:
    """The disk of the backups is full in the middle of a file."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("no tmpfs can be mounted here")
    try:
        first = backed_up(shelf, disk)
        big = shelf.root / "objects" / "ff" / "big.dcm"
        big.parent.mkdir(exist_ok=True)
        big.write_bytes(bytes(2 << 20))
        with shelf.index.begin() as connection:
            is_b = INSTANCES.c.sop_instance_uid == "1.B.1"
            connection.execute(
                INSTANCES.update().where(is_b).values(path=str(big.relative_to(shelf.root)))
            )
        with pytest.raises(StorageFullError, match="room"):
            backed_up(shelf, disk, minutes=1)
        assert backups_in(disk) == [first.folder]
        assert not list(disk.glob("*.part"))
        assert list(damaged_in(first.folder)) == []
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_killed_backup_is_none_and_the_next_one_is_whole(shelf: Shelf, tmp_path: Path) -> None:
    """SIGKILL in the middle: what is there is no backup, and is removed by the next."""
    folder = tmp_path / "backups"
    code = (
        "import os, signal, sys\n"
        "from pathlib import Path\n"
        "from node.backup_files import BackupWriter\n"
        "add = BackupWriter.add\n"
        "def die(self, source, path):\n"
        "    add(self, source, path)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
        "BackupWriter.add = die\n"
        "from node.backup import take_backup\n"
        "from tests.test_backup import config_of\n"
        f"take_backup(config_of(Path({str(shelf.root)!r})), Path({str(folder)!r}))\n"
    )
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    died = subprocess.run([sys.executable, "-c", code], env=env, cwd=ROOT, check=False)
    assert died.returncode == -signal.SIGKILL
    assert len(list(folder.glob("*.part"))) == 1
    with pytest.raises(BackupError, match="holds no backup"):
        newest_in(folder)
    report = backed_up(shelf, folder)
    assert not list(folder.glob("*.part"))
    assert list(damaged_in(report.folder)) == []


def test_folders_that_cannot_serve_are_refused(shelf: Shelf, tmp_path: Path) -> None:
    """Nothing is overwritten, and each refusal says what to do instead."""
    with pytest.raises(BackupError, match="in the data folder"):
        backed_up(shelf, shelf.root / "backups")
    report = backed_up(shelf, tmp_path / "backups")
    with pytest.raises(BackupError, match="is not empty"):
        restore(report.folder, shelf.root)
    with pytest.raises(BackupError, match="holds no backup"):
        restore(tmp_path / "nothing", tmp_path / "new")
    with pytest.raises(BackupError, match="no node has worked"):
        take_backup(config_of(tmp_path / "nobody"), tmp_path / "backups")
    about = json.loads((report.folder / "backup.json").read_text())
    for key, value, words in (("schema_version", 99, "newer version"), ("format", 9, "format 9")):
        (report.folder / "backup.json").write_text(json.dumps({**about, key: value}))
        with pytest.raises(BackupError, match=words):
            restore(report.folder, tmp_path / "new")
    (report.folder / "backup.json").write_text("{")
    with pytest.raises(BackupError, match="damaged"):
        restore(report.folder, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_postgresql_is_saved_and_restored_without_its_programs(
    tmp_path: Path, postgres: PostgresServer
) -> None:
    """The same backup for either database: into SQLite, and into PostgreSQL, where ids go on."""
    url = postgres.database()
    index = Index(url)
    index.create()
    shelf = Shelf(tmp_path / "data", index)
    shelf.delivered("A", "a")
    report = take_backup(config_of(shelf.root, database=url), tmp_path / "backups", now=NOON)
    restore(report.folder, tmp_path / "lite")
    new_url = postgres.database()
    restore(report.folder, tmp_path / "post", database_url=new_url)
    with pytest.raises(NodeError, match="not empty"):
        restore(report.folder, tmp_path / "again", database_url=new_url)
    lite, post = Index(f"sqlite:///{tmp_path / 'lite' / 'index.sqlite'}"), Index(new_url)
    for table in METADATA.sorted_tables:
        expected = _content(index, table)
        assert _content(lite, table) == _content(post, table) == expected, table.name
    assert not (tmp_path / "post" / "index.sqlite").exists()
    assert Shelf(tmp_path / "post", post).store("C", "1")
    for each in (index, lite, post):
        each.close()


def _content(index: Index, table: sa.Table) -> list[str]:
    with index.read() as connection:
        return sorted(str(tuple(row)) for row in connection.execute(sa.select(table)))


@pytest.mark.parametrize("first_one", ["is lost", pytest.param("goes on", marks=pytest.mark.slow)])
def test_node_goes_on_from_a_backup_taken_while_it_received_and_computed(
    tmp_path: Path, first_one: str
) -> None:
    """Bullet 6: a case in the middle is finished once, under the same UIDs; nothing is lost.

    What was answered with success before the backup began is in it, although much of it had not
    reached the index yet.
    """
    options = {"size": "tiny", "contrasts": ("T1",), "with_dose": False}
    # what is delivered is not the point
    study = without_contrast(make_study(PhantomOptions(seed=7, **options)))  # type: ignore[arg-type]
    other = make_study(PhantomOptions(seed=8, **options))  # type: ignore[arg-type]
    files = write_datasets(study.instances(), tmp_path / "files")
    others = write_datasets(other.ct, tmp_path / "others")
    ports = {}
    with StandInReceiver(tmp_path / "tps", "TPS") as tps:
        ports["tps"] = tps.port
        with NodeProcess(tmp_path / "node", ports) as node:
            node.send(files)
            with _stopped(wait_for(node.computing_child, timeout_s=LONG_S, what="computing")):
                node.send(others[: len(others) // 2])
                sender = threading.Thread(target=node.send, args=(others[len(others) // 2 :],))
                sender.start()
                take_backup(read_config(node.config), tmp_path / "backups", settings=node.config)
                sender.join()
            checked = node.hilum("backup", str(tmp_path / "backups"), "--verify")
            assert (checked.returncode, "nothing damaged" in checked.stdout) == (0, True)
            if first_one == "goes on":
                _wait_delivered(node)
            else:
                node.kill()
        restored = run_hilum(
            "restore", str(tmp_path / "backups"), "--data", str(tmp_path / "second" / "data")
        )
        assert restored.returncode == 0, restored.stderr
        second = NodeProcess(tmp_path / "second", ports)
        index = Index(f"sqlite:///{tmp_path / 'second' / 'data' / 'index.sqlite'}")
        states = {case.structure_set_uid: str(case.state) for case in CaseBook(index).cases()}
        with second:
            _wait_delivered(second)
        found = {row.sop_instance_uid: row.path for row in _all_rows(index, INSTANCES)}
        index.close()
        received = dict(tps.receipts)
    assert "running" in states.values()
    sent = [str(ds.SOPInstanceUID) for ds in (*study.instances(), *other.ct)]
    promised_before = sent[: len(files) + len(others) // 2]
    assert set(promised_before) <= set(found)
    assert all((tmp_path / "second" / "data" / path).is_file() for path in found.values())
    assert received, "nothing was delivered"
    if first_one == "goes on":
        times = {len(versions) for versions in received.values()}
        assert times == {2}, "each object comes from both nodes, under the same UID"
    assert all(len(set(versions)) == 1 for versions in received.values())


@contextmanager
def _stopped(process: int) -> Iterator[None]:
    """Let the computing stand still: else it may be over before the backup begins."""
    os.kill(process, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(process, signal.SIGCONT)


def _all_rows(index: Index, table: sa.Table) -> list[sa.Row[tuple[object, ...]]]:
    with index.read() as connection:
        return list(connection.execute(sa.select(table)).all())


def _wait_delivered(node: NodeProcess) -> None:
    wait_for(lambda: "delivered" in node.states(), timeout_s=LONG_S, what="a delivered case")


def test_newer_schema_in_the_index_of_a_backup_is_brought_up_to_date(
    shelf: Shelf, tmp_path: Path
) -> None:
    """A backup of the version before is migrated when it is restored."""
    report = backed_up(shelf, tmp_path / "backups")
    old = report.folder / "index.sqlite"
    old.unlink()
    restore_index(old)
    sums = report.folder / "SHA256SUMS"
    lines = [line for line in sums.read_text().splitlines() if not line.endswith("  index.sqlite")]
    lines.append(f"{hashlib.sha256(old.read_bytes()).hexdigest()}  index.sqlite")
    sums.write_text("\n".join(sorted(lines, key=lambda one: one[66:])) + "\n")
    restore(report.folder, tmp_path / "new")
    index = Index(f"sqlite:///{tmp_path / 'new' / 'index.sqlite'}")
    assert len(CaseBook(index).cases()) == len(STATES)
    with index.read() as connection:
        assert connection.scalar(sa.select(SCHEMA.c.version)) == index.version()
    index.close()
