"""What any implementation of the domain Protocols does. Issue by issue, more of them run through this suite."""

from __future__ import annotations

import errno
import os
import selectors
import threading
from collections.abc import Iterator

import pytest

from xenfs.abi.event_channel import Reset
from xenfs.abi.grant_table import GntStatus
from xenfs.abi.xen import PAGE_SIZE, Virq
from xenfs.domain import CopySegment, Domain, Refused
from xenfs.domain.inprocess import InProcessXen
from xenfs.hypervisor import Config, Limits
from xenfs.testing import in_memory

SOON = 5.0


@pytest.fixture
def xen() -> Iterator[InProcessXen]:
    with in_memory(domains=2, config=Config(frames=4096, dom0_frames=256)) as machine:
        yield machine


@pytest.fixture
def granter(xen: InProcessXen) -> Iterator[Domain]:
    with xen.domain(1) as domain:
        yield domain


@pytest.fixture
def grantee(xen: InProcessXen) -> Iterator[Domain]:
    with xen.domain(2) as domain:
        yield domain


def refusal(code: int) -> pytest.RaisesExc[Refused]:
    return pytest.raises(Refused, check=lambda error: error.errno == code)


def test_a_granted_page_is_the_same_memory(granter: Domain, grantee: Domain) -> None:
    frames = granter.memory.alloc(3)
    refs = granter.memory.grant(frames, grantee.domid)
    with granter.memory.view(frames) as mine, grantee.memory.map(granter.domid, refs) as theirs:
        assert len(mine) == len(theirs) == 3 * PAGE_SIZE
        assert bytes(mine) == bytes(3 * PAGE_SIZE)
        mine[PAGE_SIZE - 2 : PAGE_SIZE + 3] = b"hello"
        assert bytes(theirs[PAGE_SIZE - 2 : PAGE_SIZE + 3]) == b"hello"
        theirs[0] = 7
        assert mine[0] == 7


def test_pages_map_in_the_order_of_their_references(granter: Domain, grantee: Domain) -> None:
    frames = granter.memory.alloc(3)
    refs = granter.memory.grant(frames, grantee.domid)
    with granter.memory.view(frames) as mine:
        for i in range(3):
            mine[i * PAGE_SIZE] = i + 1
        with grantee.memory.map(granter.domid, refs[::-1], readonly=True) as theirs:
            assert [theirs[i * PAGE_SIZE] for i in range(3)] == [3, 2, 1]


def test_a_read_only_grant_maps_read_only(granter: Domain, grantee: Domain) -> None:
    refs = granter.memory.grant(granter.memory.alloc(), grantee.domid, readonly=True)
    with refusal(errno.EACCES):
        grantee.memory.map(granter.domid, refs)
    with grantee.memory.map(granter.domid, refs, readonly=True) as view:
        assert view.readonly
        with pytest.raises(TypeError):
            view[0] = 1


def test_end_access_names_what_is_still_mapped(granter: Domain, grantee: Domain) -> None:
    refs = granter.memory.grant(granter.memory.alloc(3), grantee.domid)
    region = grantee.memory.map(granter.domid, [refs[1]])
    assert granter.memory.end_access(refs) == [refs[1]]
    region.close()
    assert granter.memory.end_access([refs[1]]) == []
    with refusal(errno.ENOENT):
        granter.memory.end_access([refs[1]])


def test_a_deferred_end_lets_the_mapper_keep_its_page(granter: Domain, grantee: Domain) -> None:
    (frame,) = granter.memory.alloc()
    refs = granter.memory.grant([frame], grantee.domid)
    with grantee.memory.map(granter.domid, refs) as theirs:
        assert granter.memory.end_access(refs, defer=True) == []
        with refusal(errno.EACCES):
            grantee.memory.map(granter.domid, refs)
        with granter.memory.view([frame]) as mine:
            mine[:4] = b"live"
        assert bytes(theirs[:4]) == b"live"
        with refusal(errno.EBUSY):
            granter.memory.free([frame])
    granter.memory.free([frame])


def test_a_map_that_fails_in_the_middle_maps_nothing(granter: Domain, grantee: Domain) -> None:
    refs = granter.memory.grant(granter.memory.alloc(2), grantee.domid)
    with refusal(errno.EACCES):
        grantee.memory.map(granter.domid, [*refs, refs[-1] + 1])
    assert granter.memory.end_access(refs) == []


def test_a_view_held_past_its_region_reads_zeros_and_cannot_crash(granter: Domain, grantee: Domain) -> None:
    refs = granter.memory.grant(granter.memory.alloc(), grantee.domid)
    region = grantee.memory.map(granter.domid, refs)
    part = region.view[8:16]
    part[:] = b"8 bytes."
    region.close()
    region.close()
    assert bytes(part) == bytes(8)
    assert granter.memory.end_access(refs) == []


def test_freed_frames_come_back_empty(granter: Domain) -> None:
    frames = granter.memory.alloc(4)
    with granter.memory.view(frames) as view:
        view[:] = b"\xaa" * len(view)
    granter.memory.free(frames)
    again = granter.memory.alloc(4)
    assert again == frames
    with granter.memory.view(again) as view:
        assert not any(view)


