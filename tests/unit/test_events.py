"""Event channels: which port may do what in which state, and who hears it."""

from __future__ import annotations

import errno

import pytest

from tests.models import Model
from xenfs.abi.event_channel import (
    AllocUnbound,
    BindInterdomain,
    BindIpi,
    BindPirq,
    BindVcpu,
    BindVirq,
    Close,
    PortState,
    Reset,
    Send,
    Status,
    Unmask,
)
from xenfs.abi.wire import Wire
from xenfs.abi.xen import DOMID_SELF, NR_VIRQS, Virq
from xenfs.abi.xenfs_op import CloseHandle, DestroyDomain, OpenHandle, RaiseVirq, ShutdownDomain
from xenfs.hypervisor import Config, Limits

PORTS = 5


class Wires(Model):
    """A machine with domains 1, 2 and 3, of five ports each."""

    def __init__(self) -> None:
        super().__init__(Config(frames=64, dom0_frames=16, limits=Limits(ports=PORTS)), frames=4)

    def refuses(self, request: Wire, domid: int = 1) -> str:
        return errno.errorcode[self.refused(request, domid).errno]

    def unbound(self, domid: int = 1, remote: int = 2) -> int:
        return self(AllocUnbound(remote_dom=remote), domid).port

    def bind(self, port: int, domid: int = 2, remote: int = 1) -> int:
        return self(BindInterdomain(remote_dom=remote, remote_port=port), domid).local_port

    def pair(self) -> tuple[int, int]:
        """Ports of domains 1 and 2, bound to each other."""
        port = self.unbound()
        return port, self.bind(port)

    def heard(self, port: int, domid: int = 1) -> int:
        return self.lines.events[self.machine.state.domains[domid].ports[port].line]

    def status(self, port: int, domid: int = 1) -> tuple[str, int, int]:
        answer = self(Status(port=port), domid)
        return PortState(answer.status).name, answer.remote_dom, answer.remote_port


@pytest.fixture
def wires() -> Wires:
    return Wires()


def test_ports_begin_at_1_and_come_lowest_first(wires: Wires) -> None:
    assert [wires.unbound() for _ in range(3)] == [1, 2, 3]
    wires(Close(port=2))
    assert wires.unbound() == 2


def test_all_ports_taken_is_enospc_for_every_kind(wires: Wires) -> None:
    for _ in range(PORTS):
        wires.unbound()
    wires.unbound(2, 1)
    for request in (
        AllocUnbound(remote_dom=2),
        BindInterdomain(remote_dom=2, remote_port=1),
        BindVirq(virq=Virq.TIMER),
        BindIpi(),
    ):
        assert wires.refuses(request) == "ENOSPC"


def test_each_domain_has_its_own_ports(wires: Wires) -> None:
    for _ in range(PORTS):
        wires.unbound()
    assert wires.unbound(2) == 1


@pytest.mark.parametrize("remote", [0, 2, 9, 0xFFFF])
def test_a_port_may_wait_for_any_domain_there_or_not(wires: Wires, remote: int) -> None:
    assert wires.status(wires.unbound(remote=remote)) == ("unbound", remote, 0)


def test_domain_0_allocates_for_others_and_nobody_else_does(wires: Wires) -> None:
    assert wires(AllocUnbound(dom=1, remote_dom=2), 0).port == 1
    assert wires.status(1) == ("unbound", 2, 0)
    assert wires.refuses(AllocUnbound(dom=1, remote_dom=2), 2) == "EPERM"
    assert wires.refuses(AllocUnbound(dom=9, remote_dom=2), 0) == "ESRCH"


def test_binding_pairs_two_ports_and_raises_the_binders(wires: Wires) -> None:
    one, two = wires.pair()
    assert wires.status(one) == ("interdomain", 2, two)
    assert wires.status(two, 2) == ("interdomain", 1, one)
    assert (wires.heard(one), wires.heard(two, 2)) == (0, 1)


def test_a_domain_binds_to_itself(wires: Wires) -> None:
    one = wires.unbound(remote=DOMID_SELF)
    two = wires(BindInterdomain(remote_dom=DOMID_SELF, remote_port=one)).local_port
    wires(Send(port=two))
    assert (wires.heard(one), wires.heard(two)) == (1, 1)
    assert wires.status(one) == ("interdomain", 1, two)


