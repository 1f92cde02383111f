"""Ports of usbback: what is in them, and what becomes of that when it misbehaves."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import cast

import pytest
from xenusb import ports
from xenusb.back import UsbBack
from xenusb.descriptors import TO_DEVICE, Ask, Endpoint, Interface, Setup
from xenusb.device import Host, Transfer
from xenusb.gadget import About, Gadget
from xenusb.ports import Claim, find

from tests.usb.port import OF_VENDOR, OURS, Port, got
from xenfs.abi.usbif import PipeType, Speed, Status

SHOWN = 200
"""Characters of what a port says of itself, at most."""


class Back(Port):
    """As much of usbback as a port needs, and a host that asks what is in it."""

    port: ports.Port

    def __init__(self) -> None:
        super().__init__()
        self.ports: list[ports.Port] = []
        self.lines: list[str] = []
        self.reports: list[tuple[int, str]] = []
        self.speeds: list[tuple[int, Speed]] = []

    def __repr__(self) -> str:
        return "back"

    def log(self, line: str) -> None:
        """See End."""
        self.lines.append(line)

    def plugged(self, port: ports.Port, speed: Speed) -> None:
        """See UsbBack."""
        self.speeds.append((port.number, speed))

    def report(self, port: ports.Port) -> None:
        """See UsbBack."""
        self.reports.append((port.number, port.status))

    def add(self) -> ports.Port:
        """One more port, which is asked from now on."""
        self.port = ports.Port(len(self.ports) + 1, cast("UsbBack", self))
        self.ports.append(self.port)
        return self.port

    def close(self) -> None:
        """Be no more."""
        for port in self.ports:
            port.empty()
        super().close()

    def hand(self, transfer: Transfer) -> None:
        """See Port."""
        self.port.submit(transfer)


@pytest.fixture
def back() -> Iterator[Back]:
    with closing(Back()) as back:
        yield back


@pytest.fixture
def port(back: Back) -> ports.Port:
    return back.add()


class Rude(Gadget):
    """A class of a user's, which raises where its argument says."""

    about = About(1, 2, "user", "Rude")
    interfaces = (
        Interface(0, 0xFF, endpoints=tuple(Endpoint(number, True, PipeType.interrupt, 8, 10) for number in (1, 2))),
    )

    def __init__(self, argument: str, host: Host) -> None:
        super().__init__(argument, host)
        self._raise("constructor")

    def _raise(self, where: str) -> None:
        said = self.argument.partition(",")[0]
        if said == where:
            raise ValueError(f"it is the {where}")
        if said == f"error of {where}":
            raise OSError(errno.EIO, "it smells", "/dev/nose")

    def give(self, endpoint: int, _size: int) -> bytes | None:
        """Endpoint 1 has nothing to say."""
        if endpoint == 2:
            self._raise("give")
        return None

    def control(self, _setup: Setup, _data: bytes) -> bytes:
        """Have the loop call."""
        self._raise("control")
        self.host.loop.later(0, lambda: self.host.attempt(lambda: self._raise("loop")))
        return b""


def rude(where: str) -> str:
    return f"python:{__name__}:Rude:{where},{OURS}"


def test_a_port_says_what_is_in_it(back: Back, port: ports.Port) -> None:
    port.plug("")
    port.plug("loopback:")
    port.plug("")
    assert back.reports == [(1, "empty"), (1, "connected high"), (1, "empty")]
    assert back.speeds == [(1, Speed.high), (1, Speed.none)]
    assert back.lines == []


def test_a_port_says_how_fast_it_is(back: Back, port: ports.Port, pipe: Path, tmp_path: Path) -> None:
    for text in (f"keyboard:{pipe}", f"serial:{tmp_path}/line", rude("")):
        port.plug(text)
    assert [status for _, status in back.reports] == ["connected low", "connected full", "connected high"]
    assert [speed for _, speed in back.speeds] == [Speed.low, Speed.none, Speed.full, Speed.none, Speed.high]


def test_the_same_again_changes_nothing(back: Back, port: ports.Port) -> None:
    port.plug("loopback:")
    device = port.device
    port.plug("loopback:")
    assert port.device is device
    assert len(back.reports) == len(back.speeds) == 1


def test_what_is_asked_of_a_port_is_asked_of_its_device(back: Back, port: ports.Port) -> None:
    assert back.interrupt(1, 8).status is Status.nodev
    port.plug(rude(""))
    back.tell(TO_DEVICE, Ask.set_configuration, 1)
    transfer = back.interrupt(1, 8)
    port.plug("")
    assert transfer.status is Status.nodev
    assert back.interrupt(1, 8).status is Status.nodev


