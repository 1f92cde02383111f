from __future__ import annotations

import mmap
import struct
import threading
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import FrozenInstanceError
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

import xenfs.ring
from xenfs.abi.ring import ENTRIES, HEADER, RingFormat, ring_size, u32
from xenfs.ring import BackRing, FrontRing, LocalRingError, PeerRingError
from xenfs.testing.peers import MockBack, MockFront

NET_TX = RingFormat("tx", struct.Struct("<IHHHH"), struct.Struct("<Hh"))
NET_RX = RingFormat("rx", struct.Struct("<HHI"), struct.Struct("<HHHh"))
CONN = RingFormat("conn", struct.Struct("<H"), struct.Struct("<HBB"))
BLK = RingFormat("blk", struct.Struct("<BBHxxxxQ96s"), struct.Struct("<QBxhxxxx"))
USB = RingFormat("urb", struct.Struct("<H146s"), struct.Struct("<HHiii"))
TOP = 1 << 32


def page(pages: int = 1) -> memoryview:
    return memoryview(bytearray(4096 * pages))


def words(view: memoryview) -> tuple[int, ...]:
    return struct.unpack_from("<4I", view)


def ends(layout: RingFormat = NET_TX, start: int = 0, pages: int = 1) -> tuple[memoryview, FrontRing, BackRing]:
    view = page(pages)
    return view, FrontRing(view, layout, start=start), BackRing(view, layout, start=start)


def request(number: int) -> tuple[int, ...]:
    return (number, 1, 2, number & 0xFFFF, 3)


# Format and size.


@pytest.mark.parametrize(
    ("entry", "one_page"), [(12, 256), (8, 256), (16, 128), (112, 32), (108, 32), (148, 16), (4, 512)]
)
def test_entry_counts_of_the_public_rings(entry: int, one_page: int) -> None:
    assert [ring_size(4096 * pages, entry) for pages in (1, 2, 4, 8, 16)] == [one_page << n for n in range(5)]


@given(st.integers(1, 300), st.integers(64, 70_000))
def test_ring_size_is_the_largest_power_of_two_that_fits(entry: int, nbytes: int) -> None:
    fitting = [1 << n for n in range(18) if (1 << n) * entry <= nbytes - 64]
    if fitting:
        assert ring_size(nbytes, entry) == fitting[-1]
    else:
        with pytest.raises(ValueError, match="the header and one entry need"):
            ring_size(nbytes, entry)


def test_ring_size_without_entries_is_refused() -> None:
    with pytest.raises(ValueError, match="entry of 0 bytes"):
        ring_size(4096, 0)


def test_format_is_as_wide_as_its_larger_entry() -> None:
    assert [f.entry_size for f in (NET_TX, NET_RX, CONN, BLK, USB)] == [12, 8, 4, 112, 148]
    assert [f.slots(4096) for f in (NET_TX, NET_RX, CONN, BLK, USB)] == [256, 256, 512, 32, 16]


def test_format_in_native_order_is_refused() -> None:
    with pytest.raises(ValueError, match="tx: codec 'I' must begin with '<'"):
        RingFormat("tx", struct.Struct("<I"), struct.Struct("I"))


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


@pytest.mark.parametrize(("size", "stride", "width"), [(4, 12, 4), (16, 112, 8), (16, 148, 4), (2, 4, 2), (3, 7, 1)])
def test_widest_unit_of_entry_and_slot(size: int, stride: int, width: int) -> None:
    code, found = xenfs.ring._unit(size, stride)
    assert found == width == struct.calcsize(code)


def test_odd_sizes_travel_byte_by_byte() -> None:
    layout = RingFormat("odd", struct.Struct("<7s"), struct.Struct("<3s"))
    _, front, back = ends(layout, start=TOP - 3)
    front.push_many([(b"request",)] * 8)
    front.publish()
    assert back.take() == [(b"request",)] * 8
    back.respond_many([(b"%03d" % n,) for n in range(8)])
    back.publish()
    assert front.take() == [(b"%03d" % n,) for n in range(8)]


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


# Notification hold-off.


@given(
    start=st.integers(0, TOP - 1),
    count=st.integers(0, 256),
    event=st.one_of(st.integers(-300, 300), st.integers(0, TOP - 1)),
)
def test_notify_exactly_when_the_producer_passes_the_event(start: int, count: int, event: int) -> None:
    view, front, _ = ends(start=start)
    event = u32(start + event)
    struct.pack_into("<I", view, 4, event)
    front.push_many([request(n) for n in range(count)])
    assert front.publish() == any((start + k) % TOP == event for k in range(1, count + 1))


