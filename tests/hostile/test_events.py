"""Group E of adversarial.md, as far as it lives in the machine: hostile uses of event channels.

E6 is about eventfds and lives elsewhere.
"""

from __future__ import annotations

import errno

import pytest

from tests.models import Model
from xenfs.abi.event_channel import (
    AllocUnbound,
    BindInterdomain,
    BindIpi,
    BindVirq,
    Close,
    PortState,
    Reset,
    Send,
    Status,
)
from xenfs.abi.wire import Wire
from xenfs.abi.xen import Virq
from xenfs.abi.xenfs_op import CloseHandle, CreateDomain, DestroyDomain, OpenHandle
from xenfs.hypervisor import Config
from xenfs.hypervisor.snapshot import snapshot

EVIL, PEER, OTHER = 1, 2, 3
MAX_PORTS = 1023
SLICE = 64


class Wires(Model):
    """A machine with a hostile domain, its peer, and another that must not notice."""

    def __init__(self) -> None:
        super().__init__(Config(frames=64, dom0_frames=16, slice=SLICE, trace=100), frames=4)

    def refuses(self, request: Wire, domid: int = EVIL) -> str:
        return errno.errorcode[self.refused(request, domid).errno]

    def pair(self, one: int = EVIL, two: int = PEER) -> tuple[int, int]:
        port = self(AllocUnbound(remote_dom=two), one).port
        return port, self(BindInterdomain(remote_dom=one, remote_port=port), two).local_port

    def heard(self, domid: int, port: int) -> int:
        return self.lines.events[self.state.domains[domid].ports[port].line]

    def status(self, domid: int, port: int) -> tuple[int, int, int]:
        answer = self(Status(port=port), domid)
        return answer.status, answer.remote_dom, answer.remote_port

    def fill(self) -> None:
        """Take every port of the hostile domain, each bound to a port of domain 0's."""
        for _ in range(MAX_PORTS):
            port = self(AllocUnbound(remote_dom=0)).port
            self(BindInterdomain(remote_dom=EVIL, remote_port=port), 0)


@pytest.fixture
def wires() -> Wires:
    return Wires()


@pytest.mark.parametrize("port", [0, 2, MAX_PORTS, MAX_PORTS + 1, 1 << 31, (1 << 32) - 1])
def test_e1_a_notify_of_no_port_is_refused_and_nobody_hears(wires: Wires, port: int) -> None:
    wires.pair()
    assert wires.refuses(Send(port=port)) == "EINVAL"


def test_e1_a_notify_of_a_closed_port_is_refused(wires: Wires) -> None:
    port, _ = wires.pair()
    wires(Close(port=port))
    assert wires.refuses(Send(port=port)) == "EINVAL"


def test_e1_a_number_that_is_another_domains_port_notifies_nobody(wires: Wires) -> None:
    wires.pair(PEER, OTHER)
    assert wires.refuses(Send(port=1)) == "EINVAL"


def test_e1_an_unbound_port_may_be_notified_and_nothing_happens(wires: Wires) -> None:
    port = wires(AllocUnbound(remote_dom=PEER)).port
    before = snapshot(wires.machine), dict(wires.lines.events)
    wires(Send(port=port))
    assert (snapshot(wires.machine), wires.lines.events) == before


def test_e2_a_storm_of_notifies_lets_no_state_grow(wires: Wires) -> None:
    port, peer = wires.pair()
    before = snapshot(wires.machine), set(wires.lines.events)
    for _ in range(20_000):
        wires(Send(port=port))
    assert (snapshot(wires.machine), set(wires.lines.events)) == before
    assert wires.heard(PEER, peer) == 20_001
    assert len(wires.machine.trace) == 100


def test_e2_a_storm_of_binds_and_closes_lets_no_state_grow(wires: Wires) -> None:
    before = snapshot(wires.machine), dict(wires.lines.events)
    for _ in range(2_000):
        port, peer = wires.pair()
        wires(Close(port=port))
        wires(Close(port=peer), PEER)
    assert (snapshot(wires.machine), wires.lines.events) == before


