"""USB/IP of a guest's server: the devices that a kernel's vhci_hcd finds, and how a connection ends."""

from __future__ import annotations

import errno
import os
import signal
import struct
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest
from xenusb.loopback import BULK, FETCH, INTERRUPT, STORE
from xenusb.usbip import Code
from xl import usb

from tests.mounted.mount import until
from tests.need import need_tool
from tests.toolstack.stage import SECONDS
from tests.usb.bay import Bay
from tests.usb.peers import (
    AS_ROOT,
    GET_DESCRIPTOR,
    GET_INTERFACE,
    GET_STATUS,
    IN,
    SET_INTERFACE,
    SETTING,
    VENDOR_IN,
    VENDOR_OUT,
    MiB,
    answer,
    keeper,
    line,
    opened,
    pattern,
    stick,
    taken,
)
from tests.usb.vhci import LIST, Vhci, connected, importing
from xenfs.abi.usbif import Status
from xenfs.xenbus import Device

pytestmark = AS_ROOT


# Devices.


def test_devices_are_listed_with_their_interfaces(bay: Bay, domid: int, peer: Vhci) -> None:
    with stick(bay, domid, "listed"):
        found = peer.list()
    assert list(found) == ["1-1", "1-2"]
    one, two = found.values()
    assert (one.vendor, one.product, one.speed, one.klass) == (0x1209, 0x5857, 3, (0, 0, 0))
    assert (one.configuration, one.configurations, one.interfaces) == (1, 1, ((255, 0, 0),))
    assert (two.product, two.interfaces) == (0x5854, ((8, 6, 80),))
    assert one.devid >> 16 == two.devid >> 16 == 1
    assert one.devid != two.devid


def test_usbip_lists_a_stick_by_what_it_is(bay: Bay, domid: int) -> None:
    tool = need_tool("usbip", "usbip")
    host, _, port = bay.front_key(domid, "xenfs-usbip").partition(":")
    with stick(bay, domid, "by-usbip"):
        words = bay.stage.xenfs("exec", str(domid), "--", tool, f"--tcp-port={port}", "list", "-r", host).stdout
    assert "1-1:" in words
    assert "(1209:5857)" in words
    assert "1-2:" in words
    assert "(1209:5854)" in words
    assert "Mass Storage / SCSI / Bulk-Only (08/06/50)" in words


def test_another_controller_has_another_port(bay: Bay, domid: int) -> None:
    bay.stage.fine("usbctrl-attach", str(domid), "ports=2")
    second = Device("vusb", domid, 1)
    try:
        bay.stage.until_connected(second)
        usb.plug(bay.stage.store, second, 2, "loopback:")
        until(lambda: bay.stage.store.exists(f"{second.frontend_path}/port/2"), SECONDS)
        first, other = (
            bay.stage.store.read(f"{device.frontend_path}/xenfs-usbip").decode()
            for device in (bay.controller(domid), second)
        )
        assert (first, other) == ("127.0.0.1:3240", "127.0.0.1:3241")
        with connected(keeper(bay, domid), other) as vhci:
            assert list(vhci.list()) == ["2-2"]
            assert vhci.take("1-1") is None
            taken(vhci, "2-2")
            assert vhci.control(IN, GET_DESCRIPTOR, 0x100, 0, 18).actual == 18
    finally:
        bay.stage.fine("usbctrl-detach", str(domid), "1")


def test_an_import_says_what_the_list_says(peer: Vhci) -> None:
    listed = peer.list()["1-1"]
    found = None
    while found is None:
        found = peer.take("1-1")
    assert found.__dict__ == {**listed.__dict__, "interfaces": ()}


@pytest.mark.parametrize("bus_id", ["", "1-9", "2-1", "1-1.1", "x" * 32])
def test_what_is_not_there_is_refused_and_may_be_asked_again(peer: Vhci, bus_id: str) -> None:
    assert peer.take(bus_id) is None
    assert peer.take(bus_id) is None
    taken(peer, "1-1")


