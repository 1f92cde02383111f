"""A guest whose ring is never empty: its backend lets everybody else have a turn."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from xenblk.queue import Queue
from xennet.transmit import Transmit
from xenusb.requests import Requests

from xenfs.xenbus.turns import Later


class Endless:
    """A ring that always says that there is more, while it is `busy`."""

    name = "endless"
    busy, asked = True, 0

    def take(self) -> list[Any]:
        return []

    def take_bytes(self) -> bytes:
        return b""

    def publish(self) -> bool:
        return False

    def linger(self) -> bool:
        return False

    def final_check(self) -> bool:
        self.asked += 1
        return self.busy


COUNTERS: Any = SimpleNamespace(requests=0, responses=0, write=lambda: None, flush=lambda: None)


def queue(ring: Any, later: Later) -> Queue:
    disk, grants = SimpleNamespace(size=lambda: 1 << 20, sector_size=512), SimpleNamespace(table=None)
    anything: Any = SimpleNamespace()
    return Queue(ring, anything, grants, disk, anything, COUNTERS, later)  # type: ignore[arg-type]


def transmit(ring: Any, later: Later) -> Transmit:
    anything: Any = SimpleNamespace()
    return Transmit(ring, anything, anything, -1, COUNTERS, later)


def usb_requests(ring: Any, later: Later) -> Requests:
    anything: Any = SimpleNamespace()
    return Requests(ring, anything, anything, {}, COUNTERS, later)


@pytest.mark.parametrize("make", [queue, transmit, usb_requests])
def test_a_guest_that_never_stops_asking_does_not_keep_the_others_waiting(
    make: Callable[[Any, Later], Queue | Transmit | Requests],
) -> None:
    ring, calls = Endless(), list[Callable[[], object]]()
    own = make(ring, lambda _, call: calls.append(call))
    own.work()
    own.work()  # as when the guest rings meanwhile
    assert len(calls) == 1
    asked = ring.asked
    calls.pop()()
    assert len(calls) == 1, "and again, as long as it goes on"
    assert ring.asked > asked
    ring.busy = False
    calls.pop()()
    assert calls == []
    ring.busy, asked = True, ring.asked
    own.work()
    own.close()
    ring.asked = 0
    calls.pop()()
    assert (ring.asked, calls) == (0, [])
