"""USB/IP, byte by byte: every message in both directions, whole and in pieces, and what is none."""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from xenusb import usbip
from xenusb.device import Packet
from xenusb.usbip import (
    HEAD_SIZE,
    LOCAL,
    MOST_DATA,
    MOST_PACKETS,
    Answers,
    Asked,
    Code,
    Exported,
    Malformed,
    Op,
    Short,
    Submit,
    Submitted,
)

from xenfs.abi.usbif import Status

COUNT = slice(0x20, 0x24)
"""Where the number of packets stands: of what is not isochronous, 0xffffffff, and Linux itself says 0."""
NO_PACKETS = (bytes(4), b"\xff" * 4)
SETUP = "8006000100001200"
ZEROS = "0000000000000000"

# Before there is a device.

STICK = Exported(
    "/sys/devices/usb3/3-2", "3-2", 3, 5, 2, 0x1209, 0x5854, 0x0142, (0xEF, 2, 1), 1, 4, ((8, 6, 80), (3, 1, 2))
)
KEYBOARD = Exported("/sys/4-1", "4-1", 4, 1, 1, 1, 2, 3, (0, 0, 0), 0, 1, ((3, 1, 1),))


def field(data: bytes, at: int, size: int) -> str:
    return data[at : at + size].hex()


def test_what_is_asked_before_there_is_a_device_byte_by_byte() -> None:
    assert usbip.OP.pack(usbip.VERSION, Op.list_request, 0).hex() == "0111800500000000"
    asked = usbip.OP.pack(usbip.VERSION, Op.import_request, 0) + usbip.BUS_ID.pack(b"3-2")
    assert asked.hex() == "0111800300000000" + "332d32".ljust(64, "0")
    assert usbip.OP.pack(usbip.VERSION, Op.import_reply, 1).hex() == "0111000300000001"


def test_empty_list_byte_by_byte() -> None:
    assert usbip.listing([]).hex() == "011100050000000000000000"


def test_list_byte_by_byte() -> None:
    data = usbip.listing([STICK, KEYBOARD])
    assert field(data, 0, 12) == "011100050000000000000002"
    assert data[0x0C:0x10C] == STICK.path.encode().ljust(256, b"\0")
    assert data[0x10C:0x12C] == b"3-2".ljust(32, b"\0")
    assert [field(data, at, 4) for at in (0x12C, 0x130, 0x134)] == ["00000003", "00000005", "00000002"]
    assert [field(data, at, 2) for at in (0x138, 0x13A, 0x13C)] == ["1209", "5854", "0142"]
    assert [field(data, at, 1) for at in range(0x13E, 0x144)] == ["ef", "02", "01", "01", "04", "02"]
    assert field(data, 0x144, 8) == "0806500003010200", "two interfaces, each with a byte of padding"
    second = 0x0C + 0x138 + 2 * 4
    assert data[second : second + 256] == KEYBOARD.path.encode().ljust(256, b"\0")
    assert field(data, second + 0x138, 4) == "03010100"
    assert len(data) == second + 0x138 + 4


def test_device_of_an_import_is_without_its_interfaces() -> None:
    data = STICK.emit()
    assert len(data) == usbip.DEVICE_SIZE == 0x140 - 8
    assert usbip.listing([STICK])[12:].startswith(data)
    assert Exported.parse(data) == (replace(STICK, interfaces=()), 2)


def test_devid_is_bus_and_number() -> None:
    assert STICK.id == 0x00030005
    assert replace(STICK, bus=0xFFFF, number=127).id == 0xFFFF007F


def test_names_that_are_too_long_are_cut_and_still_closed() -> None:
    data = replace(STICK, path="p" * 300, bus_id="b" * 40).emit()
    assert (data[254:257], data[256 + 30 : 256 + 33]) == (b"p\0b", b"b\0\0")
    found, _ = Exported.parse(data)
    assert (found.path, found.bus_id) == ("p" * 255, "b" * 31)


