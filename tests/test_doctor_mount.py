"""What the doctor says of the file system that several hosts share."""

import fcntl
from pathlib import Path

import pytest

from node.doctor_mount import check_shared_folder, mount_of, try_locks_and_renames

ROOT = "21 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw\n"
"""A line as the kernel writes it (proc(5))."""


def mounted(place: Path | str, kind: str, options: str = "rw") -> str:
    return f"{ROOT}40 21 0:45 / {place} rw,relatime - {kind} server:/hilum {options}\n"


@pytest.mark.parametrize(
    ("kind", "options", "status", "text"),
    [
        ("nfs4", "rw,vers=4.1,hard,local_lock=none", "ok", "nfs4, mounted at"),
        ("ceph", "rw", "ok", "ceph, mounted at"),
        ("fuse.glusterfs", "rw,user_id=0", "ok", "fuse.glusterfs, mounted at"),
        ("nfs", "rw,vers=3,hard,nolock", "fail", "nolock: locks are kept from the other hosts"),
        ("nfs4", "rw,local_lock=all", "fail", "local_lock=all: locks are kept"),
        ("nfs4", "rw,vers=4.1,soft", "warn", "mounted soft"),
        ("cifs", "rw,nobrl", "fail", "nobrl: locks are kept"),
        ("cifs", "rw", "warn", "lies on cifs: whether it locks and keeps across hosts"),
        ("fuse.sshfs", "rw", "fail", "locks on one host alone"),
        ("tmpfs", "rw", "fail", "keeps nothing when the machine stops"),
        ("ext4", "rw", "ok", "of this machine: all processes must run on it"),
    ],
)
def test_file_system_is_judged_by_kind_and_options(
    tmp_path: Path, kind: str, options: str, status: str, text: str
) -> None:
    """The folder itself locks and renames well: what is said comes from the mount."""
    found = check_shared_folder(tmp_path, mounted(tmp_path, kind, options))
    assert found.status == status
    assert text in found.text
    assert bool(found.mend) == (status != "ok")


def test_innermost_and_last_mount_counts() -> None:
    """Spaces are told as octal numbers; a folder that begins alike is another."""
    mounts = mounted("/srv/a\\040b", "nfs4") + mounted("/srv", "xfs") + "nonsense\n"
    found = mount_of(Path("/srv/a b/data"), mounts)
    assert found is not None
    assert (found.kind, found.place) == ("nfs4", Path("/srv/a b"))
    other = mount_of(Path("/srv/a bc"), mounts)
    assert other is not None
    assert other.kind == "xfs"
    again = mount_of(Path("/srv/x"), mounts + mounted("/srv", "ceph"))
    assert again is not None
    assert again.kind == "ceph"
    assert mount_of(Path("/srv"), "") is None


def test_folder_that_does_not_lock_is_found_by_trying(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that refuses to lock, and one that lets everybody have the lock."""
    assert try_locks_and_renames(tmp_path) == ""
    monkeypatch.setattr(fcntl, "flock", lambda _file, _how: None)
    found = check_shared_folder(tmp_path, mounted(tmp_path, "nfs4"))
    assert (found.status, "two can lock the same file" in found.text) == ("fail", True)

    def refuse(_file: object, _how: int) -> None:
        raise OSError(37, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    found = check_shared_folder(tmp_path, mounted(tmp_path, "nfs4"))
    assert (found.status, "No locks available" in found.text) == ("fail", True)
    assert not list(tmp_path.iterdir())
