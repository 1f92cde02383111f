"""USB/IP of a guest's server: whose a device is, that of a kernel's vhci_hcd or of a program of the guest's."""

from __future__ import annotations

import errno
import socket
import threading

from xenusb.client import Handle
from xenusb.descriptors import Setup
from xenusb.importing import receive
from xenusb.loopback import BULK, HALT, INTERRUPT
from xenusb.usbip import Code, Submitted

from tests.mounted.mount import until
from tests.toolstack.stage import SECONDS
from tests.usb.bay import Bay
from tests.usb.exporter import exported
from tests.usb.peers import (
    AS_ROOT,
    CLEAR_FEATURE,
    GET_CONFIGURATION,
    GET_INTERFACE,
    IN,
    SET_CONFIGURATION,
    SET_INTERFACE,
    SETTING,
    VENDOR_OUT,
    MiB,
    answer,
    claims,
    line,
    opened,
    refused,
    taken,
)
from tests.usb.vhci import Vhci

pytestmark = AS_ROOT


# Whose it is.


def test_an_import_is_exclusive(bay: Bay, domid: int, vhci: Vhci) -> None:
    with line(bay, domid) as other:
        assert list(other.list()) == ["1-1"], "it is listed all the same"
        assert other.take("1-1") is None
        assert refused(lambda: opened(bay, domid, "1-1")) == errno.ENODEV
        vhci.socket.close()
        taken(other, "1-1")


def test_whoever_has_it_open_has_nothing_of_it_while_it_is_imported(bay: Bay, domid: int, peer: Vhci) -> None:
    with opened(bay, domid, "1-1") as handle:
        taken(peer, "1-1")
        assert refused(lambda: handle.own(Code.claim, 0)) == errno.EBUSY
        peer.control(1, SET_INTERFACE, 1, 0)
        peer.transfer(BULK, b"not yours")
        assert refused(lambda: handle.transfer(IN | BULK, size=64)) == errno.EBUSY
        assert refused(lambda: handle.control(Setup(2, CLEAR_FEATURE, 0, IN | BULK))) == errno.EBUSY
        for setup in (SETTING, Setup(0, SET_CONFIGURATION, 1), Setup(0x23, 3, 4)):
            assert answer(handle, setup) == errno.EBUSY
        assert peer.transfer(BULK, 64).data == b"not yours"
        peer.socket.close()
        until(lambda: claims(handle), SECONDS)


def test_what_a_program_has_claimed_is_not_given(bay: Bay, domid: int, peer: Vhci) -> None:
    with opened(bay, domid, "1-1") as handle:
        until(lambda: claims(handle), SECONDS)
        assert peer.take("1-1") is None
        handle.own(Code.release, 0)
        taken(peer, "1-1")


def test_what_a_program_has_used_is_not_given_until_it_ends(bay: Bay, domid: int, peer: Vhci) -> None:
    with opened(bay, domid, "1-1") as handle:
        handle.control(SETTING)
        handle.transfer(BULK, b"mine")
        assert peer.take("1-1") is None
    taken(peer, "1-1")


def test_a_programs_interface_is_not_changed_by_another(bay: Bay, domid: int) -> None:
    with opened(bay, domid, "1-1") as handle, opened(bay, domid, "1-1") as other:
        until(lambda: claims(handle), SECONDS)
        handle.control(SETTING)
        for setup in (Setup(1, SET_INTERFACE, 0, 0), Setup(0, SET_CONFIGURATION, 1), Setup(0x23, 3, 4)):
            assert answer(other, setup) == errno.EBUSY
        handle.transfer(BULK, b"as it was")
        assert handle.transfer(IN | BULK, size=64).data == b"as it was"


def test_whoever_comes_next_has_the_device_as_just_plugged_in(bay: Bay, domid: int, vhci: Vhci) -> None:
    vhci.transfer(BULK, b"left behind")
    vhci.control(VENDOR_OUT, HALT)
    assert vhci.control(0, SET_CONFIGURATION, 0).status == 0
    vhci.socket.close()
    with line(bay, domid) as other:
        taken(other, "1-1")
        assert other.control(IN, GET_CONFIGURATION, 0, 0, 1).data == b"\1"
        assert other.control(IN | 1, GET_INTERFACE, 0, 0, 1).data == b"\0"
        assert other.control(1, SET_INTERFACE, 1, 0).status == 0
        other.transfer(BULK, b"new")
        assert other.transfer(BULK, 64).data == b"new"


# Programs of the guest.


def test_whoever_sends_does_not_keep_others_from_their_answers() -> None:
    ours, theirs = socket.socketpair()
    theirs.settimeout(10)
    sent, got = bytes(4 * MiB), list[int]()

    with ours, theirs, Handle(ours, exported()) as handle:
        takes = threading.Thread(target=lambda: got.append(handle.transfer(IN | BULK, size=4 * MiB).actual))
        takes.start()
        receive(theirs, 48)
        sends = threading.Thread(target=lambda: got.append(handle.transfer(BULK, sent).actual))
        sends.start()
        receive(theirs, 48)  # the head is there, and the data does not go on
        theirs.sendall(Submitted(1, 0, 4 * MiB, sent).emit())
        takes.join(SECONDS)
        receive(theirs, 4 * MiB)
        theirs.sendall(Submitted(2, 0, 1).emit())
        sends.join(SECONDS)
        assert got == [4 * MiB, 1]


def test_nothing_is_kept_of_what_took_too_long(bay: Bay, domid: int) -> None:
    with opened(bay, domid, "1-1") as handle:
        until(lambda: claims(handle), SECONDS)
        handle.control(SETTING)
        for _ in range(20):
            assert refused(lambda: handle.transfer(IN | INTERRUPT, size=64, seconds=0.001)) == errno.ETIMEDOUT
        assert not handle._answers.inward
        handle.transfer(INTERRUPT, b"not taken by them")
        assert handle.transfer(IN | INTERRUPT, size=64).data == b"not taken by them"