def test_names_that_are_not_closed_or_not_ascii_are_read_nevertheless() -> None:
    found, interfaces = Exported.parse(b"p" * 256 + b"3-2\0" + b"\xff" * 28 + b"\xff" * 24)
    assert (found.path, found.bus_id, found.bus, interfaces) == ("p" * 256, "3-2", 0xFFFFFFFF, 255)
    found, _ = Exported.parse(b"/\xff".ljust(256, b"\0") + bytes(56))
    assert (found.path, found.bus_id) == ("/\N{REPLACEMENT CHARACTER}", "")


@given(st.binary(min_size=312, max_size=312))
def test_any_312_bytes_are_a_device(data: bytes) -> None:
    found, interfaces = Exported.parse(data)
    assert found.emit()[288:311] == data[288:311]
    assert interfaces == data[311]


# What a device's connection carries.


def message(head: str, body: str, tail: str = "") -> bytes:
    """The parts of a header, and what is behind it."""
    data = bytes.fromhex(head + body)
    assert len(data) == HEAD_SIZE
    return data + bytes.fromhex(tail)


PACKETS = (Packet(0, 4), Packet(8, 3, 2, Status.ioerror))
PACKETS_HEX = "00000000 00000004 00000000 00000000" + "00000008 00000003 00000002 ffffffb9"

ASKED: dict[str, tuple[Submit | Short, bytes]] = {
    "control in": (
        Submit(1, 0x00030005, True, 0, 18, setup=bytes.fromhex(SETUP)),
        message(
            "00000001 00000001 00030005 00000001 00000000", f"00000000 00000012 00000000 ffffffff 00000000 {SETUP}"
        ),
    ),
    "control out": (
        Submit(2, 0x00030005, False, 0, 2, setup=bytes.fromhex("2109000200000200"), data=b"\x01\x02"),
        message(
            "00000001 00000002 00030005 00000000 00000000",
            "00000000 00000002 00000000 ffffffff 00000000 2109000200000200",
            "0102",
        ),
    ),
    "bulk in": (
        Submit(0xFFFFFFFF, 0x00030005, True, 15, MOST_DATA, usbip.SHORT_NOT_OK),
        message(
            "00000001 ffffffff 00030005 00000001 0000000f", f"00000001 00400000 00000000 ffffffff 00000000 {ZEROS}"
        ),
    ),
    "bulk out": (
        Submit(3, 0x00030005, False, 2, 5, data=b"hello"),
        message(
            "00000001 00000003 00030005 00000000 00000002",
            f"00000000 00000005 00000000 ffffffff 00000000 {ZEROS}",
            "68656c6c6f",
        ),
    ),
    "bulk out of nothing": (
        Submit(4, 0x00030005, False, 2, 0),
        message(
            "00000001 00000004 00030005 00000000 00000002", f"00000000 00000000 00000000 ffffffff 00000000 {ZEROS}"
        ),
    ),
    "interrupt in": (
        Submit(5, 0x00030005, True, 1, 8, 0x200, interval=4),
        message(
            "00000001 00000005 00030005 00000001 00000001", f"00000200 00000008 00000000 ffffffff 00000004 {ZEROS}"
        ),
    ),
    "isochronous in": (
        Submit(6, 0x00030005, True, 3, 11, 0, 0x0A0B0C0D, 1, packets=PACKETS),
        message(
            "00000001 00000006 00030005 00000001 00000003",
            f"00000000 0000000b 0a0b0c0d 00000002 00000001 {ZEROS}",
            PACKETS_HEX,
        ),
    ),
    "isochronous out": (
        Submit(7, 0x00030005, False, 3, 11, 2, 9, 1, data=b"0123....890", packets=PACKETS),
        message(
            "00000001 00000007 00030005 00000000 00000003",
            f"00000002 0000000b 00000009 00000002 00000001 {ZEROS}",
            b"0123....890".hex() + PACKETS_HEX,
        ),
    ),
    "unlink": (
        Short(Code.unlink, 8, 7, 0x00030005),
        message("00000002 00000008 00030005 00000000 00000000", "00000007" + "00" * 24),
    ),
    "claim": (
        Short(Code.claim, 9, 1, 0x00030005),
        message("00000101 00000009 00030005 00000000 00000000", "00000001" + "00" * 24),
    ),
}

