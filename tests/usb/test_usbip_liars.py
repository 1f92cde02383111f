"""USB/IP with servers that do not do what they should: the port says why, and everything else goes on."""

from __future__ import annotations

import errno
import socket
import struct
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
from xenusb.client import Handle
from xenusb.device import Packet
from xenusb.importing import receive
from xenusb.loopback import BULK, INTERRUPT, ISOC
from xenusb.usbip import ECONNRESET, Code, Short, Submitted

from tests.mounted.mount import until
from tests.toolstack.stage import SECONDS
from tests.usb.bay import Bay
from tests.usb.exporter import Liar, Tamper, drain, exported, reply
from tests.usb.far import FAR, served, status_of, works
from tests.usb.peers import AS_ROOT, IN, SETTING, MiB, refused
from xenfs.commands.failure import Unable

pytestmark = AS_ROOT


def not_plugged(bay: Bay, domid: int, text: str) -> str:
    """Why something cannot be in a port."""
    with pytest.raises(Unable) as caught:
        bay.plug(domid, FAR, text)
    until(lambda: status_of(bay, domid) == "empty", SECONDS)
    return str(caught.value)


def silent(connection: socket.socket) -> None:
    drain(connection)


def dribbling(connection: socket.socket) -> None:
    """As slow as it goes without being silent."""
    connection.recv(100)
    with suppress(OSError):
        for byte in reply(0, exported()):
            connection.sendall(bytes([byte]))
            connection.settimeout(0.2)
            with suppress(TimeoutError):
                if not connection.recv(1):
                    return


def saying(data: bytes) -> Callable[[socket.socket], None]:
    """Whatever is asked."""

    def does(connection: socket.socket) -> None:
        connection.recv(100)
        connection.sendall(data)
        drain(connection)

    return does


def ending(data: bytes) -> Callable[[socket.socket], None]:
    """The same, and then it goes away."""

    def does(connection: socket.socket) -> None:
        connection.recv(100)
        connection.sendall(data)

    return does


REFUSALS: dict[str, tuple[Callable[[socket.socket], None], str]] = {
    "refuses": (saying(reply(1)), "the server does not give it"),
    "says nothing": (silent, "timed out"),
    "says a byte from time to time": (dribbling, "timed out"),
    "goes away": (ending(b""), "has ended the connection"),
    "goes away in the middle": (ending(reply(0, exported())[:100]), "has ended the connection"),
    "speaks HTTP": (saying(b"HTTP/1.0 400 Bad Request\r\n\r\n"), "the server answers 0x"),
    "speaks another version": (saying(reply(0, exported(), version=0x0106)), "in version 106"),
    "answers another question": (saying(struct.pack(">HHII", 0x0111, 5, 0, 0)), "the server answers 0x5"),
    **{
        f"has a device of speed {speed}": (saying(reply(0, exported(speed=speed))), f"its speed is {speed}, which")
        for speed in (0, 4, 5, 6, 0xFFFFFFFF)
    },
}


@pytest.mark.parametrize("name", REFUSALS)
def test_why_there_is_no_device(bay: Bay, domid: int, name: str) -> None:
    does, words = REFUSALS[name]
    back = bay.usb_back(domid)
    with Liar(does) as server:
        began = time.monotonic()
        said = not_plugged(bay, domid, server.text)
        assert words in said
        assert f"port 3: {server.text.removeprefix('usbip:')}: " in said
        assert time.monotonic() - began < 9
        assert server.came == 1
    assert bay.usb_back(domid) == back
    assert works(bay, domid)


def test_while_a_server_is_silent_other_ports_go_on(bay: Bay, domid: int) -> None:
    controller = bay.controller(domid)
    with Liar(silent) as server:
        bay.stage.store.write(f"{controller.backend_path}/port/{FAR}", server.text)
        until(lambda: server.came == 1, SECONDS)
        assert works(bay, domid)
        assert status_of(bay, domid) == "connecting"
        assert not bay.front_key(domid, f"port/{FAR}")
        bay.plug(domid, FAR, "")
    assert status_of(bay, domid) == "empty"


