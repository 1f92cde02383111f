"""Groups N and R against netback: a guest that queues nonsense, and what netback and everybody else make of it."""

from __future__ import annotations

from contextlib import suppress

import pytest

from tests.hostile.guest import ERROR, EXTRA, MORE, NULL, OKAY, Guest, Host, frame, guest, host, patient
from tests.hostile.peer import SECONDS
from tests.mounted.mount import until
from xenfs.abi.netif import Gso, TxFlag
from xenfs.abi.xen import PAGE_SIZE
from xenfs.abi.xenbus import XenbusState as S
from xenfs.ring import Entry
from xenfs.testing.peers import Flipper

__all__ = ["guest", "host", "patient"]
pytestmark = pytest.mark.timeout(90)
BLANK = int(TxFlag.csum_blank | TxFlag.data_validated)


def extra(kind: int, *, flags: int = 0, data: bytes = bytes(6)) -> Entry:
    """An extra slot, as the fields of a request."""
    raw = bytes((kind, flags)) + data + bytes(4)
    return tuple(int.from_bytes(raw[a:b], "little") for a, b in ((0, 4), (4, 6), (6, 8), (8, 10), (10, 12)))


def gso(size: int, kind: int) -> Entry:
    return extra(1, data=Gso(size, kind).emit()[2:])


def chain(guest: Guest, sizes: list[int], total: int | None = None) -> list[Entry]:
    """A packet of several slots, each in a page of its own; the first says `total`."""
    whole = sum(sizes) if total is None else total
    last = len(sizes) - 1
    return [
        (guest.refs[number], 0, MORE if number < last else 0, number, whole if number == 0 else size)
        for number, size in enumerate(sizes)
    ]


def filled(guest: Guest, sizes: list[int], payload: bytes) -> None:
    """Put a frame into the pages of such a packet."""
    data = (frame(payload) + bytes(sum(sizes)))[: sum(sizes)]
    for number, size in enumerate(sizes):
        guest.put(number, data[:size])
        data = data[size:]


@pytest.mark.parametrize("size", [0, 1, 13])
def test_n1_n2_a_packet_shorter_than_an_ethernet_header_is_answered_with_an_error(guest: Guest, size: int) -> None:
    before = guest.stats().drop_malformed
    assert guest.send((guest.refs[0], 0, 0, 5, size)) == [(5, ERROR)]
    guest.until_counted("drop_malformed", before + 1)
    guest.put(0, frame(b"and goes on"))
    assert guest.send((guest.refs[0], 0, 0, 6, 60)) == [(6, OKAY)]


@pytest.mark.parametrize(("offset", "size"), [(0, 4097), (4000, 200), (4095, 60), (0xFFFF, 0xFFFF), (0, 0xFFFF)])
def test_n1_a_slot_that_crosses_its_page_stops_the_device(guest: Guest, offset: int, size: int) -> None:
    assert guest.send((guest.refs[0], offset, 0, 5, size)) == []
    guest.until_stopped(f"offset {offset} + size {size} > {PAGE_SIZE}")
    guest.again()


def test_n3_a_packet_without_end_stops_the_device(guest: Guest) -> None:
    guest.send((guest.refs[0], 0, MORE, 0, 200), (guest.refs[1], 0, MORE, 1, 100))
    guest.until_stopped("a packet of 2 slots goes on behind the last request")
    guest.again()


@pytest.mark.parametrize("count", [20, 21])
def test_n4_too_many_slots_are_all_answered_and_dropped(guest: Guest, count: int) -> None:
    sizes = [100] * count
    filled(guest, sizes, b"too many")
    assert guest.send(*chain(guest, sizes)) == [(number, ERROR) for number in range(count)]
    assert guest.state() is S.Connected


def test_n4_eighteen_slots_behind_the_first_are_accepted(guest: Guest) -> None:
    sizes = [100] * 19
    filled(guest, sizes, b"as many as there may be")
    with guest.heard() as heard:
        assert guest.send(*chain(guest, sizes)) == [(number, OKAY) for number in range(19)]
        assert len(guest.until_heard(heard, b"as many")) == 1900


