"""Group R of the hostile inputs, as far as it lives in the ring: R1 to R6, indices and events no honest peer writes.

Each test is named after its code. R15 and R16 belong to the filesystem.
"""

from __future__ import annotations

import pytest

from tests.hostile.rings import OKAY, TX_SLOTS, issue, stopped, tx_answer, tx_front
from tests.rings import NET_TX, TOP, page
from xenfs.abi.ring import u32
from xenfs.ring import BackRing
from xenfs.testing.peers import MockBack


@pytest.mark.parametrize("start", [0, TOP - 300])
@pytest.mark.parametrize("jump", [TX_SLOTS + 1, 1 << 31, -1])
def test_r1_impossible_req_prod_stops_the_backend(start: int, jump: int) -> None:
    view = page()
    front, back = tx_front(view, start), MockBack(view, NET_TX, tx_answer, name="vif-0-tx", start=start)
    front.raw.jump("req_prod", jump)
    error = stopped(back.ring)
    assert (error.ring, error.field, error.value, error.limit) == ("vif-0-tx", "req_prod", u32(start + jump), TX_SLOTS)
    front.raw.set("req_prod", start)
    stopped(back.ring)
    assert back.ring.stats().taken == 0


def test_r1_the_error_says_what_and_how_far() -> None:
    view = page()
    front, back = tx_front(view), MockBack(view, NET_TX, tx_answer, name="vif-0-tx")
    for _ in range(2):
        issue(front, 128)
        front.publish()
        back.work()
        front.collect()
    front.raw.set("req_prod", 513)
    assert str(stopped(back.ring)) == "vif-0-tx: req_prod 513 is 257 ahead of rsp_prod 256; the ring has 256 slots"


def test_r1_requests_over_unanswered_ones_stop_the_backend() -> None:
    view = page()
    front, back = tx_front(view), BackRing(view, NET_TX)
    issue(front, TX_SLOTS)
    front.publish()
    assert len(back.take()) == TX_SLOTS
    front.raw.jump("req_prod", 1)
    stopped(back)


@pytest.mark.parametrize("extra", [1, 1 << 31, -1])
def test_r1_impossible_rsp_prod_stops_the_frontend(extra: int) -> None:
    view = page()
    front, back = tx_front(view), MockBack(view, NET_TX, tx_answer)
    issue(front, 3)
    front.publish()
    back.work()
    assert len(front.collect(2)) == 2
    back.raw.set("rsp_prod", 3 + extra if extra > 0 else 1)
    error = stopped(front.ring)
    assert (error.field, error.limit) == ("rsp_prod", 1)


def test_r1_responses_to_unpublished_requests_stop_the_frontend() -> None:
    view = page()
    front = tx_front(view)
    issue(front, 5)
    front.raw.set("rsp_prod", 1)
    text = "vif-0-tx: rsp_prod 1 is 1 ahead of rsp_cons 0; 0 requests are in flight"
    assert str(stopped(front.ring)) == text


@pytest.mark.parametrize("unanswered", [0, 4])
def test_r2_req_prod_moved_back_stops_the_backend_and_repeats_nothing(unanswered: int) -> None:
    view = page()
    front, back = tx_front(view), BackRing(view, NET_TX, name="vif-0-tx")
    issue(front, 9)
    front.publish()
    taken = back.take()
    back.respond_many([(request[3], OKAY) for request in taken[unanswered:]])
    back.publish()
    front.raw.jump("req_prod", -2)
    error = stopped(back)
    if unanswered:
        assert str(error) == "vif-0-tx: req_prod 7 is 2 behind req_cons 9"
    assert back.stats().taken == 9


