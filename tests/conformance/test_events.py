"""Event channels."""

from __future__ import annotations

import asyncio
import errno
import selectors
import threading

from tests.conformance.refusals import refusal
from tests.conformance.world import World
from xenfs.abi.xen import Virq
from xenfs.domain import BareDomain, Channel

SOON = 5.0


def test_events_go_both_ways_and_several_are_one(granter: BareDomain, grantee: BareDomain) -> None:
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


def test_a_wait_ends_when_an_event_comes(granter: BareDomain, grantee: BareDomain) -> None:
    with (
        granter.events.alloc_unbound(grantee.domid) as here,
        grantee.events.bind_interdomain(granter.domid, here.port) as there,
    ):
        notifier = threading.Thread(target=there.notify)
        notifier.start()
        assert here.wait(SOON)
        notifier.join(SOON)
        assert not here.wait(0.001)


def test_a_channel_works_in_a_selector(granter: BareDomain) -> None:
    with granter.events.bind_ipi() as channel, selectors.DefaultSelector() as selector:
        selector.register(channel, selectors.EVENT_READ)
        assert selector.select(0) == []
        channel.notify()
        assert [key.fileobj for key, _ in selector.select(SOON)] == [channel]


def test_an_event_without_a_peer_goes_nowhere(granter: BareDomain, grantee: BareDomain) -> None:
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


def test_a_channel_closed_by_a_reset_does_not_close_its_successor(world: World, granter: BareDomain) -> None:
    old = granter.events.alloc_unbound(2)
    world.reset(1)
    new = granter.events.alloc_unbound(2)
    assert new.port == old.port
    with refusal(errno.EINVAL):
        old.notify()
    old.close()
    new.notify()
    new.close()


def test_dom0_hears_of_a_dying_domain(world: World) -> None:
    with world.domain(0) as dom0, dom0.events.bind_virq(Virq.DOM_EXC) as channel:
        domid = world.create_domain("short-lived")
        assert not channel.drain()
        world.destroy_domain(domid)
        assert channel.wait(0)


def test_a_channel_works_in_asyncio(granter: BareDomain) -> None:
    async def hear(channel: Channel) -> None:
        loop, heard = asyncio.get_running_loop(), asyncio.Event()
        loop.add_reader(channel.fileno(), heard.set)
        loop.call_soon(channel.notify)
        await asyncio.wait_for(heard.wait(), SOON)
        loop.remove_reader(channel.fileno())

    with granter.events.bind_ipi() as channel:
        asyncio.run(hear(channel))
        assert channel.drain()


def test_a_peer_that_came_again_hears(granter: BareDomain, grantee: BareDomain) -> None:
    with granter.events.alloc_unbound(grantee.domid) as here:
        for _ in range(3):
            here.notify()
            with grantee.events.bind_interdomain(granter.domid, here.port) as there:
                assert there.wait(0)
                here.notify()
                assert there.wait(0)
                there.notify()
                assert here.wait(0)
            here.notify()
            assert not here.drain()


def test_what_was_sent_to_a_peer_that_left_is_not_for_the_next(granter: BareDomain, grantee: BareDomain) -> None:
    with granter.events.alloc_unbound(grantee.domid) as here:
        first = grantee.events.bind_interdomain(granter.domid, here.port)
        first.close()
        with grantee.events.bind_interdomain(granter.domid, here.port) as second:
            assert second.drain(), "binding raises an event on the binder"
            assert not second.drain()
            here.notify()
            assert second.wait(0)


def test_the_machine_raises_a_virq_and_nobody_else(granter: BareDomain) -> None:
    with granter.events.bind_virq(Virq.TIMER) as channel:
        assert not channel.drain()
        with refusal(errno.EINVAL):
            channel.notify()
        with refusal(errno.EEXIST):
            granter.events.bind_virq(Virq.TIMER)
    with refusal(errno.EBUSY):
        granter.events.bind_virq(Virq.DOM_EXC)


def test_what_cannot_be_bound_says_why(granter: BareDomain, grantee: BareDomain) -> None:
    with granter.events.alloc_unbound(77) as waiting:
        for domid, port, code in (
            (granter.domid, waiting.port, errno.EINVAL),
            (granter.domid, waiting.port + 1, errno.EINVAL),
            (77, 1, errno.ESRCH),
            (1 << 16, 1, errno.EINVAL),
        ):
            with refusal(code):
                grantee.events.bind_interdomain(domid, port)
    with refusal(errno.ENOENT):
        granter.events.bind_ipi(7)


def test_a_wait_without_an_event_ends_in_time(granter: BareDomain) -> None:
    with granter.events.bind_ipi() as channel:
        assert not channel.wait(0)
        assert not channel.wait(-1)
        assert not channel.wait(0.01)
