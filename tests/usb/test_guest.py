"""What programs of a guest have of its USB devices."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from xenusb.descriptors import VENDOR, Setup
from xenusb.device import Packet
from xenusb.loopback import FETCH, STORE
from xl import usb

from tests.block.conftest import need_loop
from tests.block.yard import run
from tests.mounted.mount import until
from tests.need import need_tool
from tests.toolstack.stage import SECONDS
from tests.usb.bay import LOOPBACK, SERIAL, STICK, Bay
from xenfs.abi.usbif import Status
from xenfs.commands.failure import Unable

pytestmark = pytest.mark.timeout(180)
MiB = 1 << 20
IN, OUT = 0x80, 0x00

PYUSB = """
import usb.core, usb.util
dev = usb.core.find(idVendor=0x1209, idProduct=0x5857)
assert dev is not None
print(dev.manufacturer, dev.product, dev.serial_number, dev.bNumConfigurations, hex(dev.bcdUSB), dev.speed)
dev.set_configuration()
cfg = dev.get_active_configuration()
print(cfg.bConfigurationValue, [(i.bInterfaceNumber, i.bAlternateSetting, i.bNumEndpoints) for i in cfg])
dev.set_interface_altsetting(interface=0, alternate_setting=1)
intf = cfg[(0, 1)]
out = usb.util.find_descriptor(intf, custom_match=lambda e:
    usb.util.endpoint_direction(e.bEndpointAddress) == usb.util.ENDPOINT_OUT)
print(hex(out.bEndpointAddress), out.wMaxPacketSize)
print(dev.ctrl_transfer(0x40, 1, 0, 0, b"control"), bytes(dev.ctrl_transfer(0xC0, 2, 0, 0, 64)))
data = bytes(i * 7 & 0xFF for i in range(300000))
print(dev.write(1, data), bytes(dev.read(0x81, 300000)) == data)
print(dev.write(2, b"interrupt"), bytes(dev.read(0x82, 64)))
print(dev.write(3, b"i" * 3000), bytes(dev.read(0x83, 3000)) == b"i" * 3000)
try:
    dev.read(0x82, 64, timeout=50)
except usb.core.USBTimeoutError as error:
    print("timeout", error.errno)
dev.ctrl_transfer(0x40, 3)
for attempt in range(2):
    try:
        dev.read(0x81, 64)
    except usb.core.USBError as error:
        print("halted", error.errno)
dev.clear_halt(0x81)
dev.clear_halt(0x01)
print(dev.write(1, b"again"), bytes(dev.read(0x81, 64)))
dev.reset()
dev.set_interface_altsetting(interface=0, alternate_setting=1)
print(dev.write(1, b"reset"), bytes(dev.read(0x81, 64)))
try:
    dev.ctrl_transfer(0xC0, 99, 0, 0, 8)
except usb.core.USBError as error:
    print("refused", error.errno)