def test_nobody_listens(bay: Bay, domid: int) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    assert "Connection refused" in not_plugged(bay, domid, f"usbip:127.0.0.1:{port}/1-1")
    assert "UnicodeError" in not_plugged(bay, domid, "usbip:no..name/1-1")
    assert works(bay, domid)


def test_a_device_with_a_number_that_is_too_large(bay: Bay, domid: int) -> None:
    devids: list[int] = []

    def does(connection: socket.socket) -> None:
        connection.recv(100)
        connection.sendall(reply(0, exported(bus=0xFFFFFFFF)))
        devids.append(int.from_bytes(receive(connection, 48)[8:12], "big"))
        drain(connection)

    with Liar(does) as server:
        bay.plug(domid, FAR, server.text)
        until(lambda: bool(devids), SECONDS)
        assert devids == [0xFFFF0004], "as Linux has it"
        assert status_of(bay, domid) == "connected high"
        bay.plug(domid, FAR, "")


def lie(**changed: object) -> Tamper:
    """An answer with other fields."""
    return lambda _, answer: replace(answer, **changed).emit()  # type: ignore[arg-type]


def packets(change: Callable[[list[Packet]], list[Packet]]) -> Tamper:
    """An answer with other packets."""
    return lambda _, answer: replace(answer, packets=tuple(change(list(answer.packets)))).emit()


BULK_LIES: dict[str, tuple[Tamper, str]] = {
    "a number never asked": (lambda _, answer: replace(answer, number=answer.number + 99).emit(), "not asked for"),
    "the same twice": (lambda _, answer: answer.emit() * 2, "not asked for"),
    "more than asked": (lie(actual=65, data=bytes(65)), "65 bytes"),
    "much more than asked": (lie(actual=1 << 22, data=bytes(1 << 22)), "4194304 bytes"),
    "less than nothing": (lie(actual=0xFFFFFFFF), "4294967295 bytes"),
    "more packets than there can be": (lambda _, answer: _counted(answer, 1 << 20), "1048576 packets"),
    "packets where there are none": (lie(packets=(Packet(0, 4, 4),)), "packets"),
    "no answer at all": (lambda asked, _: asked.emit(), "answer 0x1"),
    "another protocol": (lambda _asked, _answer: b"HTTP/1.0 400 Bad Request\r\n".ljust(100), "answer 0x48545450"),
}
PACKET_LIES: dict[str, tuple[Tamper, str]] = {
    "one that is longer than asked": (packets(lambda found: [replace(found[0], actual=9), *found[1:]]), "packets"),
    "more than were asked": (packets(lambda found: found * 2), "packets"),
    "fewer than were asked": (packets(lambda found: found[:1]), "packets"),
    "such as do not add up": (lie(actual=3, data=b"abc"), "packets"),
    "one of four gigabytes": (packets(lambda found: [replace(found[0], actual=0xFFFFFFFF), *found[1:]]), "packets"),
}


def _counted(answer: Submitted, packets: int) -> bytes:
    return struct.pack(">IIIIIiIIII8x", 3, answer.number, 0, 0, 0, 0, answer.actual, 0, packets, 0) + answer.data


def lies(tamper: Tamper, endpoint: int, *, inward: bool = True) -> Tamper:
    """Of the transfers of one endpoint."""
    return lambda asked, answer: (
        tamper(asked, answer) if (asked.endpoint, asked.inward) == (endpoint, inward) else answer.emit()
    )


def caught_lying(bay: Bay, domid: int, tamper: Tamper, words: str, ask: Callable[[Handle], object]) -> None:
    """The port becomes empty and says why; usbback lives."""
    back = bay.usb_back(domid)
    with served(bay, domid, tamper) as (_, handle):
        with suppress(OSError):
            ask(handle)  # of "the same twice" the first is fine
        until(lambda: status_of(bay, domid).startswith("error the usbip server: "), SECONDS)
        assert words in status_of(bay, domid)
        assert refused(lambda: handle.control(SETTING)) == errno.ENODEV
        bay.until_gone(domid, FAR)
    assert bay.usb_back(domid) == back
    assert works(bay, domid)


