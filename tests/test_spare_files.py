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


def test_folders_of_used_lots_go(tmp_path: Path) -> None:
    """Not one stays behind for each lot, and none when the node has stopped."""
    store = ObjectStore(tmp_path, 0)
    for number in range(5 * SPARE_FILES):
        keep(store, b"data set", f"1.2.{number}")
    lots = list((tmp_path / "spare").iterdir())
    assert 0 < len(lots) <= 3, "in use, and made ahead"
    store.close()
    assert list((tmp_path / "spare").iterdir()) == []
    assert not store.was_interrupted()


def test_folders_of_an_earlier_version_and_of_others_are_told_apart(tmp_path: Path) -> None:
    """The former layout is emptied; what another process makes below is left alone."""
    store = ObjectStore(tmp_path, 0)
    former, others = tmp_path / "spare" / "0" / "half", tmp_path / "spare" / "o" / "lot" / "theirs"
    for path in (former, others):
        path.parent.mkdir(parents=True)
        path.write_bytes(b"half")
    assert store.was_interrupted()
    assert store.recover() == 1
    assert not former.parent.exists()
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
