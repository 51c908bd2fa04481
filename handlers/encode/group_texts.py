"""What measurement groups of the report have in common: who measured, and sentences.

Read first: DICOM PS3.16 TID 1501, TID 4019 (Algorithm Identification).
"""

from collections.abc import Sequence
from typing import Any

import highdicom as hd
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code

from handlers.encode.identity import MANUFACTURER, ResultSet
from handlers.encode.text import LO_LENGTH, legal_text

COMMENT = codes.DCM.Comment
"""Name of a sentence that is no finding."""

TEXT_LENGTH = 2**20
"""More than any text we make: Unlimited Text has no limit, `legal_text` asks for one."""


def algorithm(
    result_set: ResultSet, name: str, *, family: Code | None = None, with_parameters: bool = True
) -> Any:
    """Return who measured: name, version, and the settings of the computation where wanted."""
    authorship = result_set.authorship
    parameters = result_set.text(authorship.parameters, TEXT_LENGTH) if with_parameters else ""
    return hd.sr.AlgorithmIdentification(
        name=name,
        version=result_set.text(authorship.software_version, LO_LENGTH) or "unknown",
        parameters=[parameters] if parameters else None,
        family=family,
        manufacturer=MANUFACTURER,
    )


def append_texts(result_set: ResultSet, group: Any, texts: Sequence[tuple[Code, str]]) -> None:
    """Add sentences to a group, each under its name; empty ones are left out."""
    for name, text in texts:
        value = legal_text(text, TEXT_LENGTH, result_set.character_sets)
        if value:
            group[0].ContentSequence.append(
                hd.sr.TextContentItem(
                    name=name, value=value, relationship_type=hd.sr.RelationshipTypeValues.CONTAINS
                )
            )
