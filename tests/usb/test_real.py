"""RealDevice, against a device that is none.

Real are libusb1 and libusb, which run in a program of their own under umockdev-run: they find the device in a /sys of
umockdev's, open its node and ask of it what they would of a kernel's. What answers is `Usbfs` of usbfs.py for nearly
everything; in `test_umockdev_replays_a_record` it is umockdev's own replay of a record. There is no fake of libusb1,
but where a test says so one method of it fails once, for no kernel can be made to have libusb say that; and the
programs of `test_without_...` have it, or the library, hidden from them.
"""

from __future__ import annotations

import errno
import json
import os
import random
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import pytest
from xenusb import real
from xenusb.descriptors import (
    STANDARD,
    TO_ENDPOINT,
    TO_INTERFACE,
    VENDOR,
    Ask,
    Configuration,
    DeviceDescriptor,
    Endpoint,
    Interface,
    Setup,
)
from xenusb.device import Host
from xenusb.real import RealDevice

from tests.need import missing, need_tool
from tests.usb.usbfs import SECONDS, Sample, Terminal, Usbfs
from xenfs.abi.usbif import PipeType, Status

REPO = Path(__file__).parents[2]
BULK_IN, BULK_OUT, INTERRUPT, ISOC_IN, ISOC_OUT = 0x81, 0x02, 0x83, 0x84, 0x05
STORAGE, KEYS, SOUND, OTHER = 0, 1, 2, 4
OF_VENDOR = VENDOR << 5
FIRST = Configuration(
    (
        Interface(
            STORAGE, 8, 6, 80, (Endpoint(1, True, PipeType.bulk, 512), Endpoint(2, False, PipeType.bulk, 512))
        ),
        Interface(KEYS, 3, endpoints=(Endpoint(3, True, PipeType.interrupt, 8, 10),)),
        Interface(KEYS, 3, alternate=1, endpoints=(Endpoint(3, True, PipeType.interrupt, 16, 10),)),
        Interface(SOUND, 1),
        Interface(
            SOUND, 1, alternate=1,
            endpoints=(Endpoint(4, True, PipeType.isoc, 192, 1), Endpoint(5, False, PipeType.isoc, 192, 1)),
        ),
    )
)  # fmt: skip
SECOND = Configuration((Interface(STORAGE, 8, 6, 80), Interface(OTHER, 255)), value=2)
ONLY = Configuration((Interface(0, 9),))
DEVICE = Sample("1-2", 2, DeviceDescriptor(0x1209, 1, configurations=2), (FIRST, SECOND))
SAMPLES = (
    Sample("usb1", 1, DeviceDescriptor(0x1D6B, 2, klass=9), (ONLY,)),
    DEVICE,
    Sample("1-3", 3, DeviceDescriptor(0x1209, 3, klass=9), (ONLY,)),
    Sample("1-3.4", 4, DeviceDescriptor(0x1209, 4), (ONLY,), "12"),
    Sample("1-4", 5, DeviceDescriptor(0x1209, 5), (ONLY,), "1.5"),
    Sample("1-5", 6, DeviceDescriptor(0x1209, 6), (ONLY,), "5000"),
)
DRIVERS = {STORAGE: "usb-storage", OTHER: "cdc_acm"}
Event = dict[str, Any]


