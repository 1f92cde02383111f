"""A ring: its page, what is queued, published and taken, and what it tells of itself."""

from __future__ import annotations

import mmap
import struct
from collections import deque
from collections.abc import Callable
from dataclasses import FrozenInstanceError
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

import xenfs.ring
from tests.rings import BLK, CONN, NET_RX, NET_TX, TOP, USB, ends, page, request, words
from xenfs.abi.ring import ENTRIES, RingFormat
from xenfs.ring import BackRing, FrontRing, LocalRingError, PeerRingError

# The page.


def test_only_the_front_initialises_the_page() -> None:
    view = memoryview(bytearray(b"\xee" * 4096))
    before = bytes(view)
    BackRing(view, NET_TX, start=9)
    assert bytes(view) == before
    FrontRing(view, NET_TX, start=9)
    assert bytes(view[:64]) == struct.pack("<4I", 9, 10, 9, 10) + bytes(48)
    assert bytes(view[64:]) == before[64:]


def test_header_events_wrap_with_the_start() -> None:
    view, _, _ = ends(start=TOP - 1)
    assert words(view) == (TOP - 1, 0, TOP - 1, 0)


def test_read_only_page_is_refused() -> None:
    with pytest.raises(ValueError, match="vif-0-tx: a ring needs a writable page"):
        BackRing(memoryview(bytes(4096)), NET_TX, name="vif-0-tx")


def test_page_too_small_is_refused() -> None:
    with pytest.raises(ValueError, match="a ring of 70 bytes: the header and one entry need 76"):
        FrontRing(memoryview(bytearray(70)), NET_TX)


def test_release_lets_the_mapping_close() -> None:
    shared = mmap.mmap(-1, 4096)
    with memoryview(shared) as view, FrontRing(view, NET_TX) as front, BackRing(view, NET_TX) as back:
        front.push(*request(1))
        front.publish()
        back.take()
    shared.close()
    with pytest.raises(ValueError, match="released"):
        front.take()


# Queueing, publishing, taking.


def test_nothing_is_visible_before_publish() -> None:
    _, front, back = ends()
    front.push(*request(1))
    assert back.take() == []
    front.publish()
    assert back.take() == [request(1)]
    assert back.take() == []


def test_request_bytes_are_where_the_c_macros_put_them() -> None:
    view, front, _ = ends(start=TOP - 1)
    front.push(*request(7))
    front.push(*request(8))
    assert bytes(view[64 + 255 * 12 : 64 + 256 * 12]) == NET_TX.request.pack(*request(7))
    assert bytes(view[64:76]) == NET_TX.request.pack(*request(8))


@pytest.mark.parametrize("layout", [NET_TX, BLK, USB])
@pytest.mark.parametrize("batched", [False, True])
def test_response_smaller_than_its_slot_leaves_the_rest_of_it(layout: RingFormat, batched: bool) -> None:
    view, front, back = ends(layout, start=TOP - 2)
    blank = layout.request.unpack(b"\xaa" * layout.request.size)
    front.push_many([blank] * 5)
    front.publish()
    assert len(back.take()) == 5
    view[ENTRIES : ENTRIES + back.slots * layout.entry_size] = b"\xaa" * (back.slots * layout.entry_size)
    answers = [layout.response.unpack(bytes([n + 1]) * layout.response.size) for n in range(5)]
    if batched:
        back.respond_many(answers)
    else:
        for answer in answers:
            back.respond(*answer)
    size, stride = layout.response.size, layout.entry_size
    for n, answer in enumerate(answers):
        at = ENTRIES + (TOP - 2 + n) % back.slots * stride
        assert bytes(view[at : at + stride]) == layout.response.pack(*answer) + b"\xaa" * (stride - size)
    back.publish()
    assert front.take() == answers


def test_request_smaller_than_its_slot() -> None:
    _, front, back = ends(CONN, start=TOP - 3)
    front.push_many([(n,) for n in range(7)])
    front.publish()
    assert back.take() == [(n,) for n in range(7)]
    back.respond_many([(n, 1, 2) for n in range(7)])
    back.publish()
    assert front.take() == [(n, 1, 2) for n in range(7)]


def test_odd_sizes_travel_byte_by_byte() -> None:
    layout = RingFormat("odd", struct.Struct("<7s"), struct.Struct("<3s"))
    _, front, back = ends(layout, start=TOP - 3)
    front.push_many([(b"request",)] * 8)
    front.publish()
    assert back.take() == [(b"request",)] * 8
    back.respond_many([(b"%03d" % n,) for n in range(8)])
    back.publish()
    assert front.take() == [(b"%03d" % n,) for n in range(8)]


