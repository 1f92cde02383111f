"""What a device of one's own has to say, and what Gadget makes of that."""

from __future__ import annotations

import errno
from collections import deque

import pytest
from xenusb.descriptors import VENDOR, Endpoint, Interface, Kind, Setup, text
from xenusb.device import Host
from xenusb.gadget import About, Gadget, Stall
from xenusb.ports import find

from tests.usb.port import OF_VENDOR, Port, got
from xenfs.abi.usbif import PipeType, Status


class Thermometer(Gadget):
    """As large as a device has to be."""

    about = About(0x1209, 0x0001, "Example", "Thermometer")
    interfaces = (Interface(0, 0xFF, endpoints=(Endpoint(1, True, PipeType.interrupt, 8, 10),)),)
    unit = "C"

    def give(self, _endpoint: int, size: int) -> bytes | None:
        return f"21.5 {self.unit}".encode()[:size]

    def control(self, setup: Setup, data: bytes) -> bytes:
        if (setup.kind, setup.request) != (VENDOR, 1):
            raise Stall
        self.unit = data.decode()
        return b""


def test_a_device_of_a_users_own(port: Port) -> None:
    make, argument = find(f"python:{__name__}:Thermometer:kitchen")
    device = port.plug(make, argument)
    assert isinstance(device, Thermometer)
    assert device.argument == "kitchen"
    assert got(port.interrupt(1, 8)) == b"21.5 C"
    port.tell(OF_VENDOR, 1, data=b"F")
    assert got(port.interrupt(1, 8, 5)) == b"21.5 F"
    assert got(port.interrupt(1, 4)) == b"21.5"
    assert port.control(OF_VENDOR, 2).status is Status.stall
    assert text(port.descriptor(Kind.string, 2)) == "Thermometer"
    assert port.bulk(1, 8).status is Status.inval


class Script(Gadget):
    """A device that answers as a test says, on either endpoint."""

    about = About(1, 2, "maker", "Script")
    interfaces = (
        Interface(0, 0xFF, endpoints=(Endpoint(1, True, PipeType.bulk, 512), Endpoint(1, False, PipeType.bulk, 512))),
    )

    def __init__(self, argument: str, host: Host) -> None:
        super().__init__(argument, host)
        self.answers: deque[bytes | Exception] = deque()
        self.taken: list[bytes] = []

    def _next(self) -> bytes | None:
        if not self.answers:
            return None
        if isinstance(answer := self.answers.popleft(), Exception):
            raise answer
        return answer

    def give(self, _endpoint: int, _size: int) -> bytes | None:
        return self._next()

    def take(self, _endpoint: int, data: bytes) -> bool:
        if self._next() is None:
            return False
        self.taken.append(data)
        return True

    def control(self, _setup: Setup, _data: bytes) -> bytes:
        return self._next() or b""


def test_not_now_makes_the_host_wait_until_the_device_is_ready(port: Port) -> None:
    script = port.plug(Script)
    reads, writes = [port.bulk(1, 4) for _ in range(3)], [port.bulk(1, data) for data in (b"abc", b"de")]
    port.ended.clear()
    assert script.waits(1, inward=True)
    assert script.waits(1, inward=False)
    script.answers += (b"one", b"two")
    script.ready(1, inward=True)
    assert [got(transfer) for transfer in port.ended] == [b"one", b"two"]
    assert port.ended == reads[:2]
    script.answers += (b"", b"", b"last")
    script.ready(1, inward=False)
    assert script.taken == [b"abc", b"de"]
    assert port.ended == reads[:2] + writes
    assert not script.waits(1, inward=False)
    script.ready(1, inward=False)
    script.ready(1, inward=True)
    assert got(reads[2]) == b"last"


def test_what_was_cancelled_is_not_served(port: Port) -> None:
    script = port.plug(Script)
    first, second, third = (port.bulk(1, 4) for _ in range(3))
    script.cancel(second)
    script.answers += (b"one", b"two")
    script.ready(1, inward=True)
    assert (got(first), got(second), got(third)) == (b"one", b"", b"two")


@pytest.mark.parametrize("data", [4, b"abcd"])
def test_a_stall_halts_the_endpoint_and_ends_what_waits_behind(port: Port, data: bytes | int) -> None:
    script = port.plug(Script)
    first, second = port.bulk(1, data), port.bulk(1, data)
    other = port.bulk(1, b"other" if isinstance(data, int) else 8)
    script.answers.append(Stall())
    script.ready(1, inward=first.inward)
    assert [transfer.status for transfer in (first, second)] == [Status.stall] * 2
    assert port.ended[-2:] == [first, second]
    assert port.halted(first.address)
    script.answers.append(b"")
    assert port.bulk(1, data).status is Status.stall
    assert not other.over, "the other direction is another endpoint"
    assert len(script.answers) == 1, "and nothing is asked of the device"
    port.clear(first.address)
    assert port.bulk(1, data).status is Status.ok


def test_an_error_of_the_system_ends_one_transfer_and_is_said(port: Port) -> None:
    script = port.plug(Script)
    first, second = port.bulk(1, 4), port.bulk(1, 4)
    script.answers += (OSError(errno.EIO, "it smells", "/dev/nose"), b"fine")
    script.ready(1, inward=True)
    assert (first.status, got(second)) == (Status.ioerror, b"fine")
    script.answers.append(OSError(errno.EIO, "it burns"))
    assert port.control(OF_VENDOR, 1, 0, 0, 4).status is Status.ioerror
    assert port.said == ["/dev/nose: it smells", "Script: it burns"]
    assert not port.gone


def test_a_control_request_gives_no_more_than_is_wanted(port: Port) -> None:
    script = port.plug(Script)
    script.answers.append(bytes(range(64)))
    roomy = port.make(PipeType.control, 0, 64, setup=Setup(0x80 | OF_VENDOR, 1, 0, 0, 8))
    script.submit(roomy)
    assert got(roomy) == bytes(range(8)), "wLength is what counts"
    script.answers.append(bytes(10_000))
    assert port.ask(OF_VENDOR, 1, size=8) == bytes(8)
    script.answers.append(bytes(10_000))
    assert len(port.ask(OF_VENDOR, 1, size=10_000)) == 4096
