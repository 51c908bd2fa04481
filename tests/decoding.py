"""A small case, sound but for what a test gives, and what holds of every answer to it."""

from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from pydicom import Dataset

from handlers.decode import CaseDatasets, DecodedCase, decode_case
from handlers.errors import InputRejectedError
from handlers.values import Severity
from tests import datasets

MR = datasets.MR_SERIES
TARGET = {"GTV": [datasets.square(-30.0), datasets.square(-27.0)]}


def decode(
    *,
    ct: Sequence[Dataset] | None = None,
    structure_set: Dataset | None = None,
    mr: Mapping[str, Sequence[Dataset]] | None = None,
    doses: Sequence[Dataset] = (),
    plans: Sequence[Dataset] = (),
    registrations: Sequence[Dataset] = (),
) -> DecodedCase:
    """Decode a case whose parts are small and sound unless given; no text tells the patient."""
    given = CaseDatasets(
        datasets.series() if ct is None else ct,
        datasets.structure_set(TARGET) if structure_set is None else structure_set,
        mr or {},
        doses,
        plans,
        registrations,
    )
    try:
        decoded = decode_case(given)
    except InputRejectedError as error:
        check_anonymous([*error.reasons, error.hint])
        raise
    check_anonymous([finding.text for finding in decoded.case.findings])
    return decoded


def check_anonymous(texts: Sequence[str]) -> None:
    for text in texts:
        assert datasets.PATIENT_ID not in text
        assert "Secret" not in text


def check_rejected(*fragments: str, **parts: Any) -> None:
    """Check that a case is rejected and that each fragment stands in a reason of its own."""
    with pytest.raises(InputRejectedError) as caught:
        decode(**parts)
    for fragment in fragments:
        assert any(fragment in reason for reason in caught.value.reasons), caught.value.reasons
    assert len(caught.value.reasons) == len(fragments)
    assert caught.value.hint


def check_mr_left_out(code: str, mr: Sequence[Dataset], *, fragment: str = "") -> None:
    """Check that an unfit MR series becomes a warning and the case goes on without it."""
    decoded = decode(mr={MR: mr})
    assert decoded.case.mr == ()
    assert MR not in decoded.mr
    (finding,) = decoded.case.findings
    assert (finding.code, finding.severity) == (code, Severity.WARNING)
    assert fragment in finding.text
    assert finding.text.endswith("the series is left out")


def lost_contours(decoded: DecodedCase) -> dict[int, int]:
    """Return the number of contours that do not count, of ROIs that have any."""
    rois = decoded.case.structure_set.rois
    return {roi.number: roi.lost_contours for roi in rois if roi.lost_contours}


def codes(decoded: DecodedCase) -> dict[str, Severity]:
    return {finding.code: finding.severity for finding in decoded.case.findings}