print(dev.is_kernel_driver_active(0))
usb.util.dispose_resources(dev)
"""
SAID = """xenfs Loopback 1 1 0x200 3
1 [(0, 0, 0), (0, 1, 6)]
0x1 512
7 b'control'
300000 True
9 b'interrupt'
3000 True
timeout 110
halted 32
halted 32
5 b'again'
5 b'reset'
refused 32
False
"""


def test_a_program_of_pyusb_unchanged(bay: Bay, domid: int) -> None:
    done = bay.program(domid, PYUSB)
    assert done.stdout == SAID, done.stderr[-2000:]


def test_frames_have_each_its_status(bay: Bay, domid: int) -> None:
    with bay.opened(domid, LOOPBACK) as handle:
        handle.control(Setup(1, 11, 1, 0))
        sent = b"goodlostlong" + b"more"
        out = [Packet(at, 4) for at in range(0, 16, 4)]
        assert [(one.actual, one.status) for one in handle.transfer(OUT | 3, sent, packets=out).packets] == [(4, 0)] * 4
        answer = handle.transfer(IN | 3, size=20, packets=[Packet(at, 4) for at in range(0, 20, 4)])
        statuses = [(one.actual, one.status) for one in answer.packets]
        assert statuses == [(4, 0), (0, Status.ioerror), (0, Status.babble), (4, 0), (0, 0)]
        assert (answer.data, answer.actual, answer.errors) == (b"goodmore", 8, 2)


def test_threads_wait_each_for_their_own(bay: Bay, domid: int) -> None:
    with bay.opened(domid, LOOPBACK) as handle:
        handle.control(Setup(1, 11, 1, 0))
        got: list[bytes] = []
        reader = threading.Thread(target=lambda: got.append(handle.transfer(IN | 2, size=64, seconds=30).data))
        reader.start()
        for number in range(20):
            handle.transfer(OUT | 1, bytes([number]))
            assert handle.transfer(IN | 1, size=8).data == bytes([number])
        handle.transfer(OUT | 2, b"wake up")
        reader.join(30)
        assert got == [b"wake up"]


def test_an_interface_is_whose_who_claimed_it(bay: Bay, domid: int) -> None:
    with bay.opened(domid, LOOPBACK) as first, bay.opened(domid, LOOPBACK) as second:
        first.control(Setup(1, 11, 1, 0))
        first.transfer(OUT | 1, b"mine")
        with pytest.raises(OSError, match="busy") as caught:
            second.transfer(IN | 1, size=8)
        assert caught.value.errno == errno.EBUSY
        first.close()
        until(lambda: _reads(second), SECONDS)


def _reads(handle: object) -> bool:
    try:
        return bool(handle.transfer(IN | 1, size=8).data == b"mine")  # type: ignore[attr-defined]
    except OSError:
        return False


def test_lsusb_lists_everything(bay: Bay, domid: int) -> None:
    assert bay.stage.fine("lsusb", str(domid)).splitlines()[0] == "Bus 001 Device 001: ID 1209:5857 xenfs Loopback"
    whole = bay.stage.fine("lsusb", "-v", str(domid))
    for words in ("bcdUSB              2.00", "bInterfaceClass     255 Vendor Specific", "0x83 EP 3 IN", "Isochronous",
                  "wMaxPacketSize      0x0400 1x 1024 bytes"):  # fmt: skip
        assert words in whole


def test_unplugged_in_the_middle_of_a_transfer_and_plugged_again(bay: Bay, domid: int) -> None:
    for _ in range(3):
        with bay.opened(domid, LOOPBACK) as handle:
            handle.control(Setup(1, 11, 1, 0))
            failed: list[int | None] = []

            def wait(handle: object = handle, failed: list[int | None] = failed) -> None:
                try:
                    handle.transfer(IN | 2, size=8, seconds=30)  # type: ignore[attr-defined]
                except OSError as error:
                    failed.append(error.errno)

            waiting = threading.Thread(target=wait)
            waiting.start()
            until(lambda: bay.in_flight(domid) == 1, SECONDS)
            bay.plug(domid, 1, "")
            waiting.join(30)
            assert failed == [errno.ENODEV]
            with pytest.raises(OSError, match="No such device"):
                handle.control(Setup(0x80, 6, 0x100, 0, 18))
        bay.until_gone(domid, 1)
        bay.plug(domid, 1, "loopback:")
        bay.until_there(domid, 1)


def test_a_stick_comes_and_goes_between_files_and_loses_none(bay: Bay, domid: int) -> None:
    need_loop()
    image, mount = bay.image(64 * MiB, "travelling"), bay.folder / "mount"
    mount.mkdir()
    run("mkfs.ext4", "-q", str(image))
    files = sorted(path for path in Path(usb.__file__).parents[2].joinpath("xenfs/hypervisor").glob("*.py"))[:6]
    for file in files:
        bay.plug(domid, 2, f"stick:{image}")
        node = bay.block(domid, 2)
        run("mount", node, str(mount))
        try:
            (mount / file.name).write_bytes(file.read_bytes() * 20)
        finally:
            run("umount", str(mount))
        bay.plug(domid, 2, "")
        bay.until_gone(domid, 2)
        until(partial(_changed, partial(bay.front_key, domid, "disk/2/xenfs-device"), node), SECONDS)
    bay.plug(domid, 2, f"stick:{image},ro")
    run("mount", "-o", "ro,noload", bay.block(domid, 2), str(mount))
    try:
        for file in files:
            assert (mount / file.name).read_bytes() == file.read_bytes() * 20
    finally:
        run("umount", str(mount))
        bay.plug(domid, 2, "")
    run("e2fsck", "-fn", str(image))


def test_a_stick_is_sda_in_the_guest(bay: Bay, domid: int) -> None:
    need_loop()
    image = bay.image(16 * MiB, "by-name")
    bay.plug(domid, 2, f"stick:{image}")
    try:
        node = bay.block(domid, 2)
        made = "mkfs.ext4 -q /dev/sda"
        script = f"{made}; mount /dev/sda /mnt; echo hello > /mnt/FILE; umount /mnt; readlink /dev/sda"
        done = bay.stage.xenfs("exec", str(domid), "--", "sh", "-ec", script)
        assert (done.stdout, done.stderr) == (f".host/{Path(node).name}\n", "")
        assert b"hello" in image.read_bytes()
    finally:
        bay.plug(domid, 2, "")


def test_a_program_has_the_driver_let_go_of_a_stick(bay: Bay, domid: int) -> None:
    need_loop()
    bay.plug(domid, 2, f"stick:{bay.image(MiB, 'shared')}")
    try:
        bay.block(domid, 2)
        code = """
