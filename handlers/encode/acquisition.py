"""How an MR was acquired, read from classic or enhanced instances, written as MR Image attributes.

An attribute is copied only where all instances of the series give one and the same value. Those
that the MR Image module demands and the source does not tell are written empty (type 2) or, for the
two of type 1, with the values by which the standard says "not told": RM and NONE.

Read first: DICOM PS3.3 C.8.3.1 (MR Image Module), C.8.13.4 (MR Pulse Sequence Module).
"""

import copy
from collections.abc import Iterator, Sequence
from typing import Any

from pydicom import Dataset
from pydicom.multival import MultiValue
from pydicom.uid import JPEGBaseline8Bit, JPEGExtended12Bit, JPEGLSNearLossless
from pydicom.valuerep import DSfloat

from handlers.encode.text import LO_LENGTH, SH_LENGTH, legal_text

UNKNOWN_SCANNING_SEQUENCE = "RM"
"""Scanning Sequence (0018,0020), type 1: Research Mode, the one value that names no technique."""

SCANNING_SEQUENCES = frozenset(("SE", "IR", "GR", "EP", "RM"))
"""Values that Scanning Sequence may have; a scanner's own word for it is none (C.8.3.1)."""

ACQUISITION_TYPES = frozenset(("2D", "3D"))
"""Values that MR Acquisition Type (0018,0023) may have besides none (C.8.3.1)."""

UNKNOWN_SEQUENCE_VARIANT = "NONE"
"""Sequence Variant (0018,0021), type 1."""

TYPE_2_KEYWORDS = ("ScanOptions", "MRAcquisitionType", "EchoTime", "EchoTrainLength")
"""Attributes of the MR Image module that must be present, if only empty."""

HEART_GATED = frozenset(("CG", "PPG"))
"""Scan Options (0018,0022) under which Trigger Time is demanded, and allowed."""

COPIED_KEYWORDS = (
    "AcquisitionDate",
    "AcquisitionTime",
    "AcquisitionNumber",
    "MagneticFieldStrength",
    "ImagingFrequency",
    "ImagedNucleus",
    "NumberOfAverages",
    "FlipAngle",
    "ContrastBolusAgent",
)
"""Attributes that are copied if single-valued and left out otherwise."""

ENHANCED_NAMES = {
    "EchoTime": "EffectiveEchoTime",
    "InversionTime": "InversionTimes",
    "TriggerTime": "NominalCardiacTriggerDelayTime",
    "ImagedNucleus": "ResonantNucleus",
    "ImagingFrequency": "TransmitterFrequency",
    "EchoTrainLength": "RFEchoTrainLength",
}
"""What an attribute of the MR Image module is called in enhanced MR."""

LOSSY_DETAILS = ("LossyImageCompressionRatio", "LossyImageCompressionMethod")
LOSSY = "01"
"""Lossy Image Compression (0028,2110): once lossy, an image stays so (C.7.6.1.1.5)."""

LOSSY_SYNTAXES = (JPEGBaseline8Bit, JPEGExtended12Bit, JPEGLSNearLossless)
"""Transfer syntaxes that always lose something, whether the header says so or not."""


def add_acquisition(
    ds: Dataset, instances: Sequence[Dataset], character_sets: Sequence[str]
) -> None:
    """Give a dataset the MR Image module as far as the source instances tell it alike."""
    ds.ScanningSequence = _scanning_sequence(instances)
    ds.SequenceVariant = _sequence_variant(instances)
    for keyword in (*TYPE_2_KEYWORDS, *_conditional_keywords(ds, instances)):
        setattr(ds, keyword, None)
        _copy_single(ds, instances, keyword)
    for keyword in COPIED_KEYWORDS:
        _copy_single(ds, instances, keyword)
    if ds.get("ContrastBolusAgent"):
        ds.ContrastBolusAgent = legal_text(ds.ContrastBolusAgent, LO_LENGTH, character_sets)
    _add_loss(ds, instances)


