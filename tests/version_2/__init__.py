"""A node's databases as version 2 left them, killed while it computed.

`index.sql.gz` and `workflow.sql.gz` are dumps of databases that the program of schema version 2
made: a synthetic patient (`STUDY`) whose case runs, the structure set of another one that waits for
its images, and a case without objects in each other state. The folder was called `/hilum-data`.
"""

import gzip
import sqlite3
from collections.abc import Iterable
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pydicom
from pydicom import Dataset

from node.phantom import PhantomOptions
from tests.owed_results import write_object

STUDY = PhantomOptions(seed=7, size="tiny", contrasts=("T1",), with_dose=False)
OTHER_STUDY = PhantomOptions(seed=8, size="tiny", contrasts=("T1",), with_dose=False)

STATES = {
    "51216c8a1b95a064": "running",
    "ced50bc35eb759db": "waiting",
    "c0ffee00000000000000delivering01": "delivering",
    "c0ffee0000000000000000delivered1": "delivered",
    "c0ffee00000000000000undelivered1": "undelivered",
    "c0ffee0000000000000000abandoned1": "abandoned",
    "c0ffee00000000000000000rejected1": "rejected",
    "c0ffee0000000000000000000failed1": "failed",
}
"""By case."""

RUNNING, DELIVERING = "51216c8a1b95a064", "c0ffee00000000000000delivering01"


def dump(name: str) -> str:
    """Return the statements that make one of the databases."""
    return gzip.decompress((Path(__file__).parent / f"{name}.sql.gz").read_bytes()).decode()


def restore_index(path: Path, root: str = "/hilum-data") -> None:
    """Make the index; work on it begins as if it had been broken off just now."""
    with closing(sqlite3.connect(path)) as index:
        index.executescript(dump("index").replace("/hilum-data", root))
        later = (datetime.now(UTC) + timedelta(hours=10)).isoformat(timespec="milliseconds")
        index.execute("UPDATE deliveries SET give_up_at = ?", (later,))
        index.execute("UPDATE deliveries SET updated_at = next_try_at")
        index.commit()


def restore_folder(data: Path, objects: Iterable[Dataset]) -> None:
    """Make a data folder: both databases, the objects, and the results that are owed."""
    data.mkdir(parents=True)
    restore_index(data / "index.sqlite", str(data))
    with closing(sqlite3.connect(data / "workflow.sqlite")) as workflow:
        workflow.executescript(dump("workflow"))
    by_uid = {str(ds.SOPInstanceUID): ds for ds in objects}
    with closing(sqlite3.connect(data / "index.sqlite")) as index:
        rows = index.execute("SELECT sop_instance_uid, path FROM instances").fetchall()
        query = "SELECT sop_instance_uid, path FROM results WHERE case_id = ? ORDER BY path"
        results = index.execute(query, (DELIVERING,)).fetchall()
    for uid, path in rows:
        (data / path).parent.mkdir(parents=True, exist_ok=True)
        pydicom.dcmwrite(data / path, by_uid[uid], enforce_file_format=True)
    for number, (uid, path) in enumerate(results):
        assert write_object(data / path, 1 + number) == uid
