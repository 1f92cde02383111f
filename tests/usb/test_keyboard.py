"""An emulated keyboard by itself: what is written into its FIFO is typed."""

from __future__ import annotations

import fcntl
import os
import struct
import termios
from contextlib import closing, suppress
from pathlib import Path

import pytest
from xenusb import keyboard
from xenusb.descriptors import TO_DEVICE, TO_INTERFACE, Ask, Kind
from xenusb.keyboard import Keyboard

from tests.usb.gadgets import LIMIT, fifo
from tests.usb.port import OF_CLASS, OF_VENDOR, Port, descriptors, got
from xenfs.abi.usbif import Speed, Status

KEYS = 1
NONE = bytes(8)
LETTERS = {(modifiers, code): letter for letter, (modifiers, code) in keyboard.LAYOUT.items()}


@pytest.fixture
def board(port: Port, tmp_path: Path) -> Keyboard:
    return port.plug(Keyboard, str(fifo(tmp_path / "keys")))


@pytest.fixture
def keys(board: Keyboard) -> Path:
    """The FIFO of the keyboard."""
    return Path(board.argument)


class Writer:
    """Somebody who writes into a FIFO, and does not wait."""

    def __init__(self, path: Path) -> None:
        self.fd = os.open(path, os.O_WRONLY | os.O_NONBLOCK)

    def write(self, data: bytes) -> int:
        """As much as there is room for."""
        done = 0
        with suppress(BlockingIOError):
            while done < len(data):
                done += os.write(self.fd, data[done : done + 4096])
        return done

    def close(self) -> None:
        os.close(self.fd)


def say(port: Port, keys: Path, said: str | bytes) -> None:
    """Write into the FIFO, and let the keyboard read it."""
    data = said.encode() if isinstance(said, str) else said
    with closing(Writer(keys)) as writer:
        assert writer.write(data) == len(data)
    port.settle()


def press(port: Port) -> str | None:
    """The next key that is pressed, and let go."""
    down = port.interrupt(KEYS, 8)
    if not down.over:
        port.device.cancel(down)
        return None
    up = port.interrupt(KEYS, 8)
    assert (len(got(down)), got(up)) == (8, NONE)
    modifiers, zero, code, *others = got(down)
    assert (zero, others) == (0, [0] * 5)
    return LETTERS[modifiers, code]


def typed(port: Port) -> str:
    """All that is typed now."""
    return "".join(iter(lambda: press(port) or "", ""))


def test_a_key_is_pressed_in_one_report_and_let_go_in_the_next(port: Port, keys: Path) -> None:
    reports = [port.interrupt(KEYS, 8) for _ in range(5)]
    say(port, keys, "aA\n")
    assert [got(report).hex() for report in reports[:4]] == [
        "0000040000000000", "0000000000000000", "0200040000000000", "0000000000000000",
    ]  # fmt: skip
    assert got(reports[4]).hex() == "0000280000000000", "and the line ends with Enter"
    assert got(port.interrupt(KEYS, 64, 3)).hex() == "0000000000000000", "a report is never more"
    assert not port.interrupt(KEYS, 8).over


PRINTED = {  # HID Usage Tables, page 0x07
    "az": "04 1d", "AZ": "204 21d", "1234567890": "1e 1f 20 21 22 23 24 25 26 27",
    "!@#$%^&*()": "21e 21f 220 221 222 223 224 225 226 227", "\t ": "2b 2c", "-=": "2d 2e", "_+": "22d 22e",
    "[]\\": "2f 30 31", "{}|": "22f 230 231", ";'`": "33 34 35", ':"~': "233 234 235", ",./": "36 37 38",
    "<>?": "236 237 238",
}  # fmt: skip


@pytest.mark.parametrize("line", PRINTED)
def test_every_character_has_its_key(port: Port, keys: Path, line: str) -> None:
    reports = [port.interrupt(KEYS, 8) for _ in range(2 * len(line) + 2)]
    say(port, keys, line + "\n")
    pressed = [got(report) for report in reports[::2]]
    assert [report[0] << 8 | report[2] for report in pressed] == [*(int(n, 16) for n in PRINTED[line].split()), 0x28]
    assert all(got(report) == NONE for report in reports[1::2])


def test_lines_are_typed_in_their_order(port: Port, keys: Path) -> None:
    say(port, keys, "Hello, world!\n\n")
    say(port, keys, "one\ntwo\n")
    assert typed(port) == "Hello, world!\n\none\ntwo\n"
    say(port, keys, "three\n")
    assert typed(port) == "three\n"


def test_all_that_is_printable_in_ascii_is_typed(port: Port, keys: Path) -> None:
    line = "".join(map(chr, range(0x20, 0x7F))) + "\n"
    say(port, keys, line)
    assert typed(port) == line
    assert port.said == []


