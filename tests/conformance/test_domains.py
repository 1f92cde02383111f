"""Domains as a whole: what ends with them, what outlives them."""

from __future__ import annotations

import errno

import pytest

from tests.conformance.refusals import refusal
from tests.conformance.world import World
from xenfs.domain import BareDomain, Refused
from xenfs.hypervisor.snapshot import Counts


def test_closing_a_domain_gives_back_all_it_took(world: World) -> None:
    with world.domain(1) as one, world.domain(2) as two:
        frames = one.memory.alloc(5)
        refs = one.memory.grant(frames, 2)
        one.memory.name_ring("vif-0-tx", frames[0])
        one.memory.view(frames)
        two.memory.map(1, refs)
        two.memory.accept_transfer(1, 3)
        two.events.bind_interdomain(1, one.events.alloc_unbound(2).port)
        assert len(world.leaks()) > 10
    assert world.leaks() == []


def test_a_mapping_outlives_its_granter(world: World, grantee: BareDomain) -> None:
    victim = world.create_domain("victim")
    with world.domain(victim) as domain:
        frames = domain.memory.alloc()
        refs = domain.memory.grant(frames, grantee.domid)
        with domain.memory.view(frames) as view:
            view[:5] = b"still"
        region = grantee.memory.map(victim, refs)
        world.destroy_domain(victim)
        free = world.free()
        again = world.create_domain("successor", frames=free)
        assert again == victim
        assert bytes(region.view[:5]) == b"still"
        assert world.dying() == ["victim"]
        with world.domain(again) as successor:
            assert frames[0] not in successor.memory.alloc(free), "a frame that a peer maps is nobody else's"
    region.close()
    assert world.dying() == []
    world.destroy_domain(again)


def test_a_closed_domain_refuses_everything(world: World) -> None:
    domain = world.domain(1)
    domain.close()
    domain.close()
    with refusal(errno.EBADF):
        domain.memory.alloc()
    with refusal(errno.EBADF):
        domain.events.bind_ipi()


def test_there_is_no_entering_a_domain_that_is_not_there(world: World) -> None:
    with refusal(errno.ESRCH):
        world.domain(77)


def test_counts_tell_what_is_in_use(world: World, granter: BareDomain, grantee: BareDomain) -> None:
    refs = granter.memory.grant(granter.memory.alloc(3), grantee.domid)
    with grantee.memory.map(granter.domid, refs[:2], readonly=True):
        offers = grantee.memory.accept_transfer(granter.domid)
        assert world.counts(granter.domid) == Counts(1024, 3, 0, 0)
        assert world.counts(grantee.domid) == Counts(1024, 0, 2, 1)
        grantee.memory.end_transfer(offers)
    assert world.counts(grantee.domid) == Counts(1024, 0, 0, 0)


def test_a_domain_that_was_destroyed_can_be_closed_and_does_nothing_more(world: World) -> None:
    domid = world.create_domain("short-lived")
    with world.domain(domid) as domain:
        domain.memory.view(domain.memory.alloc(2))
        channel = domain.events.alloc_unbound(0)
        world.destroy_domain(domid)
        successor = world.create_domain("another")
        assert successor == domid
        with pytest.raises(Refused):
            domain.memory.alloc()
        with pytest.raises(Refused):
            channel.notify()
    assert world.counts(successor).owned == 1024
    world.destroy_domain(successor)