def test_a_reset_takes_the_address_and_the_configuration(back: Back, port: ports.Port) -> None:
    port.reset()
    port.plug("loopback:")
    back.tell(TO_DEVICE, Ask.set_configuration, 1)
    port.address = 7
    port.reset()
    assert (port.address, port.status) == (0, "connected high")
    assert back.ask(TO_DEVICE, Ask.get_configuration, 0, 0, 1) == b"\0"


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("nonsense", "nonsense: neither a bus path such as 1-2 nor a device of keyboard, loopback, serial, "),
        ("stick:/no/image", "/no/image: No such file or directory"),
        ("stick:/dev/null", "/dev/null: neither a file nor a block device"),
        ("keyboard:/dev/null", "/dev/null: not a FIFO"),
        ("serial:", "serial:: a serial port needs the path of a link to its pty"),
        ("usbip:host", "host: not of the form usbip:host[:port]/bus-id"),
        ("python:no.module:None:", "python:no.module:None:: ModuleNotFoundError: No module named 'no'"),
        ("python:os:Nobody:", "python:os:Nobody:: AttributeError: module 'os' has no attribute 'Nobody'"),
    ],
)
def test_a_port_says_why_there_is_nothing_in_it(back: Back, port: ports.Port, text: str, why: str) -> None:
    port.plug(text)
    assert port.device is None
    assert port.status.startswith(f"error {why}")
    assert back.reports == [(1, port.status)]
    assert back.lines[0].startswith(f"back: port 1: {why}")
    assert back.speeds == []
    port.plug("")
    assert port.status == "empty"


def test_what_a_port_says_is_never_long(back: Back, port: ports.Port) -> None:
    port.plug(f"stick:/{'long/' * SHOWN}")
    assert len(port.status) == SHOWN
    assert port.status.startswith("error /long/long/")
    assert back.lines[0].endswith(": No such file or directory"), "the log has it all"


def test_what_is_in_one_port_is_refused_to_another_until_it_is_taken_out(
    back: Back, port: ports.Port, file: Path
) -> None:  # fmt: skip
    text = f"stick:{file}"
    port.plug(text)
    other = back.add()
    other.plug(f"{text},ro")
    assert back.reports[-1] == (2, f"error {text},ro: it is in another port already")
    assert port.status == "connected high"
    port.plug("")
    for said in ("", f"{text},ro"):
        other.plug(said)
    assert other.status == "connected high"


def test_a_serial_line_stays_where_it_is_when_another_port_wants_it(
    back: Back, port: ports.Port, tmp_path: Path
) -> None:  # fmt: skip
    text, link = f"serial:{tmp_path}/line", tmp_path / "line"
    port.plug(text)
    target = link.readlink()
    other = back.add()
    other.plug(text)
    assert other.status == f"error {text}: it is in another port already"
    other.plug("")
    assert link.readlink() == target


def test_a_device_that_is_gone_is_reported_and_stays_so_until_it_is_taken_out(
    back: Back, port: ports.Port, file: Path
) -> None:  # fmt: skip
    text = f"stick:{file}"
    port.plug(text)
    port.address = 5
    seat = port.seat
    assert seat is not None
    seat.unplugged("somebody has pulled it")
    seat.unplugged("twice")
    assert (port.device, port.address) == (None, 0)
    assert back.reports[1:] == [(1, "error somebody has pulled it")]
    assert back.speeds == [(1, Speed.high), (1, Speed.none)]
    Claim(text).close()
    port.plug(text)
    assert port.status == "error somebody has pulled it"
    port.plug("")
    port.plug(text)
    assert port.status == "connected high"


# What does not have its speed at once.


class Late(Gadget):
    """It has its speed when somebody says so."""

    about = About(1, 2, "user", "Late")
    speed = Speed.none

    def come(self) -> None:
        """Say so."""
        self.speed = Speed.full
        self.host.arrived()


@pytest.fixture
def late(port: ports.Port) -> Late:
    port.plug(f"python:{__name__}:Late:{OURS}")
    assert isinstance(port.device, Late)
    return port.device