def at_once(bay: Bay, domid: int) -> bool:
    """Ask everything there is to ask without waiting for an answer; whether the device could be had."""
    with line(bay, domid) as peer:
        listed = peer.list()
        peer.devid = listed["1-1"].devid
        status = peer.message(1, 0, 2, setup=struct.pack("<BBHHH", IN, GET_STATUS, 0, 0, 2))
        peer.socket.sendall(LIST + importing("9-9") * 500 + LIST + importing("1-1") + status)
        assert peer.listed() == listed
        assert [peer.imported() for _ in range(500)] == [None] * 500
        assert peer.listed() == listed
        return peer.imported() is not None and len(peer.answer(1).data) == 2


def test_what_is_asked_at_once_is_answered_in_its_order(bay: Bay, domid: int) -> None:
    until(lambda: at_once(bay, domid), SECONDS)


# How it ends.


def settled(bay: Bay, domid: int) -> bool:
    """Whether everything that usbfront has asked for is answered."""
    front, _ = bay.usb_stats(domid)
    return front.requests == front.responses


@pytest.mark.parametrize("waiting", [1, 20, 100])
def test_a_connection_that_dies_leaves_nothing(bay: Bay, domid: int, vhci: Vhci, waiting: int) -> None:
    for _ in range(waiting):
        vhci.submit(INTERRUPT, 64)
    vhci.submit(BULK, 3 * MiB)
    vhci.submit(BULK, bytes(3 * MiB))
    vhci.socket.sendall(vhci.message(5000, BULK, bytes(1000))[:100])
    vhci.die()
    with line(bay, domid) as other:
        taken(other, "1-1")
        other.control(1, SET_INTERFACE, 1, 0)
        for endpoint in (INTERRUPT, BULK):
            other.transfer(endpoint, b"mine")
            assert other.transfer(endpoint, 64).data == b"mine"
        until(lambda: settled(bay, domid), SECONDS)
    with line(bay, domid) as last:
        assert list(last.list()) == ["1-1"]


@pytest.mark.parametrize("size", [0, 1, 7, 8, 39])
def test_a_connection_may_end_at_any_byte_of_its_question(bay: Bay, domid: int, size: int) -> None:
    asked = struct.pack(">HHI32s", 0x0111, 0x8003, 0, b"1-1")
    for dies in (False, True):
        with line(bay, domid) as vhci:
            vhci.socket.sendall(asked[:size])
            vhci.die() if dies else vhci.socket.close()
    with line(bay, domid) as vhci:
        taken(vhci, "1-1")


@pytest.mark.parametrize(
    "said", [b"GET / HTTP/1.1\r\n\r\n", bytes(8), struct.pack(">HHI", 0x0106, 0x8005, 0), b"\xff" * 400]
)
def test_whoever_speaks_something_else_is_left_alone(bay: Bay, peer: Vhci, said: bytes) -> None:
    front = bay.usb_front()
    peer.socket.sendall(said)
    assert peer.ended()
    assert bay.usb_front() == front


def bad_messages() -> dict[str, bytes]:
    """What no client says to a device."""
    submit = struct.Struct(">IIIIIIiiii8s")
    fields = (1, 9, 0x10001, 0, 1, 0, 4, 0, 0, 0, bytes(8))
    changed = {
        "no such command": (0, 5),
        "an answer": (0, 3),
        "a claim": (0, Code.claim),
        "a driver let go": (0, Code.detach_driver),
        "a direction of 2": (3, 2),
        "endpoint 16": (4, 16),
        "four gigabytes": (6, -1),
        "five megabytes": (6, 5 * MiB),
        "a million packets": (8, 1 << 20),
        "minus seven packets": (8, -7),
    }
    return {name: submit.pack(*fields[:at], value, *fields[at + 1 :]) for name, (at, value) in changed.items()}


@pytest.mark.parametrize("name", bad_messages())
def test_a_message_that_is_none_ends_the_connection(bay: Bay, domid: int, vhci: Vhci, name: str) -> None:
    vhci.submit(INTERRUPT, 64)
    vhci.socket.sendall(bad_messages()[name])
    assert vhci.ended()
    with line(bay, domid) as other:
        taken(other, "1-1")