def test_n4_more_slots_than_anybody_queues_in_good_faith_stop_the_device(guest: Guest) -> None:
    guest.send(*chain(guest, [100] * 22))
    guest.until_stopped("a packet of more than 20 slots")
    guest.again()


@pytest.mark.parametrize("later", [[1000], [600, 400], [4000, 4000]])
def test_n5_later_slots_larger_than_the_packet_are_dropped(guest: Guest, later: list[int]) -> None:
    requests = chain(guest, [0, *later], total=1000)
    assert guest.send(*requests) == [(number, ERROR) for number in range(len(requests))]
    assert guest.state() is S.Connected


def test_n6_slots_of_no_bytes_do_no_harm(guest: Guest) -> None:
    sizes = [60, 0, 0]
    filled(guest, sizes, b"nothing follows")
    with guest.heard() as heard:
        assert [number for number, _ in guest.send(*chain(guest, sizes))] == [0, 1, 2]
        guest.until_heard(heard, b"nothing follows")
    assert len(guest.send(*chain(guest, [0, 0, 0], total=0))) == 3
    assert guest.state() is S.Connected


def test_n7_many_slots_of_a_few_bytes(guest: Guest) -> None:
    sizes = [4] * 19
    filled(guest, sizes, b"crumbs")
    with guest.heard() as heard:
        assert guest.send(*chain(guest, sizes)) == [(number, OKAY) for number in range(19)]
        assert len(guest.until_heard(heard, b"crumbs")) == 76


@pytest.mark.parametrize("first", [1, 13, 14, 20, 33, 41])
def test_n8_headers_that_lie_in_several_slots_are_put_together_first(guest: Guest, first: int) -> None:
    whole = len(frame(b"scattered"))
    sizes = [first, whole - first]
    filled(guest, sizes, b"scattered")
    with guest.heard() as heard:
        assert guest.send(*chain(guest, sizes)) == [(0, OKAY), (1, OKAY)]
        data = guest.until_heard(heard, b"scattered")
    assert data[: len(frame())] == frame(b"scattered")[: len(frame())]


@pytest.mark.parametrize("ref", [900, 1 << 30], ids=["unused", "out of range"])
def test_n10_a_bad_grant_in_the_middle_undoes_the_others(guest: Guest, ref: int) -> None:
    requests = chain(guest, [100, 100, 100])
    requests[1] = (ref, *requests[1][1:])
    before = guest.host.held()
    assert guest.send(*requests) == [(number, ERROR) for number in range(3)]
    assert guest.state() is S.Connected
    until(lambda: guest.host.held() == before, SECONDS)


def test_n10_a_page_that_is_granted_to_another_domain_is_not_sent(guest: Guest) -> None:
    with guest.host.guest() as other:
        frames = guest.memory.alloc(1)
        refs = guest.memory.grant(frames, other.device.domid)
        assert guest.send((refs[0], 0, 0, 3, 60)) == [(3, ERROR)]
        guest.memory.end_access(refs)
        guest.memory.free(frames)


def test_n10_a_read_only_page_can_be_sent_but_not_be_received_into(guest: Guest) -> None:
    view, _, refs = guest.share(32, readonly=True)
    view[:60] = frame(b"read only").ljust(60, b"\0")
    with guest.heard() as heard:
        assert guest.send((refs[0], 0, 0, 3, 60)) == [(3, OKAY)]
        guest.until_heard(heard, b"read only")
    guest.post(*range(32), refs=refs)
    with guest.heard() as heard:
        heard.send(frame(b"to the guest", source=b"\x02" * 6))
        ((number, _, _, status), *_) = guest.answers(guest.rx, 1, 1)
    assert (number, status) == (0, ERROR)
    assert guest.state() is S.Connected


