"""Event channels: ports, their states, and who hears whom.

A port holds on to its peer itself, not to the peer's number: when the peer closes, the link is gone, and whoever gets
the number next is a stranger. A pending event is not state of the machine: it is on the port's line, where the kernel
(or a test) keeps it, since drivers signal each other without asking the machine.
"""

from __future__ import annotations

from xenfs.abi import event_channel as ec
from xenfs.abi import xenfs_op as op
from xenfs.abi.event_channel import PortState
from xenfs.abi.xen import DOMID_SELF, NR_VIRQS, PER_DOMAIN_VIRQS, PER_VCPU_VIRQS, Virq
from xenfs.hypervisor import frames
from xenfs.hypervisor.errors import BadPort, Invalid, NoFreePort, NoSuchVcpu, VirqElsewhere, VirqTaken
from xenfs.hypervisor.state import Caller, Domain, Handle, Port, State


def lookup(domain: Domain, number: int) -> Port:
    """The allocated port of that number. Raises BadPort."""
    port = domain.ports.get(number)
    if port is None or port.handle.closed:
        raise BadPort(f"port {number} of {domain}", "it is not allocated")
    return port


def _open(state: State, domain: Domain, handle: Handle, kind: PortState, peer: Port | None = None) -> Port:
    number = domain.port_numbers.take()
    if number is None:
        raise NoFreePort(f"{domain}", "no free port", domain.port_numbers.in_use, domain.limits.ports)
    state.last_line += 1
    port = domain.ports[number] = Port(number, state.last_line, domain, handle, kind)
    handle.owns[port] = None
    state.lines.opened(port.line, peer.line if peer else 0)
    return port


def _vcpu(domain: Domain, vcpu: int) -> None:
    if vcpu >= domain.vcpus:
        raise NoSuchVcpu(f"vcpu {vcpu} of {domain}", "there is no such vcpu", vcpu, domain.vcpus)


def alloc_unbound(state: State, caller: Caller, request: ec.AllocUnbound) -> dict[str, int]:
    """A port that waits for a domain, which need not exist."""
    domain = frames.target(state, caller, request.dom)
    handle = caller.handle if domain is caller.domain else domain.root
    port = _open(state, domain, handle, PortState.unbound)
    port.remote_domid = caller.domain.domid if request.remote_dom == DOMID_SELF else request.remote_dom
    return {"port": port.number}


def bind_interdomain(state: State, caller: Caller, request: ec.BindInterdomain) -> dict[str, int]:
    """Pair with a port that waits for the caller."""
    domain = caller.domain
    remote = state.domain(domain.domid if request.remote_dom == DOMID_SELF else request.remote_dom)
    peer = lookup(remote, request.remote_port)
    if peer.state is not PortState.unbound:
        raise BadPort(f"{peer}", f"it is {peer.state.name}, not unbound")
    if peer.remote_domid != domain.domid:
        raise BadPort(f"{peer}", f"it waits for domain {peer.remote_domid}, not {domain.domid}")
    port = _open(state, domain, caller.handle, PortState.interdomain, peer)
    port.peer, port.remote_domid = peer, remote.domid
    peer.peer, peer.state = port, PortState.interdomain
    state.lines.raised(port.line)
    return {"local_port": port.number}


def bind_virq(state: State, caller: Caller, request: ec.BindVirq) -> dict[str, int]:
    """Hear of a virtual interrupt; the machine raises timer and dom_exc, the others stay silent."""
    domain, virq, vcpu = caller.domain, request.virq, request.vcpu
    if virq >= NR_VIRQS:
        raise Invalid(f"virq {virq}", "there is no such virtual interrupt", virq, NR_VIRQS)
    if virq not in PER_VCPU_VIRQS and vcpu:
        raise Invalid(f"virq {virq}", "it is not per vcpu, so it binds on vcpu 0 only")
    _vcpu(domain, vcpu)
    if virq not in PER_VCPU_VIRQS | PER_DOMAIN_VIRQS and domain.domid:
        raise VirqElsewhere(f"virq {virq}", "it is global and belongs to domain 0")
    bound = domain.virqs.get((virq, vcpu))
    if bound is not None and bound.handle.closed:
        release(state, bound)
    if (virq, vcpu) in domain.virqs:
        raise VirqTaken(f"virq {virq} of {domain}", f"port {domain.virqs[virq, vcpu].number} has it")
    port = _open(state, domain, caller.handle, PortState.virq)
    port.virq, port.vcpu = virq, vcpu
    domain.virqs[virq, vcpu] = port
    return {"port": port.number}