ANSWERS: dict[str, tuple[Submitted | Short, bytes]] = {
    "control in": (
        Submitted(1, 0, 18, bytes(range(18))),
        message(
            "00000003 00000001 00000000 00000000 00000000",
            f"00000000 00000012 00000000 ffffffff 00000000 {ZEROS}",
            bytes(range(18)).hex(),
        ),
    ),
    "in, and nothing came": (
        Submitted(3, Status.stall, 0),
        message(
            "00000003 00000003 00000000 00000000 00000000", f"ffffffe0 00000000 00000000 ffffffff 00000000 {ZEROS}"
        ),
    ),
    "isochronous in": (
        Submitted(5, 0, 6, b"0123xy", 0x0A0B0C0D, 1, PACKETS),
        message(
            "00000003 00000005 00000000 00000000 00000000",
            f"00000000 00000006 0a0b0c0d 00000002 00000001 {ZEROS}",
            b"0123xy".hex() + PACKETS_HEX,
        ),
    ),
    "out": (
        Submitted(2, 0, 5),
        message(
            "00000003 00000002 00000000 00000000 00000000", f"00000000 00000005 00000000 ffffffff 00000000 {ZEROS}"
        ),
    ),
    "isochronous out": (
        Submitted(4, 0, 6, b"", 9, 1, PACKETS),
        message(
            "00000003 00000004 00000000 00000000 00000000",
            f"00000000 00000006 00000009 00000002 00000001 {ZEROS}",
            PACKETS_HEX,
        ),
    ),
    "unlinked in time": (
        Short(Code.unlinked, 8, usbip.ECONNRESET),
        message("00000004 00000008 00000000 00000000 00000000", "ffffff98" + "00" * 24),
    ),
    "unlinked too late": (
        Short(Code.unlinked, 9, 0),
        message("00000004 00000009 00000000 00000000 00000000", "00000000" + "00" * 24),
    ),
    "claimed": (
        Short(Code.claim, 10, 0),
        message("00000101 0000000a 00000000 00000000 00000000", "00000000" + "00" * 24),
    ),
}
INWARD = {number: bool(number & 1) for number in range(1, 6)}
"""Which of the transfers that are answered are inward: those with odd numbers."""

BOTH: dict[str, tuple[Submit | Submitted | Short, bytes]] = {
    **{f"asked: {name}": case for name, case in ASKED.items()},
    **{f"answered: {name}": case for name, case in ANSWERS.items()},
}
EVERY_ASKED = pytest.mark.parametrize("name", ASKED)
EVERY_ANSWER = pytest.mark.parametrize("name", ANSWERS)


@pytest.mark.parametrize("name", BOTH)
def test_message_byte_by_byte(name: str) -> None:
    value, data = BOTH[name]
    said = value.emit()
    if data[COUNT] in NO_PACKETS and not isinstance(value, Short):
        assert said[COUNT] in NO_PACKETS
        said = said[: COUNT.start] + data[COUNT] + said[COUNT.stop :]
    assert said == data


def without_packets(data: bytes, count: bytes) -> bytes:
    """The same with another way to say that it is not isochronous."""
    return data[: COUNT.start] + count + data[COUNT.stop :] if data[COUNT] == b"\xff" * 4 else data


@EVERY_ASKED
@pytest.mark.parametrize("count", NO_PACKETS, ids=["0", "-1"])
def test_what_is_asked_is_read_whole(name: str, count: bytes) -> None:
    value, data = ASKED[name]
    assert Asked().feed(without_packets(data, count)) == [value]


@EVERY_ANSWER
@pytest.mark.parametrize("count", NO_PACKETS, ids=["0", "-1"])
def test_an_answer_is_read_whole(name: str, count: bytes) -> None:
    value, data = ANSWERS[name]
    answers = Answers(dict(INWARD))
    assert answers.feed(without_packets(data, count)) == [value]
    assert answers.inward.keys() == INWARD.keys() - ({value.number} if isinstance(value, Submitted) else set())


@EVERY_ASKED
def test_what_is_asked_is_read_byte_by_byte(name: str) -> None:
    value, data = ASKED[name]
    asked = Asked()
    assert [asked.feed(bytes((byte,))) for byte in data[:-1]] == [[]] * (len(data) - 1)
    assert asked.feed(data[-1:]) == [value]
    assert asked.feed(b"") == []