def test_n11_a_source_address_that_is_not_the_guests_is_filtered(guest: Guest) -> None:
    before = guest.stats().drop_filtered
    with guest.heard() as heard:
        guest.put(0, frame(b"forged", source=b"\x00\x16\x3e\x00\x00\x09"))
        guest.put(1, frame(b"honest"))
        assert guest.send((guest.refs[0], 0, 0, 0, 60), (guest.refs[1], 0, 0, 1, 60)) == [(0, OKAY), (1, OKAY)]
        assert b"forged" not in guest.until_heard(heard, b"e")
    guest.until_counted("drop_filtered", before + 1)


def test_n11_a_flood_leaves_another_guest_its_share(guest: Guest) -> None:
    guest.put(0, frame(b"flood"))
    with guest.host.guest() as other:
        other.connect()
        other.put(0, frame(b"fair"))
        for _ in range(20):
            requests = [(guest.refs[0], 0, 0, number, 60) for number in range(200)]
            for request in requests:
                guest.tx.ring.push(*request)
            guest.tx.publish()
            guest.channels[0].notify()
            assert other.send((other.refs[0], 0, 0, 1, 60)) == [(1, OKAY)]
            assert len(guest.answers(guest.tx, 200, 0)) == 200


def test_n9_headers_rewritten_after_queueing_never_reach_the_bridge(guest: Guest) -> None:
    forged = b"\xff" * 6 + b"\x00\x16\x3e\x00\x00\x66" + frame(b"")[12:34] + b"\x13\x37\x13\x37" + frame(b"")[38:42]
    honest = frame(b"")
    data = (honest + b"payload " * 100)[:600]
    packets = 0
    with guest.heard() as heard:
        with Flipper(guest.view[: len(honest)], [forged, honest]) as flipper:
            for _ in range(20):
                guest.put(0, data)
                flipper.wait(1)
                requests = [(guest.refs[0], 0, 0, number, 600) for number in range(200)]
                assert len(guest.send(*requests)) == 200
        heard.settimeout(0.2)
        with suppress(TimeoutError):
            while True:
                came = heard.recv(1 << 16)
                if came[12:14] == b"\x08\x00" and len(came) == 600:
                    packets += 1
                    assert came[:6] == b"\xff" * 6
                    assert came[6:12] == honest[6:12], "an address that was checked is the one that is sent"
    assert packets > 100
    assert guest.stats().drop_filtered > 100, "the guest did change its headers while they were looked at"


@pytest.mark.parametrize("kind", [0, 6, 255])
def test_n12_an_extra_of_no_known_type_stops_the_device(guest: Guest, kind: int) -> None:
    guest.send((guest.refs[0], 0, EXTRA, 0, 60), extra(kind))
    guest.until_stopped(f"extra info of type {kind}")
    guest.again()


def test_n12_an_extra_that_is_missing_stops_the_device(guest: Guest) -> None:
    guest.send((guest.refs[0], 0, EXTRA, 0, 60))
    guest.until_stopped("an extra info is missing")
    guest.again()


@pytest.mark.parametrize(("size", "kind"), [(0, 1), (1448, 0), (1448, 3), (1448, 255)])
def test_n13_segments_of_no_size_or_type_stop_the_device(guest: Guest, size: int, kind: int) -> None:
    guest.send((guest.refs[0], 0, EXTRA | BLANK, 0, 60), gso(size, kind))
    guest.until_stopped(f"GSO of type {kind} with size {size}")
    guest.again()


def test_n13_segments_of_what_is_no_tcp_are_dropped(guest: Guest) -> None:
    guest.put(0, frame(b"not TCP"))
    assert guest.send((guest.refs[0], 0, EXTRA | BLANK, 0, 60), gso(1448, 1)) == [(0, ERROR), (0, NULL)]
    assert guest.state() is S.Connected