def test_what_is_late_is_there_when_it_says_so(back: Back, port: ports.Port, late: Late) -> None:
    assert (back.reports, back.speeds) == ([(1, "connecting")], [])
    for _ in range(2):
        late.come()
        assert back.reports[1:] == [(1, "connected full")]
        assert back.speeds == [(1, Speed.full)]
    port.plug("")
    assert back.speeds[1:] == [(1, Speed.none)]


def test_what_is_taken_out_before_it_has_come_was_never_there(back: Back, port: ports.Port, late: Late) -> None:
    port.plug("")
    late.come()
    assert back.reports[1:] == [(1, "empty")]
    assert back.speeds == []


def test_what_does_not_come_was_never_there(back: Back, port: ports.Port, late: Late) -> None:
    late.host.unplugged("nobody answers")
    assert back.reports[1:] == [(1, "error nobody answers")]
    assert (port.device, back.speeds) == (None, [])


# What classes of users do.


@pytest.mark.parametrize(
    ("where", "why"),
    [("constructor", "ValueError: it is the constructor"), ("error of constructor", "/dev/nose: it smells")],
)
def test_a_class_that_raises_while_it_is_made_is_not_plugged_in(
    back: Back, port: ports.Port, where: str, why: str
) -> None:  # fmt: skip
    port.plug(rude(where))
    assert back.reports == [(1, f"error {why}")]
    assert (port.device, back.speeds) == (None, [])
    assert len(back.lines) == 1
    assert back.lines[0].endswith(why)
    assert back.control(OF_VENDOR, 1).status is Status.nodev
    Claim(rude(where)).close()


def test_what_is_no_class_of_a_device_is_not_plugged_in(back: Back, port: ports.Port) -> None:
    port.plug(f"python:os:sep:{OURS}")
    assert back.reports == [(1, "error TypeError: 'str' object is not callable")]


def begin(back: Back, port: ports.Port, where: str) -> list[Transfer]:
    """Plug a rude device in, and have it asked for what it does not have."""
    port.plug(rude(where))
    back.tell(TO_DEVICE, Ask.set_configuration, 1)
    waits = [back.interrupt(1, 8) for _ in range(2)]
    assert not any(transfer.over for transfer in waits)
    return waits


def unplugged(back: Back, port: ports.Port, why: str) -> None:
    """It was, and the port may be used again."""
    assert port.device is None
    assert back.reports[1:] == [(1, f"error {why}")]
    assert back.lines == [f"back: port 1: {why}"]
    assert back.speeds[1:] == [(1, Speed.none)]
    assert back.interrupt(1, 8).status is Status.nodev
    back.settle()
    port.plug("loopback:")
    assert got(back.control(TO_DEVICE, Ask.get_configuration, 0, 0, 1)) == b"\0"


def test_a_class_that_raises_in_a_transfer_is_unplugged(back: Back, port: ports.Port) -> None:
    waits = begin(back, port, "give")
    assert back.interrupt(2, 8).status is Status.ioerror
    assert [transfer.status for transfer in waits] == [Status.nodev] * 2
    unplugged(back, port, "ValueError: it is the give")


def test_a_class_that_raises_in_a_control_request_is_unplugged(back: Back, port: ports.Port) -> None:
    waits = begin(back, port, "control")
    assert back.control(OF_VENDOR, 1).status is Status.ioerror
    assert [transfer.status for transfer in waits] == [Status.nodev] * 2
    unplugged(back, port, "ValueError: it is the control")


@pytest.mark.parametrize(
    ("where", "why"), [("loop", "ValueError: it is the loop"), ("error of loop", "/dev/nose: it smells")]
)
def test_a_class_that_raises_when_the_loop_calls_is_unplugged(
    back: Back, port: ports.Port, where: str, why: str
) -> None:  # fmt: skip
    waits = begin(back, port, where)
    assert back.control(OF_VENDOR, 1).status is Status.ok
    back.settle()
    assert [transfer.status for transfer in waits] == [Status.nodev] * 2
    unplugged(back, port, why)


@pytest.mark.parametrize("error", [OSError(errno.EIO, "it smells"), ValueError("it is late")])
def test_what_fails_after_another_device_was_plugged_in_is_not_that_ones_fault(
    back: Back, port: ports.Port, error: Exception
) -> None:
    def replace() -> None:
        port.plug("loopback:")
        raise error

    port.plug(rude(""))
    seat = port.seat
    assert seat is not None
    seat.attempt(replace)
    seat.attempt(replace)
    assert port.status == "connected high"
    assert port.device is not None
    assert find("loopback:")[0] is type(port.device)
    assert back.lines == []
