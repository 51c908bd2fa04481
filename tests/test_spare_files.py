"""Spare files lie in folders that come and go, spread over the disk; writing begins early."""

import array
import errno
import fcntl
import os
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from node.disk import WORTH_STARTING_BYTES, DiskCalls
from node.spare_files import SPARE_FILES, SpareFiles
from node.storage import ObjectStore

GET_FLAGS, TOPDIR = 0x80086601, 0x20000
"""As linux/fs.h has them."""


def keep(store: ObjectStore, content: bytes, uid: str) -> str:
    file = store.receive(uid)
    file.write([content])
    file.keep()
    return file.path


def file_system_of(path: Path) -> str:
    return subprocess.check_output(["stat", "-f", "-c", "%T", path], text=True)


def lots_in(root: Path) -> set[Path]:
    return set((root / "spare").iterdir())


def test_folders_of_used_lots_go(tmp_path: Path) -> None:
    """When the objects that were made there have their names for good, and when the node stops."""
    store = ObjectStore(tmp_path, 0)
    for number in range(5 * SPARE_FILES):
        keep(store, b"data set", f"1.2.{number}")
    assert len(lots_in(tmp_path)) >= 5, "a power cut may bring back what was renamed"
    store.sync_names()
    assert 0 < len(lots_in(tmp_path)) <= 3, "in use, and made ahead"
    keep(store, b"data set", "1.3")
    store.close()
    assert lots_in(tmp_path) == set()
    assert not store.was_interrupted()


def test_lot_that_cannot_be_made_leaves_no_folder(tmp_path: Path) -> None:
    """Senders try again and again while a disk is full."""

    def refuse(path: Path) -> None:
        if path.parent == tmp_path:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        DiskCalls().sync_directory(path)

    stock = SpareFiles(tmp_path, replace(DiskCalls(), sync_directory=refuse))
    for _ in range(3):
        with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)):
            stock.take()
    assert list(tmp_path.iterdir()) == []
    assert stock.used_lots() == []
    stock.close()


def test_folder_that_is_emptied_while_names_are_synced_stays(tmp_path: Path) -> None:
    """Its last rename may be none of those that were synced."""
    store = ObjectStore(tmp_path, 0)
    files = [store.receive(f"1.2.{number}") for number in range(SPARE_FILES)]
    for file in files[:-1]:
        file.keep()

    def sync_directory(path: Path) -> None:
        DiskCalls().sync_directory(path)
        if not (tmp_path / files[-1].path).exists():
            files[-1].keep()

    store.disk = replace(DiskCalls(), sync_directory=sync_directory)
    lot = (tmp_path / files[-1].spare).parent
    store.sync_names()
    assert lot.exists()
    store.sync_names()
    assert not lot.exists()
    store.close()


def test_folders_of_an_earlier_version_and_of_others_are_told_apart(tmp_path: Path) -> None:
    """The former layout is emptied; what another process makes below is left alone."""
    store = ObjectStore(tmp_path, 0)
    former, others = tmp_path / "spare" / "0" / "half", tmp_path / "spare" / "o" / "lot" / "theirs"
    for path in (former, others):
        path.parent.mkdir(parents=True)
        path.write_bytes(b"half")
    probe = tmp_path / "spare" / "probe"
    probe.write_bytes(b"0")  # of a disk that failed when the process ended
    assert store.was_interrupted()
    assert store.recover() == 1
    assert not former.parent.exists()
    assert not probe.exists()
    assert others.exists()
    assert not store.was_interrupted()


def test_folders_of_lots_are_spread(tmp_path: Path) -> None:
    """Where the file system knows of that; elsewhere nothing fails for it."""
    stock, flags = SpareFiles(tmp_path, DiskCalls()), array.array("l", [0])
    os.close(stock.take().descriptor)
    stock.close()
    descriptor = os.open(tmp_path, os.O_RDONLY)
    try:
        fcntl.ioctl(descriptor, GET_FLAGS, flags)
    except OSError:
        pytest.skip("this file system knows no such flag")
    finally:
        os.close(descriptor)
    if "ext" in file_system_of(tmp_path):
        assert flags[0] & TOPDIR


@pytest.mark.parametrize("fails", [False, True], ids=["taken", "refused"])
def test_disk_begins_before_the_sync(
    fails: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With what is worth it, all of it and nothing twice; as advice, whose failure is none."""
    calls: list[tuple[str, int, int]] = []

    def advise(_file: int, start: int, size_bytes: int, _advice: int) -> None:
        calls.append(("advise", start, size_bytes))
        if fails:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))

    def noted(name: str, call: Callable[[int], None]) -> Callable[[int], None]:
        return lambda file: (calls.append((name, 0, 0)), call(file))[1]

    monkeypatch.setattr(os, "posix_fadvise", advise)
    disk = replace(DiskCalls(), sync=noted("sync", DiskCalls().sync))
    store = ObjectStore(tmp_path, 0, disk=disk)
    file = store.receive("1.2")
    large, small = bytes(WORTH_STARTING_BYTES), bytes(WORTH_STARTING_BYTES - 1)
    for piece in (large, small, large):
        file.write([piece])
    file.keep()
    size = len(large)
    assert calls == [("advise", 0, size), ("advise", 2 * size - 1, size), ("sync", 0, 0)]
    assert store.read_path(file.path).stat().st_size == 3 * size - 1
    store.close()
