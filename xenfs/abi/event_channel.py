"""event_channel_op (xen/event_channel.h): operations, port states."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Annotated

from xenfs.abi.wire import OUT, U32, CName, Scalar, Wire, Words, wire
from xenfs.abi.xen import DomId, VirqNumber

_HEADER = "xen/event_channel.h"
OutPort = Annotated[U32, OUT]


class PortState(IntEnum):
    """EVTCHNSTAT_*."""

    closed = 0
    unbound = 1
    interdomain = 2
    pirq = 3
    virq = 4
    ipi = 5


class EvtchnOp(IntEnum):
    """EVTCHNOP_*."""

    bind_interdomain = 0
    bind_virq = 1
    bind_pirq = 2
    close = 3
    send = 4
    status = 5
    alloc_unbound = 6
    bind_ipi = 7
    bind_vcpu = 8
    unmask = 9
    reset = 10
    init_control = 11
    expand_array = 12
    set_priority = 13


@wire("struct evtchn_alloc_unbound", 8, header=_HEADER)
@dataclass(frozen=True, slots=True, kw_only=True)
class AllocUnbound(Wire):
    """Allocate a port of `dom` that `remote_dom` may bind to; `remote_dom` need not exist."""

    dom: DomId = 0x7FF0
    remote_dom: DomId
    port: OutPort = 0


@wire("struct evtchn_bind_interdomain", 12, header=_HEADER)
@dataclass(frozen=True, slots=True, kw_only=True)
class BindInterdomain(Wire):
    """Bind a fresh port here to an unbound one there; raises an event on the port here at once."""

    remote_dom: DomId
    remote_port: U32
    local_port: OutPort = 0


@wire("struct evtchn_bind_virq", 12, header=_HEADER)
@dataclass(frozen=True, slots=True, kw_only=True)
class BindVirq(Wire):
    """Bind a virtual interrupt to a fresh port."""

    virq: VirqNumber
    vcpu: U32 = 0
    port: OutPort = 0


@wire("struct evtchn_bind_pirq", 12, header=_HEADER)
@dataclass(frozen=True, slots=True, kw_only=True)
class BindPirq(Wire):
    """Bind a physical interrupt line; this machine has none."""

    pirq: U32
    flags: U32 = 0
    port: OutPort = 0


@wire("struct evtchn_bind_ipi", 8, header=_HEADER)
@dataclass(frozen=True, slots=True, kw_only=True)
class BindIpi(Wire):
    """Allocate a port that its own domain signals to itself."""

    vcpu: U32 = 0
    port: OutPort = 0


@wire("struct evtchn_close", 4, header=_HEADER)
@dataclass(frozen=True, slots=True, kw_only=True)
class Close(Wire):
    """Free a port; an interdomain peer becomes unbound, waiting for this domain, and is told nothing."""

    port: U32


@wire("struct evtchn_send", 4, header=_HEADER)
@dataclass(frozen=True, slots=True, kw_only=True)
class Send(Wire):
    """Raise the peer's event; on an unbound port nothing happens."""

    port: U32


@wire("struct evtchn_status", 24, header=_HEADER)
@dataclass(frozen=True, slots=True, kw_only=True)
class Status(Wire):
    """What a port is. `remote_dom` and `remote_port` hold the union's words: the interrupt line for a virq."""

    dom: DomId = 0x7FF0
    port: U32
    status: Annotated[int, Scalar("I"), OUT, Words({s.name: int(s) for s in PortState})] = 0
    vcpu: Annotated[U32, OUT] = 0
    remote_dom: Annotated[int, Scalar("H"), OUT, CName("u.interdomain.dom")] = 0
    remote_port: Annotated[U32, OUT, CName("u.interdomain.port")] = 0


@wire("struct evtchn_bind_vcpu", 8, header=_HEADER)
@dataclass(frozen=True, slots=True, kw_only=True)
class BindVcpu(Wire):
    """Say which vcpu a port's events go to."""

    port: U32
    vcpu: U32


@wire("struct evtchn_unmask", 4, header=_HEADER)
@dataclass(frozen=True, slots=True, kw_only=True)
class Unmask(Wire):
    """Ask for a port's events again."""

    port: U32


@wire("struct evtchn_reset", 2, header=_HEADER)
@dataclass(frozen=True, slots=True, kw_only=True)
class Reset(Wire):
    """Close every port of a domain."""

    dom: DomId = 0x7FF0
