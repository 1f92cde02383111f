"""The ends of a ring in group R of the hostile inputs: one breaks the rules, and the other keeps its own."""

from __future__ import annotations

from typing import Any

import pytest

from tests.rings import NET_TX
from xenfs.ring import BackRing, FrontRing, PeerRingError
from xenfs.testing.peers import MockFront

TX_SLOTS = 256
READ, WRITE = 0, 1
OKAY, EOPNOTSUPP = 0, -2


def tx_answer(_gref: int, _offset: int, _flags: int, number: int, _size: int) -> tuple[int, int]:
    return (number, OKAY)


def tx_front(view: memoryview, start: int = 0) -> MockFront:
    return MockFront(view, NET_TX, request_id=3, name="vif-0-tx", start=start)


def issue(front: MockFront, count: int) -> None:
    for _ in range(count):
        front.issue(8, 0, 0, None, 60)


def stopped(ring: FrontRing | BackRing) -> PeerRingError:
    """The error that the ring stops with; and that it stays stopped, whatever the page says afterwards."""
    with pytest.raises(PeerRingError) as caught:
        ring.take()
    before = (ring.stats(), repr(ring))
    calls: list[Any] = [ring.take, ring.publish, ring.final_check]
    calls += [lambda: ring.push(1, 0, 0, 0, 0)] if isinstance(ring, FrontRing) else [lambda: ring.respond(0, 0)]
    for call in calls:
        with pytest.raises(PeerRingError) as again:
            call()
        assert str(again.value) == str(caught.value)
    assert (ring.stats(), repr(ring)) == before
    assert repr(ring).endswith(" broken>")
    return caught.value
