"""The shared ring page of xen/io/ring.h: where the header's words are, and how many entries fit after them.

    offset   0 req_prod    written by the frontend
             4 req_event   written by the backend
             8 rsp_prod    written by the backend
            12 rsp_event   written by the frontend
            16 4 private bytes, then 44 bytes of padding
            64 the entries, each a union of a request and a response

The header stands once, at the start of the first page; entries may straddle the boundaries of later pages.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

REQ_PROD, REQ_EVENT, RSP_PROD, RSP_EVENT = 0, 4, 8, 12
PRIVATE, PRIVATE_SIZE = 16, 4
ENTRIES = 64

HEADER = struct.Struct("<4I48x")
"""req_prod, req_event, rsp_prod, rsp_event, and everything up to the entries zeroed."""


def u32(index: int) -> int:
    """An index or a distance between two, modulo 2^32: ring indices run free and are masked here and nowhere else."""
    return index & 0xFFFF_FFFF


def ring_size(nbytes: int, entry_size: int) -> int:
    """Entries in a ring of `nbytes`: the largest power of two that fits after the header (__RING_SIZE).

    Raises ValueError when not even one fits.
    """
    if entry_size < 1:
        message = f"a ring entry of {entry_size} bytes: it needs at least 1"
        raise ValueError(message)
    fit = (nbytes - ENTRIES) // entry_size
    if fit < 1:
        message = f"a ring of {nbytes} bytes: the header and one entry need {ENTRIES + entry_size}"
        raise ValueError(message)
    return 1 << (fit.bit_length() - 1)


@dataclass(frozen=True, slots=True)
class RingFormat:
    """What one kind of ring carries: its tag as in DEFINE_RING_TYPES, and the codecs of both kinds of entry.

    Both codecs must spell out every byte of the C struct (`<` and `x`), the padding at its end too: `sizeof` decides
    the stride of the ring. Raises ValueError for a codec that is not little-endian.
    """

    name: str
    request: struct.Struct
    response: struct.Struct

    def __post_init__(self) -> None:
        for codec in (self.request, self.response):
            if not codec.format.startswith("<"):
                message = f"{self.name}: codec {codec.format!r} must begin with '<'"
                raise ValueError(message)

    @property
    def entry_size(self) -> int:
        """Bytes from one slot to the next: the larger of the two."""
        return max(self.request.size, self.response.size)

    def slots(self, nbytes: int) -> int:
        """Entries of a ring in `nbytes` of shared memory. Raises ValueError when none fits."""
        return ring_size(nbytes, self.entry_size)
