"""Requests in flight, in words."""

from __future__ import annotations

import pytest
from xl import rings

from xenfs.abi.blkif import X86_64, Discard, Indirect, Op, Segment, direct
from xenfs.abi.netif import TX
from xenfs.abi.ring import RingFormat
from xenfs.abi.usbif import ISOC, UNLINK, URB, Pipe, PipeType, Urb
from xenfs.ring import Entry, FrontRing


def shown(name: str, layout: RingFormat, *entries: Entry) -> list[str]:
    page = memoryview(bytearray(4096))
    with FrontRing(page, layout, start=0xFFFF_FFFF) as ring:
        for entry in entries:
            ring.push(*entry)
        ring.publish()
        return [line.strip() for line in rings.words(name, bytes(page))][3:]


@pytest.mark.parametrize(
    ("name", "layout", "entry", "line"),
    [
        ("vif-0-tx", TX, (8, 16, 5, 3, 60), "gref 8  offset 16  flags csum_blank|more_data  id 3  size 60"),
        ("vif-0-tx", TX, (8, 0, 0x30, 3, 60), "gref 8  offset 0  flags 0x30  id 3  size 60"),
        (
            "vbd-51712-ring", X86_64, direct(Op.write, 1, 9, 80, [Segment(4, 0, 7), Segment(5, 2, 3)]),
            "operation write  id 9  sector 80  handle 1  segments 2: 4[0-7] 5[2-3]",
        ),
        (
            "vbd-51712-ring", X86_64, Indirect(int(Op.read), 9, 80, 30, (77,)).emit(),
            "operation indirect read  id 9  sector 80  handle 0  segments 30  grefs 77",
        ),
        ("vbd-51712-ring", X86_64, Discard(9, 8, 16).emit(), "operation discard  id 9  sector 8  handle 0  sectors 16"),
        (
            "vbd-51712-ring", X86_64, (200, 255, 0, 1, 2, bytes(96)),
            "operation 200  id 1  sector 2  handle 0  segments 255: " + " ".join(["0[0-0]"] * 11),
        ),
        (
            "vusb-0-urb", URB, Urb(3, Pipe(1, PipeType.bulk, True, 2, 1), 1, 512, data=((8, 0, 512),)).emit(),
            "id 3  pipe bulk in port 1 address 2 endpoint 1  flags short_not_ok  length 512  segments 8[0+512]",
        ),
        (
            "vusb-0-urb", URB, Urb(3, Pipe(1, PipeType.control), special=bytes.fromhex("8006000100001200")).emit(),
            ("id 3  pipe control out port 1 address 0 endpoint 0  setup 80 06 00 01 00 00 12 00"
             "  length 0  segments none"),
        ),
        (
            "vusb-0-urb", URB,
            Urb(3, Pipe(1, PipeType.isoc, endpoint=3), special=ISOC.pack(1, 0, 7, 0)).emit(),
            "id 3  pipe isoc out port 1 address 0 endpoint 3  packets 7  length 0  segments none",
        ),
        (
            "vusb-0-urb", URB, Urb(3, Pipe(1, PipeType.bulk, unlink=True), special=UNLINK.pack(5)).emit(),
            "id 3  pipe bulk out port 1 address 0 endpoint 0  unlinks 5",
        ),
        (
            "vusb-0-urb", URB, (3, 17, 0, 0, 0, bytes(8), bytes(128)),
            "id 3  malformed urb: segments=17 is not a number from 0 to 16",
        ),
    ],
)  # fmt: skip
def test_a_request_in_words(name: str, layout: RingFormat, entry: Entry, line: str) -> None:
    (found,) = shown(name, layout, entry)
    assert found.partition("  ")[2].strip() == line