def test_what_is_no_whole_line_is_typed_as_well(port: Port, keys: Path) -> None:
    say(port, keys, "hal")
    assert typed(port) == "hal"
    say(port, keys, "f\n")
    assert typed(port) == "f\n"


def test_what_has_no_key_is_said_and_the_rest_is_typed(port: Port, keys: Path) -> None:
    say(port, keys, "stra\N{LATIN SMALL LETTER SHARP S}e \x07\n".encode() + b"\xff!\n")
    assert typed(port) == "strae \n!\n"
    assert [line.rpartition(" ")[2] for line in port.said] == ["'ß'", r"'\x07'", "'\N{REPLACEMENT CHARACTER}'"]


def test_a_character_comes_in_two_parts(port: Port, keys: Path) -> None:
    say(port, keys, b"x\xc3")
    say(port, keys, b"\xa4y\n")
    assert typed(port) == "xy\n"
    assert len(port.said) == 1


def test_a_character_lies_across_the_end_of_what_is_read_at_once(port: Port, keys: Path) -> None:
    say(port, keys, b"x" * 4095 + b"\xc3\xa4" + b"y" * 4095)
    assert typed(port) == "x" * 4095 + "y" * 4095
    assert port.said == ["there is no key for 'ä'"]


def test_two_writers(port: Port, keys: Path) -> None:
    with closing(Writer(keys)) as one, closing(Writer(keys)) as two:
        for number in range(20):
            one.write(f"one {number}\n".encode())
            two.write(f"two {number}\n".encode())
            if number % 3 == 0:
                port.settle()
        port.settle()
    assert typed(port) == "".join(f"one {number}\ntwo {number}\n" for number in range(20))


def test_writers_come_and_go(port: Port, keys: Path) -> None:
    report = port.interrupt(KEYS, 8)
    for _ in range(3):
        Writer(keys).close()
        port.settle()
    assert not report.over
    say(port, keys, "a\n")
    assert got(report)[2] == 0x04
    assert (port.gone, port.said) == ([], [])


LONG = {
    "lines": "".join(f"line {number} of a long text, \t#{number % 7}\n" for number in range(2400)),
    "one line": " ".join(map(str, range(14_000))) + "\n",
    "no line": " ".join(map(str, range(14_000))),
}


@pytest.mark.parametrize("name", LONG)
def test_a_long_text_makes_its_writer_wait_and_nothing_is_lost(port: Port, keys: Path, name: str) -> None:
    whole = LONG[name]
    assert len(whole) > 1 << 16
    with closing(Writer(keys)) as writer:
        fcntl.fcntl(writer.fd, fcntl.F_SETPIPE_SZ, 4096)
        left = whole.encode()
        while done := writer.write(left):
            left = left[done:]
            port.settle()
        assert left, "whoever writes is made to wait"
        found = ""
        while left:
            letter = press(port)
            assert letter is not None
            found += letter
            left = left[writer.write(left) :]
            port.settle()
    while more := typed(port):
        found += more
        port.settle()
    assert found == whole


def test_nobody_listens_and_the_writer_waits(port: Port, keys: Path) -> None:
    lines, done = b"to nobody\n" * LIMIT, 0
    with closing(Writer(keys)) as writer:
        while more := writer.write(lines[done:]):
            done += more
            port.settle()
    assert done < LIMIT


def test_a_reader_does_not_make_the_keyboard_keep_more_than_it_has_room_for(port: Port, keys: Path) -> None:
    room, once = 1 << 16, 2 * 4096  # reports that may wait, and those of what is read at once
    written, given, kept = 0, 0, []
    with closing(Writer(keys)) as writer:
        while more := writer.write(b"x" * 4096):
            written += more
            port.settle()
        for _ in range(1000):
            given += sum(port.interrupt(KEYS, 8).over for _ in range(20))
            port.settle()
            written += writer.write(b"x" * 4096)
            port.settle()
            left = struct.unpack("i", fcntl.ioctl(writer.fd, termios.FIONREAD, bytes(4)))[0]
            kept.append(2 * (written - left) - given)
    assert given == 20_000
    assert max(kept) < room + once
    assert min(kept) >= room, "and it reads on"


def test_a_fifo_that_somebody_else_has_read_does_not_unplug_the_keyboard(port: Port, board: Keyboard) -> None:
    other = port.plug(Keyboard, board.argument)
    for word in ("one", "two"):
        say(port, Path(board.argument), word)
    assert (port.gone, port.said) == ([], [])
    found = []
    for port.device in (board, other):
        found.append(typed(port))
    assert "".join(found) in ("onetwo", "twoone")


