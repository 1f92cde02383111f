"""Beginnings and ends: domains, handles, and the reaper that releases what they leave.

Ending a handle or a domain makes all it has count as gone at once, then releases it last allocated first, at most
`Config.slice` resources in one go. The rest waits in `State.closing` for `reap`, so that a guest with a million grants
cannot hold up the machine by dying (XSA-380).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from xenfs.abi import xenfs_op as op
from xenfs.abi.event_channel import Reset
from xenfs.abi.xen import DOMID_FIRST_RESERVED, NO_DOMID
from xenfs.hypervisor import events, frames, grants
from xenfs.hypervisor.errors import DomainExists, Invalid, NameTaken, NoSuchHandle, NotPermitted, TooManyHandles
from xenfs.hypervisor.numbers import Numbers
from xenfs.hypervisor.state import Caller, Domain, Frame, Grant, Handle, Mapping, Port, Ring, State

RELEASE: dict[type[Any], Callable[[State, Any], None]] = {
    Frame: frames.let_go,
    Grant: grants.end,
    Mapping: grants.leave,
    Port: events.release,
    Ring: frames.forget_ring,
}


def _free_domid(state: State) -> int:
    if not state.domids:
        raise TooManyHandles("machine", "no free domain number", len(state.domains), DOMID_FIRST_RESERVED)
    return state.domids.lowest


def _free_name(state: State, name: str, domid: int) -> str:
    name = name or ("Domain-0" if domid == 0 else f"domain-{domid}")
    if state.names.get(name, domid) != domid:
        raise NameTaken(f"name {name!r}", f"domain {state.names[name]} has it")
    return name


def create_domain(state: State, caller: Caller, request: op.CreateDomain) -> dict[str, int]:
    """Make a domain with its memory, or nothing."""
    del caller
    domid = _free_domid(state) if request.dom == NO_DOMID else request.dom
    if domid >= DOMID_FIRST_RESERVED:
        raise Invalid(f"domain {domid}", "the number is reserved", domid, DOMID_FIRST_RESERVED - 1)
    if request.max_frames > state.config.frames:
        most = f"the machine has {state.config.frames}"
        raise Invalid(f"domain {domid}", f"it cannot grow to {request.max_frames} frames: {most}")
    if domid in state.domains:
        raise DomainExists(f"domain {domid}", f"it exists and is called {state.domains[domid].name}")
    add_domain(state, domid, request)
    return {"domid": domid}


def add_domain(state: State, domid: int, request: op.CreateDomain) -> None:
    """Make a domain of a number that is free."""
    name = _free_name(state, request.name, domid)
    limits = state.config.limits if domid else state.config.dom0_limits
    domain = Domain(domid, name, request.uuid, limits, request.max_frames or request.frames)
    frames.grow(state, domain, request.frames)
    state.domids.discard(domid)
    state.names[name] = domid
    state.domains[domid] = domain


def rename_domain(state: State, caller: Caller, request: op.RenameDomain) -> dict[str, int]:
    """Change a domain's name to one that no other has."""
    domain = frames.target(state, caller, request.dom)
    if not request.name:
        raise Invalid(f"{domain}", "a name must not be empty")
    name = _free_name(state, request.name, domain.domid)
    del state.names[domain.name]
    state.names[name] = domain.domid
    domain.name = name
    return {}


def shutdown_domain(state: State, caller: Caller, request: op.ShutdownDomain) -> dict[str, int]:
    """Note why a domain has stopped; it keeps everything until it is destroyed."""
    domain = frames.target(state, caller, request.dom)
    if request.reason not in list(op.ShutdownReason):
        raise Invalid(f"shutdown reason {request.reason}", "there is no such reason")
    domain.state = op.ShutdownReason(request.reason).name
    events.domain_exception(state)
    return {}


def destroy_domain(state: State, caller: Caller, request: op.DestroyDomain) -> dict[str, int]:
    """End a domain: its number and name are free at once, its frames as soon as no peer maps them."""
    domain = frames.target(state, caller, request.dom)
    if domain.domid == 0:
        raise NotPermitted("domain 0", "it is the machine's own and ends with it")
    del state.domains[domain.domid], state.names[domain.name]
    state.domids.add(domain.domid, domain.domid + 1)
    domain.state = "dying"
    for handle in list(domain.handles.values()):
        _end(state, handle)
    domain.root.closed = True
    state.closing.append(domain.root)
    state.dying.append(domain)
    reap_slice(state, state.config.slice)
    events.domain_exception(state)
    return {}


def open_handle(state: State, caller: Caller, request: op.OpenHandle) -> dict[str, int]:
    """Begin a handle of a domain."""
    domain = frames.target(state, caller, request.dom)
    if len(domain.handles) >= domain.limits.handles:
        raise TooManyHandles(f"{domain}", "no more handles", len(domain.handles), domain.limits.handles)
    state.last_handle += 1
    handle = Handle(state.last_handle, domain)
    state.handles[handle.number] = domain.handles[handle.number] = handle
    return {"handle": handle.number}


def close_handle(state: State, caller: Caller, request: op.CloseHandle) -> dict[str, int]:
    """End a handle."""
    handle = state.handles.get(request.handle)
    if handle is None or (handle.domain is not caller.domain and caller.domain.domid):
        raise NoSuchHandle(f"handle {request.handle}", "it is not open")
    _end(state, handle)
    reap_slice(state, state.config.slice)
    return {}


def _end(state: State, handle: Handle) -> None:
    del state.handles[handle.number], handle.domain.handles[handle.number]
    handle.closed = True
    state.closing.append(handle)


def reset(state: State, caller: Caller, request: Reset) -> dict[str, int]:
    """Take all ports from a domain at once; releasing them goes on in slices, as Xen's preemptible reset does."""
    domain = frames.target(state, caller, request.dom)
    gone = Handle(-1, domain, closed=True)
    for port in domain.ports.values():
        port.handle.owns.pop(port, None)
        port.handle = gone
        gone.owns[port] = None
    domain.ports, domain.virqs = {}, {}
    domain.port_numbers = Numbers(1, domain.limits.ports)
    state.closing.append(gone)
    reap_slice(state, state.config.slice)
    return {}


def reap(state: State, _caller: Caller, request: op.Reap) -> dict[str, int]:
    """Release more of what is waiting."""
    reap_slice(state, request.budget)
    return {"left": len(state.closing)}


def reap_slice(state: State, budget: int) -> None:
    """Release at most `budget` resources, first closed first; an empty handle costs nothing."""
    while state.closing:
        handle = state.closing[0]
        while handle.owns:
            if budget <= 0:
                return
            budget -= 1
            resource, _ = handle.owns.popitem()
            RELEASE[type(resource)](state, resource)
        domain = handle.domain
        if handle is domain.root:
            while domain.idle:
                if budget <= 0:
                    return
                budget -= 1
                frames.shrink_run(state, domain, len(domain.idle))
            domain.released = True
            frames.forget_if_empty(state, domain)
        elif domain.state != "dying":
            frames.settle_balance(state, handle)
        state.closing.popleft()
