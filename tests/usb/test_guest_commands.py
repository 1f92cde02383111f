"""What commands say of a guest's USB devices, and do with them."""

from __future__ import annotations

import os

import pytest

from tests.need import need_tool
from tests.usb.bay import Bay, MiB
from xenfs.commands.failure import Unable

pytestmark = pytest.mark.timeout(180)


def test_lsusb_lists_everything(bay: Bay, domid: int) -> None:
    assert bay.stage.fine("lsusb", str(domid)).splitlines()[0] == "Bus 001 Device 001: ID 1209:5857 xenfs Loopback"
    whole = bay.stage.fine("lsusb", "-v", str(domid))
    for words in ("bcdUSB              2.00", "bInterfaceClass     255 Vendor Specific", "0x83 EP 3 IN", "Isochronous",
                  "wMaxPacketSize      0x0400 1x 1024 bytes"):  # fmt: skip
        assert words in whole


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


def test_a_controller_that_was_made_for_a_device_goes_when_nothing_comes_of_it(bay: Bay) -> None:
    domid = bay.stage.guest("commands", memory=16)
    try:
        x = bay.stage
        for words in (("device=stick:/nix",), ("port=9", "device=loopback:")):
            x.fails("usbdev-attach", "commands", *words)
            assert len(x.fine("usb-list", "commands").splitlines()) == 1
        x.fine("usbctrl-attach", "commands")
        x.fails("usbdev-attach", "commands", "device=stick:/nix")
        assert len(x.fine("usb-list", "commands").splitlines()) == 10
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