@pytest.mark.parametrize("start", [0xFFFF_FFF0, TOP - 1, TOP - 300])
def test_r3_rings_run_across_2_to_the_32(start: int) -> None:
    view = page()
    front, back = tx_front(view, start), MockBack(view, NET_TX, tx_answer, start=start)
    for count in (1, 15, 7, 256, 100, 256):
        issue(front, count)
        assert front.publish()
        assert back.work()
        assert sorted(number for number, _ in front.collect()) == list(range(count))
        assert not back.ring.final_check()
        assert not front.ring.final_check()
    assert (front.in_flight, front.strays) == ({}, [])
    end = u32(start + 635)
    assert front.raw.get("rsp_prod") == end
    assert repr(back.ring) == f"<BackRing tx 256x12 rsp_prod_pvt={end} req_cons={end}>"
    assert repr(front.ring) == f"<FrontRing vif-0-tx 256x12 req_prod_pvt={end} rsp_cons={end}>"


@pytest.mark.parametrize("start", [0, TOP - 77])
def test_r4_exactly_full_ring_is_served_whole(start: int) -> None:
    view = page()
    front, back = tx_front(view, start), MockBack(view, NET_TX, tx_answer, start=start)
    issue(front, TX_SLOTS)
    front.publish()
    assert back.ring.final_check()
    back.work()
    assert len(back.seen) == TX_SLOTS
    assert front.ring.final_check()
    assert len(front.collect()) == TX_SLOTS
    assert front.ring.free == TX_SLOTS


def test_r5_backend_keeps_its_own_indices() -> None:
    view = page()
    front, back = tx_front(view), MockBack(view, NET_TX, tx_answer)
    for turn in range(20):
        issue(front, 10)
        front.publish()
        front.raw.set("rsp_prod", 0xDEAD_BEEF + turn if turn % 2 else 10 * (turn + 1))
        front.raw.set("req_event", turn * 77)
        front.raw.scribble(16, b"\xff" * 48)
        assert back.work()
        assert front.raw.get("rsp_prod") == 10 * (turn + 1)
        assert len(front.collect()) == 10
        assert not back.ring.final_check()
        assert not front.ring.final_check()


def test_r5_frontend_keeps_its_own_indices() -> None:
    view = page()
    front, back = tx_front(view), MockBack(view, NET_TX, tx_answer)
    for turn in range(20):
        back.raw.set("req_prod", 0xDEAD_BEEF + turn if turn % 2 else 10 * (turn + 1))
        back.raw.set("rsp_event", turn * 77)
        assert (front.ring.free, front.ring.in_flight) == (TX_SLOTS, 0)
        issue(front, 10)
        assert front.publish()
        assert back.raw.get("req_prod") == 10 * (turn + 1)
        back.work()
        assert len(front.collect()) == 10
        assert not back.ring.final_check()


@pytest.mark.parametrize(("event", "notified"), [(1, 1), (700, 1), (1 << 31, 0), (0, 0), (TOP - 1, 0)])
def test_r6_event_that_never_moves_causes_no_storm(event: int, notified: int) -> None:
    view = page()
    front, back = tx_front(view), MockBack(view, NET_TX, tx_answer)
    for _ in range(1000):
        issue(front, 1)
        back.raw.set("req_event", event)
        front.publish()
        back.work()
        front.collect()
    assert front.ring.stats().notified == notified
    assert front.ring.stats().held_off == 1000 - notified


def test_r6_event_that_always_asks_costs_one_notification_a_publish() -> None:
    view = page()
    front, back = tx_front(view), MockBack(view, NET_TX, tx_answer)
    for turn in range(100):
        back.raw.set("req_event", 5 * turn + 3)
        issue(front, 5)
        assert front.publish()
        back.work()
        front.collect()
    assert front.ring.stats().notified == 100


def test_r6_event_far_away_delays_only_its_owner() -> None:
    view = page()
    front, back = tx_front(view), MockBack(view, NET_TX, tx_answer)
    front.raw.set("rsp_event", 1 << 31)
    back.raw.set("req_event", 1 << 31)
    issue(front, 4)
    assert not front.publish()
    assert not back.work()
    assert front.ring.final_check()
    assert len(front.collect()) == 4
    assert not front.ring.final_check()
    issue(front, 1)
    front.publish()
    assert back.work()
