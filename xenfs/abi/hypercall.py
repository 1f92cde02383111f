"""How a batch of hypercalls lies in bytes: a header, then an element a call.

    header    u32 op, u32 count
    element   s32 result (0 or a negative errno), u32 zero, then the request's struct, padded to 8 bytes

`op` is Xen's hypercall number times 256 plus the command within it. All little-endian; every element has been tried
when the batch returns, and carries its own result.

dev/hypercall takes batches by write, and its answers are read; or by an ioctl: its own number with a `BatchAt` that
says where the batch is, its twin with the batch itself. Batches of several operations may lie one behind the other.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from functools import cache
from typing import Annotated

from xenfs.abi.ioctl import Ioctl
from xenfs.abi.wire import OUT, S32, U32, U64, Wire, wire

MEMORY_OP = 12
GRANT_TABLE_OP = 20
EVENT_CHANNEL_OP = 32
XENFS_OP = 64


def op_number(hypercall: int, command: int) -> int:
    """The `op` of a command within a hypercall."""
    return hypercall << 8 | command


@wire("xenfs_batch", 8)
@dataclass(frozen=True, slots=True, kw_only=True)
class BatchHeader(Wire):
    """What stands before the elements."""

    op: U32
    count: U32


@wire("xenfs_element", 8)
@dataclass(frozen=True, slots=True, kw_only=True)
class ElementHeader(Wire):
    """What stands before each request."""

    result: Annotated[S32, OUT] = 0
    zero: U32 = 0


@wire("xenfs_batch_at", 16)
@dataclass(frozen=True, slots=True, kw_only=True)
class BatchAt(Wire):
    """Where a batch is in the caller's memory."""

    address: U64
    size: U32


BATCH = Ioctl("IOCTL_XENFS_BATCH", "X", 0, 16)
"""Of our own, as Xen's: no direction, so the twin may have any size."""


def element_size(request: type[Wire]) -> int:
    """Bytes of one element."""
    return ElementHeader.layout.size + (request.layout.size + 7) // 8 * 8


def element_codec(request: type[Wire]) -> struct.Struct:
    """A whole element: result, zero, the request's fields, and what pads it."""
    return _element_codec(ElementHeader.layout.codec.format, request.layout.codec.format, element_size(request))


def fields_codec(request: type[Wire]) -> struct.Struct:
    """A whole element of which only the request's fields are of interest; the result is 0."""
    return _element_codec(f"<{ElementHeader.layout.size}x", request.layout.codec.format, element_size(request))


@cache
def _element_codec(head: str, fields: str, size: int) -> struct.Struct:
    whole = head + fields[1:]
    return struct.Struct(f"{whole}{size - struct.calcsize(whole)}x")
