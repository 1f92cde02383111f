"""How a batch of hypercalls lies in bytes: a header, then an element a call.

    header    u32 op, u32 count
    element   s32 result (0 or a negative errno), u32 zero, then the request's struct, padded to 8 bytes

`op` is Xen's hypercall number times 256 plus the command within it. All little-endian; every element has been tried
when the batch returns, and carries its own result.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from xenfs.abi.wire import OUT, S32, U32, Wire, wire

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


def element_size(request: type[Wire]) -> int:
    """Bytes of one element."""
    return ElementHeader.layout.size + (request.layout.size + 7) // 8 * 8
