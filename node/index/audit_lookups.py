"""What the audit trail asks the index: of which patient and study a case is, and who that is."""

import json

import sqlalchemy as sa

from node.index import Index
from node.index.case_rows import CASES
from node.index.tables import INSTANCES


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
