"""One image in every transfer syntax: what DCMTK and GDCM make of a file, and what it then holds.

DCMTK 3.6.7 encodes all but JPEG 2000, near-lossless JPEG-LS of signed values (both by GDCM) and
high-throughput JPEG 2000, which neither can encode: that is a code stream made once with OpenJPH
0.26.3.
"""

import base64
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import gdcm
import numpy as np
import numpy.typing as npt
import pydicom
from pydicom import Dataset, uid
from pydicom.encaps import encapsulate
from pydicom.uid import UID

from tests import datasets

Program = Callable[[str], str]

ROWS, COLUMNS = 64, 48
NEAR = 2
"""How far JPEG-LS may be off that is asked to be near-lossless."""

HTJ2K_ROWS, HTJ2K_COLUMNS = 12, 16
HTJ2K_LOSSLESS = """
/0//UQApQAAAAAAQAAAADAAAAAAAAAAAAAAAEAAAAAwAAAAAAAAAAAABjwEB/1AACAACAAAACv9SAAwAAgABAAUE
BEAB/1wAEyCIkJCQkJCQkJCQkJCQiIiI/2QAFwABT3BlbkpQSCBWZXIgMC4yNi4zLv+QAAoAAAAAAS0AAf+TwAAm
lf4CB3QAAMAAE0AAE0AAEgDz/gIHdAB6/gKHdAD+J3MAwAAVEAAE0AAEgA0MfWcAwrQA6f0AAjQA5gozAMAAFoQA
AV8AAFeAeEARntvArdD7CfcAIDl3AIkl0xK7KS3pAAA9zoBXAEzJHGhxV/bNAE+5k5q3AMAALt4AAXaQAAuwuLk8
4ppDbvQbpEWfuyAR+txcps8hEbq5ubOhV82NMnZOj1jn1qRL5wfwhrOhsDgABqQAAG+fADrdWuXHqiK6VeU5navy
Y1UhulXNj03NMY5wFQ8dD3gOY8UYSeAJS+JAYdQuez8jwuR43wA1fS7PeE6v6bk8l2f5HM/pmp7LZxxdxs3pafp8
nufQdfQUH2q7+cPnV+Q7PyfafwD/2Q=="""
HTJ2K_IRREVERSIBLE = """
/0//UQApQAAAAAAQAAAADAAAAAAAAAAAAAAAEAAAAAwAAAAAAAAAAAABjwEB/1AACAACAAAAKv9SAAwAAgABAAUE
BEAA/1wAIyK3GLbqtuq2vK8ArwCu4qdMp0ynZJADkAOQRpfSl9KXYf9kABcAAU9wZW5KUEggVmVyIDAuMjYuMy7/
kAAKAAAAAAE8AAH/k8AAATDd2QSHdAAAwAACaAAATQAACUAZ8wOHdADm5QQHdAD+AEd0AMAABUQAAE0AABIAKMz0
owCgVAB3CwBiNAD+CTMAwAAWlAABakAAFeCY2hiYwHrmt0lg7QEfcGJHNwCQD0+cf7cE8CUmzdgEnuYAALc4AOi6
C2aCMKD7AL7mSEq3AMAAF20AAF2kAAF2gG+xAiyNKIkvgA6863FnyGPrVVw2HMiS4n8FOdYmosgv+o/8MgkzWOEZ
Aa5Q2QgABqQAAGxeAF6A/2xNcgCXoJPl1oZNHaQoQCeKf/CZV8CZLNBb2CMXyo86D/sAKDDQMOoXez8mGZDpfwCP
E/BIgTQBOyJpBfxScEFpAjrnyU0oCBckrWfesNlB2KMQZgz6AFBFVU4g+cn5EefkUb8A/9k="""


@dataclass(frozen=True, slots=True)
class Encoding:
    """How a file gets into a transfer syntax.

    Attributes:
        arguments: Program of DCMTK with its options, or empty for GDCM.
        tolerance: How far values may be off, in grey values of a picture that spans 1250: that of
            JPEG-LS is promised; that of the others is up to twice what was found, in single pixels
            at edges (8 bits leave steps of 8 HU, and 10 HU on the mean).
        finding: End of the code of the finding that a case gets, or empty.
    """

    syntax: UID
    arguments: tuple[str, ...] = ()
    tolerance: int = 0
    finding: str = ""

    def encode(self, source: Path, target: Path, program: Program) -> None:
        if not self.arguments:
            _encode_with_gdcm(source, target, self)
            return
        name, *options = self.arguments
        subprocess.run([program(name), *options, source, target], check=True, capture_output=True)