@EVERY_ANSWER
def test_an_answer_is_read_byte_by_byte(name: str) -> None:
    value, data = ANSWERS[name]
    answers = Answers(dict(INWARD))
    assert [answers.feed(bytes((byte,))) for byte in data[:-1]] == [[]] * (len(data) - 1)
    assert answers.feed(data[-1:]) == [value]
    assert answers.feed(b"") == []


@EVERY_ASKED
@pytest.mark.parametrize("cut", [1, HEAD_SIZE - 1, HEAD_SIZE, HEAD_SIZE + 3])
def test_of_the_next_question_nothing_is_lost(name: str, cut: int) -> None:
    value, data = ASKED[name]
    following, more = ASKED["bulk out"]
    asked = Asked()
    assert asked.feed(data + more[:cut]) == [value]
    assert asked.feed(more[cut:]) == [following]


@EVERY_ANSWER
@pytest.mark.parametrize("cut", [1, HEAD_SIZE - 1, HEAD_SIZE, HEAD_SIZE + 3])
def test_of_the_next_answer_nothing_is_lost(name: str, cut: int) -> None:
    value, data = ANSWERS[name]
    following = Submitted(99, 0, 5, b"hello")
    answers = Answers({**INWARD, 99: True})
    assert answers.feed(data + following.emit()[:cut]) == [value]
    assert answers.feed(following.emit()[cut:]) == [following]


def test_many_at_once() -> None:
    assert Asked().feed(b"".join(data for _, data in ASKED.values())) == [value for value, _ in ASKED.values()]
    answers = Answers(dict(INWARD))
    assert answers.feed(b"".join(data for _, data in ANSWERS.values())) == [value for value, _ in ANSWERS.values()]
    assert answers.inward == {}


@pytest.mark.parametrize("code", LOCAL)
def test_every_local_command_both_ways(code: Code) -> None:
    assert Asked().feed(Short(code, 1, 2, 3).emit()) == [Short(code, 1, 2, 3)]
    assert Answers().feed(Short(code, 1, -16 & 0xFFFFFFFF).emit()) == [Short(code, 1, -16)]


def test_data_of_an_inward_transfer_is_not_sent() -> None:
    submit = Submit(1, 2, True, 3, 5, data=b"hello")
    assert submit.emit() == replace(submit, data=b"").emit()


def test_the_same_answer_means_data_or_none_by_what_was_asked() -> None:
    data = Submitted(1, 0, 5).emit()
    assert Answers({1: False}).feed(data) == [Submitted(1, 0, 5)]
    answers = Answers({1: True})
    assert answers.feed(data) == []
    assert answers.feed(b"hello") == [Submitted(1, 0, 5, b"hello")]


def test_a_number_may_be_used_again_when_it_was_answered() -> None:
    answers = Answers({1: False})
    answers.feed(Submitted(1, 0, 0).emit())
    answers.inward[1] = True
    assert answers.feed(Submitted(1, 0, 1, b"x").emit()) == [Submitted(1, 0, 1, b"x")]


def test_packets_of_the_most_there_may_be() -> None:
    packets = tuple(Packet(number, 1, 1, -number) for number in range(MOST_PACKETS))
    submit = Submit(1, 2, True, 3, MOST_PACKETS, packets=packets)
    assert Asked().feed(submit.emit()) == [submit]
    answer = Submitted(1, 0, MOST_PACKETS, bytes(MOST_PACKETS), 0, 0, packets)
    assert Answers({1: True}).feed(answer.emit()) == [answer]


# What is no USB/IP.


def asking(code: int = 1, inward: int = 0, endpoint: int = 1, size: int = 0, count: int = 0) -> bytes:
    return struct.pack(">12I", code, 1, 2, inward, endpoint, 0, size, 0, count, 0, 0, 0)


def answering(code: int = 3, number: int = 1, actual: int = 0, count: int = 0) -> bytes:
    return struct.pack(">12I", code, number, 0, 0, 0, 0, actual, 0, count, 0, 0, 0)


