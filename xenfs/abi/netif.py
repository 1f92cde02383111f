"""The network rings (xen/io/netif.h): entries, flags, extra information, control messages.

Entries are plain tuples of the ring codecs, since they are on the data path:

    transmit request   gref, offset, flags, id, size        response   id, status
    receive request    id, gref                             response   id, offset, flags, status
    control request    id, type, data0, data1, data2        response   id, type, status, data
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum, IntFlag
from typing import Any

from xenfs.abi.ring import RingFormat
from xenfs.abi.wire import Buffer, FieldError

HEADER = "xen/io/netif.h"
TX = RingFormat("netif_tx", request=struct.Struct("<IHHHH"), response=struct.Struct("<Hh"))
RX = RingFormat("netif_rx", request=struct.Struct("<H2xI"), response=struct.Struct("<HHHh"))
CTRL = RingFormat("xen_netif_ctrl", request=struct.Struct("<HHIII"), response=struct.Struct("<HHII"))
EXTRA = struct.Struct("<BB6s")
"""An extra slot, with its second word as bytes; the next three are the same eight bytes by their type."""
GSO = struct.Struct("<BBHBxH")
MCAST = struct.Struct("<BB6s")
HASH = struct.Struct("<BBBBI")
MAX_TX_SIZE = 0xFFFF
NR_SLOTS_MIN = 18
FATAL_SLOTS = 20
ETH_HLEN = 14
MAPPING = struct.Struct("<IHH")
"""An entry of a table of grants: gref, flags, status."""

MAPPING_READONLY = 1

assert (TX.entry_size, RX.entry_size, CTRL.entry_size) == (12, 8, 16)
assert {codec.size for codec in (EXTRA, GSO, MCAST, HASH, MAPPING)} == {8}


class TxFlag(IntFlag):
    """NETTXF_*."""

    csum_blank = 1
    data_validated = 2
    more_data = 4
    extra_info = 8


class RxFlag(IntFlag):
    """NETRXF_*: the first two are not those of transmit."""

    data_validated = 1
    csum_blank = 2
    more_data = 4
    extra_info = 8
    gso_prefix = 16


class Status(IntEnum):
    """NETIF_RSP_*."""

    okay = 0
    error = -1
    dropped = -2
    null = 1


class ExtraType(IntEnum):
    """XEN_NETIF_EXTRA_TYPE_*."""

    none = 0
    gso = 1
    mcast_add = 2
    mcast_del = 3
    hash = 4


EXTRA_FLAG_MORE = 1
EXTRA_XDP = 5
"""Only Linux has this type; xen/io/netif.h ends before it."""


class GsoType(IntEnum):
    """XEN_NETIF_GSO_TYPE_*."""

    none = 0
    tcpv4 = 1
    tcpv6 = 2


class CtrlType(IntEnum):
    """XEN_NETIF_CTRL_TYPE_*."""

    invalid = 0
    get_hash_flags = 1
    set_hash_flags = 2
    set_hash_key = 3
    get_hash_mapping_size = 4
    set_hash_mapping_size = 5
    set_hash_mapping = 6
    set_hash_algorithm = 7
    get_gref_mapping_size = 8
    add_gref_mapping = 9
    del_gref_mapping = 10


class CtrlStatus(IntEnum):
    """XEN_NETIF_CTRL_STATUS_*."""

    success = 0
    not_supported = 1
    invalid_parameter = 2
    buffer_overflow = 3


class HashFlag(IntFlag):
    """XEN_NETIF_CTRL_HASH_TYPE_*, as in control messages. An extra slot has the number of the bit."""

    ipv4 = 1
    ipv4_tcp = 2
    ipv6 = 4
    ipv6_tcp = 8


class HashAlgorithm(IntEnum):
    """XEN_NETIF_CTRL_HASH_ALGORITHM_*."""

    none = 0
    toeplitz = 1


def _extra(data: Buffer, codec: struct.Struct, *kinds: int) -> tuple[Any, ...]:
    """The fields of an extra slot at the start of `data`. Raises FieldError unless it is one of `kinds`."""
    if len(data) < codec.size:
        raise FieldError("extra info", "data", len(data), f"at least {codec.size} bytes")
    if data[0] not in kinds:
        raise FieldError("extra info", "type", data[0], " or ".join(ExtraType(kind).name for kind in kinds))
    return codec.unpack_from(data)


@dataclass(frozen=True, slots=True)
class Gso:
    """Segmentation: the size of a segment, and of which protocol (GsoType)."""

    size: int
    type: int

    @classmethod
    def parse(cls, data: Buffer) -> Gso:
        """Read an extra-info slot. Raises FieldError when it is another, or too short."""
        _, _, size, kind, _ = _extra(data, GSO, ExtraType.gso)
        return cls(size, kind)

    def emit(self, *, more: bool = False) -> bytes:
        """An extra-info slot."""
        return GSO.pack(ExtraType.gso, EXTRA_FLAG_MORE if more else 0, self.size, self.type, 0)


@dataclass(frozen=True, slots=True)
class Mcast:
    """A multicast address that the frontend wants to hear, or no longer."""

    address: bytes
    add: bool = True

    @classmethod
    def parse(cls, data: Buffer) -> Mcast:
        """Read an extra-info slot. Raises FieldError when it is another, or too short."""
        kind, _, address = _extra(data, MCAST, ExtraType.mcast_add, ExtraType.mcast_del)
        return cls(address, kind == ExtraType.mcast_add)

    def emit(self, *, more: bool = False) -> bytes:
        """An extra-info slot. Raises FieldError for an address that is not of six bytes."""
        if len(self.address) != 6:
            raise FieldError("extra info", "address", self.address, "six bytes")
        kind = ExtraType.mcast_add if self.add else ExtraType.mcast_del
        return MCAST.pack(kind, EXTRA_FLAG_MORE if more else 0, self.address)


@dataclass(frozen=True, slots=True)
class Hash:
    """The hash of a packet: over which fields (0 to 3, the bits of HashFlag), by which algorithm, its 32 bits."""

    type: int
    algorithm: int
    value: int

    @classmethod
    def parse(cls, data: Buffer) -> Hash:
        """Read an extra-info slot. Raises FieldError when it is another, or too short."""
        _, _, kind, algorithm, value = _extra(data, HASH, ExtraType.hash)
        return cls(kind, algorithm, value)

    def emit(self, *, more: bool = False) -> bytes:
        """An extra-info slot."""
        return HASH.pack(ExtraType.hash, EXTRA_FLAG_MORE if more else 0, self.type, self.algorithm, self.value)
