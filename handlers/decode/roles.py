"""What a CT beside the planning CT is to the case, by written rules; `further` where none holds.

CT Image Storage has no attribute that says "cone beam". Never judges by how an image looks.
"""

import re

from pydicom import Dataset

from handlers.decode.attributes import day_of, number_of, text_of, texts_of
from handlers.values import CtRole

CBCT_IMAGE_TYPES = frozenset(("CBCT", "CONE_BEAM", "CONEBEAM"))
"""Values of Image Type by which some systems say it."""

CBCT_MODELS = frozenset(("PATIENT VERIFICATION", "ON-BOARD IMAGER", "XVI"))
"""Manufacturer's Model Names of imagers that are mounted at a treatment machine."""

LINAC_SOURCE_AXIS_MM = 1000.0
"""Distance Source to Patient of an imager that turns about a linac's isocentre. Diagnostic scanners
have 500 to 700 mm (pancreas-ct: CT 645 mm, CBCT 1000 mm)."""

SOURCE_AXIS_TOLERANCE_MM = 1.0

LINAC_DETECTOR_MM = (1400.0, 1700.0)
"""Distance Source to Detector of such imagers (pancreas-ct: 1500 mm)."""

_WORDS = re.compile(r"(?<![A-Z0-9])(CBCT|CONE[ _-]?BEAM)(?![A-Z])")


def role_of_ct(ds: Dataset, planning_ct: Dataset, *, has_structure_set: bool) -> CtRole:
    """Return the role of the CT that `ds` is a slice of.

    The first rule that holds decides:
    1. CBCT: Image Type says so; or Manufacturer's Model Name is a known imager's; or source and
       detector stand as at a linac; or Series Description or Protocol Name holds CBCT or cone beam.
    2. Prior: a structure set is drawn on it, and it was acquired on an earlier day than the
       planning CT.
    3. Further.
    """
    if is_cbct(ds):
        return CtRole.CBCT
    taken, planned = day_of(ds), day_of(planning_ct)
    if has_structure_set and taken and planned and taken < planned:
        return CtRole.PRIOR
    return CtRole.FURTHER


def is_cbct(ds: Dataset) -> bool:
    """Tell whether a CT image was surely taken with a cone beam at a treatment machine."""
    if CBCT_IMAGE_TYPES.intersection(texts_of(ds, "ImageType")):
        return True
    if text_of(ds, "ManufacturerModelName").upper() in CBCT_MODELS:
        return True
    axis_mm = number_of(ds, "DistanceSourceToPatient") or 0.0
    detector_mm = number_of(ds, "DistanceSourceToDetector") or 0.0
    low, high = LINAC_DETECTOR_MM
    if (
        abs(axis_mm - LINAC_SOURCE_AXIS_MM) <= SOURCE_AXIS_TOLERANCE_MM
        and low <= detector_mm <= high
    ):
        return True
    told = f"{text_of(ds, 'SeriesDescription')} {text_of(ds, 'ProtocolName')}"
    return _WORDS.search(told.upper()) is not None
