"""What the audit trail asks the index: whose a case is, and what an association brought."""

import json
from collections import Counter
from dataclasses import dataclass, field

import sqlalchemy as sa

from node.index import Index
from node.index.case_rows import CASES
from node.index.tables import ASSOCIATIONS, INSTANCES

MOST_STUDIES = 200
"""Studies of one association that are told apart."""

_ROWS_AT_ONCE = 1000


@dataclass(frozen=True, slots=True)
class CutAssociation:
    """An association in which a process ended, as far as its objects are in the index.

    Attributes:
        known: Objects that were held before it brought them again.
        contents: New objects of each SOP class, by patient key and study; beyond `MOST_STUDIES`
            under empty names.
    """

    calling_ae: str
    peer: str
    address: str
    known: int
    contents: dict[tuple[str, str], Counter[str]] = field(default_factory=dict)


def cut_association(index: Index, association_id: int) -> CutAssociation | None:
    """Return what an association brought until it was cut; None: there is no such one."""
    row_of = sa.select(ASSOCIATIONS).where(ASSOCIATIONS.c.id == association_id)
    query = sa.select(INSTANCES.c.patient_key, INSTANCES.c.study, INSTANCES.c.header).where(
        INSTANCES.c.association_id == association_id
    )
    contents: dict[tuple[str, str], Counter[str]] = {}
    with index.read() as connection:
        row = connection.execute(row_of).first()
        if row is None:
            return None
        streamed = connection.execution_options(yield_per=_ROWS_AT_ONCE)
        for one in streamed.execute(query):
            place = one.patient_key, one.study
            if place not in contents and len(contents) >= MOST_STUDIES:
                place = "", ""
            sop_class = str(json.loads(one.header).get("sop_class_uid") or "")
            contents.setdefault(place, Counter())[sop_class] += 1
    known = max(0, row.objects - sum(counts.total() for counts in contents.values()))
    return CutAssociation(row.calling_ae, row.peer, row.address, known, contents)


def place_of_case(index: Index, case_id: str) -> tuple[str, str]:
    """Return the patient key of a case and the study of its planning CT; empty: unknown."""
    with index.read() as connection:
        row = connection.execute(
            sa.select(CASES.c.patient_key, CASES.c.ct_series_uid).where(CASES.c.case_id == case_id)
        ).first()
        if row is None:
            return "", ""
        study = connection.scalar(
            sa.select(INSTANCES.c.study).where(INSTANCES.c.series == row.ct_series_uid).limit(1)
        )
    return row.patient_key, study or ""


def identity_of(index: Index, patient_key: str) -> tuple[str, str]:
    """Return Patient ID and name as an object of the patient has them; empty: unknown."""
    query = sa.select(INSTANCES.c.header).where(INSTANCES.c.patient_key == patient_key).limit(1)
    with index.read() as connection:
        header = connection.scalar(query)
    if header is None:
        return "", ""
    fields = json.loads(header)
    return str(fields.get("patient_id") or ""), str(fields.get("patient_name") or "")