@pytest.mark.parametrize("name", BULK_LIES)
def test_a_lie_about_a_transfer(bay: Bay, domid: int, name: str) -> None:
    tamper, words = BULK_LIES[name]

    def ask(handle: Handle) -> None:
        handle.transfer(BULK, b"data")
        handle.transfer(IN | BULK, size=64)

    caught_lying(bay, domid, lies(tamper, BULK), words, ask)


@pytest.mark.parametrize("name", PACKET_LIES)
def test_a_lie_about_packets(bay: Bay, domid: int, name: str) -> None:
    tamper, words = PACKET_LIES[name]

    def ask(handle: Handle) -> None:
        handle.transfer(ISOC, b"datadata", packets=[Packet(0, 4), Packet(4, 4)])
        handle.transfer(IN | ISOC, size=16, packets=[Packet(0, 8), Packet(8, 8)])

    caught_lying(bay, domid, lies(tamper, ISOC), words, ask)


def test_a_lie_about_what_was_sent(bay: Bay, domid: int) -> None:
    tamper = lies(lie(actual=5), BULK, inward=False)
    caught_lying(bay, domid, tamper, "5 bytes", lambda handle: handle.transfer(BULK, b"four"))


@pytest.mark.parametrize("status", [-2, -121, -9999, 5, -(1 << 31)])
def test_a_status_that_nobody_knows_is_an_error(bay: Bay, domid: int, status: int) -> None:
    with served(bay, domid, lies(lie(status=status), INTERRUPT, inward=False)) as (_, handle):
        assert refused(lambda: handle.transfer(INTERRUPT, b"data")) == errno.EPROTO
        assert status_of(bay, domid) == "connected high"


def test_an_answer_without_packets_is_none_of_them(bay: Bay, domid: int) -> None:
    tamper = lies(lie(status=-71, actual=0, data=b"", packets=()), ISOC)
    with served(bay, domid, tamper) as (_, handle):
        failing = [Packet(0, 8), Packet(8, 8)]
        assert refused(lambda: handle.transfer(IN | ISOC, size=16, packets=failing)) == errno.EPROTO
        assert status_of(bay, domid) == "connected high"


def test_an_unlink_that_nobody_asked_for_is_passed_over(bay: Bay, domid: int) -> None:
    stray = b"".join(Short(Code.unlinked, number, ECONNRESET).emit() for number in (0, 1, 2, 0xFFFFFFFF))
    with served(bay, domid, lambda _, answer: stray + answer.emit()) as (_, handle):
        handle.transfer(BULK, b"data")
        assert handle.transfer(IN | BULK, size=64).data == b"data"


def test_a_server_that_never_answers_an_unlink_does_not_hold_the_guest(bay: Bay, domid: int) -> None:
    with served(bay, domid) as (server, handle):
        server.deaf = True
        for _ in range(20):
            assert refused(lambda: handle.transfer(IN | BULK, size=64, seconds=0.01)) == errno.ETIMEDOUT
        server.deaf = False
        handle.transfer(INTERRUPT, b"data")
        assert handle.transfer(IN | INTERRUPT, size=64).data == b"data"


def test_what_a_server_does_not_take_is_not_kept_for_ever(bay: Bay, domid: int) -> None:
    with served(bay, domid) as (server, handle):
        with server.stopped():
            while not status_of(bay, domid).startswith("error "):
                assert refused(lambda: handle.transfer(BULK, bytes(60000), seconds=0.01)) in (
                    errno.ETIMEDOUT,
                    errno.ENODEV,
                )
            assert "takes nothing" in status_of(bay, domid)
        memory = int(Path(f"/proc/{bay.usb_back(domid)}/statm").read_text().split()[1]) * 4096
        assert memory < 150 * MiB
    assert works(bay, domid)
