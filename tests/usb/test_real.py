"""What RealDevice finds, and whose the device is while it has it. What answers: see real_program.py."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import cast

import pytest
from xenusb import real
from xenusb.device import Host
from xenusb.real import RealDevice

from tests.need import need_tool
from tests.usb.real_program import REPO, Bench, Program, need_libusb
from tests.usb.real_samples import BULK_IN, BULK_OUT, DEVICE, INTERRUPT, KEYS, SAMPLES, SOUND, STORAGE
from tests.usb.umock import Terminal
from tests.usb.usbfs import SECONDS
from xenfs.abi.usbif import PipeType

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
