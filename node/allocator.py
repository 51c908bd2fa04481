"""Lets the C library keep one heap for all threads of this process, not one for every few."""

import ctypes
from contextlib import suppress

_ARENA_MAX = -8
"""M_ARENA_MAX of glibc's malloc.h."""


def share_one_arena() -> None:
    """Let all threads allocate from one heap; to be called before there are any.

    Python allocates under one lock anyway, so that heaps of their own gain nothing. What threads
    that come and go leave in them adds up: 40 MB in a node after a thousand associations. Where the
    C library is another one, nothing happens.
    """
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).mallopt(_ARENA_MAX, 1)
