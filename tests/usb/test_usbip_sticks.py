"""USB/IP of a guest's server: a stick and its disk, which is taken away from the guest and given back."""

from __future__ import annotations

import os
import struct
import time

import pytest
from xenusb.usbip import Code

from tests.block.conftest import need_loop
from tests.block.yard import holding, python, run
from tests.usb.bay import Bay
from tests.usb.peers import AS_ROOT, SET_CONFIGURATION, MiB, line, opened, pattern, plugged, stick, taken
from tests.usb.vhci import Vhci

pytestmark = AS_ROOT


def command(words: bytes, size: int, *, inward: bool, tag: int = 7) -> bytes:
    """A command of the bulk-only transport."""
    return struct.pack("<4sIIBBB16s", b"USBC", tag, size, 0x80 if inward else 0, 0, len(words), words.ljust(16, b"\0"))


def test_importing_a_stick_takes_its_disk_away_and_closing_gives_it_back(bay: Bay, domid: int, peer: Vhci) -> None:
    with stick(bay, domid, "imported") as image:
        before = bay.stick(domid, 2)
        python("import sys; f = open(sys.argv[1], 'r+b'); f.write(b'by the disk'); f.close()", str(before))
        taken(peer, "1-2")
        assert not bay.front_key(domid, "disk/2/xenfs-file")
        assert not bay.front_key(domid, "disk/2/xenfs-device")
        assert not os.path.ismount(before)
        peer.transfer(2, command(struct.pack(">BBIBHB", 0x28, 0, 0, 0, 1, 0), 512, inward=True))
        assert peer.transfer(1, 512).data.startswith(b"by the disk")
        assert peer.transfer(1, 13).data == struct.pack("<4sIIB", b"USBS", 7, 0, 0)
        peer.transfer(2, command(struct.pack(">BBIBHB", 0x2A, 0, 0, 0, 1, 0), 512, inward=False))
        peer.transfer(2, b"by the import".ljust(512, b"."))
        assert peer.transfer(1, 13).data[-1] == 0
        peer.socket.close()
        bay.block(domid, 2)
        after = bay.stick(domid, 2)
        assert after != before
        said = python("import sys; print(open(sys.argv[1], 'rb').read(13))", str(after))
        assert said == "b'by the import'\n"
        assert image.read_bytes().startswith(b"by the import...")


def test_a_stick_whose_disk_is_mounted_is_not_given(bay: Bay, domid: int, peer: Vhci) -> None:
    with stick(bay, domid, "mounted-image", 16 * MiB):
        node = bay.block(domid, 2)
        run("mkfs.ext4", "-q", node)
        with holding(node, "echo still there > /mnt/file; sync"):
            for _ in range(2):
                assert peer.take("1-2") is None
            assert bay.front_key(domid, "disk/2/xenfs-device") == node
        taken(peer, "1-2")
        peer.socket.close()
        run("e2fsck", "-fn", bay.block(domid, 2))


def test_a_stick_is_given_before_its_disk_is_there(bay: Bay, domid: int) -> None:
    need_loop()
    image = bay.image(MiB, "early")
    for _ in range(5):
        with line(bay, domid) as peer, plugged(bay, domid, 2, f"stick:{image}"):
            taken(peer, "1-2")
            peer.transfer(2, command(struct.pack(">BBIBHB", 0x28, 0, 0, 0, 1, 0), 512, inward=True))
            assert peer.transfer(1, 512).actual == 512
            assert peer.transfer(1, 13).data == struct.pack("<4sIIB", b"USBS", 7, 0, 0)


@pytest.mark.parametrize("how", ["close", "die"])
@pytest.mark.parametrize(("opcode", "inward"), [(0x2A, False), (0x28, True)])
def test_a_stick_is_given_back_well_in_the_middle_of_a_command(
    bay: Bay, domid: int, peer: Vhci, how: str, opcode: int, *, inward: bool
) -> None:
    with stick(bay, domid, f"interrupted-{how}-{opcode}") as image:
        image.write_bytes(pattern(MiB))
        taken(peer, "1-2")
        words = struct.pack(">BBIBHB", opcode, 0, 0, 0, 128, 0)
        assert peer.transfer(2, command(words, 1 << 16, inward=inward)).status == 0
        began = time.monotonic()
        peer.die() if how == "die" else peer.socket.close()
        node = bay.block(domid, 2)
        assert time.monotonic() - began < 10
        python("import sys; assert len(open(sys.argv[1], 'rb').read()) == 1 << 20", node)
        assert image.read_bytes() == pattern(MiB)


@pytest.mark.parametrize(("opcode", "inward"), [(0x2A, False), (0x28, True)])
def test_a_program_may_end_in_the_middle_of_a_command(bay: Bay, domid: int, opcode: int, *, inward: bool) -> None:
    with stick(bay, domid, f"by-program-{opcode}") as image:
        image.write_bytes(pattern(MiB))
        with opened(bay, domid, "1-2") as handle:
            handle.own(Code.detach_driver, 0)
            words = struct.pack(">BBIBHB", opcode, 0, 0, 0, 128, 0)
            handle.transfer(2, command(words, 1 << 16, inward=inward))
        with opened(bay, domid, "1-2") as handle:
            assert len(handle.configurations()) == 1, "it may be had at once"
        began = time.monotonic()
        node = bay.block(domid, 2)
        assert time.monotonic() - began < 10
        python("import sys; assert len(open(sys.argv[1], 'rb').read()) == 1 << 20", node)
        assert image.read_bytes() == pattern(MiB)


def test_a_stick_that_was_left_without_a_configuration_has_its_disk_again(bay: Bay, domid: int, peer: Vhci) -> None:
    with stick(bay, domid, "unconfigured"):
        taken(peer, "1-2")
        assert peer.control(0, SET_CONFIGURATION, 0).status == 0
        peer.socket.close()
        bay.block(domid, 2)
