"""Notification hold-off: who is told of new entries, and who is left alone."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.rings import TOP, ends, request, words
from xenfs.abi.ring import u32
from xenfs.ring import LocalRingError


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