def test_publish_of_nothing_never_notifies() -> None:
    view, front, _ = ends()
    struct.pack_into("<I", view, 4, 0)
    assert not front.publish()
    assert front.stats().held_off == 0


def test_consumer_that_did_not_ask_again_is_left_alone() -> None:
    _, front, back = ends()
    notified = []
    for n in range(3):
        front.push(*request(n))
        notified.append(front.publish())
    assert notified == [True, False, False]
    back.take()
    assert not back.final_check()
    front.push(*request(3))
    assert front.publish()


def test_final_check_leaves_the_event_alone_while_work_waits() -> None:
    view, front, back = ends()
    front.push(*request(1))
    front.publish()
    assert back.final_check()
    assert words(view)[1] == 1
    back.take()
    assert not back.final_check()
    assert words(view)[1] == 2


def test_event_after_several_entries() -> None:
    view, front, back = ends(start=TOP - 2)
    assert not back.request_event(4)
    assert words(view)[1] == 2
    notified = []
    for n in range(4):
        front.push(*request(n))
        notified.append(front.publish())
    assert notified == [False, False, False, True]
    assert back.request_event(4)
    assert not back.request_event(5)


@pytest.mark.parametrize("count", [0, -1, 257])
def test_event_that_can_never_come_is_refused(count: int) -> None:
    _, _, back = ends()
    with pytest.raises(LocalRingError, match=f"tx: cannot wait for {count} entries; the ring has 256 slots"):
        back.request_event(count)


# Wake-ups, for every interleaving of a producer and a consumer that goes to sleep.


class Stopped(BaseException):
    """Ends an actor whose run is over."""


class Actor:
    """One side in a thread of its own that advances by one shared access each time the world says so.

    `late`: its stores reach the other side only at a fence, as a store buffer may have it.
    """

    def __init__(self, world: World, late: bool, body: Callable[[Actor], None]) -> None:
        self.world, self.late, self.stores = world, late, list[tuple[int, int]]()
        self.asleep = self.finished = False
        self.turn = threading.Semaphore(0)
        self.thread = threading.Thread(target=self._run, args=(body,), daemon=True)
        self.thread.start()

    def _run(self, body: Callable[[Actor], None]) -> None:
        try:
            self.pause()
            body(self)
            self.drain()
        except Stopped:
            pass
        self.finished = True
        self.world.paused.release()

    def pause(self) -> None:
        self.world.paused.release()
        self.turn.acquire()
        if self.world.over:
            raise Stopped

    def flush(self) -> None:
        for index, value in self.stores:
            self.world.words[index] = value
        self.stores.clear()

    def __getitem__(self, index: int) -> int:
        self.pause()
        own = [value for at, value in self.stores if at == index]
        return own[-1] if own else self.world.words[index]

    def __setitem__(self, index: int, value: int) -> None:
        self.pause()
        self.stores.append((index, value))
        if not self.late:
            self.flush()

    def drain(self) -> None:
        """A system call, or time: what is still in the store buffer gets out, but not in the same instant."""
        if self.stores:
            self.pause()
            self.flush()

    def notify(self) -> None:
        self.drain()
        self.world.bell += 1

    def sleep(self) -> None:
        self.drain()
        self.asleep = True
        self.pause()
        self.asleep = False
        self.world.bell -= 1


class World:
    """One run of a producer and a consumer under a given schedule."""

    def __init__(
        self, view: memoryview, producer: FrontRing | BackRing, send: Any, consumer: FrontRing | BackRing
    ) -> None:
        self.words = view[:16].cast("I")
        self.paused, self.bell, self.over = threading.Semaphore(0), 0, False
        self.producer, self.send, self.consumer = producer, send, consumer
        self.actors: list[Actor] = []
        self.current: Actor | None = None

    def produce(self, actor: Actor) -> None:
        self.producer._words = cast(memoryview, actor)
        for _ in range(2):
            self.send()
            if self.producer.publish():
                actor.notify()

    def consume(self, actor: Actor) -> None:
        self.consumer._words = cast(memoryview, actor)
        got = 0
        while got < 2:
            got += len(self.consumer.take())
            if got < 2 and not self.consumer.final_check():
                actor.sleep()

    def fence(self) -> None:
        if self.current is not None:
            self.current.flush()

    def run(self, schedule: list[int], late: bool) -> tuple[list[tuple[int, int]], bool]:
        """Follow `schedule`, then always the first; the choices made with their number, and whether all woke up."""
        for body in (self.produce, self.consume):
            self.actors.append(Actor(self, late, body))
            assert self.paused.acquire(timeout=30)
        choices: list[tuple[int, int]] = []
        while able := [a for a in self.actors if not a.finished and (self.bell or not a.asleep)]:
            pick = schedule[len(choices)] if len(choices) < len(schedule) else 0
            choices.append((pick, len(able)))
            self._step(able[pick])
        woke = all(a.finished for a in self.actors)
        self.over = True
        for actor in self.actors:
            if not actor.finished:
                self._step(actor)
            actor.thread.join(30)
        return choices, woke

    def _step(self, actor: Actor) -> None:
        self.current = actor
        actor.turn.release()
        assert self.paused.acquire(timeout=30)
        self.current = None


