"""Entries of the public rings, and both ends of a ring in a page."""

from __future__ import annotations

import struct

from xenfs.abi.ring import RingFormat
from xenfs.ring import BackRing, FrontRing

NET_TX = RingFormat("tx", struct.Struct("<IHHHH"), struct.Struct("<Hh"))
NET_RX = RingFormat("rx", struct.Struct("<HHI"), struct.Struct("<HHHh"))
CONN = RingFormat("conn", struct.Struct("<H"), struct.Struct("<HBB"))
BLK = RingFormat("blk", struct.Struct("<BBHxxxxQ96s"), struct.Struct("<QBxhxxxx"))
USB = RingFormat("urb", struct.Struct("<H146s"), struct.Struct("<HHiii"))
TOP = 1 << 32


def page(pages: int = 1) -> memoryview:
    return memoryview(bytearray(4096 * pages))


def words(view: memoryview) -> tuple[int, ...]:
    return struct.unpack_from("<4I", view)


def ends(layout: RingFormat = NET_TX, start: int = 0, pages: int = 1) -> tuple[memoryview, FrontRing, BackRing]:
    view = page(pages)
    return view, FrontRing(view, layout, start=start), BackRing(view, layout, start=start)


def request(number: int) -> tuple[int, ...]:
    return (number, 1, 2, number & 0xFFFF, 3)