class Program:
    """A program that has a RealDevice, see real_child.py: it is told what to do, and what it tells is kept."""

    def __init__(self, *words: str) -> None:
        self.process = subprocess.Popen(
            [*words, sys.executable, "-m", "tests.usb.real_child"],
            cwd=REPO, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
        )  # fmt: skip
        self.events: list[Event] = []
        self._left = b""
        self._number = 0
        self.root = Path(self.until("root")["path"])

    def close(self) -> str:
        """Have it end; its last words."""
        with self.process as process:
            try:
                _, said = process.communicate(timeout=SECONDS)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                _, said = process.communicate()
                shutil.rmtree(self.root, ignore_errors=True)
        return said.decode()

    def _listen(self) -> None:
        """Hear one event at least."""
        assert self.process.stdout is not None
        deadline = time.monotonic() + SECONDS
        while b"\n" not in self._left:
            ready, _, _ = select.select([self.process.stdout], [], [], max(0.0, deadline - time.monotonic()))
            data = os.read(self.process.stdout.fileno(), 1 << 16) if ready else b""
            if not data:
                pytest.fail(f"the program {'ended' if ready else 'says nothing'}: {self.close()}", pytrace=False)
            self._left += data
        *lines, self._left = self._left.split(b"\n")
        self.events.extend(json.loads(line) for line in lines)

    def until(self, event: str, **words: Any) -> Event:
        """The first event of a kind that was not taken yet, as soon as it is there."""
        wanted = {"event": event, **words}
        while True:
            for at, found in enumerate(self.events):
                if wanted.items() <= found.items():
                    return self.events.pop(at)
            self._listen()

    def tell(self, *orders: Event) -> None:
        """Have it do things one after the other, without anything in between, and wait until they are done."""
        assert self.process.stdin is not None
        self.process.stdin.write(b"".join(json.dumps(order).encode() + b"\n" for order in orders))
        self.process.stdin.flush()
        for _ in orders:
            self.until("did")

    def do(self, what: str, **words: Any) -> None:
        """Have it do one thing."""
        self.tell({"do": what, **words})

    def plug(self, path: str = DEVICE.path, user: int | None = None) -> Event:
        """What becomes of a device."""
        self.do("plug", path=path, user=os.geteuid() if user is None else user)
        return self.until("plugged")

    def over(self, number: int) -> tuple[str, int]:
        """How a transfer ends, and how many bytes that were."""
        found = self.until("over", number=number)
        return found["status"], found["actual"]

    def rest(self) -> list[Event]:
        """What it told and was not taken, once it has nothing to do."""
        for _ in range(100):
            self.do("turns", count=20)
            if not self.until("turns")["busy"]:
                return self.events
        pytest.fail("it is busy for nothing")

    def submit(self, endpoint: int, what: int | bytes, kind: PipeType = PipeType.bulk, **words: Any) -> int:
        """Ask for a transfer: so many bytes from the device, or these for it. Its number."""
        self.tell(self.order(endpoint, what, kind, **words))
        return self._number

    def order(self, endpoint: int, what: int | bytes, kind: PipeType = PipeType.bulk, **words: Any) -> Event:
        """To ask for a transfer, which then is the last."""
        self._number += 1
        size, data = (what, "") if isinstance(what, int) else (len(what), what.hex())
        return {
            "do": "submit", "number": self._number, "kind": kind.name, "endpoint": endpoint & 15,
            "inward": isinstance(what, int), "size": size, "data": data, **words,
        }  # fmt: skip

    def control(self, setup: Setup, data: bytes = b"") -> int:
        """Ask for a control transfer. Its number."""
        return self.submit(
            0, setup.length if setup.inward else data, PipeType.control, setup=setup.emit().hex()
        )  # fmt: skip

    def set(self, ask: Ask, value: int, index: int = 0, recipient: int = 0) -> tuple[str, int]:
        """How a standard request without data ends."""
        return self.over(self.control(Setup(STANDARD << 5 | recipient, ask, value, index)))


class Bench(Program):
    """The program under umockdev-run, and the device that a test has; by bus paths there are all the SAMPLES."""

    usbfs: Usbfs

    def __init__(self, place: Path) -> None:
        file = place / "bus.umockdev"
        file.write_text("".join(sample.describe() for sample in SAMPLES))
        super().__init__("umockdev-run", "--device", str(file), "--")

    @contextmanager
    def having(self, path: str = DEVICE.path, drivers: Mapping[int, str] = DRIVERS) -> Iterator[None]:
        """Have a device there, and the host's own drivers for some of its interfaces."""
        (sample,) = (sample for sample in SAMPLES if sample.path == path)
        self.usbfs = Usbfs(self.root, sample, drivers)
        try:
            yield
        finally:
            try:
                if self.process.poll() is None:
                    self.do("forget")
            finally:
                self.usbfs.close()
                self.events.clear()


def need_libusb() -> None:
    """Both of them."""
    try:
        import usb1

        usb1.loadLibrary()
    except ImportError:
        missing("libusb1 is not installed: pip install libusb1")
    except OSError:
        missing("libusb-1.0 is not installed: apt-get install libusb-1.0-0")


@pytest.fixture(scope="module")
def benches(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[], Bench]]:
    """One for all, but another after a test that was its end."""
    need_tool("umockdev-run", "umockdev")
    need_libusb()
    made: list[Bench] = []

    def get() -> Bench:
        if not made or made[-1].process.poll() is not None:
            made.append(Bench(tmp_path_factory.mktemp("bench")))
        return made[-1]

    yield get
    for bench in made:
        bench.close()


@pytest.fixture
def empty(benches: Callable[[], Bench]) -> Iterator[Bench]:
    """With a device that is not plugged in yet."""
    bench = benches()
    with bench.having():
        yield bench


@pytest.fixture
def bench(empty: Bench) -> Bench:
    """With the device plugged in."""
    assert empty.plug() == {"event": "plugged", "speed": "high"}
    return empty


# What there is


@pytest.mark.parametrize(("path", "speed"), [("1-4", "low"), ("1-3.4", "full"), ("1-2", "high")])
def test_it_has_the_speed_of_the_device(benches: Callable[[], Bench], path: str, speed: str) -> None:
    bench = benches()
    with bench.having(path):
        assert bench.plug(path)["speed"] == speed


def test_an_absent_device_is_told_with_what_there_is(empty: Bench) -> None:
    why = "there is no such device; there are 1-2, 1-3, 1-3.4, 1-4, 1-5"
    assert empty.plug("1-2.3")["error"] == [errno.ENODEV, why, "1-2.3"]


