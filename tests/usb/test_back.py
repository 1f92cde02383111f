"""Usbback on a machine in memory, and its requests on a ring that is none."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from types import SimpleNamespace
from typing import Any

import pytest
from xenusb.back import UsbBack
from xenusb.loopback import ISOC
from xenusb.requests import Requests

from tests.usb.test_ports import Back
from tests.xenbus.toolstack import attach, remove
from xenfs.abi.usbif import FRAME, Pipe, PipeType, Speed, Status, Urb
from xenfs.abi.usbif import ISOC as SPECIAL
from xenfs.abi.xen import PAGE_SIZE
from xenfs.domain.inprocess import InProcessXen
from xenfs.ring import Entry
from xenfs.xenbus import Device, Loop
from xenfs.xenbus.grants import Grants
from xenfs.xenbus.loop import Call

ADDRESS = 1


class Ring:
    """Entries that are there, once or again and again; `said` is what was answered."""

    def __init__(self, *entries: Entry, endless: bool = False) -> None:
        self.entries, self.endless = list(entries), endless
        self.said: list[Entry] = []

    def take(self) -> list[Entry]:
        found = list(self.entries)
        if not self.endless:
            self.entries.clear()
        return found

    def respond(self, *fields: Any) -> None:
        self.said.append(fields)

    def publish(self) -> bool:
        return False

    def final_check(self) -> bool:
        return bool(self.entries)

    linger = final_check


@pytest.fixture
def back() -> Iterator[Back]:
    with closing(Back()) as back:
        port = back.add()
        port.plug("loopback:")
        port.address = ADDRESS
        yield back


def requests(
    back: Back, ring: Ring, pages: dict[int, bytearray], turns: list[Call] | None = None
) -> tuple[Requests, Grants]:
    """The requests of a guest that has granted pages; further turns are put into a list."""

    def map_pages(_domid: int, refs: tuple[int, ...], *, readonly: bool = False) -> Any:
        (ref,) = refs
        return SimpleNamespace(view=memoryview(pages[ref]), close=lambda: None, readonly=readonly)

    memory: Any = SimpleNamespace(map=map_pages)
    grants = Grants(memory, 1, persistent=True, clock=lambda: 0.0)
    counters: Any = SimpleNamespace(
        requests=0, responses=0, errors=0, grants_mapped=0, units_in=0, bytes_in=0, write=lambda: None
    )
    anything: Any = ring

    def later(_seconds: float, call: Call) -> None:
        assert turns is not None
        turns.append(call)

    return Requests(anything, SimpleNamespace(), grants, {1: back.port}, counters, later), grants


def test_a_guest_that_never_stops_asking_does_not_keep_the_others_waiting(back: Back) -> None:
    ring = Ring((1, 0, Pipe(2, PipeType.bulk, address=ADDRESS, endpoint=1).emit(), 0, 0, bytes(8), bytes(128)))
    ring.endless = True
    turns = list[Call]()
    own, _ = requests(back, ring, {}, turns)
    own.work()
    assert set(ring.said) == {(1, 0, int(Status.nodev), 0, 0)}
    for _ in range(2):
        turns.pop()()
        assert len(turns) == 1
    ring.entries.clear()
    turns.pop()()
    assert turns == []


def test_pages_of_a_request_that_cannot_be_are_in_use_no_more(back: Back) -> None:
    page = bytearray(PAGE_SIZE)
    FRAME.pack_into(page, 0, 0, 8, 0, 0)
    pipe = Pipe(1, PipeType.isoc, address=ADDRESS, endpoint=ISOC)
    bad = Urb(3, pipe, 0, 8, SPECIAL.pack(1, 0, 1, 1), ((2, PAGE_SIZE, 8),), ((1, 0, FRAME.size),))
    ring = Ring(bad.emit())
    own, grants = requests(back, ring, {1: page})
    own.work()
    assert ring.said == [(3, 0, int(Status.inval), 0, 0)]
    assert [group.users for group in grants._groups] == [0]


def test_another_controller_where_one_was_has_its_own_ports() -> None:
    with InProcessXen() as xen, closing(Loop()) as loop:
        device, root = Device("vusb", xen.create_domain(), 0), xen.domain(0).store
        for ports in (2, 4):
            last = f"port/{ports}"
            attach(root, device, {}, {"num-ports": str(ports), "usb-ver": "2", last: "loopback:"})
            made = UsbBack(xen.domain(0), device.domid, 0, loop=loop)
            made.start()
            loop.turn(0)
            assert root.read(f"{device.backend_path}/port-status/{ports}") == b"connected high"
            remove(root, device)
            made.ports[ports].lose("it has gone as well")
            assert not root.exists(device.backend_path)
            attach(root, device, {}, {"num-ports": "1", "usb-ver": "1"})
            while loop.turn(0):
                pass
            assert made.done
            assert {port.speed for port in made.ports.values()} <= {Speed.none}
            remove(root, device)
            made.domain.close()
