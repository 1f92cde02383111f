"""R12 and R13: pages that a ring finds, and has not made."""

from __future__ import annotations

import random
import struct

import pytest

from tests.hostile.rings import TX_SLOTS, stopped
from tests.rings import NET_TX, TOP, page
from xenfs.abi.ring import ENTRIES, HEADER, u32
from xenfs.ring import BackRing, FrontRing, PeerRingError
from xenfs.testing.peers import RawRing


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