# xen-interfaces.md 5.1 and D.1: what bind_interdomain answers domain 2.
@pytest.mark.parametrize(
    ("dom", "port", "error"),
    [
        (9, 1, "ESRCH"),
        (9, 0xFFFFFFFF, "ESRCH"),
        (1, 0, "EINVAL"),
        (1, 5, "EINVAL"),
        (1, 0xFFFFFFFF, "EINVAL"),
        (1, 1, "EINVAL"),
        (1, 2, "EINVAL"),
        (1, 3, "EINVAL"),
        (2, 1, "EINVAL"),
    ],
    ids=[
        "no domain",
        "no domain, huge",
        "0",
        "free",
        "huge",
        "bound",
        "for another",
        "an ipi",
        "a bound one of its own",
    ],
)
def test_a_bind_is_refused(wires: Wires, dom: int, port: int, error: str) -> None:
    wires.pair()
    wires.unbound(remote=3)
    wires(BindIpi())
    assert wires.refuses(BindInterdomain(remote_dom=dom, remote_port=port), 2) == error


def test_sending_raises_the_peer_and_nobody_else(wires: Wires) -> None:
    one, two = wires.pair()
    wires(Send(port=one))
    wires(Send(port=one))
    assert (wires.heard(one), wires.heard(two, 2)) == (0, 3)
    wires(Send(port=two), 2)
    assert (wires.heard(one), wires.heard(two, 2)) == (1, 3)


def test_sending_while_unbound_does_nothing_and_succeeds(wires: Wires) -> None:
    port = wires.unbound()
    wires(Send(port=port))
    assert wires.heard(port) == 0
    assert wires.heard(wires.bind(port), 2) == 1


def test_an_ipi_raises_itself(wires: Wires) -> None:
    port = wires(BindIpi()).port
    wires(Send(port=port))
    assert wires.heard(port) == 1
    assert wires.status(port)[0] == "ipi"


@pytest.mark.parametrize("request_", [Send, Close, Unmask])
@pytest.mark.parametrize("port", [0, 4, PORTS + 1, 0xFFFFFFFF])
def test_a_port_not_allocated_is_einval(wires: Wires, request_: type[Send], port: int) -> None:
    wires.pair()
    assert wires.refuses(request_(port=port)) == "EINVAL"


def test_the_machine_raises_virqs_not_their_ports(wires: Wires) -> None:
    port = wires(BindVirq(virq=Virq.TIMER)).port
    assert wires.refuses(Send(port=port)) == "EINVAL"
    wires(RaiseVirq(dom=1, virq=Virq.TIMER), 0)
    wires(RaiseVirq(dom=2, virq=Virq.TIMER), 0)
    assert wires.heard(port) == 1


# xen-interfaces.md 1.2, in its order: what comes later in a row is wrong too where it can be.
@pytest.mark.parametrize(
    ("virq", "vcpu", "error"),
    [
        (NR_VIRQS, 1, "EINVAL"),
        (0xFFFFFFFF, 0, "EINVAL"),
        (Virq.DOM_EXC, 1, "EINVAL"),
        (Virq.ARGO, 1, "EINVAL"),
        (Virq.TIMER, 1, "ENOENT"),
        (Virq.DOM_EXC, 0, "EBUSY"),
        (16, 0, "EBUSY"),
        (Virq.TIMER, 0, "EEXIST"),
        (Virq.ARGO, 0, "EEXIST"),
        (Virq.DEBUG, 0, "ENOSPC"),
    ],
)
def test_a_virq_is_refused_in_xens_order(wires: Wires, virq: int, vcpu: int, error: str) -> None:
    wires(BindVirq(virq=Virq.TIMER))
    wires(BindVirq(virq=Virq.ARGO))
    while len(wires.machine.state.domains[1].ports) < PORTS:
        wires.unbound()
    assert wires.refuses(BindVirq(virq=virq, vcpu=vcpu)) == error


def test_a_virq_is_free_again_once_its_port_is_closed(wires: Wires) -> None:
    wires(Close(port=wires(BindVirq(virq=Virq.TIMER)).port))
    port = wires(BindVirq(virq=Virq.TIMER)).port
    assert wires.status(port) == ("virq", Virq.TIMER, 0)


@pytest.mark.parametrize("request_", [ShutdownDomain(dom=1, reason=3), DestroyDomain(dom=1)])
def test_domain_0_hears_that_a_domain_has_stopped(wires: Wires, request_: Wire) -> None:
    port = wires(BindVirq(virq=Virq.DOM_EXC), 0).port
    wires(request_, 0)
    assert wires.heard(port, 0) == 1


