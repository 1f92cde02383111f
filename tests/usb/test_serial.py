"""An emulated serial port by itself, and a program at the other end of its line."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path

import pytest
from xenusb import serial
from xenusb.descriptors import TO_DEVICE, Ask, Kind
from xenusb.serial import Serial

from tests.usb.gadgets import LIMIT, TEXT
from tests.usb.port import OF_CLASS, OF_VENDOR, Port, descriptors, got
from xenfs.abi.usbif import Status

CODING = bytes.fromhex("00 c2 01 00 00 00 08")
"""115200 baud, 8N1."""


class Line:
    """A program at the other end of a serial port."""

    def __init__(self, path: Path) -> None:
        self.fd = os.open(path, os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK | os.O_CLOEXEC)
        self.read = bytearray()

    def has(self, data: bytes) -> bool:
        """Read what there is; whether that is all of this so far, and no other."""
        with suppress(BlockingIOError):
            while part := os.read(self.fd, 1 << 16):
                self.read += part
        assert data.startswith(self.read)
        return len(self.read) == len(data)

    def write(self, data: bytes) -> int:
        """As much as there is room for."""
        done = 0
        with suppress(BlockingIOError):
            while done < len(data):
                done += os.write(self.fd, data[done:])
        return done

    def close(self) -> None:
        os.close(self.fd)


@pytest.fixture
def ttyacm(port: Port, tmp_path: Path) -> Serial:
    """A serial port whose link is `line`."""
    return port.plug(Serial, str(tmp_path / "line"))


@pytest.fixture
def line(ttyacm: Serial) -> Iterator[Line]:
    with closing(Line(Path(ttyacm.argument))) as line:
        yield line


def come(port: Port, size: int, piece: int = 64) -> bytes:
    """So many bytes out of a serial port."""
    found = b""
    while len(found) < size:
        transfer = port.bulk(serial.IN, piece, 7)
        port.wait(transfer)
        assert transfer.status is Status.ok
        assert transfer.actual, "it waits where there is nothing"
        found += got(transfer)
    return found


def test_every_byte_that_the_guest_writes_is_read(port: Port, line: Line) -> None:
    transfer = port.bulk(serial.OUT, TEXT, 100, 1)
    assert (transfer.status, transfer.actual) == (Status.ok, len(TEXT))
    port.until(lambda: line.has(TEXT))


def test_every_byte_that_is_written_the_guest_reads(port: Port, line: Line) -> None:
    assert line.write(TEXT) == len(TEXT)
    assert come(port, len(TEXT)) == TEXT


def test_what_the_guest_asks_for_comes_when_it_is_written(port: Port, line: Line) -> None:
    first, second = port.bulk(serial.IN, 64), port.bulk(serial.IN, 64)
    port.settle()
    assert not first.over
    line.write(b"one")
    port.wait(first)
    port.settle()
    assert (got(first), second.over) == (b"one", False)
    line.write(b"two")
    port.wait(second)
    assert got(second) == b"two"


def test_a_read_that_is_taken_back_takes_nothing_with_it(port: Port, line: Line) -> None:
    transfer = port.bulk(serial.IN, 64)
    port.device.cancel(transfer)
    line.write(b"late")
    assert come(port, 4) == b"late"


@pytest.mark.parametrize("turns", [False, True])
def test_what_comes_behind_a_read_that_was_taken_back_is_read_in_pieces(port: Port, line: Line, turns: bool) -> None:
    found = expected = b""
    for number in range(50):
        port.device.cancel(port.bulk(serial.IN, 64))
        for part in (b"%d first;" % number, b"%d second;" % number):
            line.write(part)
            expected += part
            if turns:
                port.settle()
            found += come(port, 1, 3)
            port.settle()
        found += come(port, len(expected) - len(found))
    assert found == expected


def test_both_directions_at_once(port: Port, line: Line) -> None:
    reads = [port.bulk(serial.IN, 512) for _ in range(4)]
    writes = [port.bulk(serial.OUT, TEXT[:512]) for _ in range(4)]
    line.write(TEXT[512:])
    port.wait(reads[0])
    port.until(lambda: line.has(TEXT[:512] * 4))
    assert TEXT[512:].startswith(got(reads[0]))
    assert all(transfer.status is Status.ok for transfer in writes)


@pytest.mark.usefixtures("ttyacm")
def test_what_is_written_before_anybody_reads_waits_for_them(port: Port, tmp_path: Path) -> None:
    assert port.bulk(serial.OUT, b"login: ").over
    with closing(Line(tmp_path / "line")) as line:
        port.until(lambda: line.has(b"login: "))


@pytest.mark.usefixtures("ttyacm")
def test_readers_come_and_go(port: Port, tmp_path: Path) -> None:
    transfer = port.bulk(serial.IN, 64)
    for said in (b"one", b"two"):
        with closing(Line(tmp_path / "line")) as line:
            assert port.bulk(serial.OUT, said).status is Status.ok
            port.until(lambda line=line, said=said: line.has(said))  # type: ignore[misc]
        port.settle()
    assert not transfer.over
    assert not port.gone
    with closing(Line(tmp_path / "line")) as line:
        line.write(b"three")
        port.wait(transfer)
    assert got(transfer) == b"three"


def lots(seed: int, size: int = LIMIT) -> bytes:
    """Bytes of which none can be lost or doubled without it being seen."""
    return b"".join(f"{seed}.{number};".encode() for number in range(size // 6))[:size]


def test_a_reader_that_does_not_read_makes_the_guest_wait(port: Port, line: Line) -> None:
    first, second, last = lots(1), lots(2, 1000), b"the end"
    transfers = [port.bulk(serial.OUT, data, 4096, 4096) for data in (first, second, last)]
    port.settle()
    assert not any(transfer.over for transfer in transfers)
    port.until(lambda: line.has(first + second + last))
    assert [(one.status, one.actual) for one in transfers] == [
        (Status.ok, len(data)) for data in (first, second, last)
    ]  # fmt: skip
    assert port.ended[-3:] == transfers
    port.settle()
    assert line.has(first + second + last), "and nothing behind it"


def test_a_guest_that_does_not_read_makes_the_writer_wait(port: Port, line: Line) -> None:
    transfer = port.bulk(serial.IN, 64)
    line.write(b"first")
    port.wait(transfer)
    whole, done = lots(3), 0
    while more := line.write(whole[done:]):
        done += more
        port.settle()
    assert done < len(whole)
    found = b""
    while len(found) < len(whole):
        found += come(port, 1, 4096)
        done += line.write(whole[done:])
    assert found == whole


def test_a_write_that_is_taken_back_when_half_is_written_does_not_harm_the_next(port: Port, line: Line) -> None:
    whole, last = lots(4), b"<the end>"
    half, next_one = port.bulk(serial.OUT, whole), port.bulk(serial.OUT, last)
    port.settle()
    assert not half.over
    port.device.cancel(half)
    assert half.status is Status.shutdown
    port.until(lambda: _read(line).endswith(last))
    assert next_one.status is Status.ok
    written = bytes(line.read)[: -len(last)]
    assert 0 < len(written) < len(whole)
    assert whole.startswith(written)


def test_a_write_that_is_taken_back_says_how_much_of_it_went_out(port: Port, line: Line) -> None:
    whole, last = lots(6), b"<the end>"
    half, behind, next_one = (port.bulk(serial.OUT, data) for data in (whole, whole, last))
    port.until(lambda: len(_read(line)) > 10_000)
    port.settle()
    for transfer in (behind, half):
        port.device.cancel(transfer)
    assert (half.status, behind.status, behind.actual) == (Status.shutdown, Status.shutdown, 0)
    port.until(lambda: _read(line).endswith(last))
    assert next_one.status is Status.ok
    assert 10_000 < half.actual < len(whole)
    assert bytes(line.read) == whole[: half.actual] + last


def _read(line: Line) -> bytearray:
    with suppress(BlockingIOError):
        line.read += os.read(line.fd, 1 << 16)
    return line.read


def test_a_reset_when_half_is_written_does_not_harm_the_next(port: Port, line: Line) -> None:
    whole, last = lots(5), b"<the end>"
    half = port.bulk(serial.OUT, whole)
    port.device.reset()
    assert half.status is Status.shutdown
    port.tell(TO_DEVICE, Ask.set_configuration, 1)
    next_one = port.bulk(serial.OUT, last)
    port.until(lambda: _read(line).endswith(last))
    assert next_one.status is Status.ok
    assert whole.startswith(bytes(line.read)[: -len(last)])


@pytest.mark.usefixtures("line")
def test_a_write_of_nothing_is_one(port: Port) -> None:
    assert port.bulk(serial.OUT, b"").status is Status.ok


@pytest.mark.usefixtures("ttyacm")
def test_line_coding_is_what_the_guest_says(port: Port) -> None:
    assert port.ask(OF_CLASS, serial.GET_LINE_CODING, 0, 0, 7) == CODING
    port.tell(OF_CLASS, serial.SET_LINE_CODING, 0, 0, bytes.fromhex("80 25 00 00 02 01 07"))
    assert port.ask(OF_CLASS, serial.GET_LINE_CODING, 0, 0, 7) == bytes.fromhex("80 25 00 00 02 01 07")
    assert port.control(OF_CLASS, serial.SET_LINE_CODING, 0, 0, b"short").status is Status.stall
    assert port.ask(OF_CLASS, serial.GET_LINE_CODING, 0, 0, 7) == bytes.fromhex("80 25 00 00 02 01 07")
    assert port.ask(OF_CLASS, serial.GET_LINE_CODING, 0, 0, 4) == bytes.fromhex("80 25 00 00")


def test_control_lines_and_a_break(port: Port, ttyacm: Serial) -> None:
    port.tell(OF_CLASS, serial.SET_CONTROL_LINE_STATE, 3)
    assert ttyacm.lines == 3
    port.tell(OF_CLASS, serial.SEND_BREAK, 0xFFFF)
    assert port.control(OF_VENDOR, serial.SET_CONTROL_LINE_STATE, 0).status is Status.stall


@pytest.mark.usefixtures("ttyacm")
def test_a_serial_port_has_no_news(port: Port) -> None:
    transfer = port.interrupt(serial.NOTES, 8)
    port.settle()
    assert not transfer.over


def test_functions_of_a_serial_port_byte_by_byte(port: Port, ttyacm: Serial) -> None:
    control, data = ttyacm.interfaces
    assert (control.klass, control.subclass, control.protocol, data.klass) == (2, 2, 1, 10)
    said = "05 24 00 10 01  05 24 01 00 01  04 24 02 06  05 24 06 00 01"
    assert port.descriptor(Kind.configuration)[18:37] == bytes.fromhex(said)
    assert port.descriptor(Kind.device)[4] == 2


@pytest.mark.usefixtures("ttyacm")
def test_the_link_is_there_as_long_as_the_port(port: Port, tmp_path: Path) -> None:
    link = tmp_path / "line"
    assert link.readlink().parent == Path("/dev/pts")
    port.unplug()
    assert not link.is_symlink()


def test_whoever_has_the_line_when_it_is_unplugged_is_told(port: Port, line: Line) -> None:
    port.unplug()
    with pytest.raises(OSError, match="Input/output error"):
        os.write(line.fd, b"anybody?")


def test_what_a_serial_port_of_before_has_left_is_replaced(port: Port, tmp_path: Path) -> None:
    link = tmp_path / "line"
    link.symlink_to("/dev/pts/99999")
    port.plug(Serial, str(link))
    with closing(Line(link)) as line:
        port.bulk(serial.OUT, b"here")
        port.until(lambda: line.has(b"here"))


def test_what_is_no_link_of_ours_stays(port: Port, tmp_path: Path) -> None:
    before = descriptors()
    (tmp_path / "file").write_text("mine")
    (tmp_path / "link").symlink_to(tmp_path / "file")
    for name in ("file", "link"):
        with pytest.raises(FileExistsError):
            port.plug(Serial, str(tmp_path / name))
    with pytest.raises(FileNotFoundError):
        port.plug(Serial, str(tmp_path / "no" / "directory"))
    with pytest.raises(OSError, match="needs the path of a link"):
        port.plug(Serial, "")
    assert (tmp_path / "link").read_text() == "mine"
    assert descriptors() == before


def test_a_link_that_cannot_be_made_is_named(port: Port, tmp_path: Path) -> None:
    there = tmp_path / "plain"
    there.write_text("mine")
    with pytest.raises(FileExistsError) as caught:
        port.plug(Serial, str(there))
    assert (caught.value.filename, caught.value.filename2) == (str(there), None)
    assert there.read_text() == "mine"
