"""What netfront has in flight: whatever order the answers come in, pages are freed in order and none twice."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from xennet.outstanding import InactiveError, Outstanding

from xenfs.abi.netif import TX

COUNT = 16


def answer(number: int, status: int = 0) -> bytes:
    return TX.response.pack(number, status)


def test_answers_in_order_free_their_pages() -> None:
    flight = Outstanding(COUNT)
    flight.sent(3, extra=True)
    flight.sent(1, extra=False)
    assert flight.free == COUNT - 4
    assert flight.answered(answer(0) + answer(0, 1) + answer(1)) == 0
    assert (flight.tail, flight.used) == (2, 2)
    assert flight.answered(answer(2) + answer(3)) == 0
    assert flight.free == COUNT


def test_a_late_answer_holds_back_those_behind_it() -> None:
    flight = Outstanding(COUNT)
    flight.sent(4, extra=False)
    assert flight.answered(answer(2) + answer(1)) == 0
    assert flight.used == 4
    assert flight.answered(answer(0, -1)) == 1
    assert (flight.tail, flight.used) == (3, 1)
    assert flight.answered(answer(3)) == 0
    flight.sent(2, extra=False)
    assert flight.answered(answer(4) + answer(5)) == 0
    assert flight.free == COUNT


@pytest.mark.parametrize("data", [answer(5), answer(COUNT), answer(0xFFFF), answer(0, 1), answer(1) + answer(1)])
def test_an_answer_to_what_is_not_in_flight_is_refused(data: bytes) -> None:
    flight = Outstanding(COUNT)
    flight.sent(2, extra=False)
    with pytest.raises(InactiveError):
        flight.answered(data)


@given(st.lists(st.tuples(st.integers(1, 4), st.booleans()), max_size=40), st.randoms(use_true_random=False))
def test_every_order_ends_with_all_pages_free(packets: list[tuple[int, bool]], random: object) -> None:
    flight, waiting, head = Outstanding(COUNT), list[bytes](), 0
    for pages, extra in packets:
        while flight.free < pages:
            index = random.randrange(len(waiting))  # type: ignore[attr-defined]
            flight.answered(waiting.pop(index))
        flight.sent(pages, extra=extra)
        waiting += [answer((head + n) % COUNT) for n in range(pages)] + ([answer(0, 1)] if extra else [])
        head = (head + pages) % COUNT
    random.shuffle(waiting)  # type: ignore[attr-defined]
    for data in waiting:
        flight.answered(data)
    assert (flight.free, flight.tail) == (COUNT, head)
