"""The stored values of an object or of one of its frames, whatever the transfer syntax.

Native and RLE pixel data are read by pydicom, compressed ones by GDCM. Refuses values that the
header contradicts, and never rescales: that is for `planes` and `dose`.
Read first: DICOM PS3.5 8.1.1 and 8.2.
"""

from typing import Any

import gdcm
import numpy as np
import numpy.typing as npt
from pydicom import Dataset, uid
from pydicom.dataset import FileMetaDataset
from pydicom.encaps import get_frame
from pydicom.pixels.utils import pixel_array
from pydicom.uid import UID

from handlers.decode.attributes import number_of, text_of

HIGH_THROUGHPUT = (uid.HTJ2KLossless, uid.HTJ2KLosslessRPCL, uid.HTJ2K)
"""High-throughput JPEG 2000: what decodes JPEG 2000 decodes these."""

JPEG = (uid.JPEGBaseline8Bit, uid.JPEGExtended12Bit, uid.JPEGLossless, uid.JPEGLosslessSV1)

BYTE_BITS = 8
EXTENDED_BITS = 12
"""Precision of JPEG Extended in process 4, which pydicom does not ask GDCM for."""

_START_OF_FRAME = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}
"""Markers of JPEG frame headers (ISO/IEC 10918-1 table B.1); the three others of their range are no
such thing."""

WORD_BITS = 16
"""What OW swaps by, whatever Bits Allocated says (PS3.5 6.2)."""

_OWN_PRECISION = {
    *uid.JPEG2000TransferSyntaxes,
    *HIGH_THROUGHPUT,
    uid.JPEGLSNearLossless,
    uid.JPEGBaseline8Bit,
}
"""Values of these are bounded by the code stream, and loss may carry them beyond Bits Stored."""

Stored = npt.NDArray[Any]


class PixelDataError(ValueError):
    """Pixel data that contradict their header; the text is for the physicist."""


def stored_values(ds: Dataset, frame: int | None = None) -> Stored:
    """Return stored values, shape (rows, columns), or (frames, rows, columns) of all frames.

    Args:
        ds: With pixel data, and with file meta information that tells the transfer syntax.
        frame: Index of the frame, or None for the whole object.

    Raises:
        PixelDataError: Or another of `planes.DECODE_ERRORS`: the pixel data cannot be decoded.
    """
    syntax = UID(text_of(ds.file_meta, "TransferSyntaxUID"))
    precision = _jpeg_precision(ds, frame) if syntax in JPEG else 0
    if precision == EXTENDED_BITS and syntax == uid.JPEGExtended12Bit:
        values = _extended_values(ds, frame)
    else:
        as_known = _renamed(ds, uid.JPEG2000Lossless) if syntax in HIGH_THROUGHPUT else ds
        values = pixel_array(as_known, index=frame, **_options(ds, syntax))
    is_long = values.dtype.kind in "iu" and values.dtype.itemsize * 8 == 2 * WORD_BITS
    if is_long and syntax == uid.ExplicitVRBigEndian:
        values = _words_in_order(values)
    return values if syntax in _OWN_PRECISION else _within_bits_stored(values, ds)


def _options(ds: Dataset, syntax: UID) -> dict[str, Any]:
    """Return how pydicom is to decode: by whom, and without cutting values off unseen."""
    options: dict[str, Any] = {"correct_unused_bits": False}  # `_within_bits_stored` does it
    if syntax == uid.RLELossless:
        options["decoding_plugin"] = "pydicom"
    elif syntax.is_compressed:
        options["decoding_plugin"] = "gdcm"
    if syntax in (uid.JPEGLossless, uid.JPEGLosslessSV1):
        options["bits_stored"] = ds.BitsAllocated  # GDCM would cut off what is above
    return options


def _renamed(ds: Dataset, syntax: UID) -> Dataset:
    """Return the same elements under another transfer syntax; nothing is copied."""
    renamed = Dataset(ds)
    renamed.file_meta = FileMetaDataset()
    renamed.file_meta.TransferSyntaxUID = syntax
    return renamed


def _frames(ds: Dataset, frame: int | None) -> list[bytes]:
    """Return the code stream of a frame, or of all."""
    count = int(number_of(ds, "NumberOfFrames") or 1)
    wanted = range(count) if frame is None else [frame]
    return [get_frame(ds.PixelData, index, number_of_frames=count) for index in wanted]


def _jpeg_precision(ds: Dataset, frame: int | None) -> int:
    """Return the bits of a value in JPEG code streams; GDCM would narrow them to the header's."""
    precisions = {_precision_of(stream) for stream in _frames(ds, frame)}
    (precision,) = precisions if len(precisions) == 1 else (0,)
    allocated = int(ds.BitsAllocated)
    if precision == 0 or (precision <= BYTE_BITS) != (allocated == BYTE_BITS):
        raise PixelDataError(
            f"the JPEG code stream has {precision or 'differing numbers of'} bits, the header "
            f"allocates {allocated}"
        )
    return precision


