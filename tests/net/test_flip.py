"""Receive by page flipping, both ends on a machine in memory; a pair of sockets stands for each TAP."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from xennet.flip import FlipReceive
from xennet.guest_flip import TARGET_MAX, GuestFlip
from xennet.headers import VNET_SIZE

from tests.net.frames import TCP, UDP, ether, ipv4, tcp, udp
from xenfs.abi.netif import RX
from xenfs.abi.xen import PAGE_SIZE
from xenfs.domain.inprocess import InProcessXen
from xenfs.domain.inprocess.xen import InProcessDomain
from xenfs.hypervisor import Config
from xenfs.ring import BackRing, FrontRing
from xenfs.testing import in_memory
from xenfs.xenbus import Loop, PeerProtocolError
from xenfs.xenbus.counters import Counters
from xenfs.xenbus.loop import Gate

LARGE = 30_000


def packet(size: int, seed: int = 0) -> bytes:
    """A UDP frame of so many bytes, each of them not zero."""
    fill = bytes(1 + (seed + at) % 255 for at in range(min(size, 4096))) * (size // 4096 + 1)
    return ether(0x0800, ipv4(UDP, udp(fill[: size - 42])))


def segment(size: int) -> bytes:
    """A TCP frame that is larger than the MTU."""
    return ether(0x0800, ipv4(TCP, tcp(os.urandom(size - 54))))


PLAIN = bytes(VNET_SIZE)
LARGE_TCP = bytes((1, 1)) + (54).to_bytes(2, "little") + (1448).to_bytes(2, "little") + bytes((34, 0, 16, 0))
"""virtio_net_hdr: needs a checksum at 34 + 16, is to be cut into segments of TCP over IPv4."""


class Wire:
    """A netback and a netfront with one receive ring between them."""

    def __init__(self, back: InProcessDomain, front: InProcessDomain, *, large: bool = True) -> None:
        self.back_domain, self.front_domain = back, front
        page = memoryview(bytearray(PAGE_SIZE))
        loop = Loop()
        self.host, tap = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.guest, card = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.sockets = [self.host, tap, self.guest, card]
        for one in self.sockets:
            one.setblocking(False)
            for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
                one.setsockopt(socket.SOL_SOCKET, option, 1 << 20)
        self.front_ring = FrontRing(page, RX)
        self.back_ring = BackRing(page, RX)
        self.to_back = front.events.alloc_unbound(back.domid)
        self.to_front = back.events.bind_interdomain(front.domid, self.to_back.port)
        self.gave, self.got = Counters(1, loop), Counters(0, loop)
        self.front = GuestFlip(
            self.front_ring, self.to_back, front.memory, back.domid, card.fileno(), self.got, large=large
        )
        self.back = FlipReceive(self.back_ring, self.to_front, back.memory, front.domid, tap.fileno(), self.gave)
        self.back.gate = Gate(loop, tap.fileno(), self.back.work)
        self.front.post()
        self.back.posted()

    def send(self, data: bytes, header: bytes = PLAIN) -> None:
        self.host.send(header + data)

    def turn(self) -> None:
        """Each end does what there is to do, and once more."""
        for _ in range(2):
            self.back.work()
            self.front.work()
            self.back.posted()

    def received(self) -> list[bytes]:
        """What has come out of the guest's card, without its headers."""
        found = []
        while True:
            try:
                found.append(self.guest.recv(1 << 17)[VNET_SIZE:])
            except BlockingIOError:
                return found

    def close(self) -> None:
        self.front.close()
        self.back.close()
        self.back_ring.release()
        self.front_ring.release()
        for one in self.sockets:
            one.close()


def frames_of(wire: Wire) -> int:
    """All that anybody owns, and what is free: always the same."""
    state = wire.back_domain.xen.machine.state
    return sum(len(state.domain(domid).frames) for domid in (0, 1, 2)) + len(state.free)


@contextmanager
def wire(xen: InProcessXen, *, large: bool = True) -> Iterator[Wire]:
    """Both ends; afterwards both domains own what they did before."""
    with xen.domain(1) as back, xen.domain(2) as front:
        state = xen.machine.state
        before = [len(state.domain(domid).frames) for domid in (1, 2)], len(state.free)
        made = Wire(back, front, large=large)
        try:
            yield made
        finally:
            made.close()
        assert ([len(state.domain(domid).frames) for domid in (1, 2)], len(state.free)) == before