import usb.core, usb.util
dev = usb.core.find(idProduct=0x5854)
print(dev.is_kernel_driver_active(0))
try:
    dev.write(2, b"x")
except usb.core.USBError as error:
    print(error.errno)
dev.detach_kernel_driver(0)
print(dev.is_kernel_driver_active(0), dev.ctrl_transfer(0xA1, 0xFE, 0, 0, 1).tolist())
try:
    dev.attach_kernel_driver(0)
except usb.core.USBError as error:
    print(error.errno)
usb.util.release_interface(dev, 0)
dev.attach_kernel_driver(0)
print(dev.is_kernel_driver_active(0))
"""
        done = bay.program(domid, code)
        assert done.stdout == "True\n16\nFalse [0]\n16\nTrue\n", done.stderr[-2000:]
        bay.block(domid, 2)
    finally:
        bay.plug(domid, 2, "")


def test_keys_come_in_order(bay: Bay, domid: int) -> None:
    fifo = bay.folder / "keys"
    os.mkfifo(fifo)
    bay.plug(domid, 2, f"keyboard:{fifo}")
    try:
        bay.until_there(domid, 2)
        code = """
import usb.core
dev = usb.core.find(idProduct=0x5855)
keys = {0x28: chr(10), 0x2C: " "} | {4 + n: chr(97 + n) for n in range(26)}
text = ""
while text.count(chr(10)) < 2:
    shift, _, key, *_ = dev.read(0x81, 8, timeout=20000)
    if key:
        text += keys[key].upper() if shift else keys[key]
