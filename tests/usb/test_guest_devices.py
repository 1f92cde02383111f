"""Sticks, a keyboard, a serial port and a device of one's own, each as a guest has it."""

from __future__ import annotations

import os
import sys
from functools import partial
from pathlib import Path

import pytest
from xenusb.descriptors import Setup
from xl import usb

from tests.block.conftest import need_loop
from tests.block.yard import in_mount, run
from tests.mounted.command.lab import Lab
from tests.mounted.command.test_user import as_nobody, reachable
from tests.mounted.mount import until
from tests.toolstack.stage import SECONDS
from tests.usb.bay import IN, OUT, SERIAL, STICK, Bay, MiB, changed
from xenfs.commands.failure import Unable

__all__ = ["reachable"]
pytestmark = pytest.mark.timeout(180)


def test_a_stick_comes_and_goes_between_files_and_loses_none(bay: Bay, domid: int) -> None:
    need_loop()
    image, copies = bay.image(64 * MiB, "travelling"), bay.folder / "copies"
    copies.mkdir()
    run("mkfs.ext4", "-q", str(image))
    files = sorted(path for path in Path(usb.__file__).parents[2].joinpath("xenfs/hypervisor").glob("*.py"))[:6]
    for file in files:
        (copies / file.name).write_bytes(file.read_bytes() * 20)
        bay.plug(domid, 2, f"stick:{image}")
        node = bay.block(domid, 2)
        in_mount(node, f"cp {copies / file.name} /mnt")
        bay.plug(domid, 2, "")
        bay.until_gone(domid, 2)
        until(partial(changed, partial(bay.front_key, domid, "disk/2/xenfs-device"), node), SECONDS)
    bay.plug(domid, 2, f"stick:{image},ro")
    in_mount(bay.block(domid, 2), f"diff -r -x lost+found {copies} /mnt", "-o ro,noload")
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


def test_the_link_to_a_pty_goes_also_when_the_machine_dies(reachable: Lab) -> None:
    script = """
        cd "$TMPDIR"; printf 'name="one"\nmemory=8\nusbdev=["device=serial:%s"]\n' "$PWD/line" > one.cfg
        x mount && x devd && x create -q one.cfg && test -L line && echo there
        devd=$(cat $XEN.run/devd-0.pid); kill -9 $(cat $XEN/hypervisor/pid)
        tail --pid=$devd -f /dev/null; test -L line || echo gone; x umount
    """
    done = as_nobody(reachable, script)
    assert done.stdout == "there\ngone\n", done.stderr


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