def test_e2_a_storm_of_resets_lets_no_state_grow_while_the_machine_reaps(wires: Wires) -> None:
    for _ in range(2_000):
        wires(AllocUnbound(remote_dom=PEER))
        wires(Reset())
        wires.machine.reap()
    assert not wires.state.closing
    assert not wires.lines.events


def test_e3_closing_twice_is_refused_the_second_time(wires: Wires) -> None:
    port, peer = wires.pair()
    wires(Close(port=port))
    assert wires.refuses(Close(port=port)) == "EINVAL"
    assert wires.status(PEER, peer) == (PortState.unbound, EVIL, 0)


def test_e3_an_event_from_before_the_close_is_not_the_next_owners(wires: Wires) -> None:
    port, peer = wires.pair()
    wires(Send(port=peer), PEER)
    assert wires.heard(EVIL, port) == 1
    wires(Close(port=port))
    assert wires(AllocUnbound(remote_dom=OTHER)).port == port
    wires(Send(port=peer), PEER)
    assert wires.heard(EVIL, port) == 0


def test_e3_a_rebind_of_the_same_number_is_heard_by_the_new_pair_only(wires: Wires) -> None:
    port, peer = wires.pair()
    wires(Close(port=peer), PEER)
    again = wires(BindInterdomain(remote_dom=EVIL, remote_port=port), PEER).local_port
    assert again == peer
    wires(Send(port=port))
    assert wires.heard(PEER, again) == 2


def test_e3_the_peers_death_leaves_a_pending_event_and_an_unbound_port(wires: Wires) -> None:
    port, peer = wires.pair()
    wires(Send(port=peer), PEER)
    wires(DestroyDomain(dom=PEER), 0)
    wires.machine.settle()
    assert wires.heard(EVIL, port) == 1
    assert wires.status(EVIL, port) == (PortState.unbound, PEER, 0)
    wires(Send(port=port))


def test_e4_a_domain_out_of_ports_gets_no_virq_and_keeps_what_it_has(wires: Wires) -> None:
    wires.fill()
    for request in (BindVirq(virq=Virq.TIMER), BindIpi(), AllocUnbound(remote_dom=PEER)):
        assert wires.refuses(request) == "ENOSPC"
    wires(Close(port=500))
    assert wires(BindVirq(virq=Virq.TIMER)).port == 500
    assert wires.refuses(BindVirq(virq=Virq.DEBUG)) == "ENOSPC"


def test_e4_a_bind_without_a_free_port_leaves_the_peers_port_unbound(wires: Wires) -> None:
    wires.fill()
    port = wires(AllocUnbound(remote_dom=EVIL), PEER).port
    assert wires.refuses(BindInterdomain(remote_dom=PEER, remote_port=port)) == "ENOSPC"
    assert wires.status(PEER, port) == (PortState.unbound, EVIL, 0)


def test_e5_a_reset_of_all_ports_goes_on_in_slices_while_others_work(wires: Wires) -> None:
    wires.fill()
    one, two = wires.pair(PEER, OTHER)
    wires(Reset())
    assert not wires.state.domains[EVIL].ports
    slices = 0
    while wires.state.closing:
        before = len(wires.lines.events)
        wires.machine.reap()
        assert before - len(wires.lines.events) <= SLICE
        wires(Send(port=one), PEER)
        slices += 1
        assert wires.heard(OTHER, two) == 1 + slices
    assert slices >= MAX_PORTS // SLICE
    assert all(p.state is PortState.unbound for p in wires.state.domains[0].ports.values())


def test_e5_ports_of_before_a_reset_and_of_after_are_never_confused(wires: Wires) -> None:
    wires.fill()
    wires(Reset())
    old = wires.status(0, 1)
    assert old[0] == PortState.interdomain
    fresh, peer = wires.pair()
    assert fresh == 1
    wires(Send(port=1), 0)
    assert wires.heard(EVIL, fresh) == 0
    wires(Close(port=2), 0)
    wires.machine.settle()
    assert wires.status(EVIL, fresh) == (PortState.interdomain, PEER, peer)
    assert wires.status(0, 1) == (PortState.unbound, EVIL, 0)
    assert list(wires.state.domains[EVIL].ports) == [fresh]


