"""Group R of the hostile inputs, as far as it lives in the ring: one end breaks the rules, the other keeps its own.

Each test is named after its code. R15 and R16 belong to the filesystem.
"""

from __future__ import annotations

import random
import struct
from typing import Any

import pytest

from xenfs.abi.ring import ENTRIES, HEADER, RingFormat, u32
from xenfs.ring import BackRing, FrontRing, LocalRingError, PeerRingError
from xenfs.testing.peers import MockBack, MockFront, RawRing

NET_TX = RingFormat("tx", struct.Struct("<IHHHH"), struct.Struct("<Hh"))
BLK = RingFormat("blk", struct.Struct("<BBHxxxxQ96s"), struct.Struct("<QBxhxxxx"))
TOP = 1 << 32
TX_SLOTS = 256
READ, WRITE = 0, 1
OKAY, EOPNOTSUPP = 0, -2


def page() -> memoryview:
    return memoryview(bytearray(4096))


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


def blk_request(number: int) -> tuple[int, int, int, int, bytes]:
    return (READ, 1, 0, number, bytes(96))


def test_r7_taken_request_does_not_change_with_the_page() -> None:
    view = page()
    front, back = MockFront(view, BLK, request_id=3), BackRing(view, BLK)
    for number in range(3):
        front.issue(*blk_request(number))
    front.publish()
    taken = back.take()
    for index in range(3):
        for offset in range(112):
            front.raw.flip(index, offset)
    assert taken == [blk_request(number) for number in range(3)]


def test_r7_shared_bytes_are_fetched_once() -> None:
    view = page()
    front, back = tx_front(view, start=TOP - 2), BackRing(view, NET_TX, start=TOP - 2)
    issue(front, 5)
    front.publish()
    spy = FetchCounter(back._entries)
    back._entries = spy  # type: ignore[assignment]
    assert [request[3] for request in back.take()] == list(range(5))
    assert spy.fetches == {offset: 1 for slot in (254, 255, 0, 1, 2) for offset in range(slot * 12, slot * 12 + 12)}


class FetchCounter:
    """Entries that count how often each byte was fetched, and change it right after the first time."""

    def __init__(self, real: memoryview) -> None:
        self.real, self.fetches = real, dict[int, int]()

    def __getitem__(self, span: slice) -> Fetched:
        return Fetched(self, range(*span.indices(len(self.real))))


class Fetched:
    def __init__(self, counter: FetchCounter, span: range) -> None:
        self.counter, self.span = counter, span

    def tobytes(self) -> bytes:
        data = bytes(self.counter.real[self.span.start : self.span.stop])
        for offset in self.span:
            self.counter.fetches[offset] = self.counter.fetches.get(offset, 0) + 1
            self.counter.real[offset] ^= 0xFF
        return data


@pytest.mark.parametrize("offset", [0, 1, 2, 8, 16], ids=["op", "nr_segments", "handle", "id", "gref"])
def test_r7_every_snapshot_is_one_that_the_peer_wrote(offset: int) -> None:
    view = memoryview(bytearray(ENTRIES + 112))
    front, back = MockFront(view, BLK, request_id=3), BackRing(view, BLK)
    assert back.slots == 1
    old, new = b"\x00", b"\x05"
    whole = BLK.request.pack(*blk_request(0))
    possible = {
        BLK.request.unpack(whole[:offset] + byte + whole[offset + 1 :]) for byte in (whole[offset:][:1], old, new)
    }
    with front.raw.flipping(0, offset, [old, new]) as flipper:
        for _ in range(40):
            front.issue(*blk_request(0))
            front.publish()
            (request,) = back.take()
            checked = tuple(request)
            flipper.wait(1)
            assert request == checked
            assert request in possible
            back.respond(0, OKAY, 0)
            back.publish()
            front.collect()


def test_r8_op_that_turns_into_write_after_the_check_never_writes() -> None:
    view = page()
    front, back = MockFront(view, BLK, request_id=3), BackRing(view, BLK)
    disk = {"reads": 0, "writes": 0}
    for _ in range(10):
        front.issue(READ, 1, 0, None, bytes(96))
    front.publish()
    for index, request in enumerate(back.take()):
        refused = request[0] != READ
        front.raw.scribble_slot(index, bytes([WRITE]))
        if not refused:
            disk["writes" if request[0] == WRITE else "reads"] += 1
        back.respond(request[3], request[0], EOPNOTSUPP if refused else OKAY)
    back.publish()
    assert disk == {"reads": 10, "writes": 0}
    assert [op for _, op, _ in front.collect()] == [READ] * 10


def test_r9_unknown_operation_gets_one_error_with_its_id() -> None:
    view = page()

    def answer(op: int, segments: int, handle: int, number: int, rest: bytes) -> tuple[int, int, int]:
        known = op in (READ, WRITE) and segments == 1 and handle == 0 and not any(rest)
        return (number, op, OKAY if known else EOPNOTSUPP)

    front, back = MockFront(view, BLK, request_id=3), MockBack(view, BLK, answer)
    for op in range(256):
        number = front.issue(op, 1, 0, None, bytes(96))
        odd = front.issue(READ, 0xFF, 0xFFFF, None, b"\xff" * 96)
        front.publish()
        back.work()
        status = OKAY if op in (READ, WRITE) else EOPNOTSUPP
        assert front.collect() == [(number, op, status), (odd, READ, EOPNOTSUPP)]
    assert (front.in_flight, front.strays) == ({}, [])


