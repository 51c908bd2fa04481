"""An index as it is after years: any number of cases, written in bulk through the real tables.

Every row is sound: headers and jobs are those of a real study under other names and UIDs, and every
case has what a delivered one has (results, receipts, history, catalogue, words). Files there are
none. A few cases stand in each of the other states, as many in a large index as in a small one.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from node.case_job import case_job
from node.config import Config
from node.header import InstanceHeader
from node.index import Index
from node.index.case_list_rows import CASE_WORDS
from node.index.case_rows import CASES, DELIVERIES, HISTORY, RECEIPTS, RESULTS, REVISIONS, utc_text
from node.index.catalogue_rows import CATALOGUED, RESULT_OBJECTS, RESULT_SERIES
from node.index.instances import Arrival, InstanceBook, patient_key_of
from node.index.tables import ASSOCIATIONS, INSTANCES, SERIES_CARRIED
from node.phantom import PhantomOptions, make_study
from node.process import gather, only_case
from node.storage import StoredFile
from tests.nodes import write_datasets

CT_SLICES, MR_SLICES = 13, 6
INSTANCES_OF_CASE = CT_SLICES + MR_SLICES + 1
ROOT = "1.2.826.0.1.3680043.10.@"
"""Root of all UIDs; `@` becomes the number of the case."""

KINDS = ("mr",) * 4 + ("registration", "segmentation", "structure-set", "report", "pdf")
STATES = ("waiting", "delivering", "failed", "undelivered", "rejected")
OF_EACH_STATE = 10
CASES_AT_ONCE = 500
YEARS_END = timedelta(hours=3)
"""The newest case came so long ago."""

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Pattern:
    """One case whose texts hold `@` where its number belongs.

    Attributes:
        instances: Rows of its objects, structure set last.
        job: Of its computing, JSON.
        summary: Of its result, JSON.
    """

    instances: tuple[Row, ...]
    job: str
    summary: str


def pattern(folder: Path, config: Config) -> Pattern:
    """Return the case of a small phantom as a pattern; writes its files into `folder`."""
    study = make_study(PhantomOptions(seed=5, size="tiny", contrasts=("T1",), with_dose=False))
    some = [*study.ct[:CT_SLICES], *study.mr["T1"][:MR_SLICES], study.structure_set]
    write_datasets(some, folder)
    gathered = gather([folder])
    # only these slices are there: the structure set must refer to no others
    held = {one.header.sop_instance_uid for one in gathered.instances}
    names: dict[str, str] = {}

    def renamed(text: str) -> str:
        for old in sorted(names, key=len, reverse=True):
            text = text.replace(old, names[old])
        return text

    for one in gathered.instances:
        header = one.header
        uids = (header.sop_instance_uid, header.series_instance_uid, header.study_instance_uid)
        for uid in (*uids, header.frame_of_reference_uid):
            names.setdefault(uid, f"{ROOT}.{len(names) + 1}")
        names.setdefault(header.patient_id, "GROWN-@")
        names.setdefault(header.patient_name, "Grown^Case@")
    rows = []
    for number, one in enumerate(sorted(gathered.instances, key=lambda i: i.header.modality)):
        document = one.header.to_json()
        document["referenced_sop_instance_uids"] = [
            uid for uid in document["referenced_sop_instance_uids"] if uid in held
        ]
        rows.append(
            {
                "sop_instance_uid": names[one.header.sop_instance_uid],
                "series": names[one.header.series_instance_uid],
                "study": names[one.header.study_instance_uid],
                "modality": one.header.modality,
                "referenced_series": names.get(one.header.referenced_series_uid, ""),
                "header": renamed(json.dumps(document)),
                "path": f"objects/@/{number}.dcm",
                "sha256": f"{number:032x}@",
            }
        )
    protocol = config.protocol[0]
    proposal = only_case(gathered, config.protocol)
    created = proposal.instances[0].received_at
    job = case_job(proposal, protocol, config, root="/", created=created).model_dump_json()
    return Pattern(tuple(rows), renamed(job), SUMMARY)


SUMMARY = json.dumps(
    {
        "registrations": [{"kind": "mr", "status": "pass", "uncertainty_mm": 1.4, "reasons": []}],
        "targets": [
            {
                "source_roi": "GTVn",
                "refined_roi": "GTVn_CT1MR1",
                "status": "refined",
                "reasons": ["The border is seen on T1."],
            }
        ],
        "findings": [{"code": "mr.old", "severity": "warning", "text": "The MR is 9 days old."}],
    }
)


def fill(index: Index, cases: int, one: Pattern) -> int:
    """Write that many cases into an index without any; return how many instances they have."""
    newest = datetime.now(UTC) - YEARS_END
    for start in range(0, cases, CASES_AT_ONCE):
        tables: dict[sa.Table, list[Row]] = {}
        for number in range(start, min(start + CASES_AT_ONCE, cases)):
            at = newest - timedelta(minutes=10 * (cases - 1 - number))
            for table, row in _rows(one, number, cases, at):
                tables.setdefault(table, []).append(row)
        with index.begin() as connection:
            for table in (ASSOCIATIONS, *(t for t in tables if t is not ASSOCIATIONS)):
                connection.execute(table.insert(), tables[table])
    book = InstanceBook(index)
    with index.read() as connection:
        rows = connection.scalar(sa.select(sa.func.max(INSTANCES.c.id))) or 0
    book.note_looked(rows)
    return rows


def newcomer(one: Pattern, number: int, now: datetime) -> list[Arrival]:
    """Return the objects of one more case, as they come in now."""
    found = []
    for row in one.instances:
        text = {key: value.replace("@", str(number)) for key, value in row.items()}
        header = InstanceHeader.from_json(json.loads(text["header"]))
        stored = StoredFile(path=text["path"], sha256=text["sha256"], size_bytes=34_000)
        found.append(Arrival(header, stored, None, "scanner", now))
    return found


def case_id_of(number: int) -> str:
    """Return the id of a case by its number."""
    return f"{number:016x}"


def state_of(number: int, cases: int) -> str:
    """Return in which state a case stands; the newest few stand in others than `delivered`."""
    from_end = cases - 1 - number
    group = from_end // OF_EACH_STATE
    return STATES[group] if group < len(STATES) else "delivered"


def _rows(one: Pattern, number: int, cases: int, at: datetime) -> Iterator[tuple[sa.Table, Row]]:
    """Return all rows of one case."""
    name, state, text = str(number), state_of(number, cases), utc_text(at)
    case_id = case_id_of(number)
    yield (
        ASSOCIATIONS,
        {
            "id": number + 1,
            "calling_ae": "SCANNER",
            "peer": "scanner",
            "address": "127.0.0.1",
            "opened_at": at - timedelta(minutes=5),
            "closed_at": at - timedelta(minutes=4),
            "outcome": "released",
            "node_run": "earlier",
            "objects": len(one.instances),
        },
    )
    series = {row["series"] for row in one.instances}
    for each in series:
        yield (
            SERIES_CARRIED,
            {"association_id": number + 1, "series": each.replace("@", name)},
        )
    yield from _instances(one, number, state, at)
    job = one.job.replace("@", name)
    revision = 0 if state == "waiting" else 1
    structure_set = one.instances[-1]["sop_instance_uid"].replace("@", name)
    yield (
        CASES,
        {
            "case_id": case_id,
            "patient_key": _patient_key(name),
            "protocol": "liver",
            "ct_series_uid": one.instances[0]["series"].replace("@", name),
            "structure_set_uid": structure_set,
            "state": state,
            "reason": "" if state == "delivered" else f"why it is {state}",
            "fingerprint": f"{number:064x}" if revision else "",
            "revision": revision,
            "seen": f"{number:064x}",
            "look_again": False,
            "findings": "[]",
            "created_at": text,
            "updated_at": text,
            "patient_name": f"Grown^Case{name}",
            "patient_id": f"GROWN-{name}",
            "registration": "pass" if revision else "",
            "target": "refined" if revision else "",
            "worst": "warning" if revision else "",
        },
    )
    for word in (case_id, f"grown-{name}", "grown", f"case{name}", structure_set):
        yield CASE_WORDS, {"word": word, "case_id": case_id}
    for page in ("receiving", "waiting", "ready", "running", "delivering", state):
        yield (
            HISTORY,
            {
                "case_id": case_id,
                "revision": revision,
                "state": page,
                "reason": "",
                "at": text,
            },
        )
    if revision:
        yield from _result(one, job, number, state, at)


def _instances(
    one: Pattern, number: int, state: str, at: datetime
) -> Iterator[tuple[sa.Table, Row]]:
    name = str(number)
    # a case that waits lacks its first slice
    for row in one.instances[1 if state == "waiting" else 0 :]:
        yield (
            INSTANCES,
            {
                **{key: value.replace("@", name) for key, value in row.items()},
                "patient_key": _patient_key(name),
                "size_bytes": 34_000,
                "transfer_syntax": "1.2.840.10008.1.2.1",
                "received_at": at,
                "peer": "scanner",
                "association_id": number + 1,
                "is_newest": True,
                "is_ours": False,
            },
        )


def _result(
    one: Pattern, job: str, number: int, state: str, at: datetime
) -> Iterator[tuple[sa.Table, Row]]:
    case_id, text, later = case_id_of(number), utc_text(at), utc_text(at + timedelta(days=30))
    study = one.instances[0]["study"].replace("@", str(number))
    yield (
        REVISIONS,
        {
            "case_id": case_id,
            "revision": 1,
            "fingerprint": f"{number:064x}",
            "attempt": 0,
            "next_try_at": text,
            "begun": 1,
            "failures": 0,
            "job": job,
            "summary": one.summary,
            "created_at": text,
            "finished_at": text,
        },
    )
    if state in ("failed", "rejected"):
        return
    is_owed = state == "delivering"
    yield (
        DELIVERIES,
        {
            "case_id": case_id,
            "revision": 1,
            "peer": "tps",
            "attempt": 0,
            "next_try_at": later if is_owed else text,
            "state": "pending" if is_owed else state,
            "reason": "",
            "give_up_at": later,
            "updated_at": text,
            "outputs": json.dumps(sorted(set(KINDS))),
            "begun": 1,
        },
    )
    yield CATALOGUED, {"case_id": case_id, "revision": 1, "finished_at": text}
    for kind in sorted(set(KINDS)):
        yield (
            RESULT_SERIES,
            {
                "case_id": case_id,
                "revision": 1,
                "series": _result_uid(number, kind, 0),
                "study": study,
                "patient_id": f"GROWN-{number}",
                "attributes": "{}",
                "sop_classes": "[]",
                "objects": KINDS.count(kind),
            },
        )
    for at_kind, kind in enumerate(KINDS, start=1):
        uid = _result_uid(number, kind, at_kind)
        path = f"results/{case_id}/1/out/{at_kind}.dcm"
        own = {"case_id": case_id, "revision": 1, "sop_instance_uid": uid}
        yield RESULTS, {**own, "path": path, "output": kind}
        yield (
            RESULT_OBJECTS,
            {
                **own,
                "series": _result_uid(number, kind, 0),
                "study": study,
                "sop_class": "1.2.840.10008.5.1.4.1.1.4",
                "path": path,
                "attributes": "{}",
            },
        )
        if not is_owed:
            yield (
                RECEIPTS,
                {
                    **own,
                    "peer": "tps",
                    "status": 0,
                    "outcome": "sent",
                    "reason": "",
                    "at": text,
                    "commitment": "",
                    "commitment_reason": "",
                },
            )


def _result_uid(number: int, kind: str, place: int) -> str:
    return f"{ROOT.replace('@', str(number))}.9.{KINDS.index(kind)}.{place}"


def _patient_key(name: str) -> str:
    return patient_key_of(_Named(f"GROWN-{name}"))  # type: ignore[arg-type]


@dataclass(frozen=True, slots=True)
class _Named:
    """As much of a header as a patient's key is made of."""

    patient_id: str