@pytest.mark.parametrize("layout", [NET_TX, NET_RX, BLK, USB, CONN], ids=lambda layout: layout.name)
def test_entries_as_bytes_are_what_they_are_as_tuples(layout: RingFormat) -> None:
    view = page()
    with FrontRing(view, layout, start=TOP) as front, BackRing(view, layout, start=TOP) as back:
        asked = bytes(range(1, layout.request.size + 1)) * 3
        front.push_bytes(asked)
        front.publish()
        assert [layout.request.pack(*entry) for entry in back.take(1)] == [
            layout.request.pack(*layout.request.unpack(asked[: layout.request.size]))
        ]
        assert back.take_bytes() == asked[layout.request.size :]
        said = bytes(range(101, layout.response.size + 101)) * 3
        back.respond_bytes(said)
        back.publish()
        assert front.take_bytes(2) == said[: 2 * layout.response.size]
        assert front.take_bytes() == said[2 * layout.response.size :]
        assert front.take_bytes() == b""


def test_bytes_that_are_no_whole_entries_change_nothing() -> None:
    view, front, _ = ends()
    with pytest.raises(ValueError, match="13 bytes are no whole number of entries of 12"):
        front.push_bytes(bytes(13))
    with pytest.raises(LocalRingError, match="no room for 257 requests"):
        front.push_bytes(bytes(12 * 257))
    assert not front.publish()
    assert words(view)[0] == 0


def test_take_honours_its_limit() -> None:
    _, front, back = ends()
    front.push_many([request(n) for n in range(10)])
    front.publish()
    assert back.take(0) == back.take(-1) == []
    assert back.take(3) == [request(n) for n in range(3)]
    assert back.take(100) == [request(n) for n in range(3, 10)]


def test_full_ring_refuses_one_more() -> None:
    _, front, back = ends(start=TOP - 100)
    front.push_many([request(n) for n in range(256)])
    assert front.free == 0
    with pytest.raises(LocalRingError) as caught:
        front.push(*request(256))
    assert str(caught.value) == "tx: no room for 1 requests; 0 of 256 slots are free"
    front.publish()
    assert back.take() == [request(n) for n in range(256)]


def test_batch_that_does_not_fit_changes_nothing() -> None:
    view, front, _ = ends()
    front.push(*request(0))
    before = bytes(view)
    with pytest.raises(LocalRingError) as caught:
        front.push_many([request(n) for n in range(256)])
    error = caught.value
    assert (error.ring, error.field, error.value, error.limit) == ("tx", "req_prod_pvt", 256, 255)
    assert bytes(view) == before
    assert front.in_flight == 1


def test_fields_that_do_not_fit_change_nothing() -> None:
    _, front, back = ends()
    with pytest.raises(struct.error):
        front.push(1, 2, 3)
    with pytest.raises(struct.error):
        front.push_many([request(1), (-1, 0, 0, 0, 0)])
    assert (front.in_flight, front.publish(), back.take()) == (0, False, [])


def test_response_without_a_request_is_refused() -> None:
    _, front, back = ends()
    front.push(*request(1))
    front.publish()
    with pytest.raises(LocalRingError, match="tx: no request for 1 responses; 0 await one"):
        back.respond(1, 0)
    back.take()
    with pytest.raises(LocalRingError, match="tx: no request for 2 responses; 1 await one"):
        back.respond_many([(1, 0), (1, 0)])
    assert back.unanswered == 1
    back.respond(1, 0)
    assert back.unanswered == 0


def test_slot_is_free_only_once_its_response_is_taken() -> None:
    _, front, back = ends()
    front.push_many([request(n) for n in range(256)])
    front.publish()
    back.take()
    back.respond_many([(n, 0) for n in range(10)])
    assert front.free == 0
    back.publish()
    assert front.free == 0
    front.take(4)
    assert (front.free, front.in_flight) == (4, 252)


@pytest.mark.parametrize("pages", [2, 4, 16])
def test_ring_of_several_pages(pages: int) -> None:
    view, front, back = ends(BLK, start=TOP - 5, pages=pages)
    assert front.slots == back.slots == 32 * pages
    requests = [(1, 2, n, n, bytes([n % 251]) * 96) for n in range(front.slots)]
    front.push_many(requests)
    front.publish()
    last = ENTRIES + (front.slots - 1) * 112
    assert bytes(view[last : last + 112]) == BLK.request.pack(*requests[4])
    assert back.take() == requests
    back.respond_many([(n, 1, -1) for n in range(front.slots)])
    back.publish()
    assert front.take() == [(n, 1, -1) for n in range(front.slots)]