def test_only_ones_own_frames_can_be_viewed(granter: Domain, grantee: Domain) -> None:
    with refusal(errno.EINVAL):
        grantee.memory.view(granter.memory.alloc())


def test_a_flip_moves_the_bytes_and_leaves_the_former_owner_nothing(granter: Domain, grantee: Domain) -> None:
    grantee.memory.decrease_reservation(grantee.memory.alloc(2))
    refs = grantee.memory.accept_transfer(granter.domid, 3)
    frames = granter.memory.alloc(2)
    before = granter.memory.view(frames)
    before.view[: PAGE_SIZE + 1] = b"x" * (PAGE_SIZE + 1)
    assert granter.memory.transfer(frames, grantee.domid, refs[:2]) == [GntStatus.okay] * 2
    arrived = grantee.memory.end_transfer(refs)
    assert arrived == [*frames, None]
    with grantee.memory.view(frames) as after:
        assert bytes(after) == b"x" * (PAGE_SIZE + 1) + bytes(PAGE_SIZE - 1)
        after[0] = 1
        before.view[1] = 2
        assert bytes(before.view[:1]) == b"\0"
        assert bytes(after[:2]) == b"\x01x"
    before.close()
    with refusal(errno.EINVAL):
        granter.memory.view(frames)


def test_a_refused_transfer_leaves_the_frame(granter: Domain, grantee: Domain) -> None:
    (frame,) = granter.memory.alloc()
    (ref,) = grantee.memory.accept_transfer(granter.domid)
    assert granter.memory.transfer([frame, frame], grantee.domid, [ref + 1, ref]) == [GntStatus.general_error] * 2
    with granter.memory.view([frame]) as view:
        assert len(view) == PAGE_SIZE


def test_copy_answers_for_each_segment(granter: Domain, grantee: Domain) -> None:
    (source,), (dest,) = granter.memory.alloc(), grantee.memory.alloc()
    (ref,) = granter.memory.grant([source], grantee.domid, readonly=True)
    with granter.memory.view([source]) as view:
        view[100:105] = b"bytes"
    good = CopySegment(source=ref, source_domid=1, source_offset=100, dest=dest, dest_offset=4091, length=5)
    long = CopySegment(source=ref, source_domid=1, source_offset=100, dest=dest, dest_offset=4092, length=5)
    back = CopySegment(source=dest, dest=ref, dest_domid=1, length=5)
    assert grantee.memory.copy([good, long, back]) == [
        GntStatus.okay,
        GntStatus.bad_copy_arg,
        GntStatus.general_error,
    ]
    with grantee.memory.view([dest]) as view:
        assert bytes(view[4091:]) == b"bytes"
        assert not any(view[:4091])


def test_alloc_takes_all_or_nothing(granter: Domain) -> None:
    with refusal(errno.ENOMEM):
        granter.memory.alloc(1025)
    assert len(granter.memory.alloc(1024)) == 1024


def test_ballooning_through_a_handle_is_undone_with_it(xen: InProcessXen) -> None:
    with xen.domain(0) as dom0:
        assert len(dom0.memory.increase_reservation(10)) == 10
        assert len(xen.machine.state.domains[0].frames) == 266
    assert len(xen.machine.state.domains[0].frames) == 256
    with xen.domain(1) as other:
        other.memory.decrease_reservation(other.memory.alloc(10))
        assert len(xen.machine.state.domains[1].frames) == 1014
    assert len(xen.machine.state.domains[1].frames) == 1024


def test_a_ring_name_keeps_its_frame_in_use(granter: Domain) -> None:
    (frame,) = granter.memory.alloc()
    granter.memory.name_ring("vif-0-tx", frame)
    with refusal(errno.EBUSY):
        granter.memory.free([frame])
    with refusal(errno.EEXIST):
        granter.memory.name_ring("vif-0-tx", granter.memory.alloc()[0])
    granter.memory.unname_ring("vif-0-tx")
    granter.memory.free([frame])


def test_values_that_fit_no_field_are_refused(granter: Domain) -> None:
    for call in (
        lambda: granter.memory.free([-1]),
        lambda: granter.memory.grant([0], 1 << 16),
        lambda: granter.memory.name_ring("vif-0-" + "x" * 60, 0),
        lambda: granter.events.bind_virq(1 << 32),
    ):
        with refusal(errno.EINVAL):
            call()


def test_events_go_both_ways_and_several_are_one(granter: Domain, grantee: Domain) -> None:
    with granter.events.alloc_unbound(grantee.domid) as here:
        assert not here.drain()
        with grantee.events.bind_interdomain(granter.domid, here.port) as there:
            assert there.wait(0), "binding raises an event on the binder"
            assert not here.drain()
            for _ in range(3):
                here.notify()
            assert there.wait(0)
            assert not there.drain()
            there.notify()
            assert here.wait(0)


