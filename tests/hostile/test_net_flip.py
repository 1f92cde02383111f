"""Page flipping against a guest without scruples: N16, N17, G6 and G10 between real processes on a mount."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.hostile.guest import ERROR, Guest, Host, frame, host
from tests.hostile.peer import SECONDS
from tests.mounted.mount import until
from tests.net.namespaces import run
from xenfs.abi.grant_table import GntStatus
from xenfs.abi.xen import PAGE_SIZE
from xenfs.domain import Refused
from xenfs.domain.mounted import MountedDomain

__all__ = ["host"]
pytestmark = pytest.mark.timeout(90)
TALKER = b"\x02" * 6


@pytest.fixture
def flipped(host: Host) -> Iterator[Guest]:
    """A guest that asks for flipped pages, has given 64 back, and has posted nothing yet."""
    quiet(host)
    with host.guest(",rx=flip") as guest:
        guest.connect(request_rx_copy="0")
        guest.memory.decrease_reservation(guest.memory.alloc(64))
        yield guest


def quiet(host: Host) -> None:
    """Let the host say nothing of its own accord."""
    for which in ("all", "default"):
        run(host.space, "sh", "-c", f"echo 1 > /proc/sys/net/ipv6/conf/{which}/disable_ipv6")


def frames_of(guest: Guest) -> int:
    """The machine's frames: those of all domains, and the free ones."""
    *lines, total = Path(guest.host.point, "hypervisor/frames").read_text().splitlines()[1:]
    return sum(int(line.split()[2]) for line in lines) + int(total.split()[3])


def offer(guest: Guest, *refs: int) -> None:
    """Post offers; their ids are their places."""
    for number, ref in enumerate(refs):
        guest.rx.ring.push(number, ref)
    guest.rx.publish()
    guest.channels[1].notify()


def talk(guest: Guest, count: int, size: int = 100) -> list[bytes]:
    """Packets for the guest, out of the host."""
    packets = [(frame(b"%04d" % number, source=TALKER) + b"\xaa" * size)[:size] for number in range(count)]
    with guest.heard() as heard:
        for packet in packets:
            heard.send(packet)
    return packets


def test_n17_a_page_carries_the_packet_and_zeros_whatever_was_in_it_before(flipped: Guest) -> None:
    memory = flipped.memory
    for size in (1514, 60):
        refs = memory.accept_transfer(0, 16)
        offer(flipped, *refs)
        packets = talk(flipped, 16, size)
        answers = flipped.answers(flipped.rx, 16, 1)
        assert [status for *_, status in answers] == [size] * 16
        frames = [frame for frame in memory.end_transfer(refs) if frame is not None]
        assert len(frames) == 16
        with memory.view(frames) as view:
            pages = [bytes(view[at : at + PAGE_SIZE]) for at in range(0, len(view), PAGE_SIZE)]
            view[:] = b"\xff" * len(view)  # what the next ones may have in them, if nobody minds
        assert sorted(pages) == sorted(packet.ljust(PAGE_SIZE, b"\0") for packet in packets)
        memory.decrease_reservation(frames)


def test_n16_what_is_no_offer_of_this_guests_to_this_backend_is_refused_and_no_page_lost(flipped: Guest) -> None:
    memory, before = flipped.memory, frames_of(flipped)
    good, gone, another = memory.accept_transfer(0, 2) + memory.accept_transfer(7)
    memory.end_transfer([gone])
    page = memory.alloc()
    (access,) = memory.grant(page, 0)
    offer(flipped, good, good, gone, another, access, 0xFFFF_FFFF, 0)
    talk(flipped, 7)
    answers = flipped.answers(flipped.rx, 7, 1)
    assert [status for *_, status in answers] == [100, ERROR, ERROR, ERROR, ERROR, ERROR, ERROR]
    flipped.until_counted("errors", 6)
    assert frames_of(flipped) == before
    (frame,) = memory.end_transfer([good])
    assert frame is not None
    assert memory.end_access([access]) == []
    memory.end_transfer([another])
    memory.free([*page, frame])
    (good,) = memory.accept_transfer(0)
    offer(flipped, good)
    talk(flipped, 1)
    assert [status for *_, status in flipped.answers(flipped.rx, 1, 1)] == [100]
    memory.free([frame for frame in memory.end_transfer([good]) if frame is not None])