def test_super_speed_is_not_for_usbif(empty: Bench) -> None:
    why = "its speed is 4; usbif knows low, full and high"
    assert empty.plug("1-5")["error"] == [errno.EPROTONOSUPPORT, why, "1-5"]


def test_a_hub_stays_with_the_host(empty: Bench) -> None:
    assert empty.plug("1-3")["error"] == [errno.EINVAL, "it is a hub, which is the host's", "1-3"]


def test_what_another_program_has_cannot_be_had(empty: Bench) -> None:
    empty.usbfs.deny["claim"] = errno.EBUSY
    assert empty.plug()["error"] == [errno.EBUSY, "another program has it", "1-2"]
    empty.usbfs.until_closed()
    assert empty.usbfs.drivers == {STORAGE: "usb-storage"}


def test_it_can_be_tried_again_after_an_error(empty: Bench) -> None:
    empty.usbfs.deny["claim"] = errno.EBUSY
    assert "error" in empty.plug()
    empty.usbfs.deny.clear()
    assert "speed" in empty.plug()


def test_what_only_root_may_open_is_told(empty: Bench) -> None:
    empty.usbfs.forbid()
    why = "not ours to open; to mend it: as root, or by a rule of udev"
    nobody = os.geteuid() or 65534
    assert empty.plug(user=nobody)["error"] == [errno.EACCES, why, "1-2"]


def test_a_host_without_usb_is_told_so(empty: Bench) -> None:
    why = "the host has no USB: there is no /dev/bus/usb"
    with no_usb(empty.root):
        assert empty.plug()["error"] == [errno.ENODEV, why, "1-2"]


@contextmanager
def no_usb(root: Path) -> Iterator[None]:
    """As in most containers. Where umockdev has no file the host's is seen, so that there must be one."""
    places = root / "sys/bus/usb", root / "dev/bus/usb"
    for place in places:
        place.rename(place.with_name("no usb"))
    places[1].touch()
    try:
        yield
    finally:
        places[1].unlink()
        for place in places:
            place.with_name("no usb").rename(place)