@pytest.mark.parametrize(
    "data",
    [
        *(asking(code) for code in (0, Code.submitted, Code.unlinked, 5, 0x100, 0x106, 0x80000001, 0xFFFFFFFF)),
        *(asking(inward=inward) for inward in (2, 0x80, 0xFFFFFFFF)),
        *(asking(endpoint=endpoint) for endpoint in (16, 0x81, 0xFFFFFFFF)),
        *(asking(inward=inward, size=size) for size in (MOST_DATA + 1, 0xFFFFFFFF) for inward in (0, 1)),
        *(asking(inward=inward, count=count) for count in (MOST_PACKETS + 1, 0x7FFFFFFF) for inward in (0, 1)),
    ],
    ids=lambda data: data[:36].hex(),
)
def test_what_cannot_be_asked_is_refused_with_its_head(data: bytes) -> None:
    asked = Asked()
    assert asked.feed(data[:-1]) == []
    with pytest.raises(Malformed):
        asked.feed(data[-1:])


@pytest.mark.parametrize("inward", [0, 1], ids=["out", "in"])
@pytest.mark.parametrize("count", [-2, -3, -MOST_PACKETS, -(1 << 31)])
def test_of_what_is_less_than_no_packets_only_the_one_that_means_none_is_taken(count: int, inward: int) -> None:
    assert Asked().feed(asking(inward=inward, count=-1 & 0xFFFFFFFF)) == [Submit(1, 2, bool(inward), 1, 0)]
    asked, data = Asked(), asking(inward=inward, count=count & 0xFFFFFFFF)
    assert asked.feed(data[:-1]) == []
    with pytest.raises(Malformed, match=f"a transfer of 0 bytes and {count} packets"):
        asked.feed(data[-1:])


@pytest.mark.parametrize(
    "data",
    [
        *(answering(code) for code in (0, Code.submit, Code.unlink, 5, 0x100, 0x106, 0x80000003, 0xFFFFFFFF)),
        *(answering(number=number) for number in (0, 3, 0xFFFFFFFF)),
        *(answering(number=number, actual=size) for size in (MOST_DATA + 1, 0xFFFFFFFF) for number in (1, 2)),
        *(answering(number=number, count=count) for count in (MOST_PACKETS + 1, 0xFFFFFFFE) for number in (1, 2)),
    ],
    ids=lambda data: data[:36].hex(),
)
def test_what_cannot_be_an_answer_is_refused_with_its_head(data: bytes) -> None:
    answers = Answers({1: True, 2: False})
    assert answers.feed(data[:-1]) == []
    with pytest.raises(Malformed):
        answers.feed(data[-1:])


def test_the_largest_transfer_is_taken() -> None:
    submit = Submit(1, 2, False, 15, MOST_DATA, data=bytes(MOST_DATA))
    assert Asked().feed(submit.emit()) == [submit]
    answer = Submitted(1, 0, MOST_DATA, bytes(MOST_DATA))
    assert Answers({1: True}).feed(answer.emit()) == [answer]


def test_a_second_answer_was_not_asked_for() -> None:
    answers = Answers({1: False})
    assert answers.feed(answering()) == [Submitted(1, 0, 0)]
    with pytest.raises(Malformed, match="answer 0x3 to transfer 1, which was not asked for"):
        answers.feed(answering())


def test_what_is_wrong_is_told() -> None:
    with pytest.raises(Malformed, match="command 0x7, direction 0, endpoint 1"):
        Asked().feed(asking(7))
    with pytest.raises(Malformed, match="a transfer of 4194305 bytes and 0 packets"):
        Asked().feed(asking(size=MOST_DATA + 1))
    with pytest.raises(Malformed, match="an answer of 0 bytes and 1025 packets"):
        Answers({1: True}).feed(answering(count=MOST_PACKETS + 1))


# Anything.

U32 = st.integers(0, 0xFFFFFFFF)
SMALL = st.integers(0, 3)
WORD = st.one_of(SMALL, st.integers(0, 100), st.just(0xFFFFFFFF), U32)
HEADS = st.tuples(
    st.sampled_from([1, 1, 1, 2, 3, 3, 3, 4, 5, *LOCAL]),
    SMALL,
    U32,
    st.integers(0, 2),
    st.integers(0, 16),
    *[WORD] * 7,
).map(lambda words: struct.pack(">12I", *words))
PACKET = st.builds(Packet, U32, U32, U32, st.integers(-(1 << 31), (1 << 31) - 1))