def test_a_wait_ends_when_an_event_comes(granter: Domain, grantee: Domain) -> None:
    with (
        granter.events.alloc_unbound(grantee.domid) as here,
        grantee.events.bind_interdomain(granter.domid, here.port) as there,
    ):
        notifier = threading.Thread(target=there.notify)
        notifier.start()
        assert here.wait(SOON)
        notifier.join(SOON)
        assert not here.wait(0.001)


def test_a_channel_works_in_a_selector(granter: Domain) -> None:
    with granter.events.bind_ipi() as channel, selectors.DefaultSelector() as selector:
        selector.register(channel, selectors.EVENT_READ)
        assert selector.select(0) == []
        channel.notify()
        assert [key.fileobj for key, _ in selector.select(SOON)] == [channel]


def test_an_event_without_a_peer_goes_nowhere(granter: Domain, grantee: Domain) -> None:
    here = granter.events.alloc_unbound(grantee.domid)
    here.notify()
    there = grantee.events.bind_interdomain(granter.domid, here.port)
    there.drain()
    there.close()
    here.notify()
    assert not here.drain(), "the peer's close is silent"
    here.close()
    here.close()
    with refusal(errno.EINVAL):
        here.notify()


def test_e6_a_peer_that_never_reads_cannot_block_a_notifier(granter: Domain, grantee: Domain) -> None:
    with (
        granter.events.alloc_unbound(grantee.domid) as here,
        grantee.events.bind_interdomain(granter.domid, here.port) as there,
    ):
        os.eventfd_write(there.fileno(), 2**64 - 3)
        here.notify()
        assert there.wait(0)


def test_a_channel_closed_by_a_reset_does_not_close_its_successor(xen: InProcessXen, granter: Domain) -> None:
    old = granter.events.alloc_unbound(2)
    xen.call(Reset(), 1)
    new = granter.events.alloc_unbound(2)
    assert new.port == old.port
    with refusal(errno.EINVAL):
        old.notify()
    old.close()
    new.notify()
    new.close()


def test_dom0_hears_of_a_dying_domain(xen: InProcessXen) -> None:
    with xen.domain(0) as dom0, dom0.events.bind_virq(Virq.DOM_EXC) as channel:
        domid = xen.create_domain("short-lived")
        assert not channel.drain()
        xen.destroy_domain(domid)
        assert channel.wait(0)


def test_closing_a_domain_gives_back_all_it_took(xen: InProcessXen) -> None:
    with xen.domain(1) as one, xen.domain(2) as two:
        frames = one.memory.alloc(5)
        refs = one.memory.grant(frames, 2)
        one.memory.name_ring("vif-0-tx", frames[0])
        one.memory.view(frames)
        two.memory.map(1, refs)
        two.memory.accept_transfer(1, 3)
        two.events.bind_interdomain(1, one.events.alloc_unbound(2).port)
        one.store.watch("device")
        assert len(xen.leaks()) > 10
    assert xen.leaks() == []


def test_a_mapping_outlives_its_granter(xen: InProcessXen, grantee: Domain) -> None:
    victim = xen.create_domain("victim")
    with xen.domain(victim) as domain:
        frames = domain.memory.alloc()
        refs = domain.memory.grant(frames, grantee.domid)
        with domain.memory.view(frames) as view:
            view[:5] = b"still"
        region = grantee.memory.map(victim, refs)
        xen.destroy_domain(victim)
        again = xen.create_domain("successor", frames=1791)
        assert again == victim
        assert bytes(region.view[:5]) == b"still"
        assert [d.name for d in xen.machine.state.dying] == ["victim"]
        with xen.domain(again) as successor:
            assert frames[0] not in successor.memory.alloc(1791), "a frame that a peer maps is nobody else's"
    region.close()
    assert xen.machine.state.dying == []
    xen.destroy_domain(again)


def test_a_closed_domain_refuses_everything(xen: InProcessXen) -> None:
    domain = xen.domain(1)
    domain.close()
    domain.close()
    with refusal(errno.EBADF):
        domain.memory.alloc()
    with refusal(errno.EBADF):
        domain.events.bind_ipi()


def test_limits_are_options_with_their_errno() -> None:
    limits = Limits(grants=2, maps=1, ports=2, handles=2)
    with in_memory(config=Config(frames=64, dom0_frames=8, limits=limits)) as xen:
        domid = xen.create_domain(frames=4)
        with xen.domain(domid) as one, xen.domain(domid) as two:
            with refusal(errno.EMFILE):
                xen.domain(domid)
            with refusal(errno.ENOSPC):
                one.memory.grant(one.memory.alloc(3), domid)
            refs = one.memory.grant(one.memory.alloc(1), domid)
            with refusal(errno.ENOSPC):
                two.memory.map(domid, refs * 2)
            one.events.bind_ipi(), one.events.bind_ipi()
            with refusal(errno.ENOSPC):
                two.events.alloc_unbound(0)
            with refusal(errno.ENOMEM):
                two.memory.alloc(1)
