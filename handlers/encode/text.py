"""Text that a value representation and a character set can hold.

Never changes what a source object says in its own items: only texts of our own, and those that we
quote from others, pass through here.

Read first: DICOM PS3.5 6.1 (character sets), 6.2 (value representations).
"""

import unicodedata
from collections.abc import Sequence

from pydicom import Dataset
from pydicom.charset import default_encoding, python_encoding

LO_LENGTH = 64
"""Longest value of VR LO and PN component group, in characters (PS3.5 6.2)."""

SH_LENGTH = 16
"""Longest value of VR SH, CS and DS, in characters (PS3.5 6.2)."""

ST_LENGTH = 1024
"""Longest value of VR ST, in characters (PS3.5 6.2)."""

LT_LENGTH = 10240
"""Longest value of VR LT, in characters (PS3.5 6.2)."""


def character_sets_of(ds: Dataset) -> list[str]:
    """Return the values of Specific Character Set (0008,0005), none for the default repertoire."""
    value = ds.get("SpecificCharacterSet", None) or []
    return [value] if isinstance(value, str) else [str(each) for each in value]


def is_writable(text: str, character_sets: Sequence[str]) -> bool:
    """Tell whether a text can surely be written in a character set without code extensions."""
    if text.isascii():
        return True
    if len(character_sets) != 1 or not character_sets[0]:
        return False
    codec = python_encoding.get(character_sets[0], default_encoding)
    if codec == default_encoding:
        # pydicom reads the default repertoire as Latin 1, but it is ASCII
        return False
    try:
        text.encode(codec)
    except UnicodeEncodeError:
        return False
    return True


def legal_text(value: str, length: int, character_sets: Sequence[str]) -> str:
    r"""Return a text as one line of at most `length` characters that the character set can hold.

    A backslash, which would separate values, becomes a slash; control characters, which no text may
    hold (PS3.5 6.1.3), vanish; letters outside the character set lose their accents or become
    question marks.

    Example:
        >>> legal_text("T2 \u00fcber\nalles\\x", 12, [])
        'T2 uber alle'
    """
    line = " ".join(value.split()).replace("\\", "/")
    line = "".join(c for c in line if unicodedata.category(c) != "Cc")
    if not is_writable(line, character_sets):
        decomposed = unicodedata.normalize("NFKD", line)
        bare = "".join(c for c in decomposed if not unicodedata.combining(c))
        line = bare.encode("ascii", errors="replace").decode("ascii")
    return line[:length].strip()
