"""What lists show of a case and find it by: kept beside the case, a list reads nothing else.

The patient's name and ID are for people who have logged in; they stand in no log.
"""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from handlers.values import Severity
from node.assembly import CaseProposal
from node.header import InstanceHeader
from node.index import Index
from node.index.case_list_rows import CASE_WORDS, WORD_LENGTH
from node.index.case_rows import CASES, REVISIONS
from node.index.delivery_accounts import delivery_findings
from node.index.tables import INSTANCES

MOST_WORDS = 64
"""By more words no case is found."""

_SEPARATORS = re.compile(r"[\^=,;\s]+")
_SEVERITIES = (Severity.FAILURE, Severity.WARNING, Severity.INFO)
_STATUSES = ("fail", "warn", "pass")
_CHUNK = 200


def words_of(text: str) -> list[str]:
    """Return the words of a text, as they are kept and looked for.

    Example:
        >>> words_of("Müller^Ann-Marie")
        ['müller', 'ann-marie']
    """
    parts = _SEPARATORS.split(text.casefold())
    return [part[:WORD_LENGTH] for part in parts if part]


def label_columns(header: InstanceHeader) -> dict[str, str]:
    """Return the columns of a case that say whose it is."""
    return {"patient_name": header.patient_name, "patient_id": header.patient_id.strip()}


def verdict_columns(summary: Mapping[str, Any]) -> dict[str, str]:
    """Return the columns of a case that sum up a result; empty ones of no result.

    Args:
        summary: Of the revision, as computing left it.
    """
    statuses = {str(each["status"]) for each in summary.get("registrations", ())}
    outcomes = {str(each["status"]) for each in summary.get("targets", ())}
    target = "partly refined" if len(outcomes) > 1 else next(iter(outcomes), "")
    return {
        "registration": next((status for status in _STATUSES if status in statuses), ""),
        "target": target,
        "worst": worst_of(summary.get("findings", ())),
    }


def worst_of(findings: Iterable[Mapping[str, Any]]) -> str:
    """Return the worst severity among findings, or an empty text where there is none."""
    found = {str(each["severity"]) for each in findings}
    return next((str(severity) for severity in _SEVERITIES if severity in found), "")


def tell_worst(connection: sa.Connection, row: sa.Row[Any], revision: int) -> None:
    """Keep the worst finding of a case up to date with what the peers have answered.

    To be called whenever answers have come or went: at the end of an attempt, with a report, by
    order.

    Args:
        connection: Of the transaction that changed the answers.
        row: Of the case, locked by `case_row`.
        revision: Whose answers have changed; those of an earlier one are of no interest.
    """
    if row.revision != revision:
        return
    summary = connection.scalar(
        sa.select(REVISIONS.c.summary).where(
            REVISIONS.c.case_id == row.case_id, REVISIONS.c.revision == revision
        )
    )
    worst = worst_of(_all_findings(connection, row, json.loads(summary or "{}")))
    if worst != row.worst:
        is_this = CASES.c.case_id == row.case_id
        connection.execute(CASES.update().where(is_this).values(worst=worst))


def _all_findings(
    connection: sa.Connection, row: sa.Row[Any], summary: Mapping[str, Any]
) -> tuple[Mapping[str, Any], ...]:
    """Return what the page of a case tells: of computing, else of assembly; and of deliveries."""
    told = summary.get("findings") or json.loads(row.findings)
    return (*told, *delivery_findings(connection, row.case_id, row.revision))


def write_words(
    connection: sa.Connection, case_id: str, header: InstanceHeader, uids: Iterable[str]
) -> None:
    """Keep by what a case is found: the patient's name and ID, its own id, UIDs."""
    patient_id = header.patient_id.strip().casefold()[:WORD_LENGTH]
    found = [case_id, patient_id, *words_of(header.patient_id), *words_of(header.patient_name)]
    wanted = list(dict.fromkeys(word for word in (*found, *uids) if word))[:MOST_WORDS]
    is_of_case = CASE_WORDS.c.case_id == case_id
    known = set(connection.scalars(sa.select(CASE_WORDS.c.word).where(is_of_case)))
    if gone := known.difference(wanted):
        connection.execute(CASE_WORDS.delete().where(is_of_case, CASE_WORDS.c.word.in_(gone)))
    if rows := [{"word": word, "case_id": case_id} for word in wanted if word not in known]:
        connection.execute(CASE_WORDS.insert(), rows)


def label_case(connection: sa.Connection, proposal: CaseProposal) -> None:
    """Keep whose case it is that assembly proposes, and by which words it is found."""
    headers = [one.header for one in proposal.instances]
    planning = (proposal.structure_set_uid, proposal.ct_series_uid)
    named = [h for h in headers if h.sop_instance_uid == proposal.structure_set_uid]
    header = next(iter(named or headers), None)
    if header is None:
        return
    is_this = CASES.c.case_id == proposal.case_id
    connection.execute(CASES.update().where(is_this).values(**label_columns(header)))
    studies = sorted({h.study_instance_uid for h in headers})
    uids = (*planning, *proposal.mr_series_uids, *studies)
    write_words(connection, proposal.case_id, header, uids)


def label_old_cases(index: Index) -> int:
    """Label the cases that an earlier version of the index left without; return how many.

    The others are labelled when they are made. A case of which no object is left is found by its
    own id and UIDs.
    """
    is_without = ~sa.exists().where(CASE_WORDS.c.case_id == CASES.c.case_id)
    with index.read() as connection:
        found = list(connection.scalars(sa.select(CASES.c.case_id).where(is_without)))
    for start in range(0, len(found), _CHUNK):
        with index.begin() as connection:
            _label(connection, found[start : start + _CHUNK])
    return len(found)


def _label(connection: sa.Connection, case_ids: Sequence[str]) -> None:
    is_newest = (REVISIONS.c.case_id == CASES.c.case_id) & (
        REVISIONS.c.revision == CASES.c.revision
    )
    query = (
        sa.select(CASES, REVISIONS.c.summary)
        .join(REVISIONS, is_newest, isouter=True)
        .where(CASES.c.case_id.in_(case_ids))
    )
    for row in connection.execute(query).all():
        header = _header_of(connection, row)
        summary = json.loads(row.summary or "{}")
        worst = worst_of(_all_findings(connection, row, summary))
        columns = {**label_columns(header), **verdict_columns(summary), "worst": worst}
        is_this = CASES.c.case_id == row.case_id
        connection.execute(CASES.update().where(is_this).values(**columns))
        uids = (row.structure_set_uid, row.ct_series_uid, header.study_instance_uid)
        write_words(connection, row.case_id, header, uids)


def _header_of(connection: sa.Connection, row: sa.Row[Any]) -> InstanceHeader:
    """Return the header of a case's structure set, else of a slice of its CT, else an empty one."""
    for condition in (
        INSTANCES.c.sop_instance_uid == row.structure_set_uid,
        INSTANCES.c.series == row.ct_series_uid,
    ):
        query = sa.select(INSTANCES.c.header).where(condition).limit(1)
        if (text := connection.scalar(query)) is not None:
            return InstanceHeader.from_json(json.loads(text))
    return InstanceHeader("", "", "", "", "", "")
