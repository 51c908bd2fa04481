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

JPEG_BITS = 8
"""Precision of JPEG Extended that pydicom leaves to GDCM."""

EXTENDED_BITS = 12
"""The other precision of JPEG Extended (process 4)."""

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
    if syntax == uid.JPEGExtended12Bit and number_of(ds, "BitsStored") != JPEG_BITS:
        values = _extended_values(ds, frame)
    else:
        as_known = _renamed(ds, uid.JPEG2000Lossless) if syntax in HIGH_THROUGHPUT else ds
        values = pixel_array(
            as_known,
            index=frame,
            decoding_plugin=_decoder(syntax),
            correct_unused_bits=False,  # done below: pydicom does not see what it cuts off
        )
    is_long = values.dtype.kind in "iu" and values.dtype.itemsize * 8 == 2 * WORD_BITS
    if is_long and syntax == uid.ExplicitVRBigEndian:
        values = _words_in_order(values)
    return values if syntax in _OWN_PRECISION else _within_bits_stored(values, ds)


def _decoder(syntax: UID) -> str:
    if syntax == uid.RLELossless:
        return "pydicom"
    return "gdcm" if syntax.is_compressed else ""


def _renamed(ds: Dataset, syntax: UID) -> Dataset:
    """Return the same elements under another transfer syntax; nothing is copied."""
    renamed = Dataset(ds)
    renamed.file_meta = FileMetaDataset()
    renamed.file_meta.TransferSyntaxUID = syntax
    return renamed


def _extended_values(ds: Dataset, frame: int | None) -> Stored:
    """Return 12-bit JPEG Extended values, which pydicom does not ask GDCM for."""
    count = int(number_of(ds, "NumberOfFrames") or 1)
    if frame is not None:
        return _extended_frame(ds, frame, count)
    frames = [_extended_frame(ds, index, count) for index in range(count)]
    return np.stack(frames) if count > 1 else frames[0]


def _extended_frame(ds: Dataset, index: int, count: int) -> Stored:
    rows, columns = int(ds.Rows), int(ds.Columns)
    fragment = gdcm.Fragment()
    fragment.SetByteStringValue(get_frame(ds.PixelData, index, number_of_frames=count))
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
