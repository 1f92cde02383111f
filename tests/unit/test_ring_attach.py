"""Taking over a ring that is in use."""

from __future__ import annotations

import pytest

from tests.rings import NET_TX, TOP, ends, page, request
from xenfs.abi.ring import ENTRIES, HEADER
from xenfs.ring import BackRing, FrontRing, PeerRingError


def test_backend_attach_takes_unanswered_requests_again() -> None:
    view, front, back = ends(start=TOP - 3)
    front.push_many([request(n) for n in range(8)])
    front.publish()
    back.take(6)
    back.respond_many([(0, 0), (1, 0)])
    back.publish()
    again = BackRing.attach(view, NET_TX)
    assert again.take() == [request(n) for n in range(2, 8)]
    again.respond_many([(n, 0) for n in range(2, 8)])
    assert not again.publish()
    assert front.take() == [(n, 0) for n in range(8)]


def test_frontend_attach_waits_for_what_is_in_flight() -> None:
    view, front, back = ends(start=TOP - 3)
    front.push_many([request(n) for n in range(5)])
    front.publish()
    back.take()
    back.respond(0, 0)
    back.publish()
    before = bytes(view)
    again = FrontRing.attach(view, NET_TX)
    assert bytes(view) == before
    assert (again.in_flight, again.free) == (4, 252)
    back.respond_many([(n, 0) for n in range(1, 5)])
    back.publish()
    assert again.take() == [(n, 0) for n in range(1, 5)]


@pytest.mark.parametrize("kind", [FrontRing, BackRing])
def test_attach_accepts_a_full_ring(kind: type[FrontRing] | type[BackRing]) -> None:
    view, front, _ = ends(start=TOP - 9)
    front.push_many([request(n) for n in range(256)])
    front.publish()
    assert kind.attach(view, NET_TX).request_event(256) is (kind is BackRing)


@pytest.mark.parametrize("kind", [FrontRing, BackRing])
def test_attach_refuses_impossible_indices(kind: type[FrontRing] | type[BackRing]) -> None:
    view = page()
    view[:ENTRIES] = HEADER.pack(300, 0, 10, 0)
    with pytest.raises(PeerRingError, match="req_prod 300 is 290 ahead of rsp_prod 10; the ring has 256 slots"):
        kind.attach(view, NET_TX)
