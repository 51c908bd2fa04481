"""The doctor's checks of several processes on one PostgreSQL: folder, clocks, life, password.

Says nothing where there is only one process. Looks and reports.
"""

import stat
from collections import Counter
from datetime import UTC, datetime, timedelta

from node.config import NodeSection
from node.doctor_machine import Check, CheckStatus
from node.doctor_mount import check_shared_folder
from node.errors import NodeError
from node.index import Index
from node.index.heartbeats import Heartbeats, Sign
from node.membership import versions_at_work

TOLERATED_OFFSET_S = 5.0
"""How far the clocks of the hosts may be apart: by so much a quiet period or a pause is off."""


def check_sharing(node: NodeSection) -> tuple[Check, ...]:
    """Tell how this host fits in with the others; nothing where nothing is shared."""
    if not node.is_shared:
        return ()
    found = [check_shared_folder(node.data)]
    if node.database_password_file is not None:
        found.append(check_password_file(node))
    try:
        index = Index(node.database_url)
        try:
            index.require_tables()
            book, now = Heartbeats(index), datetime.now(UTC)
            offset = book.clock_offset(now)
            found.append(check_offset(offset or timedelta(0)))
            found.append(check_processes(book.signs(), now, node.heartbeat_limit_s))
        finally:
            index.close()
    except NodeError:
        return tuple(found)  # the check of the database says what is wrong with it
    return tuple(found)


def check_password_file(node: NodeSection) -> Check:
    """Tell whether others can read the password."""
    name, file = "database password", node.database_password_file
    try:
        mode = file.stat().st_mode if file is not None else 0
    except OSError as error:
        mend = "correct node.database_password_file"
        return Check(name, CheckStatus.FAIL, f"{file}: {error.strerror}", mend)
    if mode & (stat.S_IRWXO | stat.S_IWGRP):
        return Check(name, CheckStatus.WARN, f"others may read {file}", f"chmod 640 {file}")
    return Check(name, CheckStatus.OK, "only the user of the node and its group may read it")


def check_offset(offset: timedelta) -> Check:
    """Tell how far this host's clock is ahead of the database's."""
    seconds = offset.total_seconds()
    text = f"{abs(seconds):.1f} s {'ahead of' if seconds > 0 else 'behind'} the database"
    if abs(seconds) <= TOLERATED_OFFSET_S:
        return Check("shared clock", CheckStatus.OK, text)
    mend = "let all hosts and the database follow one time server"
    return Check("shared clock", CheckStatus.WARN, text, mend)


def check_processes(signs: list[Sign], now: datetime, limit_s: float) -> Check:
    """Tell who shares the work, who has not given a sign of life in time, who runs what."""
    name = "processes"
    late = [s for s in signs if (now - s.beat_at).total_seconds() > limit_s]
    if late:
        told = ", ".join(f"{s.identity.name} since {s.beat_at:%H:%M:%S} UTC" for s in late)
        mend = "others have taken up its work; start it again, or forget it: in a day it is gone"
        return Check(name, CheckStatus.WARN, f"no sign of life of {told}", mend)
    if not signs:
        return Check(name, CheckStatus.OK, "none works now")
    versions = versions_at_work(signs, now, limit_s)
    if len(versions) > 1:
        told = "; ".join(f"{version}: {', '.join(names)}" for version, names in versions.items())
        mend = "bring all to one version; until then each case is computed as its process does"
        return Check(name, CheckStatus.WARN, f"several versions work, {told}", mend)
    roles = Counter(s.identity.role for s in signs)
    text = ", ".join(f"{count} {role}" for role, count in sorted(roles.items()))
    return Check(name, CheckStatus.OK, f"{text}; version {', '.join(versions)}")
