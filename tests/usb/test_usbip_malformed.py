"""USB/IP: what is none, and what is heard in any bytes, however they are cut."""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from xenusb.device import Packet
from xenusb.usbip import LOCAL, MOST_DATA, MOST_PACKETS, Answers, Asked, Code, Malformed, Short, Submit, Submitted

# What is no USB/IP.


def asking(code: int = 1, inward: int = 0, endpoint: int = 1, size: int = 0, count: int = 0) -> bytes:
    return struct.pack(">12I", code, 1, 2, inward, endpoint, 0, size, 0, count, 0, 0, 0)


def answering(code: int = 3, number: int = 1, actual: int = 0, count: int = 0) -> bytes:
    return struct.pack(">12I", code, number, 0, 0, 0, 0, actual, 0, count, 0, 0, 0)


@pytest.mark.parametrize(
    "data",
    [
        *(asking(code) for code in (0, Code.submitted, Code.unlinked, 5, 0x100, 0x106, 0x80000001, 0xFFFFFFFF)),
        *(asking(inward=inward) for inward in (2, 0x80, 0xFFFFFFFF)),
        *(asking(endpoint=endpoint) for endpoint in (16, 0x81, 0xFFFFFFFF)),
        *(asking(inward=inward, size=size) for size in (MOST_DATA + 1, 0xFFFFFFFF) for inward in (0, 1)),
        *(asking(inward=inward, count=count) for count in (MOST_PACKETS + 1, 0x7FFFFFFF) for inward in (0, 1)),
    ],
    ids=lambda data: data[:36].hex(),
)
def test_what_cannot_be_asked_is_refused_with_its_head(data: bytes) -> None:
    asked = Asked()
    assert asked.feed(data[:-1]) == []
    with pytest.raises(Malformed):
        asked.feed(data[-1:])


@pytest.mark.parametrize("inward", [0, 1], ids=["out", "in"])
@pytest.mark.parametrize("count", [-2, -3, -MOST_PACKETS, -(1 << 31)])
def test_of_what_is_less_than_no_packets_only_the_one_that_means_none_is_taken(count: int, inward: int) -> None:
    assert Asked().feed(asking(inward=inward, count=-1 & 0xFFFFFFFF)) == [Submit(1, 2, bool(inward), 1, 0)]
    asked, data = Asked(), asking(inward=inward, count=count & 0xFFFFFFFF)
    assert asked.feed(data[:-1]) == []
    with pytest.raises(Malformed, match=f"a transfer of 0 bytes and {count} packets"):
        asked.feed(data[-1:])


@pytest.mark.parametrize(
    "data",
    [
        *(answering(code) for code in (0, Code.submit, Code.unlink, 5, 0x100, 0x106, 0x80000003, 0xFFFFFFFF)),
        *(answering(number=number) for number in (0, 3, 0xFFFFFFFF)),
        *(answering(number=number, actual=size) for size in (MOST_DATA + 1, 0xFFFFFFFF) for number in (1, 2)),
        *(answering(number=number, count=count) for count in (MOST_PACKETS + 1, 0xFFFFFFFE) for number in (1, 2)),
    ],
    ids=lambda data: data[:36].hex(),
)
def test_what_cannot_be_an_answer_is_refused_with_its_head(data: bytes) -> None:
    answers = Answers({1: True, 2: False})
    assert answers.feed(data[:-1]) == []
    with pytest.raises(Malformed):
        answers.feed(data[-1:])


def test_the_largest_transfer_is_taken() -> None:
    submit = Submit(1, 2, False, 15, MOST_DATA, data=bytes(MOST_DATA))
    assert Asked().feed(submit.emit()) == [submit]
    answer = Submitted(1, 0, MOST_DATA, bytes(MOST_DATA))
    assert Answers({1: True}).feed(answer.emit()) == [answer]


def test_a_second_answer_was_not_asked_for() -> None:
    answers = Answers({1: False})
    assert answers.feed(answering()) == [Submitted(1, 0, 0)]
    with pytest.raises(Malformed, match="answer 0x3 to transfer 1, which was not asked for"):
        answers.feed(answering())


def test_what_is_wrong_is_told() -> None:
    with pytest.raises(Malformed, match="command 0x7, direction 0, endpoint 1"):
        Asked().feed(asking(7))
    with pytest.raises(Malformed, match="a transfer of 4194305 bytes and 0 packets"):
        Asked().feed(asking(size=MOST_DATA + 1))
    with pytest.raises(Malformed, match="an answer of 0 bytes and 1025 packets"):
        Answers({1: True}).feed(answering(count=MOST_PACKETS + 1))