def _add_loss(ds: Dataset, instances: Sequence[Dataset]) -> None:
    """Tell that a source was compressed with loss, be it in its header or by transfer syntax."""
    for source in instances:
        meta = getattr(source, "file_meta", Dataset())
        is_told = source.get("LossyImageCompression") == LOSSY
        if is_told or meta.get("TransferSyntaxUID") in LOSSY_SYNTAXES:
            ds.LossyImageCompression = LOSSY
            for keyword in LOSSY_DETAILS:
                if keyword in source:
                    ds[keyword] = copy.deepcopy(source[keyword])
            break


def _conditional_keywords(ds: Dataset, instances: Sequence[Dataset]) -> list[str]:
    """Return the type 2C attributes whose condition holds (PS3.3 table C.8-4)."""
    sequence, variant = _as_list(ds.ScanningSequence), _as_list(ds.SequenceVariant)
    options = _as_list(single_value(instances, "ScanOptions"))
    keywords = []
    if "EP" not in sequence or "SK" in variant:
        keywords.append("RepetitionTime")
    if "IR" in sequence:
        keywords.append("InversionTime")
    if HEART_GATED.intersection(options):
        keywords.append("TriggerTime")
    return keywords


def _as_list(value: Any) -> list[str]:
    if value is None:
        return []
    return [value] if isinstance(value, str) else [str(each) for each in value]


def single_value(instances: Sequence[Dataset], keyword: str) -> Any:
    """Return the one value that all instances and frames give an attribute, or None."""
    found: Any = None
    for value in _values(instances, keyword):
        if value is None or value == "":
            continue
        if found is not None and found != value:
            return None
        found = value
    return found


def _values(instances: Sequence[Dataset], keyword: str) -> Iterator[Any]:
    for ds in instances:
        if keyword in ds:
            yield _plain(ds[keyword].value)
        for groups in ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"):
            for frame in ds.get(groups, None) or ():
                for element in frame:
                    if element.VR == "SQ" and element.value and keyword in element.value[0]:
                        yield _plain(element.value[0][keyword].value)


def _plain(value: Any) -> Any:
    if isinstance(value, MultiValue):
        return tuple(value)
    return value


def _copy_single(ds: Dataset, instances: Sequence[Dataset], keyword: str) -> None:
    value = single_value(instances, keyword)
    if value is None and keyword in ENHANCED_NAMES:
        value = single_value(instances, ENHANCED_NAMES[keyword])
    if value is None or (isinstance(value, tuple) and keyword != "ScanOptions"):
        return
    if isinstance(value, float) and (not isinstance(value, DSfloat) or len(str(value)) > SH_LENGTH):
        value = DSfloat(float(value), auto_format=True)
    if keyword == "MRAcquisitionType" and value not in ACQUISITION_TYPES:
        return
    setattr(ds, keyword, list(value) if isinstance(value, tuple) else value)


def _scanning_sequence(instances: Sequence[Dataset]) -> list[str]:
    told = single_value(instances, "ScanningSequence")
    if told and SCANNING_SEQUENCES.issuperset(_as_list(told)):
        return _as_list(told)
    echo = single_value(instances, "EchoPulseSequence")
    sequence = {"SPIN": ["SE"], "GRADIENT": ["GR"], "BOTH": ["SE", "GR"]}.get(str(echo), [])
    if single_value(instances, "InversionRecovery") == "YES":
        sequence.append("IR")
    if single_value(instances, "EchoPlanarPulseSequence") == "YES":
        sequence.append("EP")
    return sequence or [UNKNOWN_SCANNING_SEQUENCE]


def _sequence_variant(instances: Sequence[Dataset]) -> list[str]:
    told = single_value(instances, "SequenceVariant")
    if told:
        return _as_list(told)
    variant = []
    if single_value(instances, "SegmentedKSpaceTraversal") in ("PARTIAL", "FULL"):
        variant.append("SK")
    if single_value(instances, "MagnetizationTransfer") in ("ON_RESONANCE", "OFF_RESONANCE"):
        variant.append("MTC")
    if single_value(instances, "SteadyStatePulseSequence") not in (None, "NONE"):
        variant.append("SS")
    if single_value(instances, "Spoiling") not in (None, "NONE"):
        variant.append("SP")
    return variant or [UNKNOWN_SEQUENCE_VARIANT]