def test_what_is_typed_while_nobody_is_configured_waits(port: Port, keys: Path) -> None:
    port.device.reset()
    say(port, keys, "early\n")
    port.tell(TO_DEVICE, Ask.set_configuration, 1)
    assert typed(port) == "early\n"


def test_a_report_that_is_taken_back_takes_no_key_with_it(port: Port, keys: Path) -> None:
    reports = [port.interrupt(KEYS, 8) for _ in range(3)]
    for report in reports:
        port.device.cancel(report)
    say(port, keys, "abc\n")
    assert typed(port) == "abc\n"


def hid_fields(report: bytes) -> list[tuple[str, int, int, int, int]]:
    """What reports consist of (HID 1.11, 6.2.2): input or output, flags, usage page, bits of a field, how many."""
    page = size = count = 0
    found = []
    while report:
        width = (0, 1, 2, 4)[report[0] & 3]
        tag, value = report[0] & 0xFC, int.from_bytes(report[1 : 1 + width], "little")
        page = value if tag == 0x04 else page
        size, count = value if tag == 0x74 else size, value if tag == 0x94 else count
        if tag in (0x80, 0x90):
            found.append(("input" if tag == 0x80 else "output", value, page, size, count))
        report = report[1 + width :]
    return found


@pytest.mark.usefixtures("board")
def test_report_descriptor_says_what_reports_are_like(port: Port) -> None:
    report = port.ask(TO_INTERFACE, Ask.get_descriptor, Kind.report << 8)
    assert report[:6] == bytes.fromhex("05 01 09 06 a1 01"), "a keyboard"
    assert report[-1] == 0xC0
    assert sorted(hid_fields(report)) == [
        ("input", 0, 7, 8, 6),  # keys
        ("input", 1, 7, 8, 1),  # nothing
        ("input", 2, 7, 1, 8),  # modifiers
        ("output", 1, 8, 3, 1),
        ("output", 2, 8, 1, 5),  # lights
    ]
    hid = port.ask(TO_INTERFACE, Ask.get_descriptor, Kind.hid << 8)
    assert hid == bytes.fromhex("09 21 11 01 00 01 22") + len(report).to_bytes(2, "little")
    assert port.descriptor(Kind.configuration)[18:27] == hid, "behind its interface"


def test_a_keyboard_is_one_of_the_boot_protocol(board: Keyboard) -> None:
    (one,) = board.configuration.interfaces
    assert (one.klass, one.subclass, one.protocol) == (3, 1, 1)


def test_requests_of_the_class_of_keyboards(port: Port, board: Keyboard) -> None:
    assert port.ask(OF_CLASS, keyboard.GET_PROTOCOL, 0, 0, 1) == b"\1"
    port.tell(OF_CLASS, keyboard.SET_PROTOCOL, 0)
    assert port.ask(OF_CLASS, keyboard.GET_PROTOCOL, 0, 0, 1) == b"\0"
    port.tell(OF_CLASS, keyboard.SET_IDLE, 0x7D00)
    assert port.ask(OF_CLASS, keyboard.GET_IDLE, 0, 0, 1) == b"\x7d"
    assert port.ask(OF_CLASS, keyboard.GET_REPORT, 0x0100, 0, 8) == NONE
    port.tell(OF_CLASS, keyboard.SET_REPORT, 0x0200, 0, b"\x02")
    assert board.lights == 2
    for kind in (OF_VENDOR, OF_CLASS & ~TO_INTERFACE):
        assert port.control(kind, keyboard.GET_PROTOCOL, 0, 0, 1).status is Status.stall


def test_a_keyboard_is_slow(port: Port, board: Keyboard) -> None:
    assert (board.speed, port.descriptor(Kind.device)[7]) == (Speed.low, 8)


def test_a_reset_takes_back_what_the_host_has_said_of_its_protocol(port: Port, board: Keyboard) -> None:
    port.tell(OF_CLASS, keyboard.SET_PROTOCOL, 0)
    port.tell(OF_CLASS, keyboard.SET_IDLE, 0x7D00)
    board.reset()
    port.tell(TO_DEVICE, Ask.set_configuration, 1)
    assert port.ask(OF_CLASS, keyboard.GET_PROTOCOL, 0, 0, 1) == b"\1"
    assert port.ask(OF_CLASS, keyboard.GET_IDLE, 0, 0, 1) == b"\0"


def test_a_keyboard_of_what_is_no_fifo_is_none(port: Port, tmp_path: Path) -> None:
    before = descriptors()
    (tmp_path / "file").write_bytes(b"text\n")
    for name, why in (("file", "not a FIFO"), ("nothing", "No such file")):
        with pytest.raises(OSError, match=why):
            port.plug(Keyboard, str(tmp_path / name))
    assert descriptors() == before