def test_libusb_may_have_no_usb_to_begin_with(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """One that was built without udev says so at once: LIBUSB_ERROR_OTHER."""
    need_libusb()
    import usb1

    def fail(_: object) -> None:
        raise usb1.USBErrorOther

    monkeypatch.setattr(usb1.USBContext, "open", fail)
    monkeypatch.setattr(real, "_NODES", tmp_path / "usb")
    with pytest.raises(OSError, match=r"the host has no USB: there is no .*/usb") as caught:
        RealDevice("1-2", cast(Host, None))
    assert caught.value.filename == "1-2"


HIDE = {
    "libusb1": "import sys; sys.modules['usb1'] = None",
    "libusb": """
import ctypes, ctypes.util
load = ctypes.CDLL.__init__
def refuse(self, name, *rest, **words):
    if "usb" in str(name):
        raise OSError(f"{name}: cannot open shared object file")
    load(self, name, *rest, **words)
ctypes.CDLL.__init__ = refuse
ctypes.util.find_library = lambda name: None
""",
}
TRY = """
from xenusb.real import RealDevice
try:
    RealDevice("1-2", None)
except OSError as error:
    print(error.errno, error.strerror)
"""


def without(what: str) -> str:
    """What a program says that has everything but one thing."""
    return subprocess.run(
        [sys.executable, "-c", HIDE[what] + TRY], cwd=REPO, check=True, capture_output=True, text=True, timeout=SECONDS
    ).stdout.strip()


def test_without_libusb1_it_says_how_to_install_it() -> None:
    why = "a real device needs libusb1; to mend it: pip install 'xenfs[usb]'"
    assert without("libusb1") == f"{errno.ENOENT} {why}"


def test_without_the_library_it_says_how_to_install_it() -> None:
    need_libusb()
    why = "a real device: cannot find a suitable libusb-1.0; to mend it: apt-get install libusb-1.0-0"
    assert without("libusb") == f"{errno.ENOENT} {why}"


@pytest.mark.parametrize(
    ("kind", "method"),
    [("USBDeviceHandle", "kernelDriverActive"), ("USBContext", "hotplugRegisterCallback")],
)  # fmt: skip
def test_what_libusb_does_not_have_everywhere_need_not_be_there(empty: Bench, kind: str, method: str) -> None:
    """That method of libusb1 fails."""
    empty.usbfs.drivers.clear()
    empty.do("fail", kind=kind, method=method, error="USBErrorNotSupported")
    assert "speed" in empty.plug()


# The host's own drivers


def test_all_its_interfaces_are_had_from_the_hosts_drivers(bench: Bench) -> None:
    assert bench.usbfs.drivers == {STORAGE: "usbfs", KEYS: "usbfs", SOUND: "usbfs"}


def test_the_hosts_drivers_have_it_back_when_it_is_closed(bench: Bench) -> None:
    bench.do("close")
    bench.usbfs.until_closed()
    assert bench.usbfs.drivers == {STORAGE: "usb-storage"}


def test_what_no_driver_had_none_is_given(benches: Callable[[], Bench]) -> None:
    bench = benches()
    with bench.having(drivers={}):
        bench.plug()
        bench.do("close")
        bench.usbfs.until_closed()
        assert {name for name, _ in bench.usbfs.calls} == {"claim", "release"}


def test_a_driver_may_go_before_it_is_let_go(empty: Bench) -> None:
    empty.usbfs.vanishing.add(STORAGE)
    assert "speed" in empty.plug()
    assert empty.usbfs.drivers[STORAGE] == "usbfs"


# Transfers


def test_a_control_transfer_brings_what_the_device_answers(bench: Bench) -> None:
    number = bench.control(Setup(0x80, Ask.get_descriptor, 0x0100, 0, 18))
    urb = bench.usbfs.urb(0)
    assert urb.setup == Setup(0x80, Ask.get_descriptor, 0x0100, 0, 18)
    bench.usbfs.complete(urb, DEVICE.about.emit())
    found = bench.until("over", number=number)
    assert (found["status"], found["data"]) == ("ok", DEVICE.about.emit().hex())


def test_a_control_transfer_takes_what_the_host_sends(bench: Bench) -> None:
    number = bench.control(Setup(OF_VENDOR, 1, 2, 3, 5), b"hello")
    urb = bench.usbfs.urb(0)
    assert (urb.setup, urb.data) == (Setup(OF_VENDOR, 1, 2, 3, 5), b"hello")
    bench.usbfs.complete(urb)
    assert bench.over(number) == ("ok", 5)


@pytest.mark.parametrize("inward", [True, False])
def test_a_control_transfer_may_have_no_data(bench: Bench, inward: bool) -> None:
    number = bench.control(Setup(OF_VENDOR | 0x80 * inward, 1))
    bench.usbfs.complete(bench.usbfs.urb(0))
    assert bench.over(number) == ("ok", 0)


def test_bulk_data_comes_from_the_device(bench: Bench) -> None:
    number = bench.submit(BULK_IN, 512)
    bench.usbfs.complete(bench.usbfs.urb(BULK_IN), b"a sector, and a short one")
    found = bench.until("over", number=number)
    assert (found["status"], found["actual"]) == ("ok", 25)
    assert bytes.fromhex(found["data"])[:25] == b"a sector, and a short one"


@pytest.mark.parametrize("size", [0, 1, 512, 100_000])
def test_bulk_data_goes_to_the_device(bench: Bench, size: int) -> None:
    data = os.urandom(size)
    number = bench.submit(BULK_OUT, data)
    urb = bench.usbfs.urb(BULK_OUT)
    assert urb.data == data
    bench.usbfs.complete(urb)
    assert bench.over(number) == ("ok", size)


def test_interrupts_come_from_the_device(bench: Bench) -> None:
    number = bench.submit(INTERRUPT, 8, PipeType.interrupt)
    urb = bench.usbfs.urb(INTERRUPT)
    assert urb.type == 1
    bench.usbfs.complete(urb, b"\0\0\x04\0\0\0\0\0")
    assert bench.until("over", number=number)["data"] == "0000040000000000"


@pytest.mark.parametrize(
    ("code", "status"),
    [
        (errno.EPIPE, Status.stall), (errno.EOVERFLOW, Status.babble), (errno.EPROTO, Status.ioerror),
        (errno.EILSEQ, Status.ioerror), (errno.ETIME, Status.ioerror),
    ],
)  # fmt: skip
def test_the_devices_errors_are_those_of_usbif(bench: Bench, code: int, status: Status) -> None:
    number = bench.submit(BULK_IN, 512)
    bench.usbfs.complete(bench.usbfs.urb(BULK_IN), status=-code)
    assert bench.over(number) == (status.name, 0)


def test_a_control_request_may_stall(bench: Bench) -> None:
    number = bench.control(Setup(0x80, Ask.get_descriptor, 0x0F00, 0, 5))
    bench.usbfs.complete(bench.usbfs.urb(0), status=-errno.EPIPE)
    assert bench.over(number) == ("stall", 0)


def test_less_than_all_is_an_error_if_it_is_said_so(bench: Bench) -> None:
    number = bench.submit(BULK_IN, 512, whole=True)
    bench.usbfs.complete(bench.usbfs.urb(BULK_IN), bytes(10))
    assert bench.over(number) == ("ioerror", 10)


def test_transfers_end_in_the_order_of_the_device(bench: Bench) -> None:
    numbers = [bench.submit(BULK_IN, 512), bench.submit(INTERRUPT, 8, PipeType.interrupt), bench.submit(BULK_OUT, b"x")]
    for endpoint in (BULK_OUT, INTERRUPT, BULK_IN):
        bench.usbfs.complete(bench.usbfs.urb(endpoint))
    assert [bench.until("over")["number"] for _ in numbers] == numbers[::-1]


def test_an_endpoint_that_is_not_there_is_an_error(bench: Bench) -> None:
    assert bench.over(bench.submit(0x87, 64)) == ("inval", 0)


def test_more_than_the_kernel_takes_is_an_error(bench: Bench) -> None:
    bench.usbfs.deny["submit"] = errno.ENOMEM
    assert bench.over(bench.submit(BULK_IN, 64)) == ("inval", 0)


def test_nothing_is_done_while_nothing_happens(bench: Bench) -> None:
    bench.submit(INTERRUPT, 8, PipeType.interrupt)
    assert bench.rest() == []


def test_what_ends_may_begin_the_next(bench: Bench) -> None:
    second = bench.order(BULK_IN, 512)
    first = bench.submit(BULK_IN, 512, then=second)
    for data in (b"one", b"three"):
        bench.usbfs.complete(bench.usbfs.urb(BULK_IN), data)
    assert [bench.over(first), bench.over(second["number"])] == [("ok", 3), ("ok", 5)]


def test_what_ends_may_change_the_configuration(bench: Bench) -> None:
    """libusb itself has its transfers end where it must not be asked that."""
    setup = Setup(STANDARD << 5, Ask.set_configuration, 2)
    second = bench.order(0, b"", PipeType.control, setup=setup.emit().hex())
    bench.submit(BULK_IN, 512, then=second)
    bench.usbfs.complete(bench.usbfs.urb(BULK_IN))
    assert bench.over(second["number"]) == ("ok", 0)
    assert bench.usbfs.configuration is SECOND


def test_what_is_raised_when_one_ends_is_not_lost(bench: Bench) -> None:
    """ctypes would write of it, and go on."""
    bench.submit(BULK_IN, 512, then={"do": "raise"})
    bench.usbfs.complete(bench.usbfs.urb(BULK_IN))
    assert bench.until("unplugged")["why"] == "a test had this raised"


def test_libusb_may_be_interrupted(bench: Bench) -> None:
    """Its handling of events fails."""
    bench.rest()
    bench.do("fail", kind="USBContext", method="handleEventsTimeout", error="USBErrorInterrupted")
    number = bench.submit(BULK_IN, 512)
    bench.usbfs.complete(bench.usbfs.urb(BULK_IN), b"data")
    assert bench.over(number) == ("ok", 4)


def test_when_libusb_fails_the_device_is_gone(bench: Bench) -> None:
    """Its handling of events fails."""
    bench.rest()
    bench.do("fail", kind="USBContext", method="handleEventsTimeout", error="USBErrorIO")
    number = bench.submit(BULK_IN, 512)
    bench.usbfs.complete(bench.usbfs.urb(BULK_IN))
    assert bench.until("unplugged")["why"] == "[Errno 5] libusb: LIBUSB_ERROR_IO [-1]: '1-2'"
    assert bench.over(number) == ("nodev", 0)


# Isochronous ones


@pytest.fixture
def sound(bench: Bench) -> Bench:
    assert bench.set(Ask.set_interface, 1, SOUND, TO_INTERFACE) == ("ok", 0)
    return bench


def test_isochronous_packets_come_each_to_its_place(sound: Bench) -> None:
    number = sound.submit(ISOC_IN, 40, PipeType.isoc, packets=[[0, 10], [20, 10], [30, 10]])
    urb = sound.usbfs.urb(ISOC_IN)
    assert urb.packets == [10, 10, 10]
    sound.usbfs.complete_packets(urb, [b"0123456789", -errno.EILSEQ, b"abc"])
    found = sound.until("over", number=number)
    assert (found["status"], found["actual"]) == ("ok", 13)
    assert found["packets"] == [[10, Status.ok], [0, Status.ioerror], [3, Status.ok]]
    assert bytes.fromhex(found["data"]) == b"0123456789" + bytes(20) + b"abc" + bytes(7)


def test_isochronous_packets_go_each_from_its_place(sound: Bench) -> None:
    number = sound.submit(ISOC_OUT, b"first, second", PipeType.isoc, packets=[[0, 5], [7, 6]])
    urb = sound.usbfs.urb(ISOC_OUT)
    assert (urb.packets, urb.data) == ([5, 6], b"firstsecond")
    sound.usbfs.complete_packets(urb, [bytes(5), bytes(6)])
    found = sound.until("over", number=number)
    assert (found["actual"], found["packets"]) == (11, [[5, Status.ok], [6, Status.ok]])


def test_empty_isochronous_packets_are_left_out(sound: Bench) -> None:
    number = sound.submit(ISOC_IN, 40, PipeType.isoc, packets=[[0, 0], [20, 10], [40, 0]])
    urb = sound.usbfs.urb(ISOC_IN)
    assert urb.packets == [10]
    sound.usbfs.complete_packets(urb, [b"0123456789"])
    found = sound.until("over", number=number)
    assert (found["actual"], found["packets"]) == (10, [[0, Status.ok], [10, Status.ok], [0, Status.ok]])
    assert bytes.fromhex(found["data"])[20:30] == b"0123456789"


def test_nothing_but_empty_packets_is_over_at_once(sound: Bench) -> None:
    assert sound.over(sound.submit(ISOC_IN, 40, PipeType.isoc, packets=[[0, 0], [9, 0]])) == ("ok", 0)


# Ends before their time


def test_a_cancelled_transfer_ends_once(bench: Bench) -> None:
    number = bench.submit(BULK_IN, 512)
    bench.do("cancel", number=number)
    assert bench.over(number) == ("shutdown", 0)
    assert (bench.usbfs.flying(), bench.rest()) == ([], [])


def test_a_transfer_that_is_over_cannot_be_cancelled(bench: Bench) -> None:
    number = bench.submit(BULK_IN, 512)
    bench.usbfs.complete(bench.usbfs.urb(BULK_IN))
    assert bench.over(number) == ("ok", 0)
    bench.do("cancel", number=number)
    assert bench.rest() == []


def test_a_transfer_may_be_cancelled_before_it_is_heard_of(bench: Bench) -> None:
    bench.usbfs.at_once[BULK_IN] = b"too late"
    order = bench.order(BULK_IN, 512)
    bench.tell(order, {"do": "cancel", "number": order["number"]})
    assert bench.over(order["number"]) == ("shutdown", 0)
    assert bench.rest() == []


def test_the_memory_of_a_cancelled_transfer_is_left_alone(bench: Bench) -> None:
    """A guest may use it for something else by then."""
    bench.usbfs.at_once[BULK_IN] = b"too late"
    order = bench.order(BULK_IN, 8)
    bench.tell(order, {"do": "cancel", "number": order["number"]})
    bench.rest()
    bench.do("look", number=order["number"])
    assert bench.until("looked")["data"] == bytes(8).hex()


def test_others_go_on_when_one_is_cancelled(bench: Bench) -> None:
    first, second = bench.submit(BULK_IN, 512), bench.submit(BULK_IN, 512)
    bench.usbfs.urb(BULK_IN)
    bench.do("cancel", number=first)
    bench.usbfs.complete(bench.usbfs.urb(BULK_IN), b"data")
    assert (bench.over(first), bench.over(second)) == (("shutdown", 0), ("ok", 4))


def test_a_reset_ends_all_and_the_device_stays(bench: Bench) -> None:
    numbers = [bench.submit(BULK_IN, 512), bench.submit(INTERRUPT, 8, PipeType.interrupt)]
    bench.do("reset")
    assert [bench.over(number) for number in numbers] == [("shutdown", 0)] * 2
    assert ("reset", 0) in bench.usbfs.calls
    assert bench.usbfs.drivers == {STORAGE: "usbfs", KEYS: "usbfs", SOUND: "usbfs"}
    again = bench.submit(BULK_IN, 512)
    bench.usbfs.complete(bench.usbfs.urb(BULK_IN), b"still here")
    assert bench.over(again) == ("ok", 10)


def test_a_device_that_is_another_after_the_reset_is_gone(bench: Bench) -> None:
    bench.usbfs.deny["reset"] = errno.ENODEV
    bench.do("reset")
    assert bench.until("unplugged")["why"] == "1-2: it is gone"


def test_a_reset_that_fails_is_told(bench: Bench) -> None:
    bench.usbfs.deny["reset"] = errno.EPERM
    bench.do("reset")
    assert bench.until("said")["line"] == "1-2: not reset: LIBUSB_ERROR_OTHER [-99]"


def test_closing_ends_all(bench: Bench) -> None:
    numbers = [bench.submit(BULK_IN, 512), bench.submit(BULK_IN, 512), bench.control(Setup(0xC0, 1, length=8))]
    bench.do("close")
    assert [bench.over(number) for number in numbers] == [("nodev", 0)] * 3
    bench.usbfs.until_closed()
    assert bench.rest() == []


def test_what_ends_may_close_the_device(bench: Bench) -> None:
    first, second = bench.submit(BULK_IN, 512, then={"do": "close"}), bench.submit(BULK_IN, 512)
    bench.usbfs.complete(bench.usbfs.urb(BULK_IN), b"last")
    assert (bench.over(first), bench.over(second)) == (("ok", 4), ("nodev", 0))
    bench.usbfs.until_closed()
    assert bench.rest() == []


def test_what_is_cancelled_for_a_configuration_may_close_the_device(bench: Bench) -> None:
    first = bench.submit(BULK_IN, 512, then={"do": "close"})
    assert bench.set(Ask.set_configuration, 2) == ("nodev", 0)
    assert bench.over(first) == ("shutdown", 0)
    bench.usbfs.until_closed()
    assert bench.rest() == []


def test_a_closed_device_does_nothing(bench: Bench) -> None:
    before = bench.submit(BULK_IN, 512)
    bench.do("close")
    assert bench.over(before) == ("nodev", 0)
    assert bench.over(bench.submit(BULK_IN, 512)) == ("nodev", 0)
    assert bench.set(Ask.set_configuration, 1) == ("nodev", 0)
    bench.tell({"do": "cancel", "number": before}, {"do": "reset"}, {"do": "close_again"})
    assert bench.rest() == []


@pytest.mark.parametrize("seed", range(4))
def test_whatever_comes_between_each_transfer_ends_once(bench: Bench, seed: int) -> None:
    chance = random.Random(seed)
    numbers: list[int] = []
    for _ in range(150):
        step = chance.random()
        if step < 0.5:
            endpoint = chance.choice([BULK_IN, BULK_OUT, INTERRUPT])
            kind = PipeType.interrupt if endpoint == INTERRUPT else PipeType.bulk
            numbers.append(bench.submit(endpoint, bytes(99) if endpoint == BULK_OUT else 8, kind))
        elif step < 0.8 and (flying := bench.usbfs.flying()):
            bench.usbfs.complete(chance.choice(flying))
        elif step < 0.98 and numbers:
            bench.do("cancel", number=chance.choice(numbers))
        elif step >= 0.98:
            bench.do("reset")
    if seed % 2:
        bench.do("close")
    else:
        bench.usbfs.unplug()
        bench.until("unplugged")
    bench.usbfs.until_closed()
    assert sorted(event["number"] for event in bench.events if event["event"] == "over") == numbers


# Unplugging


def test_unplugging_ends_all_and_is_told_once(bench: Bench) -> None:
    numbers = [bench.submit(BULK_IN, 512), bench.submit(INTERRUPT, 8, PipeType.interrupt)]
    bench.usbfs.unplug()
    assert [bench.over(number) for number in numbers] == [("nodev", 0)] * 2
    assert bench.until("unplugged")["why"] == "1-2: it is gone"
    bench.usbfs.until_closed()
    assert bench.rest() == []


def test_unplugging_ends_isochronous_ones(sound: Bench) -> None:
    number = sound.submit(ISOC_IN, 20, PipeType.isoc, packets=[[0, 10], [10, 10]])
    sound.usbfs.unplug()
    assert sound.over(number) == ("nodev", 0)


def test_unplugging_an_idle_device_is_told(bench: Bench) -> None:
    bench.usbfs.unplug()
    assert bench.until("unplugged")["why"] == "1-2: it is gone"
    assert bench.rest() == []


def test_a_transfer_tells_of_unplugging_where_libusb_does_not(empty: Bench) -> None:
    """Its registering for such news fails."""
    empty.do("fail", kind="USBContext", method="hotplugRegisterCallback", error="USBErrorNotSupported")
    empty.plug()
    number = empty.submit(INTERRUPT, 8, PipeType.interrupt)
    empty.usbfs.unplug()
    assert empty.over(number) == ("nodev", 0)
    assert empty.until("unplugged")["why"] == "1-2: it is gone"


def test_what_is_asked_of_a_device_that_has_just_gone_ends(bench: Bench) -> None:
    bench.usbfs.deny["submit"] = errno.ENODEV
    assert bench.over(bench.submit(BULK_IN, 512)) == ("nodev", 0)
    assert bench.until("unplugged")["why"] == "1-2: it is gone"


def test_what_is_set_of_a_device_that_has_just_gone_ends(bench: Bench) -> None:
    bench.usbfs.deny["clear_halt"] = errno.ENODEV
    assert bench.set(Ask.clear_feature, 0, BULK_IN, TO_ENDPOINT) == ("nodev", 0)
    assert bench.until("unplugged")["why"] == "1-2: it is gone"


def test_an_unplugged_device_is_not_there_any_more(bench: Bench) -> None:
    bench.usbfs.unplug()
    bench.until("unplugged")
    why = "there is no such device; there are 1-3, 1-3.4, 1-4, 1-5"
    assert bench.plug()["error"] == [errno.ENODEV, why, "1-2"]


# Settings, which libusb has to know of


def test_a_configuration_is_set_in_spite_of_the_hosts_drivers(bench: Bench) -> None:
    """The kernel sets none while there are any, and offers each interface to them as soon as it has set one."""
    assert bench.set(Ask.set_configuration, 1) == ("ok", 0)
    assert bench.usbfs.drivers == {STORAGE: "usbfs", KEYS: "usbfs", SOUND: "usbfs"}


def test_another_configuration_has_other_interfaces(bench: Bench) -> None:
    assert bench.set(Ask.set_configuration, 2) == ("ok", 0)
    assert bench.usbfs.configuration is SECOND
    assert bench.usbfs.drivers == {STORAGE: "usbfs", OTHER: "usbfs"}
    bench.do("close")
    bench.usbfs.until_closed()
    assert bench.usbfs.drivers == DRIVERS


def test_a_configuration_that_is_not_there_stalls(bench: Bench) -> None:
    assert bench.set(Ask.set_configuration, 7) == ("stall", 0)
    assert bench.usbfs.drivers == {STORAGE: "usbfs", KEYS: "usbfs", SOUND: "usbfs"}


def test_no_configuration_is_one_too(bench: Bench) -> None:
    assert bench.set(Ask.set_configuration, 0) == ("ok", 0)
    assert (bench.usbfs.configuration, bench.usbfs.drivers) == (None, {})
    assert bench.usbfs.calls[-1] == ("set_configuration", -1)
    assert bench.set(Ask.set_configuration, 1) == ("ok", 0)
    assert bench.usbfs.drivers == {STORAGE: "usbfs", KEYS: "usbfs", SOUND: "usbfs"}


def test_what_runs_ends_when_a_configuration_is_set(bench: Bench) -> None:
    """For the kernel it ends without an error."""
    number = bench.submit(BULK_IN, 512)
    assert bench.set(Ask.set_configuration, 1) == ("ok", 0)
    assert bench.over(number) == ("shutdown", 0)
    assert bench.rest() == []


def test_a_setting_of_an_interface_is_set(bench: Bench) -> None:
    assert bench.set(Ask.set_interface, 1, KEYS, TO_INTERFACE) == ("ok", 0)
    assert bench.usbfs.alternates == {KEYS: 1}


def test_what_runs_in_an_interface_ends_when_it_is_set(bench: Bench) -> None:
    keys, storage = bench.submit(INTERRUPT, 8, PipeType.interrupt), bench.submit(BULK_IN, 512)
    assert bench.set(Ask.set_interface, 1, KEYS, TO_INTERFACE) == ("ok", 0)
    assert bench.over(keys) == ("shutdown", 0)
    bench.usbfs.complete(bench.usbfs.urb(BULK_IN), b"undisturbed")
    assert bench.over(storage) == ("ok", 11)


@pytest.mark.parametrize(("number", "alternate"), [(KEYS, 9), (9, 0), (999, 0)])
def test_a_setting_that_is_not_there_stalls(bench: Bench, number: int, alternate: int) -> None:
    assert bench.set(Ask.set_interface, alternate, number, TO_INTERFACE) == ("stall", 0)


def test_a_halt_is_cleared(bench: Bench) -> None:
    assert bench.set(Ask.clear_feature, 0, BULK_IN, TO_ENDPOINT) == ("ok", 0)
    assert ("clear_halt", BULK_IN) in bench.usbfs.calls


def test_the_halt_of_no_endpoint_stalls(bench: Bench) -> None:
    assert bench.set(Ask.clear_feature, 0, 0x87, TO_ENDPOINT) == ("stall", 0)


def test_other_standard_requests_are_the_devices(bench: Bench) -> None:
    number = bench.control(Setup(STANDARD << 5, Ask.set_feature, 1))
    urb = bench.usbfs.urb(0)
    assert urb.setup == Setup(0, Ask.set_feature, 1)
    bench.usbfs.complete(urb)
    assert bench.over(number) == ("ok", 0)


# umockdev's own answers

RECORD = """\
USBDEVFS_GET_CAPABILITIES 0 1F000000
USBDEVFS_REAPURBNDELAY 0 3 2 0 0 5 5 0 68656C6C6F
 USBDEVFS_REAPURBNDELAY 0 3 129 0 0 64 5 0 776F726C64
USBDEVFS_REAPURBNDELAY 0 1 131 0 0 8 2 0 0102
"""


def test_umockdev_replays_a_record(tmp_path: Path) -> None:
    need_tool("umockdev-run", "umockdev")
    need_libusb()
    device, record = tmp_path / "device.umockdev", tmp_path / "device.ioctl"
    device.write_text("".join(sample.describe() for sample in SAMPLES[:2]))
    record.write_text(RECORD)
    program = Program(
        "umockdev-run", "--device", str(device), "--ioctl", f"/dev/{DEVICE.node}={record}", "--"
    )  # fmt: skip
    terminal = Terminal(program.root / "dev" / DEVICE.node)
    try:
        assert program.plug()["speed"] == "high"
        assert program.over(program.submit(BULK_OUT, b"hello")) == ("ok", 5)
        bulk = program.until("over", number=program.submit(BULK_IN, 64))
        assert bytes.fromhex(bulk["data"]) == b"world" + bytes(59)
        keys = program.until("over", number=program.submit(INTERRUPT, 8, PipeType.interrupt))
        assert keys["data"] == "0102000000000000"
    finally:
        terminal.close()
        program.close()