@pytest.fixture
def between() -> Iterator[Wire]:
    with in_memory(domains=2) as xen:
        for domid in (1, 2):
            xen.machine.state.domain(domid).max_frames = 4096
        with wire(xen) as made:
            yield made


@pytest.mark.parametrize("size", [60, 1514, PAGE_SIZE - 1, PAGE_SIZE, PAGE_SIZE + 1, LARGE, 16 * PAGE_SIZE])
def test_a_packet_of_any_size_comes_as_it_was_sent(between: Wire, size: int) -> None:
    between.send(packet(size))
    between.turn()
    assert between.received() == [packet(size)]
    assert between.gave.pages_flipped == between.got.pages_flipped == -(-size // PAGE_SIZE)


def test_a_segment_takes_a_slot_more_whose_offer_is_made_again(between: Wire) -> None:
    data = segment(LARGE)
    between.send(data, LARGE_TCP)
    between.turn()
    (got,) = between.received()
    assert got[54:] == data[54:]
    assert between.got.pages_flipped == -(-LARGE // PAGE_SIZE)
    assert between.got.responses == 1 + -(-LARGE // PAGE_SIZE)


def test_a_thousand_packets_come_in_their_order_and_every_page_has_changed_hands(between: Wire) -> None:
    sent, got = [], []
    for number in range(1000):
        sent.append(packet(60 + number * 7 % 9000, number))
        between.send(sent[-1])
        if number % 10 == 9:
            between.turn()
            got += between.received()
    assert got == sent
    assert between.got.pages_flipped == sum(-(-len(data) // PAGE_SIZE) for data in sent)


def test_the_page_carries_nothing_but_the_packet(between: Wire) -> None:
    """N17: whatever lay in netback's memory before."""
    between.send(packet(16 * PAGE_SIZE))
    between.turn()
    between.received()
    refs = between.front._refs[:]
    between.send(packet(100))
    between.back.work()
    memory, taken = between.front_domain.memory, between.front._taken
    frames, _ = memory.take_flips([refs[taken]], [], between.back_domain.domid)
    (frame,) = frames
    assert frame is not None
    with memory.view([frame]) as view:
        assert bytes(view) == packet(100) + bytes(PAGE_SIZE - 100)
    memory.free([frame])
    between.front._refs[taken] = memory.accept_transfer(between.back_domain.domid)[0]
    with pytest.raises(PeerProtocolError, match="came without a page"):
        between.front.work()
    between.front._given -= 1


def test_the_target_doubles_under_load_and_shrinks_by_one_when_mostly_unused(between: Wire) -> None:
    smallest = between.front.minimum
    assert between.front.target == smallest
    seen = set()
    for _ in range(40):
        for number in range(24):
            between.send(packet(1500, number))
        between.turn()
        between.received()
        seen.add(between.front.target)
    assert max(seen) <= TARGET_MAX
    most = max(seen)
    assert most >= 3 * smallest
    between.send(packet(60))
    between.turn()
    before = between.front.target
    for _ in range(3):
        between.send(packet(60))
        between.turn()
    assert between.front.target == before - 3
    assert between.front_ring.in_flight <= most


def test_without_large_packets_as_few_as_eight_offers_are_kept_open() -> None:
    with in_memory(domains=2) as xen, wire(xen, large=False) as made:
        assert made.front_ring.in_flight == 8


def test_a_machine_without_pages_loses_packets_and_counts_them_and_goes_on_when_there_are_some() -> None:
    with in_memory(config=Config(frames=2048 + 64, dom0_frames=64)) as xen:
        for _ in range(2):
            xen.create_domain(frames=1024)
        xen.machine.state.domain(1).max_frames = 4096
        with xen.domain(1) as back, xen.domain(2) as front:
            made = Wire(back, front)
            with xen.domain(1) as hog:
                held = hog.memory.increase_reservation(len(xen.machine.state.free))
                made.back.close()
                more = hog.memory.increase_reservation(len(xen.machine.state.free))
                made.send(packet(1500))
                made.turn()
                assert made.received() == []
                assert made.gave.drop_no_memory == 1
                assert made.front_ring.in_flight == made.front.minimum, "its offer is still open"
                hog.memory.decrease_reservation(held + more)
            made.send(packet(1000))
            made.turn()
            assert made.received() == [packet(1000)]
            made.close()


@pytest.mark.parametrize("which", ["withdrawn", "twice", "another's", "none"])
def test_n16_an_offer_that_is_none_is_answered_with_an_error_and_the_page_stays(between: Wire, which: str) -> None:
    front, domain = between.front, between.front_domain
    (good,) = domain.memory.accept_transfer(between.back_domain.domid)
    bad = {"withdrawn": good, "twice": front._refs[0], "another's": 0, "none": 0xFFFF_FFFF}[which]
    if which == "another's":
        (bad,) = domain.memory.accept_transfer(0)
    if which == "withdrawn":
        domain.memory.end_transfer([good])
    total = frames_of(between)
    taken = between.front_ring.in_flight
    between.front_ring.push(7, bad)
    between.front_ring.publish()
    between.back.posted()
    for number in range(taken + 1):
        between.send(packet(60, number))
    between.back.work()
    answers = between.front_ring.take()
    assert [status for *_, status in answers] == [60] * taken + [-1]
    assert between.gave.errors == 1
    assert frames_of(between) == total
    # the guest takes what came, as an honest one would have
    ended = front._refs[:taken]
    frames, _ = domain.memory.take_flips(ended, [], between.back_domain.domid)
    domain.memory.free([frame for frame in frames if frame is not None])
    for left in ([] if which == "withdrawn" else [good]) + ([bad] if which == "another's" else []):
        domain.memory.end_transfer([left])
    front._given, front._taken = 0, taken
    front._closed = True


def test_a_guest_with_no_pages_left_posts_fewer_and_gets_packets_all_the_same() -> None:
    with in_memory(domains=2) as xen:
        xen.machine.state.domain(1).max_frames = 4096
        with xen.domain(2) as other:
            rest = other.memory.alloc(len(xen.machine.state.domain(2).idle) - 20)
            with wire(xen) as made:
                for _ in range(20):
                    for number in range(10):
                        made.send(packet(1500, number))
                    made.turn()
                assert len(made.received()) == 200
                assert made.front_ring.in_flight <= 20
            other.memory.free(rest)


def test_a_domain_that_may_own_no_more_is_refused_and_nothing_is_lost(between: Wire) -> None:
    state = between.front_domain.xen.machine.state
    state.domain(2).max_frames = len(state.domain(2).frames)
    total = frames_of(between)
    between.send(packet(60))
    between.turn()
    assert between.received() == []
    assert between.gave.errors == 1
    assert frames_of(between) == total
    state.domain(2).max_frames = 4096
    between.send(packet(61))
    between.turn()
    assert between.received() == [packet(61)]


def test_an_answer_without_a_page_breaks_the_device(between: Wire) -> None:
    between.back_ring.take()
    between.back_ring.respond(0, 0, 0, 60)
    between.back_ring.publish()
    with pytest.raises(PeerProtocolError, match="response 0 came without a page"):
        between.front.work()
    assert between.received() == []


def test_an_error_that_comes_with_a_page_drops_the_packet_and_keeps_the_page(between: Wire) -> None:
    between.send(packet(60))
    ref = between.front._refs[0]
    memory = between.back_domain.memory
    (frame,) = memory.increase_reservation()
    memory.transfer([frame], between.front_domain.domid, [ref])
    between.back_ring.take()
    between.back_ring.respond(0, 0, 0, -1)
    between.back_ring.publish()
    between.front.work()
    assert between.received() == []
    assert between.got.errors == 1


def test_closing_in_the_middle_of_a_batch_loses_no_page(between: Wire) -> None:
    """Pages that came and were not answered for are the guest's as well."""
    for number in range(5):
        between.send(packet(60, number))
    between.back.work()
    assert between.gave.pages_flipped == 5


def test_a_guest_with_hardly_a_grant_left_makes_as_many_offers_as_it_can() -> None:
    with in_memory(domains=2) as xen:
        xen.machine.state.domain(1).max_frames = 4096
        with xen.domain(2) as other:
            table = xen.machine.state.domain(2).refs
            refs = other.memory.accept_transfer(0, xen.machine.config.limits.grants - table.in_use - 4)
            with wire(xen) as made:
                for number in range(5):
                    made.send(packet(1500, number))
                    made.turn()
                assert len(made.received()) == 5
                assert made.front_ring.in_flight == 4
            other.memory.end_transfer(refs)