@pytest.mark.parametrize("what", ["granted", "ring"])
def test_g10_a_page_in_use_cannot_be_given_back(flipped: Guest, what: str) -> None:
    memory = flipped.memory
    page = flipped.tx_frames if what == "ring" else memory.alloc()
    refs = [] if what == "ring" else memory.grant(page, 0)
    with pytest.raises(Refused) as caught:
        memory.decrease_reservation(page)
    assert caught.value.errno == errno.EBUSY
    with pytest.raises(Refused) as caught:
        memory.take_flips([], page, 0, 1)
    assert caught.value.errno == errno.EBUSY
    if refs:
        assert memory.end_access(refs) == []
        memory.free(page)


def test_g6_what_a_backend_may_not_flip_stays_where_it_is(flipped: Guest) -> None:
    """Not its own, granted, mapped by the guest, a ring's, and to a domain that may own no more."""
    domid, memory, root = flipped.domain.domid, flipped.memory, flipped.host.root
    before = frames_of(flipped)
    (offered,) = memory.accept_transfer(0)
    theirs = memory.alloc()
    granted = root.memory.alloc(2)
    refs = root.memory.grant(granted, domid)
    ring = root.memory.alloc()
    root.memory.name_ring("test-0-ring", ring[0])
    with memory.map(0, refs[1:]):
        wrong = [*theirs, *granted, *ring, 1 << 30]
        statuses, new = root.memory.give_flips(wrong, domid, [offered] * len(wrong), 3)
    assert statuses == [GntStatus.bad_page] * len(wrong)
    assert len(new) == 3
    maximum = Path(flipped.host.point, f"domains/{domid}/max_memory")
    owned = Path(flipped.host.point, f"domains/{domid}/memory").read_text()
    most = maximum.read_text()
    maximum.write_text(owned)
    assert root.memory.give_flips(new[:1], domid, [offered])[0] == [GntStatus.general_error]
    maximum.write_text(most)
    assert root.memory.give_flips(new[:1], domid, [offered])[0] == [GntStatus.okay]
    root.memory.unname_ring("test-0-ring")
    root.memory.decrease_reservation(new[1:])
    root.memory.end_access(refs)
    root.memory.free([*granted, *ring])
    memory.free([*theirs, *(frame for frame in memory.end_transfer([offered]) if frame is not None)])
    assert frames_of(flipped) == before


def test_a_flipped_page_cannot_be_reached_by_its_former_owner(flipped: Guest) -> None:
    domid, memory, point = flipped.domain.domid, flipped.memory, flipped.host.point
    with MountedDomain(0, point) as backend:
        (frame,) = backend.memory.increase_reservation()
        backend.memory.write_frames([frame], memoryview(b"secret".ljust(PAGE_SIZE)))
        region = backend.memory.view([frame])
        (ref,) = memory.accept_transfer(0)
        assert backend.memory.transfer([frame], domid, [ref]) == [GntStatus.okay]
        assert memory.end_transfer([ref]) == [frame]
        for call in (
            lambda: backend.memory.read_frames([frame], [memoryview(bytearray(PAGE_SIZE))]),
            lambda: backend.memory.view([frame]),
        ):
            with pytest.raises(Refused) as caught:
                call()
            assert caught.value.errno == errno.EINVAL
        reader, writer = os.pipe()
        try:
            with pytest.raises(OSError) as failed:  # noqa: PT011
                os.write(writer, region.view)  # a system call, since a load would be SIGBUS
            assert failed.value.errno == errno.EFAULT
        finally:
            for fd in (reader, writer):
                os.close(fd)
        region.close()
    with memory.view([frame]) as view:
        assert bytes(view[:6]) == b"secret"
    memory.free([frame])


def test_a_guest_that_posts_no_offers_and_then_some_gets_what_still_waits(flipped: Guest) -> None:
    talk(flipped, 20)
    refs = flipped.memory.accept_transfer(0, 20)
    offer(flipped, *refs)
    answers = flipped.answers(flipped.rx, 20, 1)
    assert [status for *_, status in answers] == [100] * 20
    flipped.memory.free([frame for frame in flipped.memory.end_transfer(refs) if frame is not None])


def test_a_guest_that_dies_with_offers_open_and_pages_on_the_way_leaves_the_machine_whole(host: Host) -> None:
    before = None
    quiet(host)
    for _ in range(3):
        with host.guest(",rx=flip") as guest:
            guest.connect(request_rx_copy="0")
            guest.memory.decrease_reservation(guest.memory.alloc(64))
            refs = guest.memory.accept_transfer(0, 64)
            offer(guest, *refs)
            talk(guest, 40)
            guest.answers(guest.rx, 40, 1)
        until(lambda: not host.held(), SECONDS)
        text = Path(host.point, "hypervisor/frames").read_text()
        assert before in (None, text)
        before = text