def test_r10_ids_are_echoed_and_never_used() -> None:
    view = page()
    front, back = (
        MockFront(view, BLK, request_id=3),
        MockBack(view, BLK, lambda op, _n, _h, number, _r: (number, op, 0)),
    )
    ids = [2**64 - 1, 0xFFFF, 0, 7, 7, 7, 32, 1 << 63, 2**64 - 1]
    for number in ids:
        front.issue(READ, 1, 0, number, bytes(96))
    assert len(front.in_flight[7]) == 3
    front.replay()
    front.publish()
    back.work()
    assert [number for number, _, _ in front.collect()] == [*ids, 2**64 - 1]
    assert (front.in_flight, front.strays) == ({}, [])


def test_r10_response_that_answers_nothing_is_told_apart() -> None:
    view = page()
    front, back = tx_front(view), MockBack(view, NET_TX, lambda _g, _o, _f, number, _s: (number ^ 1, OKAY))
    front.issue(8, 0, 0, 40, 60)
    front.publish()
    back.work()
    assert front.collect() == [(41, OKAY)]
    assert front.strays == [(41, OKAY)]
    assert list(front.in_flight) == [40]


def test_r11_responses_never_consumed_leave_the_frontend_without_slots() -> None:
    view = page()
    front, back = tx_front(view), MockBack(view, NET_TX, tx_answer)
    issue(front, TX_SLOTS)
    front.publish()
    back.work()
    with pytest.raises(LocalRingError, match="vif-0-tx: no room for 1 requests; 0 of 256 slots are free"):
        issue(front, 1)
    back.work()
    assert back.ring.stats().taken == back.ring.stats().pushed == TX_SLOTS


def test_r11_backend_holds_a_ring_of_requests_and_no_more() -> None:
    view = page()
    front, back = tx_front(view), BackRing(view, NET_TX)
    issue(front, TX_SLOTS)
    front.publish()
    held = back.take()
    assert len(held) == TX_SLOTS
    assert back.take() == []
    assert not back.final_check()
    back.respond_many([(request[3], OKAY) for request in held])
    with pytest.raises(LocalRingError, match="tx: no request for 1 responses; 0 await one"):
        back.respond(0, OKAY)
    front.raw.jump("req_prod", 1)
    stopped(back)
    assert back.stats().pushed == TX_SLOTS


def test_r12_zeroed_page_is_an_empty_ring() -> None:
    view = page()
    back = BackRing(view, NET_TX)
    assert back.take() == []
    assert not back.final_check()
    assert BackRing.attach(view, NET_TX).take() == []
    RawRing(view, NET_TX).set("req_prod", 2)
    assert len(back.take()) == 2


def test_r12_page_of_ones_stops_a_new_backend_and_is_empty_to_one_that_attaches() -> None:
    view = page()
    RawRing(view, NET_TX).fill(0xFF)
    assert stopped(BackRing(view, NET_TX)).value == TOP - 1
    assert BackRing.attach(view, NET_TX).take() == []
    assert FrontRing.attach(view, NET_TX).take() == []


def test_r12_random_page_is_refused_or_gives_at_most_a_ring() -> None:
    chance, refused, served = random.Random(12), 0, 0
    view = page()
    for _ in range(400):
        view[:] = chance.randbytes(4096)
        if chance.random() < 0.3:
            struct.pack_into("<I", view, 0, u32(struct.unpack_from("<I", view, 8)[0] + chance.randrange(300)))
        for kind in (BackRing, BackRing.attach):
            try:
                back = kind(view, NET_TX)
                assert len(back.take()) <= TX_SLOTS
                assert back.take() == []
                served += 1
            except PeerRingError:
                refused += 1
    assert refused > 400
    assert served > 50


def test_r13_new_backend_ignores_indices_found_in_the_page() -> None:
    view = page()
    view[:ENTRIES] = HEADER.pack(1010, 5, 1000, 5)
    back = BackRing(view, NET_TX)
    assert stopped(back).value == 1010


def test_r13_attach_believes_a_distance_and_nothing_else() -> None:
    view = page()
    view[:ENTRIES] = HEADER.pack(1010, 5, 1000, 5)
    back = BackRing.attach(view, NET_TX, name="vif-0-tx")
    assert repr(back) == "<BackRing vif-0-tx 256x12 rsp_prod_pvt=1000 req_cons=1000>"
    RawRing(view, NET_TX).set("rsp_prod", 0)
    assert len(back.take()) == 10
    assert back.take() == []
    assert not back.final_check()
    assert RawRing(view, NET_TX).get("req_event") == 1011


@pytest.mark.parametrize("req_prod", [1000 + TX_SLOTS + 1, 999, 1000 + (1 << 31)])
@pytest.mark.parametrize("kind", [FrontRing, BackRing])
def test_r13_attach_refuses_impossible_indices(kind: type[FrontRing] | type[BackRing], req_prod: int) -> None:
    view = page()
    view[:ENTRIES] = HEADER.pack(req_prod, 1, 1000, 1)
    with pytest.raises(PeerRingError, match=f"vif-0-tx: req_prod {req_prod} is .* ahead of rsp_prod 1000"):
        kind.attach(view, NET_TX, name="vif-0-tx")


@pytest.mark.parametrize("batched", [False, True])
def test_r14_padding_of_a_response_carries_nothing(batched: bool) -> None:
    view = page()
    front, back = MockFront(view, BLK, request_id=3), BackRing(view, BLK)
    for number in range(2):
        front.issue(0xAA, 0xAA, 0xAAAA, number, b"\xaa" * 96)
    front.publish()
    back.take()
    if batched:
        back.respond_many([(1, 2, 3), (1, 2, 3)])
    else:
        back.respond(1, 2, 3)
        back.respond(1, 2, 3)
    back.publish()
    for index in range(2):
        assert front.raw.slot(index)[:16] == struct.pack("<QBBh4s", 1, 2, 0, 3, bytes(4))
        assert front.raw.slot(index)[16:] == b"\xaa" * 96
