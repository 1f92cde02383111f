"""Numbers: lowest first, each to one taker at a time."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from xenfs.hypervisor.numbers import Numbers


def test_come_lowest_first_from_the_first_on() -> None:
    numbers = Numbers(8, 3)
    assert [numbers.take() for _ in range(3)] == [8, 9, 10]


def test_end_with_none_when_all_are_taken() -> None:
    numbers = Numbers(1, 2)
    assert [numbers.take() for _ in range(4)] == [1, 2, None, None]
    assert numbers.in_use == 2


def test_there_may_be_none_at_all() -> None:
    assert Numbers(5, 0).take() is None


def test_one_given_back_comes_before_a_fresh_one() -> None:
    numbers = Numbers(0, 9)
    for _ in range(5):
        numbers.take()
    for number in (3, 1, 4):
        numbers.give(number)
    assert [numbers.take() for _ in range(4)] == [1, 3, 4, 5]


@given(st.integers(0, 9), st.integers(0, 12), st.lists(st.one_of(st.none(), st.integers(0, 30)), max_size=60))
def test_always_the_lowest_that_a_plain_set_has(first: int, count: int, steps: list[int | None]) -> None:
    numbers, free, taken = Numbers(first, count), set(range(first, first + count)), set[int]()
    for step in steps:
        if step is None:
            expected = min(free, default=None)
            assert numbers.take() == expected
            if expected is not None:
                free.remove(expected)
                taken.add(expected)
        elif taken:
            back = sorted(taken)[step % len(taken)]
            numbers.give(back)
            taken.remove(back)
            free.add(back)
        assert numbers.in_use == len(taken)
