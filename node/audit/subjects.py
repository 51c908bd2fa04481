"""Whom an event is about: its case's patient and studies, named as `[audit] patients` allows.

A pseudonym is the index's key of the patient under a secret of this installation: the same patient
has the same pseudonym, and nobody without the secret can try out names. Whoever may see names finds
them through the case, which the trail tells, too.
"""

import hashlib
import hmac
import os
import secrets
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from node.audit.message import Subject
from node.index import Index
from node.index.audit_lookups import identity_of, place_of_case
from node.ownership import give_to_owner

SECRET_FILE = "audit.secret"  # noqa: S105 - its name
SECRET_BYTES = 32

MOST_REMEMBERED = 512
"""Cases and patients that are not looked up again."""


class Subjects:
    """Looks up whom events are about.

    Args:
        index: Cases and objects.
        named: Whether the trail holds identifiers or pseudonyms.
        secret: Of this installation; see `installation_secret`.
    """

    def __init__(
        self, index: Index, named: Literal["pseudonym", "identifier"], secret: bytes
    ) -> None:
        self._index = index
        self._named = named
        self._secret = secret
        self._cases: OrderedDict[str, tuple[str, str]] = OrderedDict()

    def subject_of(self, what: Mapping[str, str]) -> Subject:
        """Return patient and studies of an event; what the index does not know is left empty.

        Raises:
            Exception: Whatever the database has.
        """
        patient_key = what.get("patient_key", "")
        studies = tuple(what.get("study", "").split())
        case_id = what.get("case_id", "")
        if case_id and not (patient_key and studies):
            of_case = self._of_case(case_id)
            patient_key = patient_key or of_case[0]
            studies = studies or tuple(filter(None, of_case[1:]))
        if not patient_key:
            return Subject(studies=studies)
        if self._named == "identifier":
            patient_id, name = identity_of(self._index, patient_key)
            return Subject(patient_id or self.pseudonym(patient_key), name, studies)
        return Subject(self.pseudonym(patient_key), "", studies)

    def pseudonym(self, patient_key: str) -> str:
        """Return what stands for a patient."""
        return hmac.new(self._secret, patient_key.encode(), hashlib.sha256).hexdigest()[:32]

    def _of_case(self, case_id: str) -> tuple[str, str]:
        known = self._cases.get(case_id)
        if known is None:
            known = place_of_case(self._index, case_id)
            if all(known):
                self._cases[case_id] = known
            while len(self._cases) > MOST_REMEMBERED:
                self._cases.popitem(last=False)
        return known


def installation_secret(data: Path) -> bytes:
    """Return the secret behind the pseudonyms, made once and kept in the data folder.

    Raises:
        OSError: It can neither be read nor made.
    """
    path = data / SECRET_FILE
    if not path.exists():
        data.mkdir(parents=True, exist_ok=True)
        draft = path.with_name(f"{SECRET_FILE}.{secrets.token_hex(8)}")
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        try:
            os.write(descriptor, secrets.token_hex(SECRET_BYTES).encode())
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        try:
            give_to_owner(data, draft)
            os.link(draft, path)  # of two that begin at once, one makes it
        except FileExistsError:
            pass
        finally:
            draft.unlink()
    return path.read_bytes()
