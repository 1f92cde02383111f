"""The statistics page of one end of a device: what a driver counts for whoever looks.

The driver names the page `<device>-<n>-stats` by name_ring and adds to the counters as it works; each is one aligned
u64, so a reader sees old or new, never half. The hypervisor does not count what it does not carry.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from xenfs.abi.wire import U16, U32, U64, Scalar, Wire, Words, wire

MAGIC = 0x54534658
"""The bytes `XFST`."""
VERSION = 1


@wire("xenfs_stats", 216)
@dataclass(frozen=True, slots=True, kw_only=True)
class Stats(Wire):
    """Counters since `since` (nanoseconds of the system clock); bytes and entries, never pages."""

    magic: U32 = MAGIC
    version: U16 = VERSION
    role: Annotated[int, Scalar("H"), Words({"frontend": 0, "backend": 1})]
    device: Annotated[int, Scalar("I"), Words({"other": 0, "vif": 1, "vbd": 2, "vusb": 3})] = 0
    pid: U32 = 0
    since: U64 = 0
    requests: U64 = 0
    responses: U64 = 0
    errors: U64 = 0
    events_sent: U64 = 0
    events_received: U64 = 0
    events_held_off: U64 = 0
    bytes_in: U64 = 0
    bytes_out: U64 = 0
    units_in: U64 = 0
    units_out: U64 = 0
    grants_mapped: U64 = 0
    grants_copied: U64 = 0
    pages_flipped: U64 = 0
    reconnects: U64 = 0
    drop_malformed: U64 = 0
    drop_no_buffer: U64 = 0
    drop_no_memory: U64 = 0
    drop_filtered: U64 = 0
    drop_rate: U64 = 0
    drop_backend: U64 = 0
    drop_peer_gone: U64 = 0
    drop_other: U64 = 0
    spare_0: U64 = 0
    spare_1: U64 = 0