def test_n14_a_guest_that_posts_nothing_has_its_packets_dropped_in_the_end_and_nobody_waits(guest: Guest) -> None:
    with guest.heard() as heard:
        for number in range(3000):
            heard.send(frame(b"%d" % number, source=b"\x02" * 6) + bytes(900))
        guest.put(0, frame(b"still alive"))
        assert guest.send((guest.refs[0], 0, 0, 0, 60)) == [(0, OKAY)]
        guest.post(*range(32))
        found = guest.answers(guest.rx, 32, 1)
    assert [number for number, *_ in found[:32]] == list(range(32))
    assert b"still alive" not in bytes(guest.view[:PAGE_SIZE])


def test_n14_one_slot_is_free_when_the_packet_needs_two(guest: Guest) -> None:
    guest.post(0)
    with guest.heard() as heard:
        heard.send((frame(b"long", source=b"\x02" * 6) + bytes(1400))[:1400])
        assert [number for number, *_ in guest.answers(guest.rx, 1, 1)] == [0]
    assert guest.state() is S.Connected


def test_n18_hashing_is_not_offered_and_garbage_is_answered(guest: Guest) -> None:
    for kind in (0, 1, 2, 3, 4, 5, 6, 7, 11, 0xFFFF):
        assert guest.ask(kind, 0xFFFFFFFF, 0xFFFFFFFF, 0xFFFFFFFF)[0] == 1, kind
    assert guest.ask(8) == (0, 1024)


def test_n18_mappings_of_what_is_not_there_are_refused_and_leave_nothing(guest: Guest) -> None:
    before = guest.host.held()
    assert guest.ask(9, 1 << 30, 4)[0] == 2
    assert guest.ask(9, guest.refs[0], 0)[0] == 2
    assert guest.ask(9, guest.refs[0], 513)[0] == 2
    assert guest.ask(9, guest.refs[0], 1 << 31)[0] == 2
    assert guest.ask(9, guest.refs[0], 4, 1)[0] == 2
    assert guest.keep_mapped([guest.refs[0], guest.refs[0]]) == 2
    assert guest.keep_mapped([*guest.refs[:20], 1 << 20]) == 2
    assert guest.keep_mapped(guest.refs[:4], kind=10) == 2  # type: ignore[arg-type]
    until(lambda: mapped(guest.host.held()) == mapped(before), SECONDS)
    assert guest.keep_mapped(guest.refs) == 0
    assert guest.keep_mapped(guest.refs[:1]) == 2
    assert guest.keep_mapped(guest.refs, kind=10) == 0  # type: ignore[arg-type]
    until(lambda: mapped(guest.host.held()) == mapped(before), SECONDS)


def mapped(lines: list[str]) -> list[str]:
    return [line.split()[4] for line in lines]


def test_n18_no_more_mappings_than_the_limit(guest: Guest) -> None:
    frames = guest.memory.alloc(1)
    refs = guest.memory.grant(frames * 1100, 0)
    assert guest.keep_mapped(refs[:500]) == 0
    assert guest.keep_mapped(refs[500:1000]) == 0
    assert guest.keep_mapped(refs[1000:1100]) == 3
    guest.memory.end_access(refs, defer=True)
    guest.memory.free(frames, defer=True)


def test_a_rate_holds_back_and_everything_arrives(host: Host) -> None:
    with host.guest(",rate=8Mb/s@10ms") as slow:
        slow.connect()
        slow.put(0, (frame(b"slow") + bytes(1500))[:1500])
        found = slow.send(*[(slow.refs[0], 0, 0, number, 1500) for number in range(200)])
        assert found == [(number, OKAY) for number in range(200)]
        assert slow.stats().units_in <= 200


def test_a_ring_that_breaks_while_its_packets_are_held_back_stops_the_device(host: Host) -> None:
    with host.guest(",rate=8Mb/s@10ms") as slow:
        slow.connect()
        slow.put(0, bytes(PAGE_SIZE))
        for number in range(200):
            slow.tx.ring.push(slow.refs[0], 0, 0, number, 1500)
        slow.tx.publish()
        slow.channels[0].notify()
        until(lambda: slow.stats().requests == 200)
        slow.tx.raw.jump("req_prod", 1000)
        slow.until_stopped("req_prod")
        slow.again()
