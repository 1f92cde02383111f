"""USB/IP, byte by byte: every message in both directions, whole and in pieces."""

from __future__ import annotations

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