def test_e5_a_reset_frees_virqs_at_once_and_for_good(wires: Wires) -> None:
    wires(BindVirq(virq=Virq.TIMER))
    wires(Reset())
    port = wires(BindVirq(virq=Virq.TIMER)).port
    wires.machine.settle()
    assert wires.refuses(BindVirq(virq=Virq.TIMER)) == "EEXIST"
    assert wires.status(EVIL, port)[0] == PortState.virq


def test_e5_a_handle_closed_and_a_domain_destroyed_amid_a_reset_leave_nothing(wires: Wires) -> None:
    handle = wires(OpenHandle()).handle
    for _ in range(200):
        port = wires(AllocUnbound(remote_dom=PEER), EVIL, handle).port
        wires(BindInterdomain(remote_dom=EVIL, remote_port=port), PEER)
    wires(Reset())
    wires(AllocUnbound(remote_dom=PEER), EVIL, handle)
    wires(CloseHandle(handle=handle))
    wires(DestroyDomain(dom=EVIL), 0)
    wires.machine.settle()
    assert not wires.state.dying
    assert len(wires.lines.events) == 200
    assert {p.state for p in wires.state.domains[PEER].ports.values()} == {PortState.unbound}


def test_e7_a_bind_raises_an_event_without_work_and_only_at_the_binder(wires: Wires) -> None:
    port, peer = wires.pair()
    assert (wires.heard(EVIL, port), wires.heard(PEER, peer)) == (0, 1)


def test_e7_a_notify_lost_on_an_unbound_port_is_made_up_for_by_the_bind(wires: Wires) -> None:
    port = wires(AllocUnbound(remote_dom=PEER)).port
    for _ in range(5):
        wires(Send(port=port))
    peer = wires(BindInterdomain(remote_dom=EVIL, remote_port=port), PEER).local_port
    assert wires.heard(PEER, peer) == 1


def test_e8_a_successor_in_the_number_may_bind_what_was_meant_for_the_dead(wires: Wires) -> None:
    port = wires(AllocUnbound(remote_dom=PEER)).port
    wires(DestroyDomain(dom=PEER), 0)
    assert wires.refuses(BindInterdomain(remote_dom=EVIL, remote_port=port), OTHER) == "EINVAL"
    wires(CreateDomain(dom=PEER, frames=4), 0)
    wires(BindInterdomain(remote_dom=EVIL, remote_port=port), PEER)
    assert wires.status(EVIL, port) == (PortState.interdomain, PEER, 1)


def test_e8_a_successor_hears_nothing_meant_for_the_dead(wires: Wires) -> None:
    port, peer = wires.pair()
    wires(DestroyDomain(dom=PEER), 0)
    wires(CreateDomain(dom=PEER, frames=4), 0)
    assert wires(AllocUnbound(remote_dom=OTHER), PEER).port == peer
    wires(Send(port=port))
    assert wires.heard(PEER, peer) == 0


def test_e8_a_dead_domains_ports_cannot_be_bound(wires: Wires) -> None:
    port = wires(AllocUnbound(remote_dom=PEER)).port
    wires(DestroyDomain(dom=EVIL), 0)
    assert wires.refuses(BindInterdomain(remote_dom=EVIL, remote_port=port), PEER) == "ESRCH"
    wires(CreateDomain(dom=EVIL, frames=4), 0)
    assert wires.refuses(BindInterdomain(remote_dom=EVIL, remote_port=port), PEER) == "EINVAL"


def test_e8_a_death_still_being_reaped_does_not_disturb_the_successors_ports(wires: Wires) -> None:
    wires.fill()
    wires(DestroyDomain(dom=EVIL), 0)
    assert wires.state.closing
    wires(CreateDomain(dom=EVIL, frames=4), 0)
    port, peer = wires.pair()
    wires.machine.settle()
    assert wires.status(EVIL, port) == (PortState.interdomain, PEER, peer)
    wires(Send(port=peer), PEER)
    assert wires.heard(EVIL, port) == 1