def test_a_number_twice_at_once_ends_the_connection(vhci: Vhci) -> None:
    vhci.socket.sendall(vhci.message(5, INTERRUPT, 64) + vhci.message(5, INTERRUPT, 64))
    assert vhci.ended()


def test_unplugging_closes_the_connection(bay: Bay, domid: int, vhci: Vhci) -> None:
    waits = vhci.submit(INTERRUPT, 64)
    bay.plug(domid, 1, "")
    try:
        with suppress(EOFError, ConnectionResetError):
            assert vhci.answer(waits).status in (Status.nodev, Status.shutdown)
            vhci.next()
        bay.until_gone(domid, 1)
        with line(bay, domid) as other:
            assert other.list() == {}
            assert other.take("1-1") is None
    finally:
        bay.plug(domid, 1, "loopback:")
        bay.until_there(domid, 1)


def test_more_connections_than_there_is_room_for_are_closed(bay: Bay, domid: int, peer: Vhci) -> None:
    with ExitStack() as held:
        others = [held.enter_context(line(bay, domid)) for _ in range(140)]
        for other in others[-5:]:
            assert other.ended()
        assert list(others[0].list()) == ["1-1"]
        taken(peer, "1-1")
    with line(bay, domid) as last:
        until(lambda: list(last.list()) == ["1-1"], SECONDS)


def test_answers_that_nobody_takes_stop_the_questions(bay: Bay, domid: int, vhci: Vhci) -> None:
    size = 60000
    vhci.control(VENDOR_OUT, STORE, 0, 0, pattern(size))
    asked = vhci.message(1, 0, size, setup=struct.pack("<BBHHH", VENDOR_IN, FETCH, 0, 0, size))
    vhci.socket.settimeout(0.5)
    sent = 0
    with suppress(TimeoutError):
        for number in range(100, 200_000):
            vhci.socket.sendall(asked[:4] + number.to_bytes(4, "big") + asked[8:])
            sent += 1
    assert sent < 199_000, "it goes on asking"
    memory = int(Path(f"/proc/{bay.usb_front()}/statm").read_text().split()[1]) * 4096
    assert memory < 100 * MiB
    vhci.die()
    with line(bay, domid) as other:
        taken(other, "1-1")


def test_an_import_outlives_usbback(own: Bay) -> None:
    domid = own.usb_guest("loopback:")
    own.until_there(domid, 1)
    with line(own, domid) as vhci:
        taken(vhci, "1-1")
        vhci.control(1, SET_INTERFACE, 1, 0)
        for _ in range(2):
            waits = [vhci.submit(INTERRUPT, 64), vhci.submit(BULK, 300000)]
            vhci.control(IN, GET_STATUS, 0, 0, 2)
            own.kill_usb_back(domid)
            assert {vhci.answer(one).status for one in waits} == {Status.shutdown}
            until(lambda: vhci.control(IN, GET_STATUS, 0, 0, 2).status == 0, SECONDS)
            assert vhci.control(IN | 1, GET_INTERFACE, 0, 0, 1).data == b"\1", "as it was"
            vhci.transfer(BULK, b"again")
            assert vhci.transfer(BULK, 64).data == b"again"
        with line(own, domid) as other:
            assert other.take("1-1") is None


def test_usbfront_dies_and_the_connection_with_it(own: Bay) -> None:
    domid = own.usb_guest("loopback:")
    own.until_there(domid, 1)
    with line(own, domid) as vhci, opened(own, domid, "1-1") as handle:
        taken(vhci, "1-1")
        front = own.usb_front()
        os.kill(front, signal.SIGKILL)
        assert vhci.ended()
        assert answer(handle, SETTING) == errno.ENODEV
        until(lambda: own.usb_front() != front, SECONDS)
        own.stage.until_connected(own.controller(domid))
    own.until_there(domid, 1)
    until(lambda: own.places(domid) != [], SECONDS)
    with line(own, domid) as vhci:
        taken(vhci, "1-1")