def test_each_shared_word_is_read_once_per_operation() -> None:
    view, front, back = ends()

    class Counting:
        def __init__(self) -> None:
            self.real, self.reads = view[:16].cast("I"), 0

        def __getitem__(self, index: int) -> int:
            self.reads += 1
            return self.real[index]

        def __setitem__(self, index: int, value: int) -> None:
            self.real[index] = value

    spy = Counting()
    front._words = back._words = cast(memoryview, spy)
    steps: list[tuple[Callable[[], object], int]] = [
        (lambda: front.push(*request(1)), 0),
        (front.publish, 1),
        (lambda: front.free, 0),
        (back.take, 1),
        (lambda: back.respond(1, 0), 0),
        (back.publish, 1),
        (front.final_check, 1),
        (front.take, 1),
        (front.final_check, 2),
        (lambda: (repr(front), front.stats()), 0),
    ]
    for step, reads in steps:
        spy.reads = 0
        step()
        assert spy.reads == reads, step


# A run of random operations against two queues.


@given(st.data(), st.sampled_from([0, TOP - 1, TOP - 3, TOP - 20]), st.sampled_from([NET_TX, NET_RX, USB]))
def test_ring_behaves_as_two_queues(data: st.DataObject, start: int, layout: RingFormat) -> None:
    view = memoryview(bytearray(ENTRIES + 4 * layout.entry_size))
    front, back = FrontRing(view, layout, start=start), BackRing(view, layout, start=start)
    queued, asked, owed, answered, back_queued = (deque[Any]() for _ in range(5))
    number = 0
    for _ in range(data.draw(st.integers(1, 40), label="steps")):
        step = data.draw(st.sampled_from("pPtrRc"))
        if step == "p":
            new = [
                layout.request.unpack(bytes([number + k & 0xFF]) * layout.request.size)
                for k in range(data.draw(st.integers(0, front.free)))
            ]
            number += len(new)
            front.push_many(new)
            queued += new
        elif step == "P":
            front.publish()
            asked += queued
            queued.clear()
        elif step == "t":
            for entry in back.take(data.draw(st.integers(0, 4))):
                assert entry == asked.popleft()
                owed.append(entry)
        elif step == "r":
            count = data.draw(st.integers(0, len(owed)))
            new = [layout.response.unpack(bytes([number + k & 0xFF]) * layout.response.size) for k in range(count)]
            number += count
            back.respond_many(new)
            back_queued += new
            for _ in new:
                owed.popleft()
        elif step == "R":
            back.publish()
            answered += back_queued
            back_queued.clear()
        else:
            for entry in front.take():
                assert entry == answered.popleft()
        held = len(queued) + len(asked) + len(owed) + len(back_queued) + len(answered)
        assert (front.free, front.in_flight, back.unanswered) == (4 - held, held, len(owed))


def test_stats_count_both_ways() -> None:
    _, front, back = ends()
    front.push(*request(0))
    front.push_many([request(1), request(2)])
    front.publish()
    front.push(*request(3))
    front.publish()
    assert back.final_check()
    back.take()
    assert not back.final_check()
    assert front.stats() == xenfs.ring.RingStats(pushed=4, taken=0, notified=1, held_off=1, asleep=0, awake=0)
    assert back.stats() == xenfs.ring.RingStats(pushed=0, taken=4, notified=0, held_off=0, asleep=1, awake=1)
    with pytest.raises(FrozenInstanceError):
        front.stats().pushed = 0  # type: ignore[misc]


def test_repr_is_one_stable_line() -> None:
    view = page()
    front = FrontRing(view, NET_TX, name="vif-0-tx", start=7)
    back = BackRing(view, NET_TX, name="vif-0-tx", start=7)
    front.push(*request(1))
    assert repr(front) == "<FrontRing vif-0-tx 256x12 req_prod_pvt=8 rsp_cons=7>"
    assert repr(back) == "<BackRing vif-0-tx 256x12 rsp_prod_pvt=7 req_cons=7>"
    struct.pack_into("<I", view, 0, 2000)
    with pytest.raises(PeerRingError):
        back.take()
    assert repr(back) == "<BackRing vif-0-tx 256x12 rsp_prod_pvt=7 req_cons=7 broken>"
