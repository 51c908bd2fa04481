"""Says why a database cannot be opened, and what to do about it, without repeating its own words.

What a driver says may hold addresses and names of users; it is looked at, and not told.
"""

import sqlalchemy as sa

from node.errors import NodeError

_WHERE_IT_STANDS = "put the right one into node.database_password_file, or into libpq's PGPASSFILE"
_KNOWN = (
    (("does not exist", "database"), "it is not there", "create it: createdb -O USER NAME"),
    (("authentication failed",), "it refuses the user or the password", _WHERE_IT_STANDS),
    (("no password supplied",), "it wants a password", _WHERE_IT_STANDS),
    (("no pg_hba.conf entry",), "it lets nobody in from this host", "add the host to pg_hba.conf"),
    (("permission denied",), "its user may not make tables there", "make it the owner: -O USER"),
    (("refused",), "nobody listens there", "start it, or correct node.database"),
    (("could not translate host",), "its host is unknown", "correct node.database"),
    (("failed to resolve host",), "its host is unknown", "correct node.database"),
    (
        ("unable to open database file",),
        "its file or folder is shut to this user",
        "`hilum doctor` names the files (ownership): give them to the user of the node",
    ),
    (("timeout",), "its host does not answer", "see whether a firewall lies between"),
)
"""Words of the driver that must all be there, what they mean, and the mend."""


def cannot_open(error: sa.exc.DBAPIError) -> NodeError:
    """Return what to tell of a database that cannot be opened."""
    words = str(error.orig).lower()
    for wanted, why, mend in _KNOWN:
        if all(word in words for word in wanted):
            return NodeError(f"the database cannot be opened: {why}", hint=mend)
    return NodeError(
        f"the database cannot be opened ({type(error.orig).__name__})",
        hint="see that it runs and that its file is undamaged; else restore a backup",
    )
