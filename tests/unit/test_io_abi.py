"""What in the device rings is not flat: extra slots, block segments and descriptors, USB pipes and urbs."""

from __future__ import annotations

import struct
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xenfs.abi import blkif, netif, usbif
from xenfs.abi.blkif import Discard, Indirect, Segment
from xenfs.abi.netif import Gso, Hash, Mcast
from xenfs.abi.ring import RingFormat
from xenfs.abi.usbif import Pipe, PipeType, Urb
from xenfs.abi.wire import FieldError

U8, U16, U32, U64 = (st.integers(0, (1 << bits) - 1) for bits in (8, 16, 32, 64))
BLOCK = pytest.mark.parametrize("ring", [blkif.X86_64, blkif.X86_32], ids=["x86_64", "x86_32"])
SEGMENT_BYTES = st.binary(min_size=128, max_size=128)


# Extra slots of the network rings.


@pytest.mark.parametrize(
    ("value", "data"),
    [
        (Gso(1448, netif.GsoType.tcpv4), "0100a80501000000"),
        (Mcast(bytes.fromhex("01005e0000fb")), "020001005e0000fb"),
        (Mcast(bytes.fromhex("333300000001"), add=False), "0300333300000001"),
        (Hash(3, 1, 0x04030201), "0400030101020304"),
    ],
    ids=lambda v: v if isinstance(v, str) else type(v).__name__,
)
def test_extra_slot_byte_by_byte(value: Gso | Mcast | Hash, data: str) -> None:
    assert value.emit().hex() == data
    assert value.emit(more=True).hex() == f"{data[:2]}01{data[4:]}"
    assert type(value).parse(bytes.fromhex(data)) == value
    assert type(value).parse(memoryview(bytes.fromhex(data) + b"tail")) == value


@pytest.mark.parametrize("cls", [Gso, Mcast, Hash])
def test_another_extra_or_half_of_one_is_refused(cls: type[Gso] | type[Mcast] | type[Hash]) -> None:
    for kind in (0, 5, 255):
        with pytest.raises(FieldError, match=f"type={kind} is not "):
            cls.parse(bytes([kind]) + bytes(7))
    with pytest.raises(FieldError, match="data=7 is not at least 8 bytes"):
        cls.parse(bytes(7))


def test_multicast_address_has_six_bytes() -> None:
    with pytest.raises(FieldError, match="six bytes"):
        Mcast(b"12345").emit()


@given(st.binary(min_size=8, max_size=8))
def test_any_extra_slot_is_parsed_or_refused(data: bytes) -> None:
    for cls in (Gso, Mcast, Hash):
        try:
            found = cls.parse(data)
        except FieldError:
            continue
        assert cls.parse(found.emit()) == found


# Block.


def test_segment_byte_by_byte() -> None:
    assert Segment(0x01020304, 2, 5).emit().hex() == "0403020102050000"
    assert Segment.parse(bytes.fromhex("ff0403020102050000"), 1) == Segment(0x01020304, 2, 5)
    for offset in (-1, 1):
        with pytest.raises(FieldError, match="data=8"):
            Segment.parse(bytes(8), offset)


@BLOCK
def test_direct_request_and_its_segments(ring: RingFormat) -> None:
    parts = [Segment(n + 1, n % 8) for n in range(11)]
    data = ring.request.pack(*blkif.direct(blkif.Op.write, 51712, 7, 1 << 40, parts))
    op, count, handle, number, sector, rest = ring.request.unpack(data)
    assert (op, count, handle, number, sector) == (1, 11, 51712, 7, 1 << 40)
    assert list(blkif.segments(rest, count)) == [(n + 1, n % 8, 7) for n in range(11)]
    assert list(blkif.segments(rest, 0)) == []


def test_too_many_segments_are_refused() -> None:
    with pytest.raises(FieldError, match="nr_segments=12 is not a number from 0 to 11"):
        blkif.direct(0, 0, 0, 0, [Segment(1)] * 12)
    for count in (12, 255, -1):
        with pytest.raises(FieldError, match="a number from 0 to 11"):
            blkif.segments(bytes(88), count)


def test_segments_of_a_shared_page_are_copied_at_once() -> None:
    page = bytearray(Segment(1).emit() * 512)
    found = blkif.segments(memoryview(page), 512)
    page[:] = bytes(4096)
    assert list(found) == [(1, 0, 7)] * 512


@BLOCK
@given(data=st.data())
def test_discard_round_trip(ring: RingFormat, data: st.DataObject) -> None:
    value = Discard(data.draw(U64), data.draw(U64), data.draw(U64), data.draw(st.booleans()), data.draw(U16))
    assert Discard.parse(ring.request.unpack(ring.request.pack(*value.emit()))) == value


