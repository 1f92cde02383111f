"""What a ring is made of: how many entries, how wide, and moved in which units."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

import xenfs.ring
from tests.rings import BLK, CONN, NET_RX, NET_TX, USB
from xenfs.abi.ring import RingFormat, ring_size


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


@pytest.mark.parametrize(("size", "stride", "width"), [(4, 12, 4), (16, 112, 8), (16, 148, 4), (2, 4, 2), (3, 7, 1)])
def test_widest_unit_of_entry_and_slot(size: int, stride: int, width: int) -> None:
    code, found = xenfs.ring._unit(size, stride)
    assert found == width == struct.calcsize(code)
