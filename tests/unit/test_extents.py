"""Extents against the plainest thing that does the same: a set."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xenfs.hypervisor.extents import Extents

SIZE = 48
numbers = st.sets(st.integers(0, SIZE - 1))


def runs_of(members: Iterable[int]) -> list[tuple[int, int]]:
    """The maximal runs of a set, found the slow way."""
    runs: list[tuple[int, int]] = []
    for number in sorted(members):
        if runs and runs[-1][1] == number:
            runs[-1] = (runs[-1][0], number + 1)
        else:
            runs.append((number, number + 1))
    return runs


@given(numbers, st.integers(0, SIZE - 1), st.integers(1, SIZE))
def test_a_run_is_covered_when_each_of_it_is_in_the_set(members: set[int], start: int, size: int) -> None:
    assert extents_of(members).covers(start, start + size) == (set(range(start, start + size)) <= members)


def extents_of(members: Iterable[int]) -> Extents:
    made = Extents()
    for number in members:
        made.add(number, number + 1)
    return made


@given(st.permutations(range(12)), st.integers(0, 12))
def test_added_in_any_order_the_runs_are_sorted_and_merged(order: list[int], count: int) -> None:
    assert extents_of(order[:count]).runs() == runs_of(order[:count])


@given(numbers)
def test_members_length_and_iteration_are_those_of_the_set(members: set[int]) -> None:
    extents = extents_of(members)
    assert len(extents) == extents.count == len(members)
    assert list(extents) == sorted(members)
    assert {n for n in range(-1, SIZE + 1) if n in extents} == members


@given(numbers, st.data())
def test_a_run_taken_out_leaves_the_rest(members: set[int], data: st.DataObject) -> None:
    members |= {7}
    start, stop = data.draw(st.sampled_from(runs_of(members)))
    first = data.draw(st.integers(start, stop - 1))
    last = data.draw(st.integers(first + 1, stop))
    extents = extents_of(members)
    extents.remove(first, last)
    assert extents.runs() == runs_of(members - set(range(first, last)))
    assert len(extents) == len(members) - (last - first)


@given(numbers, st.data())
def test_a_run_put_in_joins_its_neighbours(members: set[int], data: st.DataObject) -> None:
    gaps = runs_of(set(range(SIZE + 4)) - members)
    start, stop = data.draw(st.sampled_from(gaps))
    extents = extents_of(members)
    extents.add(start, stop)
    assert extents.runs() == runs_of(members | set(range(start, stop)))


@given(numbers, st.data())
def test_taking_gives_the_lowest_and_keeps_the_others(members: set[int], data: st.DataObject) -> None:
    count = data.draw(st.integers(0, len(members)))
    extents = extents_of(members)
    taken = extents.take(count)
    lowest = sorted(members)[:count]
    assert [n for start, stop in taken for n in range(start, stop)] == lowest
    assert extents.runs() == runs_of(members - set(lowest))
    assert len(extents) == len(members) - count


@given(numbers, st.data())
def test_what_is_discarded_is_no_member(members: set[int], data: st.DataObject) -> None:
    members |= {3}
    number = data.draw(st.sampled_from(sorted(members)))
    extents = extents_of(members)
    extents.discard(number)
    assert number not in extents
    assert extents == extents_of(members - {number})


@given(numbers, numbers)
def test_equal_when_the_members_are(one: set[int], other: set[int]) -> None:
    assert (extents_of(one) == extents_of(other)) is (one == other)


@given(numbers.filter(bool))
def test_lowest_is_the_smallest_member(members: set[int]) -> None:
    assert extents_of(members).lowest == min(members)


def test_the_lowest_of_nothing_is_an_error() -> None:
    with pytest.raises(IndexError):
        _ = Extents().lowest


@pytest.mark.parametrize(("start", "stop", "runs"), [(0, 0, []), (5, 5, []), (9, 3, []), (2, 6, [(2, 6)])])
def test_begins_with_one_run_or_nothing(start: int, stop: int, runs: list[tuple[int, int]]) -> None:
    extents = Extents(start, stop)
    assert extents.runs() == runs
    assert len(extents) == sum(b - a for a, b in runs)


def test_a_whole_machine_is_one_run_until_it_is_broken() -> None:
    extents = Extents(0, 1 << 40)
    extents.remove(10, 20)
    extents.discard(1 << 39)
    assert extents.runs() == [(0, 10), (20, 1 << 39), ((1 << 39) + 1, 1 << 40)]
    extents.add(10, 20)
    extents.add(1 << 39, (1 << 39) + 1)
    assert extents == Extents(0, 1 << 40)


def test_is_shown_as_its_runs_and_has_no_hash() -> None:
    assert repr(extents_of({1, 2, 3, 9})) == "Extents(1-3, 9-9)"
    with pytest.raises(TypeError):
        hash(Extents())
