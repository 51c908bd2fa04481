"""Whether an image was ever compressed with loss, told for the physicist.

Believes the transfer syntax where it tells, else Lossy Image Compression; refuses nothing.
Read first: DICOM PS3.3 C.7.6.1.1.5.
"""

from collections.abc import Sequence

from pydicom import Dataset
from pydicom.uid import (
    HTJ2K,
    JPEG2000,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLSNearLossless,
)

from handlers.decode.attributes import numbers_of, text_of, texts_of, warning
from handlers.values import Finding

SYNTAX_NAMES = {
    JPEGBaseline8Bit: "JPEG with 8 bits",
    JPEGExtended12Bit: "JPEG with up to 12 bits",
    JPEGLSNearLossless: "JPEG-LS, near-lossless",
    JPEG2000: "JPEG 2000",
    HTJ2K: "high-throughput JPEG 2000",
}
"""Transfer syntaxes that lose something or may do so."""

PERHAPS_LOSSY_SYNTAXES = (JPEG2000, HTJ2K)
"""Those of them that are used without loss, too."""

METHODS = {
    "ISO_10918_1": "JPEG",
    "ISO_14495_1": "JPEG-LS, near-lossless",
    "ISO_15444_1": "JPEG 2000",
    "ISO_15444_15": "high-throughput JPEG 2000",
}
"""Defined terms of Lossy Image Compression Method (PS3.3 C.7.6.1.1.5.1) for still images."""

EVER_LOSSY, NEVER_LOSSY = "01", "00"
"""Lossy Image Compression (0028,2110)."""


def compression_findings(datasets: Sequence[Dataset], kind: str, where: str) -> list[Finding]:
    """Return a warning for what was compressed with loss, and one for what may have been.

    Args:
        datasets: One object, or those of a series, once for each slice.
        kind: Begins the codes of findings.
        where: Names the object or series in the texts.
    """
    lossy = [ds for ds in datasets if _is_lossy(ds)]
    perhaps = [ds for ds in datasets if not _is_lossy(ds) and _is_perhaps_lossy(ds)]
    found = []
    if lossy:
        text = (
            f"{where}: {_how_many(lossy, datasets)} compressed with loss{_manner(lossy)}: values "
            "and edges are not quite those that were acquired or calculated; ask the sender for "
            "the original"
        )
        found.append(warning(f"{kind}.lossy", text, count=len(lossy)))
    if perhaps:
        text = (
            f"{where}: {_how_many(perhaps, datasets)} perhaps compressed with loss"
            f"{_manner(perhaps)}, the sender does not say; ask for the original"
        )
        found.append(warning(f"{kind}.perhaps_lossy", text, count=len(perhaps)))
    return found


def _how_many(some: Sequence[Dataset], of: Sequence[Dataset]) -> str:
    return f"{len(some)} of {len(of)} slices were" if len(of) > 1 else "it was"


def _syntax(ds: Dataset) -> str:
    return text_of(getattr(ds, "file_meta", Dataset()), "TransferSyntaxUID")


def _is_lossy(ds: Dataset) -> bool:
    is_told = text_of(ds, "LossyImageCompression") == EVER_LOSSY
    always = set(SYNTAX_NAMES) - set(PERHAPS_LOSSY_SYNTAXES)
    return is_told or _syntax(ds) in always


def _is_perhaps_lossy(ds: Dataset) -> bool:
    is_denied = text_of(ds, "LossyImageCompression") == NEVER_LOSSY
    return _syntax(ds) in PERHAPS_LOSSY_SYNTAXES and not is_denied


def _manner(datasets: Sequence[Dataset]) -> str:
    """Return how it was compressed, in brackets, or an empty string."""
    known = {str(syntax): name for syntax, name in SYNTAX_NAMES.items()}
    names: set[str] = set()
    for ds in datasets:
        methods = {METHODS[m] for m in texts_of(ds, "LossyImageCompressionMethod") if m in METHODS}
        names |= {known[_syntax(ds)]} if _syntax(ds) in known else methods
    told = sorted(names)
    ratios = [numbers_of(ds, "LossyImageCompressionRatio") for ds in datasets]
    if highest := max((float(r.max()) for r in ratios if r is not None and len(r)), default=0.0):
        told.append(f"ratio up to {highest:.3g} to 1")
    return f" ({', '.join(told)})" if told else ""