def test_there_are_no_pirqs_and_no_second_vcpu(wires: Wires) -> None:
    assert wires.refuses(BindPirq(pirq=1)) == "EINVAL"
    assert wires.refuses(BindIpi(vcpu=1)) == "ENOENT"
    assert wires.refuses(BindVcpu(port=wires.unbound(), vcpu=1)) == "ENOENT"


@pytest.mark.parametrize(
    ("make", "movable"), [(BindIpi(), False), (BindVirq(virq=0), False), (BindVirq(virq=11), True)]
)
def test_events_of_ipis_and_per_vcpu_virqs_stay_on_their_vcpu(wires: Wires, make: BindIpi, movable: bool) -> None:
    request = BindVcpu(port=wires(make).port, vcpu=0)
    assert wires(request) == request if movable else wires.refuses(request) == "EINVAL"


def test_closing_leaves_the_peer_unbound_for_the_closers_domain_and_silent(wires: Wires) -> None:
    one, two = wires.pair()
    wires(Close(port=two), 2)
    assert wires.status(one) == ("unbound", 2, 0)
    assert wires.status(two, 2) == ("closed", 0, 0)
    wires(Send(port=one))
    assert wires.heard(one) == 0
    assert wires.heard(wires.bind(one), 2) == 1


def test_the_closer_may_be_the_one_who_allocated(wires: Wires) -> None:
    one, two = wires.pair()
    wires(Close(port=one))
    assert wires.status(two, 2) == ("unbound", 1, 0)
    assert wires.bind(two, 1, 2) == one


def test_each_allocation_of_a_port_has_a_line_of_its_own(wires: Wires) -> None:
    first = wires.unbound()
    line = wires.machine.state.domains[1].ports[first].line
    wires(Close(port=first))
    assert line not in wires.lines.events
    assert wires.unbound() == first
    assert wires.machine.state.domains[1].ports[first].line > line


def test_closing_a_handle_closes_its_ports_and_no_others(wires: Wires) -> None:
    handle = wires(OpenHandle()).handle
    mine = wires(AllocUnbound(remote_dom=2), 1, handle).port
    other, peer = wires.unbound(), wires.bind(mine)
    wires(CloseHandle(handle=handle))
    assert list(wires.machine.state.domains[1].ports) == [other]
    assert wires.status(peer, 2) == ("unbound", 1, 0)


def test_reset_closes_every_port_and_numbers_begin_anew(wires: Wires) -> None:
    one, two = wires.pair()
    wires(BindVirq(virq=Virq.TIMER))
    wires(Reset())
    wires.machine.settle()
    assert not wires.machine.state.domains[1].ports
    assert wires.status(two, 2) == ("unbound", 1, 0)
    assert wires.unbound() == one
    assert wires(BindVirq(virq=Virq.TIMER)).port == 2
    assert len(wires.lines.events) == 3


def test_only_domain_0_resets_others(wires: Wires) -> None:
    wires.pair()
    assert wires.refuses(Reset(dom=1), 2) == "EPERM"
    wires(Reset(dom=1), 0)
    assert not wires.machine.state.domains[1].ports


@pytest.mark.parametrize("port", [0, PORTS + 1, 0xFFFFFFFF])
def test_the_status_of_no_port_is_einval(wires: Wires, port: int) -> None:
    assert wires.refuses(Status(port=port)) == "EINVAL"


def test_the_status_of_a_free_port_is_closed_and_of_others_for_domain_0(wires: Wires) -> None:
    assert wires.status(PORTS) == ("closed", 0, 0)
    wires.pair()
    assert wires(Status(dom=1, port=1), 0).status == PortState.interdomain
    assert wires.refuses(Status(dom=1, port=1), 2) == "EPERM"


def test_a_virq_no_domain_has_is_not_raised(wires: Wires) -> None:
    wires(RaiseVirq(dom=1, virq=Virq.TIMER), 0)
    assert wires.refuses(RaiseVirq(dom=1, virq=NR_VIRQS), 0) == "EINVAL"
    assert wires.refuses(RaiseVirq(dom=9, virq=0), 0) == "ESRCH"
    assert wires.refuses(RaiseVirq(dom=1, virq=0), 1) == "EPERM"