def bind_pirq(_state: State, _caller: Caller, request: ec.BindPirq) -> dict[str, int]:
    """Refused: the machine has no physical interrupt lines."""
    raise Invalid(f"pirq {request.pirq}", "this machine has no physical interrupts", request.pirq, 0)


def bind_ipi(state: State, caller: Caller, request: ec.BindIpi) -> dict[str, int]:
    """A port to oneself."""
    _vcpu(caller.domain, request.vcpu)
    port = _open(state, caller.domain, caller.handle, PortState.ipi)
    port.vcpu = request.vcpu
    return {"port": port.number}


def bind_vcpu(_state: State, caller: Caller, request: ec.BindVcpu) -> dict[str, int]:
    """Move a port's events to another vcpu."""
    _vcpu(caller.domain, request.vcpu)
    port = lookup(caller.domain, request.port)
    if port.state is PortState.ipi or (port.state is PortState.virq and port.virq in PER_VCPU_VIRQS):
        raise BadPort(f"{port}", "its events belong to one vcpu for good")
    port.vcpu = request.vcpu
    return {}


def send(state: State, caller: Caller, request: ec.Send) -> dict[str, int]:
    """Raise the peer's event, or one's own on an ipi; silently nothing while unbound."""
    port = lookup(caller.domain, request.port)
    if port.state is PortState.interdomain and port.peer is not None:
        state.lines.raised(port.peer.line)
    elif port.state is PortState.ipi:
        state.lines.raised(port.line)
    elif port.state is not PortState.unbound:
        raise BadPort(f"{port}", f"it is a {port.state.name}, which the machine raises")
    return {}


def status(state: State, caller: Caller, request: ec.Status) -> dict[str, int]:
    """What a port is; a free number is closed."""
    domain = frames.target(state, caller, request.dom)
    if not 1 <= request.port <= domain.limits.ports:
        raise BadPort(f"port {request.port} of {domain}", "there is no such number", request.port, domain.limits.ports)
    port = domain.ports.get(request.port)
    if port is None or port.handle.closed:
        return {"status": PortState.closed}
    answer = {"status": int(port.state), "vcpu": port.vcpu}
    if port.state in (PortState.unbound, PortState.interdomain):
        answer["remote_dom"] = port.remote_domid
        answer["remote_port"] = port.peer.number if port.peer else 0
    elif port.state is PortState.virq:
        # evtchn_status.u: the interrupt's number lies where the remote domain would
        answer["remote_dom"] = port.virq
    return answer


def unmask(_state: State, caller: Caller, request: ec.Unmask) -> dict[str, int]:
    """Check the port: lines are never masked here, dev/evtchn masks for its own readers."""
    lookup(caller.domain, request.port)
    return {}


def close(_state: State, caller: Caller, request: ec.Close) -> dict[str, int]:
    """Free a port."""
    release(_state, lookup(caller.domain, request.port))
    return {}


def keep_port(_state: State, caller: Caller, request: op.KeepPort) -> dict[str, int]:
    """Have a port belong to its domain instead of a handle."""
    port = lookup(caller.domain, request.port)
    port.handle.owns.pop(port, None)
    port.handle = caller.domain.root
    port.handle.owns[port] = None
    return {}


def release(state: State, port: Port) -> None:
    """Free a port; its peer waits for this domain again and is told nothing."""
    port.handle.owns.pop(port, None)
    domain = port.domain
    if domain.ports.get(port.number) is port:
        del domain.ports[port.number]
        domain.port_numbers.give(port.number)
    if port.peer is not None:
        port.peer.state, port.peer.peer = PortState.unbound, None
    for line in [line for line, bound in domain.virqs.items() if bound is port]:
        del domain.virqs[line]
    port.state, port.peer = PortState.closed, None
    state.lines.closed(port.line)


def raise_virq(state: State, caller: Caller, request: op.RaiseVirq) -> dict[str, int]:
    """Raise a virtual interrupt, if bound."""
    domain = frames.target(state, caller, request.dom)
    if request.virq >= NR_VIRQS:
        raise Invalid(f"virq {request.virq}", "there is no such virtual interrupt", request.virq, NR_VIRQS)
    port = domain.virqs.get((request.virq, request.vcpu))
    if port is not None and not port.handle.closed:
        state.lines.raised(port.line)
    return {}


def domain_exception(state: State) -> None:
    """Tell domain 0 that some domain has stopped or gone (VIRQ_DOM_EXC)."""
    port = state.domains[0].virqs.get((Virq.DOM_EXC, 0))
    if port is not None and not port.handle.closed:
        state.lines.raised(port.line)
