"""The doctor's check whose the files of the data folder are: a command run as root leaves some."""

import os
import pwd
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from node.doctor_machine import Check, CheckStatus

PLACES = (
    "*", "audit/*", "audit/*/*", "journal-*/*", "processes/*", "spare/*", "work/*", "objects/*",
    "results/*",
)  # fmt: skip
"""Where a command writes, and the folders that the node must write into; not every object."""

MOST_LOOKED_AT = 5_000
"""Of each place."""

MOST_NAMED = 3


def check_ownership(data: Path) -> tuple[Check, ...]:
    """Tell which files of a data folder belong to another user than the folder; () without one."""
    try:
        owner = data.stat().st_uid
    except OSError:
        return ()  # told by the check of the folder
    foreign = [(path, user) for path, user in _owned(data) if user != owner]
    if not foreign:
        return (Check("ownership", CheckStatus.OK, f"all of {data} belongs to {_name(owner)}"),)
    counts = Counter(_name(user) for _, user in foreign)
    whose = ", ".join(f"{count} to {name}" for name, count in counts.most_common())
    named = ", ".join(str(path.relative_to(data)) for path, _ in foreign[:MOST_NAMED])
    more = ", …" if len(foreign) > MOST_NAMED else ""
    is_shut = not all(os.access(path, os.W_OK) for path, _ in foreign)
    consequence = "cannot be written" if is_shut else "may be shut to the node"
    return (
        Check(
            "ownership",
            CheckStatus.FAIL if is_shut else CheckStatus.WARN,
            f"{data} belongs to {_name(owner)}, of what lies in it {whose} ({named}{more}): "
            f"it {consequence}",
            f"chown -R {_name(owner)}: {data}; run hilum's commands as that user, never as root",
        ),
    )


def _owned(data: Path) -> Iterator[tuple[Path, int]]:
    for place in PLACES:
        for path in islice(data.glob(place), MOST_LOOKED_AT):
            try:
                yield path, path.lstat().st_uid
            except OSError:
                continue  # gone meanwhile


def _name(user: int) -> str:
    try:
        return pwd.getpwuid(user).pw_name
    except KeyError:
        return f"user {user}"
