"""Groups N (N19) and R against netfront: a backend that answers nonsense, and a guest that survives it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.hostile.backend import SECONDS, Back, Machine
from tests.mounted.mount import until
from tests.net.namespaces import listening, need_network, run
from xenfs.abi.netif import GSO, RX, RxFlag
from xenfs.abi.xenbus import XenbusState as S
from xenfs.ring import Entry

pytestmark = pytest.mark.timeout(90)
MORE, EXTRA, BLANK = int(RxFlag.more_data), int(RxFlag.extra_info), int(RxFlag.csum_blank)
FRAME = b"\xff" * 6 + bytes.fromhex("00163e000001") + b"\x88\xb5" + b"from the guest".ljust(50)


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    need_network()
    with ExitStack() as held:
        made = Machine(tmp_path_factory.mktemp("machine"), held)
        yield made
        until(lambda: not made.held(), SECONDS)
        assert made.mount.rest()


@pytest.fixture
def early(machine: Machine) -> Iterator[Back]:
    """A backend that has not offered anything."""
    with machine.back() as back:
        yield back


@pytest.fixture
def back(early: Back) -> Back:
    """Connected."""
    return early.connect()


def extra(kind: int, size: int, gso: int, *, more: int = 0) -> Entry:
    """An extra slot, as the fields of a response."""
    return RX.response.unpack(GSO.pack(kind, more, size, gso, 0))


def test_n19_an_id_of_no_page_breaks_the_device_and_the_guest_survives(back: Back) -> None:
    back.posted(1)
    back.answer((256, 0, 0, 60))
    back.until_stopped("response has incorrect id 256, not 0 of its request")
    back.again()


def test_n19_an_answer_in_anothers_slot_breaks_the_device(back: Back) -> None:
    back.posted(2)
    back.answer((1, 0, 0, 60), (0, 0, 0, 60))
    back.until_stopped("response has incorrect id 1, not 0 of its request")
    back.again()


@pytest.mark.parametrize(("offset", "status"), [(0, 4097), (4096, 1), (0xFFFF, 0x7FFF), (4000, 200)])
def test_n19_bytes_outside_the_page_break_the_device(back: Back, offset: int, status: int) -> None:
    back.posted(1)
    back.answer((0, offset, 0, status))
    back.until_stopped(f"offset {offset} + size {status} > 4096")
    back.again()


@pytest.mark.parametrize("status", [-1, -2, -32768])
def test_n19_an_error_is_counted_and_the_next_packet_comes(back: Back, status: int) -> None:
    back.posted(1)
    back.answer((0, 0, 0, status))
    with listening(back.space, "eth0") as heard:
        back.deliver(b"\xff" * 6 + b"\x02" * 6 + b"\x88\xb5" + b"the next".ljust(50))
        back.until_heard(heard, b"the next")
    until(lambda: back.stats().errors == 1, SECONDS)


def test_n19_a_packet_of_too_many_slots_breaks_the_device(back: Back) -> None:
    back.posted(30)
    back.answer(*[(number, 0, MORE, 100) for number in range(30)])
    back.until_stopped("a packet of more than 18 slots")
    back.again()


@pytest.mark.parametrize(("size", "gso"), [(0, 1), (1448, 0), (1448, 9)])
def test_n19_segments_of_no_size_or_type_break_the_device(back: Back, size: int, gso: int) -> None:
    back.posted(2)
    back.answer((0, 0, EXTRA | BLANK, 60), extra(1, size, gso))
    back.until_stopped(f"GSO of type {gso} with size {size}")
    back.again()


@pytest.mark.parametrize("kind", [0, 2, 255])
def test_n19_an_extra_of_another_type_is_passed_over(back: Back, kind: int) -> None:
    back.posted(2)
    back.answer((0, 0, EXTRA, 60), extra(kind, 0xFFFF, 0xFF))
    with listening(back.space, "eth0") as heard:
        back.deliver(b"\xff" * 6 + b"\x02" * 6 + b"\x88\xb5" + b"behind it".ljust(50))
        back.until_heard(heard, b"behind it")


@pytest.mark.parametrize("status", [0, 1, 13, 40])
def test_n19_a_packet_too_short_for_what_it_says_is_dropped(back: Back, status: int) -> None:
    back.posted(1)
    back.answer((0, 0, BLANK, status))
    until(lambda: back.stats().drop_malformed + back.stats().drop_other == 1, SECONDS)
    assert back.state() is S.Connected


def test_n19_an_answer_to_no_packet_breaks_the_device(back: Back) -> None:
    with listening(back.space, "eth0") as heard:
        number = back.until_sent(heard, FRAME)[3]
    back.reply(((number + 7) % 256, 0))
    back.until_stopped(f"response for inactive request {(number + 7) % 256}")
    back.again()


def test_n19_the_same_answer_twice_breaks_the_device(back: Back) -> None:
    with listening(back.space, "eth0") as heard:
        first = back.until_sent(heard, FRAME)[3]
        second = back.until_sent(heard, FRAME)[3]
    back.reply((second, 0), (second, 0))
    back.until_stopped(f"response for inactive request {second}")
    assert first != second
    back.again()


def test_n19_a_null_answer_to_what_had_no_extra_breaks_the_device(back: Back) -> None:
    with listening(back.space, "eth0") as heard:
        back.until_sent(heard, FRAME)
    back.reply((0, 1))
    back.until_stopped("a null response, and no extra slot is in flight")
    back.again()


def test_answers_out_of_order_and_errors_are_fine(back: Back) -> None:
    with listening(back.space, "eth0") as heard:
        numbers = [back.until_sent(heard, FRAME)[3] for _ in range(3)]
        back.reply((numbers[2], -1), (numbers[0], 0))
        back.reply((numbers[1], 0))
        until(lambda: back.stats().errors == 1, SECONDS)
        back.until_sent(heard, FRAME)
    assert back.state() is S.Connected


@pytest.mark.parametrize("ring", ["tx", "rx"])
@pytest.mark.parametrize("distance", [257, 1 << 31, -1])
def test_r1_r2_an_impossible_producer_breaks_the_device(back: Back, ring: str, distance: int) -> None:
    mock = back.tx if ring == "tx" else back.rx
    mock.raw.jump("rsp_prod", distance)
    back.channels[0 if ring == "tx" else 1].notify()
    back.until_stopped("rsp_prod")
    back.again()


def test_n19_more_answers_than_questions_break_the_device(back: Back) -> None:
    back.tx.raw.jump("rsp_prod", 5)
    back.channels[0].notify()
    back.until_stopped("requests are in flight")
    back.again()


def test_r5_what_the_backend_scribbles_over_the_frontends_words_changes_nothing(back: Back) -> None:
    back.tx.raw.set("req_prod", 999)
    back.rx.raw.scribble(16, b"\xff" * 48)
    with listening(back.space, "eth0") as heard:
        back.deliver(b"\xff" * 6 + b"\x02" * 6 + b"\x88\xb5" + b"unmoved".ljust(50))
        back.until_heard(heard, b"unmoved")
    assert back.state() is S.Connected


def test_r7_an_answer_that_changes_while_it_is_looked_at(back: Back) -> None:
    back.posted(120)
    with back.rx.raw.flipping(100, 6, [b"\x3c\x00", b"\xff\x7f"]):
        back.answer(*[(number, 0, 0, 60) for number in range(120)])
        until(lambda: back.state() is not S.Connected or back.stats().responses >= 120, SECONDS)
    assert back.front.poll() is None


def test_r11_a_backend_that_never_answers_stops_the_guest_at_its_ring(back: Back) -> None:
    with listening(back.space, "eth0") as heard:
        for _ in range(2000):
            heard.send(FRAME)
        until(lambda: back.stats().requests - 256 >= 100, SECONDS)
        taken: list[Entry] = []
        while found := back.sent(0.3):
            taken += found
    assert len(taken) <= 256
    back.reply(*[(number, 0) for _, _, _, number, _ in taken])
    assert back.sent()


@pytest.mark.parametrize("name", ["feature-sg", "feature-gso-tcpv4", "feature-rx-copy"])
@pytest.mark.parametrize("value", ["", "-1", "2", "yes", "9" * 1000])
def test_x18_a_malformed_feature_is_named(early: Back, name: str, value: str) -> None:
    early.offer(**{name: value})
    early.until_stopped(name)


def test_a_packet_too_large_for_a_backend_of_one_slot_is_lost_and_the_next_is_not(early: Back) -> None:
    back = early.connect(feature_sg="0", feature_split_event_channels="1")
    run(back.space, "ip", "link", "set", "eth0", "mtu", "9000")
    with listening(back.space, "eth0") as heard:
        heard.send(FRAME + bytes(8000))
        until(lambda: back.stats().drop_other == 1, SECONDS)
        assert back.until_sent(heard, FRAME)[4] < 1000, "nothing that was cut off"
    assert back.state() is S.Connected


def test_a_backend_that_cannot_copy_is_refused(early: Back) -> None:
    early.offer(feature_rx_copy="0")
    early.until_stopped("the backend cannot receive by copy")


@pytest.mark.parametrize("state", ["9", "", "x", "7", "3"])
def test_x20_states_that_may_not_be(back: Back, state: str) -> None:
    back.store.write(f"{back.path}/state", state)
    if state != "3":
        back.until_stopped("state is")
    assert back.front.poll() is None
