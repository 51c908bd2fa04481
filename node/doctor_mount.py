"""The doctor's check of the file system under a data folder that several hosts share.

Whoever shares it relies on four things: a lock (flock) that holds across hosts, a rename that
replaces in one step, what was synced is kept when a host or the server dies, and a file that one
host has closed is seen whole by the next that opens it. Only locks and renames can be tried from
one host; of the rest, the kind of file system and how it is mounted must tell.
"""

import fcntl
import re
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from node.doctor_machine import Check, CheckStatus

MOUNTS = Path("/proc/self/mountinfo")

SHARED_KINDS = frozenset(
    {"nfs4", "nfs", "ceph", "fuse.ceph-fuse", "fuse.glusterfs", "gpfs", "lustre"}
)
"""File systems that several hosts can mount and that keep, lock and rename as is needed."""

OWN_KINDS = frozenset({"ext4", "ext3", "xfs", "btrfs", "zfs", "overlay"})
"""Those of one machine: right where all processes run on it, as containers of one host do."""

UNFIT_KINDS = {
    "tmpfs": "keeps nothing when the machine stops",
    "ramfs": "keeps nothing when the machine stops",
    "fuse.sshfs": "locks on one host alone, and says that it synced what it has not",
    "9p": "locks on one host alone",
}

UNFIT_OPTIONS = {
    "nolock": "locks are kept from the other hosts",
    "local_lock=all": "locks are kept from the other hosts",
    "local_lock=flock": "locks are kept from the other hosts",
    "nobrl": "locks are kept from the other hosts",
}

_NAME = "shared folder"
_MEND = "put node.data on NFS 4.1 (hard, without nolock), CephFS or GlusterFS"


@dataclass(frozen=True, slots=True)
class Mount:
    """A mounted file system."""

    place: Path
    kind: str
    options: frozenset[str]


def check_shared_folder(data: Path, mounts: str | None = None) -> Check:
    """Tell whether the file system under a folder is one that several hosts can share.

    Args:
        data: The folder; it need not exist.
        mounts: What is mounted, as Linux tells it; None: asks for it.
    """
    if mounts is None:
        mounts = MOUNTS.read_text(encoding="utf-8") if MOUNTS.exists() else ""
    mount = mount_of(data.resolve(), mounts)
    if problem := _unfit(mount):
        return Check(_NAME, CheckStatus.FAIL, problem, _MEND)
    try:
        problem = try_locks_and_renames(data) if data.is_dir() else ""
    except OSError:
        problem = ""  # the check of the data folder says that nothing can be written there
    if problem:
        return Check(_NAME, CheckStatus.FAIL, problem, _MEND)
    if mount is None or mount.kind not in SHARED_KINDS | OWN_KINDS:
        kind = "an unknown file system" if mount is None else mount.kind
        text = f"{data} lies on {kind}: whether it locks and keeps across hosts is not known"
        return Check(_NAME, CheckStatus.WARN, text, _MEND)
    if "soft" in mount.options or "softerr" in mount.options:
        text = f"{mount.place} is mounted soft: writes fail where they should wait for the server"
        return Check(_NAME, CheckStatus.WARN, text, "mount it hard")
    if mount.kind in OWN_KINDS:
        text = f"{mount.kind}, of this machine: all processes must run on it"
        return Check(_NAME, CheckStatus.OK, text)
    return Check(_NAME, CheckStatus.OK, f"{mount.kind}, mounted at {mount.place}")


def _unfit(mount: Mount | None) -> str:
    if mount is None:
        return ""
    if reason := UNFIT_KINDS.get(mount.kind):
        return f"{mount.place} is {mount.kind}: it {reason}"
    found = sorted(mount.options & set(UNFIT_OPTIONS))
    return f"{mount.place} is mounted {found[0]}: {UNFIT_OPTIONS[found[0]]}" if found else ""


def mount_of(folder: Path, mounts: str) -> Mount | None:
    """Return the file system that a folder lies on (proc(5), mountinfo), None if none is told."""
    found = None
    for line in mounts.splitlines():
        before, _, after = line.partition(" - ")
        fields, rest = before.split(), after.split()
        if len(fields) < 6 or len(rest) < 3:
            continue
        place = Path(re.sub(r"\\([0-7]{3})", lambda m: chr(int(m[1], 8)), fields[4]))
        # of several at one place the last is on top
        if folder.is_relative_to(place) and (
            found is None or len(place.parts) >= len(found.place.parts)
        ):
            options = frozenset(f"{fields[5]},{rest[2]}".split(","))
            found = Mount(place, rest[0], options)
    return found


def try_locks_and_renames(folder: Path) -> str:
    """Return what a folder does not do that sharing needs, or an empty text.

    Raises:
        OSError: Nothing can be written there.
    """
    with tempfile.TemporaryDirectory(dir=folder, prefix=".hilum-doctor-") as name:
        old, new = Path(name, "old"), Path(name, "new")
        old.write_bytes(b"old")
        new.write_bytes(b"new")
        with old.open("rb") as one, old.open("rb") as other:
            try:
                fcntl.flock(one, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                return f"files under {folder} cannot be locked: {error.strerror}"
            with suppress(OSError):  # as it must be: the other one holds it
                fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return f"two can lock the same file under {folder}"
        new.replace(old)
        return "" if old.read_bytes() == b"new" else f"a rename under {folder} does not replace"
