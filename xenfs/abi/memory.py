"""memory_op (xen/memory.h): the reservation of a domain."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

from xenfs.abi.wire import U16, U32, U64, Wire, wire

_HEADER = "xen/memory.h"


class MemOp(IntEnum):
    """XENMEM_*."""

    increase_reservation = 0
    decrease_reservation = 1
    current_reservation = 3
    maximum_reservation = 4
    populate_physmap = 6
    exchange = 11


@wire("struct xen_memory_reservation", 32, header=_HEADER)
@dataclass(frozen=True, slots=True, kw_only=True)
class Reservation(Wire):
    """Xen's own form, a list of extents at an address. xenfs takes one frame an element instead (abi/xenfs_op)."""

    extent_start: U64
    nr_extents: U64
    extent_order: U32
    mem_flags: U32
    domid: U16
