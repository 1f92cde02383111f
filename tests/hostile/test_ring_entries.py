"""R7 to R11 and R14: requests and responses that change, mean nothing or are never answered."""

from __future__ import annotations

import struct

import pytest

from tests.hostile.rings import EOPNOTSUPP, OKAY, READ, TX_SLOTS, WRITE, issue, stopped, tx_answer, tx_front
from tests.rings import BLK, NET_TX, TOP, page
from xenfs.abi.ring import ENTRIES
from xenfs.ring import BackRing, LocalRingError
from xenfs.testing.peers import MockBack, MockFront


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
