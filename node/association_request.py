"""Looks through an association request before pynetdicom decodes it.

pynetdicom tests each UID several times and writes a line about each that is not legal: a request of
200 kB, from anyone, would be seconds of work and ninety thousand lines of the peer's text in the
log. So what lies or is beyond a bound is refused here, and items of unknown type are taken out, as
PS3.8 9.3.1 wants them to be ignored. Decodes nothing for use, decides nothing about who may come.
"""

import re
import struct
from collections.abc import Iterator
from typing import NamedTuple

from node.pdu_stream import INVALID_PARAMETER, ProtocolError

MOST_TRANSFER_SYNTAXES = 4096
"""In all presentation contexts together: 32 for each of 128."""

MOST_USER_ITEMS = 512
"""Items of the user information: role, extended and common negotiation of 128 SOP classes, more."""

MOST_ODD_UIDS = 16
"""UIDs with a superfluous zero, say: some old private SOP classes have them."""

_FIXED_BYTES = 68
_TITLES = slice(4, 36)
"""Version, called and calling AE title, and what is reserved (PS3.8 9.3.2)."""

_ITEM = struct.Struct(">BxH")
_LENGTH = struct.Struct(">H")
_CONTEXT_HEAD_BYTES = 4

_APPLICATION, _CONTEXT, _ABSTRACT_SYNTAX, _TRANSFER_SYNTAX, _USER = 0x10, 0x20, 0x30, 0x40, 0x50
"""Item types (PS3.8 9.3.2)."""
_IMPLEMENTATION_CLASS = 0x52
_OF_SOP_CLASS = frozenset((0x54, 0x56, 0x57))
_USER_ITEMS = range(0x51, 0x5A)
"""Items of the user information (PS3.7 D.3.3): those of a SOP class begin with its UID."""

_UID = re.compile(rb"[0-9.]{1,64}[\0 ]?")
_LEGAL_UID = re.compile(rb"(0|[1-9][0-9]*)(\.(0|[1-9][0-9]*))*[\0 ]?")
_TITLE_CHARACTERS = re.compile(rb"[ -~]*")


class _Item(NamedTuple):
    kind: int
    body: bytes

    def encoded(self) -> bytes:
        return _ITEM.pack(self.kind, len(self.body)) + self.body


class _Counts:
    """What was met so far."""

    def __init__(self) -> None:
        self.transfer_syntaxes = 0
        self.odd_uids = 0
        self.context_ids: set[int] = set()

    def uid(self, content: bytes) -> None:
        """Count a UID that is not legal; refuse what is none."""
        if not _UID.fullmatch(content):
            raise _refusal("something else than a UID")
        self.odd_uids += not _LEGAL_UID.fullmatch(content)
        if self.odd_uids > MOST_ODD_UIDS:
            raise _refusal("many UIDs that are not legal")


def examined(content: bytes) -> bytes:
    """Return the content of an A-ASSOCIATE-RQ PDU, without items of unknown type.

    Raises:
        ProtocolError: A length lies, or something is not what it must be, or beyond a bound.
    """
    if len(content) < _FIXED_BYTES:
        raise _refusal("too few bytes")
    if not _TITLE_CHARACTERS.fullmatch(content[_TITLES]):
        raise _refusal("an AE title of other characters than ASCII's")
    counts, kept = _Counts(), [content[:_FIXED_BYTES]]
    for item in _items(content[_FIXED_BYTES:]):
        if item.kind == _APPLICATION:
            counts.uid(item.body)
            kept.append(item.encoded())
        elif item.kind == _CONTEXT:
            kept.append(_context(item.body, counts))
        elif item.kind == _USER:
            kept.append(_user(item.body, counts))
    return b"".join(kept)


def _context(body: bytes, counts: _Counts) -> bytes:
    """Return a presentation context item; it has an odd ID, one abstract syntax, and others."""
    if len(body) < _CONTEXT_HEAD_BYTES or not body[0] % 2 or body[0] in counts.context_ids:
        raise _refusal("a presentation context without an ID of its own")
    counts.context_ids.add(body[0])
    items = [
        item
        for item in _items(body[_CONTEXT_HEAD_BYTES:])
        if item.kind in (_ABSTRACT_SYNTAX, _TRANSFER_SYNTAX)
    ]
    for item in items:
        counts.uid(item.body)
    abstract = sum(item.kind == _ABSTRACT_SYNTAX for item in items)
    counts.transfer_syntaxes += len(items) - abstract
    if abstract != 1 or len(items) == abstract:
        raise _refusal("a presentation context without abstract or transfer syntax")
    if counts.transfer_syntaxes > MOST_TRANSFER_SYNTAXES:
        raise _refusal("too many transfer syntaxes")
    kept = body[:_CONTEXT_HEAD_BYTES] + b"".join(item.encoded() for item in items)
    return _Item(_CONTEXT, kept).encoded()


def _user(body: bytes, counts: _Counts) -> bytes:
    items = [item for item in _items(body) if item.kind in _USER_ITEMS]
    if len(items) > MOST_USER_ITEMS:
        raise _refusal("too much user information")
    for item in items:
        if item.kind == _IMPLEMENTATION_CLASS:
            counts.uid(item.body)
        elif item.kind in _OF_SOP_CLASS:
            if len(item.body) < _LENGTH.size:
                raise _refusal("a length that lies")
            stop = _LENGTH.size + _LENGTH.unpack_from(item.body)[0]
            if stop > len(item.body):
                raise _refusal("a length that lies")
            counts.uid(item.body[_LENGTH.size : stop])
    return _Item(_USER, b"".join(item.encoded() for item in items)).encoded()


def _items(content: bytes) -> Iterator[_Item]:
    start = 0
    while start < len(content):
        if start + _ITEM.size > len(content):
            raise _refusal("a length that lies")
        kind, length = _ITEM.unpack_from(content, start)
        start += _ITEM.size
        if start + length > len(content):
            raise _refusal("a length that lies")
        yield _Item(kind, content[start : start + length])
        start += length


def _refusal(what: str) -> ProtocolError:
    return ProtocolError(INVALID_PARAMETER, f"an association request has {what}")
