"""Lets a command that root runs leave nothing that the user of the node cannot write."""

import os
from contextlib import suppress
from pathlib import Path


def give_to_owner(data: Path, *made: Path) -> None:
    """Give files or folders that were just made to the user whose the data folder is.

    Does nothing unless this process is root's; where a file server forbids it, they stay root's,
    and `hilum doctor` says so.

    Args:
        data: The data folder.
        made: What was made in it.
    """
    if os.geteuid() != 0:
        return
    with suppress(OSError):
        owner = data.stat()
        for path in made:
            os.chown(path, owner.st_uid, owner.st_gid)