@BLOCK
@given(data=st.data(), count=st.integers(1, 4096))
def test_indirect_round_trip(ring: RingFormat, data: st.DataObject, count: int) -> None:
    pages = -(-count // 512)
    grefs = tuple(data.draw(st.lists(U32, min_size=pages, max_size=pages)))
    value = Indirect(data.draw(U8), data.draw(U64), data.draw(U64), count, grefs, data.draw(U16))
    assert Indirect.parse(ring.request.unpack(ring.request.pack(*value.emit()))) == value


@pytest.mark.parametrize("count", [0, 4097, 65535])
def test_indirect_of_no_or_too_many_segments_is_refused(count: int) -> None:
    entry = (int(blkif.Op.indirect), 0, count, 1, 2, bytes(88))
    with pytest.raises(FieldError, match=f"nr_segments={count} is not a number from 1 to 4096"):
        Indirect.parse(entry)


def test_indirect_with_other_than_the_needed_pages_is_refused() -> None:
    with pytest.raises(FieldError, match="grefs=2 is not 1, which 512 segments need"):
        Indirect(0, 0, 0, 512, (1, 2)).emit()


@BLOCK
@given(data=st.data())
def test_any_block_request_is_parsed_or_refused(ring: RingFormat, data: st.DataObject) -> None:
    entry = ring.request.unpack(data.draw(st.binary(min_size=ring.request.size, max_size=ring.request.size)))
    Discard.parse(entry)
    count = entry[2]
    if 1 <= count <= 4096:
        assert Indirect.parse(entry).count == count
    else:
        with pytest.raises(FieldError):
            Indirect.parse(entry)


def test_protocols_name_their_layouts() -> None:
    assert {name: ring.entry_size for name, ring in blkif.FORMATS.items()} == {
        "x86_64-abi": 112, "x86_32-abi": 108, "arm-abi": 112,
    }  # fmt: skip


# USB.


def test_pipe_bit_by_bit() -> None:
    whole = Pipe(31, PipeType.bulk, inward=True, address=127, endpoint=15, unlink=True)
    assert whole.emit() == 0xC007_FFBF
    assert Pipe.parse(0xFFFF_FFFF) == whole
    assert Pipe.parse(0) == Pipe(0, PipeType.isoc)
    assert Pipe(3, PipeType.control, address=5, endpoint=2).emit() == 2 << 30 | 2 << 15 | 5 << 8 | 3


@given(U32)
def test_any_word_is_a_pipe(word: int) -> None:
    assert Pipe.parse(word).emit() == word & 0xC007_FFBF


@pytest.mark.parametrize(("field", "value"), [("port", 32), ("address", 128), ("endpoint", 16), ("port", -1)])
def test_pipe_field_that_does_not_fit_is_refused(field: str, value: int) -> None:
    with pytest.raises(FieldError, match=f"{field}={value}"):
        replace(Pipe(1, PipeType.bulk), **{field: value}).emit()  # type: ignore[arg-type]


def through(urb: Urb) -> Urb:
    """Over the ring and back."""
    return Urb.parse(usbif.URB.request.unpack(usbif.URB.request.pack(*urb.emit())))


def test_urbs_of_every_kind_go_over_the_ring() -> None:
    parts = ((1, 0, 4096), (2, 8, 100))
    setup, interval = bytes.fromhex("8006000100001200"), usbif.INTERVAL.pack(8)
    isoc, unlink = usbif.ISOC.pack(1, 2, 32, 1), usbif.UNLINK.pack(9)
    for urb in (
        Urb(1, Pipe(1, PipeType.control, inward=True), 0, 18, setup, parts[:1]),
        Urb(2, Pipe(2, PipeType.bulk), int(usbif.Flag.short_not_ok), 4196, data=parts),
        Urb(3, Pipe(3, PipeType.interrupt, inward=True), 0, 8, interval, parts[:1]),
        Urb(4, Pipe(4, PipeType.isoc), 0, 4196, isoc, parts, ((3, 0, 512),)),
        Urb(5, Pipe(4, PipeType.isoc, unlink=True), special=unlink),
        Urb(65535, Pipe(31, PipeType.bulk), data=((5, 0, 4096),) * 16),
    ):
        assert through(urb) == urb


def test_urb_byte_by_byte() -> None:
    data = usbif.URB.request.pack(*Urb(1, Pipe(2, PipeType.bulk), 1, 512, data=((7, 16, 512),)).emit())
    assert data.rstrip(b"\0").hex() == "01000100020000c001000002" + "00" * 8 + "0700000010000002"


@pytest.mark.parametrize(("count", "frames"), [(17, 0), (16, 1), (65535, 0), (0, 17), (1, 65535)])
def test_urb_of_too_many_segments_is_refused(count: int, frames: int) -> None:
    entry = (1, count, Pipe(1, PipeType.isoc).emit(), 0, 0, usbif.ISOC.pack(0, 0, 0, frames), bytes(128))
    with pytest.raises(FieldError, match=f"segments={count + frames} is not a number from 0 to 16"):
        Urb.parse(entry)


def test_urb_that_disagrees_with_itself_is_refused() -> None:
    bulk, isoc = Pipe(1, PipeType.bulk), Pipe(1, PipeType.isoc)
    with pytest.raises(FieldError, match="segments=17"):
        Urb(1, bulk, data=((1, 0, 1),) * 17).emit()
    with pytest.raises(FieldError, match="eight bytes"):
        Urb(1, bulk, special=b"").emit()
    for pipe, special in ((bulk, bytes(8)), (isoc, usbif.ISOC.pack(0, 0, 0, 2))):
        with pytest.raises(FieldError, match="frames=1 is not what `special` says"):
            Urb(1, pipe, special=special, frames=((1, 0, 1),)).emit()


@given(U16, st.integers(0, 20), U32, SEGMENT_BYTES, st.integers(0, 20))
def test_any_urb_is_parsed_or_refused(number: int, count: int, word: int, rest: bytes, frames: int) -> None:
    special = struct.pack("<4H", 1, 2, 3, frames)
    try:
        urb = Urb.parse((number, count, word, 0, 0, special, rest))
    except FieldError:
        assert count + frames > 16
    else:
        assert len(urb.data) == count
        assert through(urb) == urb
