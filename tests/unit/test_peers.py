"""The mock peers, where they are honest."""

from __future__ import annotations

import mmap

import pytest

from tests.rings import NET_TX, page
from xenfs.testing.peers import MockBack, MockFront


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
