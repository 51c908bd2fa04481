"""Named figures -> measurements of TID 1500: each with its code, its unit and what it is about.

Leaves nothing out in silence: what is not a finite number becomes a sentence instead.

Read first: DICOM PS3.16 TID 1419 (ROI measurements), TID 300 (measurement).
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import highdicom as hd

from handlers.encode.metric_codes import metric_code


def measurements_of(
    figures: Mapping[str, float],
    *,
    tracking: Any = None,
    about: str = "",
    modifiers: Sequence[Any] = (),
) -> tuple[list[Any], list[str]]:
    """Return the figures as measurements, and sentences on those that are not finite numbers.

    Args:
        figures: By key; see `metric_codes`.
        tracking: highdicom's tracking identifier for each of them, or None.
        about: What they are about, told in the sentences.
        modifiers: Content items that say more of each of them (HAS CONCEPT MOD).
    """
    measurements, unmeasured = [], []
    for key, value in figures.items():
        code = metric_code(key)
        if not math.isfinite(value):
            subject = f"{code.name.meaning} ({about})" if about else code.name.meaning
            unmeasured.append(f"{subject}: not a finite number")
            continue
        measurement = hd.sr.Measurement(
            name=code.name,
            value=float(value),
            unit=code.unit,
            tracking_identifier=tracking,
        )
        if modifiers:
            content = hd.sr.ContentSequence(measurement[0].get("ContentSequence", None) or ())
            content.extend(modifiers)
            measurement[0].ContentSequence = content
        measurements.append(measurement)
    return measurements, unmeasured