print(text, end="")
"""
        fifo.write_text("Hello world\n")
        with fifo.open("w") as keys:
            keys.write("The quick brown fox\n")
        done = bay.program(domid, code)
        assert done.stdout == "Hello world\nThe quick brown fox\n", done.stderr[-2000:]
    finally:
        bay.plug(domid, 2, "")


def test_a_serial_line_is_a_pty_of_the_hosts(bay: Bay, domid: int) -> None:
    link = bay.folder / "line"
    bay.plug(domid, 2, f"serial:{link}")
    try:
        bay.until_there(domid, 2)
        with bay.opened(domid, SERIAL) as handle, link.open("r+b", buffering=0) as line:
            line.write(b"to the guest")
            assert handle.transfer(IN | 2, size=64).data == b"to the guest"
            handle.transfer(OUT | 3, b"to the host")
            assert line.read(64) == b"to the host"
            handle.control(Setup(0x21, 0x20, 0, 0, 7), bytes.fromhex("80250000000008"))
            assert handle.control(Setup(0xA1, 0x21, 0, 0, 7)).hex() == "80250000000008"
    finally:
        bay.plug(domid, 2, "")
    assert not link.is_symlink()


def test_a_device_of_ones_own(bay: Bay, domid: int) -> None:
    bay.plug(domid, 2, "python:tests.usb.thermometer:Thermometer:21.5")
    try:
        bay.until_there(domid, 2, "1209:0001 Example Thermometer")
        code = "import usb.core; print(bytes(usb.core.find(idProduct=1).read(0x81, 8)))"
        assert bay.program(domid, code).stdout == "b'21.5 C'\n"
    finally:
        bay.plug(domid, 2, "")


def test_two_guests_have_each_their_own(bay: Bay, domid: int) -> None:
    other = bay.usb_guest(name="other")
    images = {guest: bay.image(MiB, f"own-{guest}") for guest in (domid, other)}
    try:
        for guest, image in images.items():
            bay.plug(guest, 2, f"stick:{image}")
        for guest, image in images.items():
            path = bay.stick(guest, 2)
            word = f"guest {guest}".encode()
            run(
                sys.executable,
                "-c",
                f"import os; fd = os.open({str(path)!r}, 1); os.pwrite(fd, {word!r}, 0); os.fsync(fd)",
            )
            assert image.read_bytes().startswith(word)
        with pytest.raises(Unable, match="in another port already"):
            bay.plug(other, 3, f"stick:{images[domid]}")
        assert bay.stage.store.read(f"{bay.controller(other).backend_path}/port/3") == b""
        assert [place.exported.product for place in bay.places(other)] == [STICK]
    finally:
        bay.stage.fine("destroy", str(other))
        bay.plug(domid, 2, "")


def test_usbip_lists_and_imports_what_the_guest_has(bay: Bay, domid: int) -> None:
    need_tool("usbip", "usbip")
    if os.geteuid() != 0:
        pytest.skip("a guest has a network of its own as root's only")
    address = bay.front_key(domid, "xenfs-usbip")
    host, _, port = address.partition(":")
    line = ("usbip", f"--tcp-port={port}", "list", "-r", host)
    listed = bay.stage.xenfs("exec", str(domid), "--", *line).stdout
    assert "1-1:" in listed
    assert "(1209:5857)" in listed
    assert "Vendor Specific Class" in listed


def test_controllers_and_devices_by_the_commands(bay: Bay) -> None:
    domid = bay.stage.guest("commands", memory=16)
    try:
        x = bay.stage
        image = bay.image(MiB, "by-command")
        x.fine("usbctrl-attach", "commands", "ports=2", "version=1")
        x.until_connected(bay.controller(domid))
        x.fine("usbdev-attach", "commands", f"device=stick:{image}")
        bay.stick(domid, 1)
        rows = x.fine("usb-list", "commands").splitlines()
        assert rows[1].split() == ["0", "pv", "0", "4", "1", "2"]
        assert rows[2:] == [f"  Port 1: stick:{image}, connected high, 1209:5854 xenfs USB stick", "  Port 2:"]
        for words, said in (
            (("usbdev-attach", "commands", "device=stick:/nix"), "No such file"),
            (("usbdev-attach", "commands", f"device=stick:{image}"), "in another port already"),
            (("usbdev-attach", "commands", "port=3", "device=loopback:"), "no such port"),
            (("usbdev-attach", "commands", "hostbus=1", "hostaddr=99"), "no USB device at bus 1, address 99"),
            (("usbdev-attach", "commands", "device=toaster:"), "neither a bus path"),
            (("usbdev-attach", "commands"), "it needs hostbus= and hostaddr=, or device="),
            (("usbdev-detach", "commands", "0", "2"), "nothing in port 2"),
            (("usbdev-detach", "commands", "7", "1"), "no USB controller 7"),
            (("usbctrl-attach", "commands", "ports=99"), "ports is a number from 1 to 31"),
            (("usbctrl-attach", "commands", "version=3"), "version is a number from 1 to 2"),
        ):
            assert said in x.fails(*words), words
        x.fine("usbdev-detach", "commands", "0", "1")
        bay.until_gone(domid, 1)
        for _ in range(3):
            with pytest.raises(Unable, match="No such file"):
                bay.plug(domid, 2, "stick:/nix")
            bay.plug(domid, 2, "loopback:")
            bay.plug(domid, 2, "")
        x.fine("usbctrl-detach", "commands", "0")
        assert len(x.fine("usb-list", "commands").splitlines()) == 1
        x.fine("usbctrl-attach", "commands", "type=qusb")
        x.fine("usbdev-attach", "commands", "device=loopback:")
        bay.until_there(domid, 1)
        assert x.fine("usb-list", "commands").splitlines()[1].split() == ["0", "qusb", "0", "4", "2", "8"]
        assert x.store.exists(f"/local/domain/0/backend/qusb/{domid}/0/port-status/1")
    finally:
        bay.stage.fine("destroy", str(domid))


def test_a_guest_that_cannot_have_its_device_is_not_made(bay: Bay) -> None:
    config = bay.folder / "bad.cfg"
    for line, said in (
        ('usbdev=["device=stick:/nix"]', "port 1: /nix: No such file or directory"),
        ('usbctrl=["ports=1"]\nusbdev=["device=loopback:", "device=loopback:"]', "no such port of it that is free"),
        ('usbdev=["controller=3,device=loopback:"]', "there is no such controller"),
        ('usbctrl=["ports=0"]', "ports is a number"),
        ('usbctrl=["ports=1,controller=2", "ports=1,controller=2"]', "twice"),
    ):
        config.write_text(f'name="bad"\nmemory=4\n{line}\n')
        assert said in bay.stage.fails("create", "-q", str(config))
        assert "bad" not in bay.stage.fine("list")


def test_after_usbback_is_killed_the_devices_are_probed_again(tmp_path_factory: pytest.TempPathFactory) -> None:
    bay = Bay(tmp_path_factory.mktemp("bay"))
    try:
        image = bay.image(16 * MiB, "image")
        domid = bay.usb_guest("loopback:", f"stick:{image}")
        path = bay.stick(domid, 2)
        writer = subprocess.Popen(
            ["timeout", "-s", "KILL", "100", sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, text=True
        )
        with bay.opened(domid, LOOPBACK) as handle:
            handle.control(Setup(1, 11, 1, 0))
            failed: list[int | None] = []

            def wait() -> None:
                try:
                    handle.transfer(IN | 2, size=8, seconds=60)
                except OSError as error:
                    failed.append(error.errno)

            waiting = threading.Thread(target=wait)
            waiting.start()
            for _ in range(4):
                bay.kill_usb_back(domid)
                until(lambda: _says(handle), SECONDS)
            waiting.join(30)
            assert failed == [errno.ESHUTDOWN]
            handle.control(Setup(VENDOR << 5, STORE, 0, 0, 4), b"kept")
            assert handle.control(Setup(IN | VENDOR << 5, FETCH, 0, 0, 64)) == b"kept"
            handle.transfer(OUT | 1, b"the setting of its interface is as it was")
        assert bay.stick(domid, 2) == path, "the disk is the same"
        assert writer.communicate()[0] == "ok\n"
        assert image.read_bytes() == b"".join(number.to_bytes(4, "little") * 4096 for number in range(1024))
    finally:
        bay.close()


WRITER = """
import os, sys
fd = os.open(sys.argv[1], os.O_RDWR)
for number in range(1024):
    os.pwrite(fd, number.to_bytes(4, "little") * 4096, number << 14)
    if number % 64 == 0:
        os.fsync(fd)
