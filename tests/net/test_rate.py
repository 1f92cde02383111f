"""`rate=` of a vif: xl's words, and the credit that comes of them, on a clock that the test turns."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from xennet.rate import Credit, parse_rate

MS = 1_000_000
BURST = 128 * 1024


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("10Mb/s", (62_500, 50_000)),
        ("250KB/s", (12_500, 50_000)),
        ("1MB/s@20ms", (20_000, 20_000)),
        ("1GB/s", (50_000_000, 50_000)),
        ("800b/s@1s", (100, 1_000_000)),
        ("1000000B/s@100us", (100, 100)),
        ("1MB/s@20m", (20_000, 20_000)),
        ("1MB/s@100u", (100, 100)),
        ("1MB/s@2", (2_000_000, 2_000_000)),
    ],
)
def test_rate_in_words(text: str, expected: tuple[int, int]) -> None:
    assert parse_rate(text) == expected


@pytest.mark.parametrize(
    "text",
    ["", "10", "10Mb", "10mb/s", "10 Mb/s", "10Tb/s", "-1Mb/s", "1.5Mb/s", "0x10Mb/s", "10Mb/s@", "10Mb/s@ms",
     "10Mb/s@1min", "10Mb/s@5sm", "10Mb/s\n", "\u0661Mb/s", "@50ms"],
)  # fmt: skip
def test_what_is_no_rate_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is no rate such as 10Mb/s, 250KB/s or 1MB/s@20ms"):
        parse_rate(text)


@pytest.mark.parametrize("text", ["0Mb/s", "1b/s", "19B/s", "1MB/s@0ms", "1MB/s@4295", "9999999999GB/s"])
def test_a_rate_of_nothing_or_too_much_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="both must be from 1 to 4294967295"):
        parse_rate(text)


def test_credit_is_used_up_and_comes_back_with_the_next_interval() -> None:
    credit = Credit(3000, 50_000)
    assert [credit.take(1500, 7) for _ in range(2)] == [0, 0]
    assert credit.take(1, 7) == 50 * MS
    assert credit.take(1, 7 + 20 * MS) == 30 * MS
    assert credit.take(1, 7 + 50 * MS - 1) == 1
    assert credit.take(3000, 7 + 50 * MS) == 0
    assert credit.take(1, 7 + 50 * MS) == 50 * MS


def test_a_refused_packet_costs_nothing() -> None:
    credit = Credit(3000, 50_000)
    assert credit.take(2000, 0) == 0
    assert credit.take(1500, 0) > 0
    assert credit.take(1000, 0) == 0


def test_credit_that_is_left_is_saved_up_to_the_burst() -> None:
    credit = Credit(50_000, 1000)
    for now in range(5):
        assert credit.take(0, now * MS) == 0
    assert credit.take(BURST, 4 * MS) == 0
    assert credit.take(1, 4 * MS) == MS


def test_an_interval_larger_than_the_burst_is_not_saved_up() -> None:
    credit = Credit(1_000_000, 1000)
    for now in range(3):
        assert credit.take(0, now * MS) == 0
    assert credit.take(1_000_000, 2 * MS) == 0
    assert credit.take(1, 2 * MS) == MS


def test_time_without_a_packet_earns_one_interval_as_in_netback() -> None:
    credit = Credit(1000, 1000)
    assert credit.take(1000, 0) == 0
    assert credit.take(1000, 60_000 * MS) == 0
    assert credit.take(1, 60_000 * MS) == MS


def test_a_packet_larger_than_an_interval_waits_until_enough_is_saved() -> None:
    credit, now, waits = Credit(1000, 1000), 0, 0
    while wait := credit.take(65_000, now):
        now, waits = now + wait, waits + 1
    assert (waits, now) == (64, 64 * MS)


def test_a_packet_larger_than_the_burst_goes_when_all_is_saved() -> None:
    credit, now = Credit(BURST, 1000), 0
    assert credit.take(BURST + 1, now) == 0
    assert credit.take(1, now) == MS


@given(st.integers(1, 70_000), st.integers(1, 100_000), st.lists(st.integers(14, 65_535), min_size=1, max_size=20))
def test_no_more_is_sent_than_the_rate_and_one_burst(size: int, microseconds: int, packets: list[int]) -> None:
    credit, now, sent = Credit(size, microseconds), 0, 0
    for packet in packets:
        waits = 0
        while wait := credit.take(packet, now):
            assert 0 < wait <= microseconds * 1000
            now, waits = now + wait, waits + 1
            assert waits <= BURST // size + 1, "every packet goes in the end"
        sent += packet
        intervals = now // (microseconds * 1000) + 1
        assert sent <= max(BURST, size) + intervals * size