ENCODINGS = {
    "implicit": Encoding(uid.ImplicitVRLittleEndian, ("dcmconv", "+ti")),
    "explicit": Encoding(uid.ExplicitVRLittleEndian, ("dcmconv", "+te")),
    "big endian": Encoding(uid.ExplicitVRBigEndian, ("dcmconv", "+tb")),
    "deflated": Encoding(uid.DeflatedExplicitVRLittleEndian, ("dcmconv", "+td")),
    "RLE": Encoding(uid.RLELossless, ("dcmcrle",)),
    "JPEG lossless, SV1": Encoding(uid.JPEGLosslessSV1, ("dcmcjpeg", "+e1")),
    "JPEG lossless, predictor 6": Encoding(uid.JPEGLossless, ("dcmcjpeg", "+el", "+sv", "6")),
    "JPEG lossless, many fragments": Encoding(
        uid.JPEGLosslessSV1, ("dcmcjpeg", "+e1", "+fs", "1", "-ot")
    ),
    "JPEG lossless of GDCM": Encoding(uid.JPEGLosslessSV1),
    "JPEG-LS": Encoding(uid.JPEGLSLossless, ("dcmcjpls",)),
    "JPEG-LS of GDCM": Encoding(uid.JPEGLSLossless),
    "JPEG 2000 lossless": Encoding(uid.JPEG2000Lossless),
    "JPEG-LS near-lossless": Encoding(
        uid.JPEGLSNearLossless, ("dcmcjpls", "+en", "+md", str(NEAR), "+un"), NEAR, "lossy"
    ),
    "JPEG-LS near-lossless of GDCM": Encoding(uid.JPEGLSNearLossless, (), NEAR, "lossy"),
    "JPEG 2000": Encoding(uid.JPEG2000, (), 30, "perhaps_lossy"),
    "JPEG extended, 12 bits": Encoding(
        uid.JPEGExtended12Bit, ("dcmcjpeg", "+ee", "+q", "95", "+un"), 16, "lossy"
    ),
    "JPEG extended, 8 bits": Encoding(
        uid.JPEGExtended12Bit, ("dcmcjpeg", "+ee", "+be", "+q", "95", "+un"), 80, "lossy"
    ),
    "JPEG baseline": Encoding(
        uid.JPEGBaseline8Bit, ("dcmcjpeg", "+eb", "+q", "95", "+un"), 80, "lossy"
    ),
}


def _encode_with_gdcm(source: Path, target: Path, encoding: Encoding) -> None:
    reader, change = gdcm.ImageReader(), gdcm.ImageChangeTransferSyntax()
    reader.SetFileName(str(source))
    assert reader.Read()
    syntax = gdcm.TransferSyntax.GetTSType(str(encoding.syntax))
    change.SetTransferSyntax(gdcm.TransferSyntax(syntax))
    change.SetInput(reader.GetImage())
    codec = None  # it must outlive the change
    if encoding.syntax == uid.JPEG2000:
        codec = gdcm.JPEG2000Codec()
        codec.SetReversible(False)
        codec.SetRate(0, 4.0)
    elif encoding.syntax == uid.JPEGLSNearLossless:
        codec = gdcm.JPEGLSCodec()
        codec.SetLossless(False)
        codec.SetLossyError(NEAR)
    if codec is not None:
        change.SetUserCodec(codec)
        change.SetForce(True)
    assert change.Change()
    writer = gdcm.ImageWriter()
    writer.SetFileName(str(target))
    writer.SetFile(reader.GetFile())
    writer.SetImage(change.GetOutput())
    assert writer.Write()


def picture() -> npt.NDArray[np.int16]:
    """Return a body of 40 in air of -1000 with a bone of 200 and noise, values -1024 to 400."""
    row, column = np.indices((ROWS, COLUMNS))
    distance = np.hypot(row - 30, column - 22)
    values = np.where(distance < 18, 40, -1000) + 160 * (distance < 5)
    noise = np.random.default_rng(1).normal(0, 12, values.shape)
    return np.array(np.clip(values + noise, -1024, 400), dtype=np.int16)


def htj2k_picture() -> npt.NDArray[np.int16]:
    """Return the values that the two high-throughput code streams hold, -1176 to 532."""
    row, column = np.indices((HTJ2K_ROWS, HTJ2K_COLUMNS))
    values = row * 97 - column * 41 - 600 + 13 * ((row * 7 + column * 5) % 9)
    return np.array(values, dtype=np.int16)


def image_series(
    modality: str, stored: npt.NDArray[np.int16], bits_stored: int, *, signed: bool
) -> list[Dataset]:
    """Return two equal slices whose stored values are the real ones."""
    made = datasets.series(modality=modality, slices=2)
    for ds in made:
        datasets.set_pixels(ds, stored)
        ds.BitsStored, ds.HighBit, ds.PixelRepresentation = bits_stored, bits_stored - 1, signed
        if modality == "CT":
            ds.RescaleSlope, ds.RescaleIntercept = 1, 0
        complete(ds)
    return made


def dose_object() -> Dataset:
    """Return an RT Dose of 32 bits whose upper and lower halves both matter."""
    ds = datasets.dose()
    plane, row, column = np.indices((3, ROWS, COLUMNS))
    stored = 4_000_000 * (plane + 1) + 30_011 * row + 7_001 * column
    ds.Rows, ds.Columns = ROWS, COLUMNS
    ds.BitsAllocated, ds.BitsStored, ds.HighBit = 32, 32, 31
    ds.PixelData = stored.astype("<u4").tobytes()
    ds.DoseGridScaling = 1e-6
    ds.SeriesInstanceUID = "1.2.826.0.2.4"
    complete(ds)
    return ds


def complete(ds: Dataset) -> None:
    """Give a data set what a file and a C-STORE need beside what computing needs."""
    ds.StudyInstanceUID = "1.2.826.0.9"
    ds["PixelData"].VR = "OW"


def encoded_files(
    objects: list[Dataset], encoding: Encoding, folder: Path, program: Program
) -> list[Path]:
    """Write objects as files and encode each; return where they are."""
    paths = []
    for number, ds in enumerate(objects):
        source, target = folder / f"{number}.source", folder / f"{number}.dcm"
        pydicom.dcmwrite(source, ds, enforce_file_format=True)
        encoding.encode(source, target, program)
        paths.append(target)
    return paths


def in_high_throughput(objects: list[Dataset], syntax: UID, code_stream: str) -> list[Dataset]:
    """Give objects one of the two code streams as their pixel data."""
    frame = base64.b64decode(code_stream)
    for ds in objects:
        ds.Rows, ds.Columns = HTJ2K_ROWS, HTJ2K_COLUMNS
        ds.PixelData = encapsulate([frame])
        ds["PixelData"].VR = "OB"
        ds["PixelData"].is_undefined_length = True
        ds.file_meta.TransferSyntaxUID = syntax
    return objects