os.fsync(fd)
print("ok")
"""


def _changed(look: Callable[[], object], before: object) -> bool:
    return look() != before


def _says(handle: object) -> bool:
    try:
        return len(handle.control(Setup(0x80, 6, 0x100, 0, 18))) == 18  # type: ignore[attr-defined]
    except OSError:
        return False


def test_after_usbfront_is_killed_the_devices_are_there_again(tmp_path_factory: pytest.TempPathFactory) -> None:
    bay = Bay(tmp_path_factory.mktemp("bay"))
    try:
        domid = bay.usb_guest("loopback:", f"stick:{bay.image(MiB, 'image')}")
        path = bay.stick(domid, 2)
        for _ in range(2):
            pid = bay.usb_front()
            os.kill(pid, signal.SIGKILL)
            until(partial(_changed, bay.usb_front, pid), SECONDS)
            bay.stage.until_connected(bay.controller(domid))
            until(partial(_changed, partial(bay.stick, domid, 2), path), SECONDS)
            path = bay.stick(domid, 2)
            until(lambda: {place.exported.product for place in bay.places(domid)} == {LOOPBACK, STICK}, SECONDS)
    finally:
        bay.close()


def test_what_is_asked_behind_a_large_transfer_does_not_overtake_it(bay: Bay, domid: int) -> None:
    with bay.opened(domid, LOOPBACK) as handle:
        handle.control(Setup(1, 11, 1, 0))
        results: dict[int, bytes] = {}

        def ask(size: int) -> threading.Thread:
            def read() -> None:
                results[size] = handle.transfer(IN | 1, size=size, seconds=30).data

            thread = threading.Thread(target=read)
            thread.start()
            return thread

        reader = ask(100_000)
        until(lambda: bay.in_flight(domid) == 1, SECONDS)
        second = ask(10)
        writers = [
            threading.Thread(target=handle.transfer, args=(OUT | 1, data)) for data in (b"a" * 100_000, b"b" * 10)
        ]
        writers[0].start()
        until(lambda: bay.usb_stats(domid)[0].bytes_out > 0, SECONDS)
        writers[1].start()
        for thread in (*writers, reader, second):
            thread.join(30)
        assert results == {100_000: b"a" * 100_000, 10: b"b" * 10}
