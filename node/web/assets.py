"""The files that browsers load beside a page, and the stamp by which they keep them."""

import hashlib
from functools import cache
from pathlib import Path

STATIC = Path(__file__).parent / "static"


def stamp_of(folder: Path) -> str:
    """Return a stamp of all files in a folder: browsers keep a file until its stamp is another.

    The version would not do: whoever installs from a checkout has several programs under one.
    """
    found = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        found.update(hashlib.sha256(path.read_bytes()).digest())
    return found.hexdigest()[:12]


@cache
def own_stamp() -> str:
    """Return the stamp of the files that this process gives out.

    During an upgrade a browser may ask an older process for the file that a newer page names: what
    it gets must not be kept under that stamp.
    """
    return stamp_of(STATIC)