@st.composite
def submits(draw: st.DrawFn) -> Submit:
    inward, size = draw(st.booleans()), draw(st.integers(0, 60))
    packets = draw(st.none() | st.lists(PACKET, min_size=1, max_size=3).map(tuple))
    data = b"" if inward else draw(st.binary(min_size=size, max_size=size))
    flags, start, interval, setup = draw(U32), draw(U32), draw(U32), draw(st.binary(min_size=8, max_size=8))
    number, device, endpoint = draw(SMALL), draw(U32), draw(st.integers(0, 15))
    return Submit(number, device, inward, endpoint, size, flags, start, interval, setup, data, packets)


@st.composite
def answered(draw: st.DrawFn) -> Submitted:
    data, packets = draw(st.binary(max_size=60)), draw(st.lists(PACKET, max_size=3).map(tuple))
    status = draw(st.integers(-(1 << 31), (1 << 31) - 1))
    return Submitted(draw(SMALL), status, len(data), data, draw(U32), draw(U32), packets)


SHORTS = st.builds(Short, st.sampled_from([Code.unlink, *LOCAL]), U32, U32, U32)
PIECES = st.lists(st.integers(1, 200), max_size=20)


def cut(data: bytes, sizes: Sequence[int]) -> list[bytes]:
    """In pieces of these sizes, and the rest."""
    found, at = [], 0
    for size in sizes:
        found.append(data[at : at + size])
        at += size
    return [*found, data[at:]]


@given(st.lists(submits() | SHORTS, max_size=5), PIECES)
def test_whatever_is_asked_arrives_in_any_pieces(values: list[Submit | Short], sizes: list[int]) -> None:
    asked = Asked()
    data = b"".join(value.emit() for value in values)
    assert [one for piece in cut(data, sizes) for one in asked.feed(piece)] == values


@given(st.lists(answered(), max_size=4, unique_by=lambda value: value.number), PIECES)
def test_whatever_is_answered_arrives_in_any_pieces(values: list[Submitted], sizes: list[int]) -> None:
    answers = Answers({value.number: True for value in values})
    data = b"".join(value.emit() for value in values)
    assert [one for piece in cut(data, sizes) for one in answers.feed(piece)] == values


def heard(feed: Callable[[bytes], Sequence[object]], pieces: Sequence[bytes]) -> tuple[list[object], bool]:
    """The messages, and whether something was none."""
    found: list[object] = []
    for piece in pieces:
        try:
            found += feed(piece)
        except Malformed:
            return found, True
    return found, False


STREAM = st.lists(
    st.one_of(
        st.binary(max_size=100),
        HEADS,
        submits().map(Submit.emit),
        answered().map(Submitted.emit),
        SHORTS.map(Short.emit),
    ),
    max_size=6,
).map(b"".join)


@given(STREAM, PIECES)
def test_any_bytes_in_any_pieces_are_asked_or_malformed(data: bytes, sizes: list[int]) -> None:
    found, malformed = heard(Asked().feed, cut(data, sizes))
    assert all(isinstance(one, Submit | Short) for one in found)
    single = heard(Asked().feed, [bytes((byte,)) for byte in data])
    assert malformed is single[1]
    assert found == single[0][: len(found)]
    assert malformed or len(found) == len(single[0]), "how they are cut makes no difference"


@given(STREAM, PIECES, st.dictionaries(SMALL, st.booleans()))
def test_any_bytes_in_any_pieces_are_answers_or_malformed(
    data: bytes, sizes: list[int], inward: dict[int, bool]
) -> None:
    found, malformed = heard(Answers(dict(inward)).feed, cut(data, sizes))
    assert all(isinstance(one, Submitted | Short) for one in found)
    single = heard(Answers(dict(inward)).feed, [bytes((byte,)) for byte in data])
    assert malformed is single[1]
    assert found == single[0][: len(found)]
    assert malformed or len(found) == len(single[0]), "how they are cut makes no difference"