# Anything.

U32 = st.integers(0, 0xFFFFFFFF)
SMALL = st.integers(0, 3)
WORD = st.one_of(SMALL, st.integers(0, 100), st.just(0xFFFFFFFF), U32)
HEADS = st.tuples(
    st.sampled_from([1, 1, 1, 2, 3, 3, 3, 4, 5, *LOCAL]),
    SMALL,
    U32,
    st.integers(0, 2),
    st.integers(0, 16),
    *[WORD] * 7,
).map(lambda words: struct.pack(">12I", *words))
PACKET = st.builds(Packet, U32, U32, U32, st.integers(-(1 << 31), (1 << 31) - 1))


@st.composite
def submits(draw: st.DrawFn) -> Submit:
    inward, size = draw(st.booleans()), draw(st.integers(0, 60))
    packets = draw(st.none() | st.lists(PACKET, min_size=1, max_size=3).map(tuple))
    data = b"" if inward else draw(st.binary(min_size=size, max_size=size))
    flags, start, interval, setup = draw(U32), draw(U32), draw(U32), draw(st.binary(min_size=8, max_size=8))
    number, device, endpoint = draw(SMALL), draw(U32), draw(st.integers(0, 15))
    return Submit(number, device, inward, endpoint, size, flags, start, interval, setup, data, packets)


@st.composite
def answered(draw: st.DrawFn) -> Submitted:
    data, packets = draw(st.binary(max_size=60)), draw(st.lists(PACKET, max_size=3).map(tuple))
    status = draw(st.integers(-(1 << 31), (1 << 31) - 1))
    return Submitted(draw(SMALL), status, len(data), data, draw(U32), draw(U32), packets)


SHORTS = st.builds(Short, st.sampled_from([Code.unlink, *LOCAL]), U32, U32, U32)
PIECES = st.lists(st.integers(1, 200), max_size=20)


def cut(data: bytes, sizes: Sequence[int]) -> list[bytes]:
    """In pieces of these sizes, and the rest."""
    found, at = [], 0
    for size in sizes:
        found.append(data[at : at + size])
        at += size
    return [*found, data[at:]]


@given(st.lists(submits() | SHORTS, max_size=5), PIECES)
def test_whatever_is_asked_arrives_in_any_pieces(values: list[Submit | Short], sizes: list[int]) -> None:
    asked = Asked()
    data = b"".join(value.emit() for value in values)
    assert [one for piece in cut(data, sizes) for one in asked.feed(piece)] == values


@given(st.lists(answered(), max_size=4, unique_by=lambda value: value.number), PIECES)
def test_whatever_is_answered_arrives_in_any_pieces(values: list[Submitted], sizes: list[int]) -> None:
    answers = Answers({value.number: True for value in values})
    data = b"".join(value.emit() for value in values)
    assert [one for piece in cut(data, sizes) for one in answers.feed(piece)] == values


def heard(feed: Callable[[bytes], Sequence[object]], pieces: Sequence[bytes]) -> tuple[list[object], bool]:
    """The messages, and whether something was none."""
    found: list[object] = []
    for piece in pieces:
        try:
            found += feed(piece)
        except Malformed:
            return found, True
    return found, False


STREAM = st.lists(
    st.one_of(
        st.binary(max_size=100),
        HEADS,
        submits().map(Submit.emit),
        answered().map(Submitted.emit),
        SHORTS.map(Short.emit),
    ),
    max_size=6,
).map(b"".join)


@given(STREAM, PIECES)
def test_any_bytes_in_any_pieces_are_asked_or_malformed(data: bytes, sizes: list[int]) -> None:
    found, malformed = heard(Asked().feed, cut(data, sizes))
    assert all(isinstance(one, Submit | Short) for one in found)
    single = heard(Asked().feed, [bytes((byte,)) for byte in data])
    assert malformed is single[1]
    assert found == single[0][: len(found)]
    assert malformed or len(found) == len(single[0]), "how they are cut makes no difference"


@given(STREAM, PIECES, st.dictionaries(SMALL, st.booleans()))
def test_any_bytes_in_any_pieces_are_answers_or_malformed(
    data: bytes, sizes: list[int], inward: dict[int, bool]
) -> None:
    found, malformed = heard(Answers(dict(inward)).feed, cut(data, sizes))
    assert all(isinstance(one, Submitted | Short) for one in found)
    single = heard(Answers(dict(inward)).feed, [bytes((byte,)) for byte in data])
    assert malformed is single[1]
    assert found == single[0][: len(found)]
    assert malformed or len(found) == len(single[0]), "how they are cut makes no difference"