def world(responses: bool) -> World:
    view, front, back = ends(start=TOP - 1)
    if not responses:
        return World(view, front, lambda: front.push(*request(1)), back)
    front.push_many([request(1), request(2)])
    front.publish()
    back.take()
    return World(view, back, lambda: back.respond(1, 0), front)


def outcomes(responses: bool, late: bool, monkeypatch: pytest.MonkeyPatch, fenced: bool = True) -> Iterator[bool]:
    """Run every interleaving; whether the consumer got everything in each."""
    schedule: list[int] = []
    while True:
        this = world(responses)
        monkeypatch.setattr(xenfs.ring, "fence", this.fence if fenced else lambda: None)
        choices, woke = this.run(schedule, late)
        yield woke
        while choices and choices[-1][0] == choices[-1][1] - 1:
            choices.pop()
        if not choices:
            return
        schedule = [pick for pick, _ in choices[:-1]] + [choices[-1][0] + 1]


@pytest.mark.parametrize("late", [False, True], ids=["stores-at-once", "stores-at-fences"])
@pytest.mark.parametrize("responses", [False, True], ids=["requests", "responses"])
def test_no_interleaving_loses_a_wake_up(responses: bool, late: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    found = list(outcomes(responses, late, monkeypatch))
    assert len(found) > 50
    assert all(found)


def test_the_model_does_lose_wake_ups_without_fences(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not all(outcomes(False, True, monkeypatch, fenced=False))


def test_the_model_does_lose_wake_ups_without_the_second_look(monkeypatch: pytest.MonkeyPatch) -> None:
    def hasty(ring: BackRing) -> bool:
        ring._words[ring._own_event] = u32(ring._cons + 1)
        return False

    monkeypatch.setattr(BackRing, "final_check", hasty)
    assert not all(outcomes(False, False, monkeypatch))


# Taking over, statistics, looks.


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


# The mock peers, where they are honest.


def test_mock_backend_answers_late_and_in_any_order() -> None:
    view = page()
    front = MockFront(view, NET_TX, request_id=3)
    back = MockBack(view, NET_TX, lambda _gref, _offset, flags, number, _size: None if flags else (number, 0))
    ids = [front.issue(8, 0, flags, None, 60) for flags in (1, 0, 1, 0)]
    assert ids == [0, 1, 2, 3]
    front.publish()
    assert back.work()
    assert [seen[3] for seen in back.seen] == ids
    assert front.collect() == [(1, 0), (3, 0)]
    assert sorted(front.in_flight) == [0, 2]
    assert front.issue(8, 0, 0, None, 60) == 1
    back.ring.respond_many([(2, 0), (0, 0)])
    back.publish()
    assert front.collect(1) == [(2, 0)]
    assert front.collect() == [(0, 0)]
    assert (list(front.in_flight), front.strays) == ([1], [])


def test_mock_peers_let_go_of_the_page() -> None:
    shared = mmap.mmap(-1, 4096)
    with (
        memoryview(shared) as view,
        MockFront(view, NET_TX) as front,
        MockBack(view, NET_TX, lambda *_: None) as back,
        front.raw.flipping(0, 0, [b"\1", b"\2"]) as flipper,
    ):
        flipper.wait(1)
        assert back.raw.slot(0)[0] in (1, 2)
    shared.close()


def test_flipper_that_is_gone_is_noticed() -> None:
    front = MockFront(page(), NET_TX)
    with front.raw.flipping(0, 0, [b"\1"]) as flipper:
        flipper.wait(1)
    with pytest.raises(TimeoutError, match="the flipper made"):
        flipper.wait(1, timeout=0)