def _precision_of(stream: bytes) -> int:
    """Return the sample precision in the frame header of a JPEG code stream."""
    at = 2  # behind the start of the image
    while at + 4 < len(stream) and stream[at] == 0xFF:
        if stream[at + 1] in _START_OF_FRAME:
            return stream[at + 4]
        if stream[at + 1] == 0xFF:  # a fill byte
            at += 1
            continue
        at += 2 + int.from_bytes(stream[at + 2 : at + 4], "big")
    raise RuntimeError("no JPEG code stream, or one without frame header")


def _extended_values(ds: Dataset, frame: int | None) -> Stored:
    """Return 12-bit JPEG Extended values."""
    values = [_extended_frame(ds, stream) for stream in _frames(ds, frame)]
    return values[0] if len(values) == 1 else np.stack(values)


def _extended_frame(ds: Dataset, stream: bytes) -> Stored:
    rows, columns = int(ds.Rows), int(ds.Columns)
    fragment = gdcm.Fragment()
    fragment.SetByteStringValue(stream)
    fragments = gdcm.SequenceOfFragments.New()
    fragments.AddFragment(fragment)
    element = gdcm.DataElement(gdcm.Tag(ds["PixelData"].tag.group, ds["PixelData"].tag.element))
    element.SetValue(fragments.__ref__())
    image = gdcm.Image()
    image.SetNumberOfDimensions(2)
    image.SetDimensions((columns, rows, 1))
    image.SetDataElement(element)
    monochrome = gdcm.PhotometricInterpretation.MONOCHROME2
    image.SetPhotometricInterpretation(gdcm.PhotometricInterpretation(monochrome))
    syntax = gdcm.TransferSyntax.GetTSType(str(uid.JPEGExtended12Bit))
    image.SetTransferSyntax(gdcm.TransferSyntax(syntax))
    # 12 bits allocated, not 16: GDCM chooses its decoder by it
    image.SetPixelFormat(
        gdcm.PixelFormat(1, EXTENDED_BITS, EXTENDED_BITS, EXTENDED_BITS - 1, 0),
    )
    decoded = image.GetBuffer()
    if decoded is None:
        raise RuntimeError("GDCM cannot decode it")
    # GDCM hands bytes over as text
    values = np.frombuffer(decoded.encode("utf-8", "surrogateescape"), dtype=np.uint16)
    if values.size != rows * columns:
        raise PixelDataError("the JPEG code stream holds another image than the header says")
    return values.reshape(rows, columns)


def _words_in_order(values: Stored) -> Stored:
    """Return 32-bit big endian values read as OW: words of 16 bits, the less significant first.

    So PS3.5 8.1.1 has it, and DCMTK, but some write the four bytes the other way round. Which was
    meant is not guessed: if neighbours agree better that way, the object is refused.
    """
    whole = values.astype(np.uint32)
    in_words = (whole >> WORD_BITS) | (whole << WORD_BITS)
    if _roughness(whole) < _roughness(in_words):
        raise PixelDataError(
            "32-bit values in big endian whose 16-bit words are not in DICOM's order; "
            "send the object in a little endian transfer syntax"
        )
    return in_words.view(np.int32) if values.dtype.kind == "i" else in_words


def _roughness(values: Stored) -> float:
    return float(np.abs(np.diff(values.astype(np.float64), axis=-1)).sum())


def _within_bits_stored(values: Stored, ds: Dataset) -> Stored:
    """Return what Bits Stored and High Bit frame of each value, with the sign that it has there.

    The bits above may hold overlays (retired, but legal where an overlay says so), nothing, or a
    repetition of the sign. If they hold anything else, the header or the values are wrong.
    """
    bits = values.dtype.itemsize * 8
    stored = int(number_of(ds, "BitsStored") or bits)
    if values.dtype.kind not in "iu" or stored >= bits:
        return values
    high = int(number_of(ds, "HighBit") or stored - 1)
    shift = high + 1 - stored
    if stored < 1 or shift < 0 or high >= bits:
        raise PixelDataError(f"Bits Stored {stored} and High Bit {high} contradict each other")
    raw = values.astype(values.dtype.newbyteorder("=")).view(f"u{values.dtype.itemsize}")
    framed = (raw >> shift) & ((1 << stored) - 1)
    if values.dtype.kind == "i":
        sign = 1 << (stored - 1)
        framed = (framed.view(values.dtype.newbyteorder("=")) ^ sign) - sign
    if shift == 0 and not _has_embedded_overlay(ds):
        above = raw >> stored
        is_sign = (framed < 0) & (above == (1 << (bits - stored)) - 1)
        if not np.all((above == 0) | is_sign):
            raise PixelDataError(f"values need more bits than the {stored} of Bits Stored")
    return framed


def _has_embedded_overlay(ds: Dataset) -> bool:
    """Tell whether an overlay plane lies in the pixel data (PS3.5 8.1.2, retired)."""
    first, last, step = 0x6000, 0x601E, 2
    bit_position = 0x0102
    groups = range(first, last + 1, step)
    return any(ds[group, bit_position].value for group in groups if (group, bit_position) in ds)
