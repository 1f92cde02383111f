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

from xenfs.abi.ring import RingFormat

HEADER = "xen/io/netif.h"
TX = RingFormat("netif_tx", request=struct.Struct("<IHHHH"), response=struct.Struct("<Hh"))
RX = RingFormat("netif_rx", request=struct.Struct("<H2xI"), response=struct.Struct("<HHHh"))
CTRL = RingFormat("xen_netif_ctrl", request=struct.Struct("<HHIII"), response=struct.Struct("<HHII"))
EXTRA = struct.Struct("<BB6s")
GSO = struct.Struct("<BBHBxH")
MAX_TX_SIZE = 0xFFFF
NR_SLOTS_MIN = 18
FATAL_SLOTS = 20
ETH_HLEN = 14
MAPPING = struct.Struct("<IHH")
"""An entry of a table of grants: gref, flags, status."""

assert (TX.entry_size, RX.entry_size, CTRL.entry_size, EXTRA.size, GSO.size, MAPPING.size) == (12, 8, 16, 8, 8, 8)


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


@dataclass(frozen=True, slots=True)
class Gso:
    """Segmentation: the size of a segment, and of which protocol."""

    size: int
    type: int

    def emit(self, *, more: bool = False) -> bytes:
        """An extra-info slot."""
        return GSO.pack(ExtraType.gso, EXTRA_FLAG_MORE if more else 0, self.size, self.type, 0)
