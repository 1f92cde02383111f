"""The one table of hypercalls.

A row says everything about a call: its name and number, the request with its fields and bytes, who may make it, what
carries it out and how it can fail. The typed call, the binary form, the text of `ctl`, the trace line and the
reference are all made from the row.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from functools import partial
from typing import Any

from xenfs.abi import event_channel as ec
from xenfs.abi import grant_table as gt
from xenfs.abi import xenfs_op as op
from xenfs.abi.event_channel import EvtchnOp
from xenfs.abi.grant_table import GntTabOp
from xenfs.abi.hypercall import EVENT_CHANNEL_OP, GRANT_TABLE_OP, MEMORY_OP, XENFS_OP, op_number
from xenfs.abi.memory import MemOp
from xenfs.abi.wire import Wire
from xenfs.abi.xenfs_op import XenfsOp
from xenfs.hypervisor import copy, events, flip, frames, grants, lives
from xenfs.hypervisor import errors as e
from xenfs.hypervisor.errors import HypercallError
from xenfs.hypervisor.state import Caller, State

Results = dict[str, int]
Handler = Callable[[State, Caller, Any], Results]


class Access(Enum):
    """Who may make a call."""

    GUEST = "any domain"
    CONTROL = "domain 0"
    WORLD = "the filesystem"


@dataclass(frozen=True, slots=True)
class Hypercall:
    """One row. `takes` and `gives` name the request's fields by direction; `blank` are results that say nothing,
    `places` where results stand among the fields."""

    name: str
    number: int
    request: type[Wire]
    handler: Handler
    errors: tuple[type[HypercallError], ...]
    access: Access = Access.GUEST
    takes: tuple[str, ...] = field(init=False)
    gives: tuple[str, ...] = field(init=False)
    blank: dict[str, int] = field(init=False, compare=False, repr=False)
    places: tuple[tuple[int, str], ...] = field(init=False, compare=False, repr=False)

    @property
    def doc(self) -> str:
        """What the call does: the first paragraph of the request's docstring."""
        return (inspect.getdoc(self.request) or "").split("\n\n", 1)[0].replace("\n", " ")

    @property
    def has_status(self) -> bool:
        """Whether each request carries a GNTST status."""
        return self.number >> 8 == GRANT_TABLE_OP and "status" in self.gives

    def __post_init__(self) -> None:
        fields = tuple(self.request.layout)
        set_once = partial(object.__setattr__, self)
        set_once("takes", tuple(f.name for f in fields if not f.out and not f.name.startswith("pad")))
        set_once("gives", tuple(f.name for f in fields if f.out))
        set_once("blank", dict.fromkeys(self.gives, 0))
        set_once("places", tuple((at, f.name) for at, f in enumerate(fields) if f.out))


_TARGET = (e.NoSuchDomain, e.NotPermitted)
_MAKE_PORT = (e.NoFreePort,)


def _event(command: EvtchnOp, request: type[Wire], handler: Handler, *errors: type[HypercallError]) -> Hypercall:
    return Hypercall(command.name, op_number(EVENT_CHANNEL_OP, command), request, handler, errors)


def _grant(command: GntTabOp, request: type[Wire], handler: Handler, *errors: type[HypercallError]) -> Hypercall:
    world = command in (GntTabOp.map_grant_ref, GntTabOp.unmap_grant_ref)
    access = Access.WORLD if world else Access.GUEST
    return Hypercall(command.name, op_number(GRANT_TABLE_OP, command), request, handler, errors, access)


def _memory(command: MemOp, request: type[Wire], handler: Handler, *errors: type[HypercallError]) -> Hypercall:
    return Hypercall(command.name, op_number(MEMORY_OP, command), request, handler, errors)


def _own(
    command: XenfsOp,
    request: type[Wire],
    handler: Handler,
    *errors: type[HypercallError],
    access: Access = Access.GUEST,
) -> Hypercall:
    return Hypercall(command.name, op_number(XENFS_OP, command), request, handler, errors, access)


_CREATE = (e.DomainExists, e.NameTaken, e.NoFrame, e.Invalid, e.TooManyHandles)
_MAP = (e.BadGrantRef, e.NoSuchDomain, e.NoFreeMapping, e.GrantRefused)
_MOVE = (e.NotOwned, e.FrameInUse)
_COPY = (e.Invalid, e.NotPermitted, e.NoSuchDomain, e.BadCopyRange, e.NotOwned, e.BadGrantRef, e.GrantRefused)
_VIRQ = (e.Invalid, e.NoSuchVcpu, e.VirqElsewhere, e.VirqTaken, *_MAKE_PORT)
_SWAP = (e.BadGrantRef, e.GrantInUse)

ROWS: tuple[Hypercall, ...] = (
    _event(EvtchnOp.alloc_unbound, ec.AllocUnbound, events.alloc_unbound, *_TARGET, *_MAKE_PORT),
    _event(
        EvtchnOp.bind_interdomain, ec.BindInterdomain, events.bind_interdomain, e.NoSuchDomain, e.BadPort, *_MAKE_PORT
    ),
    _event(EvtchnOp.bind_virq, ec.BindVirq, events.bind_virq, *_VIRQ),
    _event(EvtchnOp.bind_pirq, ec.BindPirq, events.bind_pirq, e.Invalid),
    _event(EvtchnOp.bind_ipi, ec.BindIpi, events.bind_ipi, e.NoSuchVcpu, *_MAKE_PORT),
    _event(EvtchnOp.bind_vcpu, ec.BindVcpu, events.bind_vcpu, e.BadPort, e.NoSuchVcpu),
    _event(EvtchnOp.close, ec.Close, events.close, e.BadPort),
    _event(EvtchnOp.send, ec.Send, events.send, e.BadPort),
    _event(EvtchnOp.status, ec.Status, events.status, *_TARGET, e.BadPort),
    _event(EvtchnOp.unmask, ec.Unmask, events.unmask, e.BadPort),
    _event(EvtchnOp.reset, ec.Reset, lives.reset, *_TARGET),
    _grant(GntTabOp.map_grant_ref, gt.MapGrantRef, grants.map_grant_ref, *_MAP),
    _grant(GntTabOp.unmap_grant_ref, gt.UnmapGrantRef, grants.unmap_grant_ref, e.BadMapping),
    _grant(
        GntTabOp.transfer,
        gt.Transfer,
        flip.transfer,
        *_MOVE,
        e.NoSuchDomain,
        e.NoHeadroom,
        e.GrantRefused,
    ),
    _grant(GntTabOp.copy, gt.Copy, copy.copy, *_COPY),
    _grant(GntTabOp.query_size, gt.QuerySize, grants.query_size, *_TARGET),
    _grant(GntTabOp.set_version, gt.SetVersion, grants.set_version, e.UnknownOperation, e.Invalid),
    _grant(GntTabOp.get_version, gt.GetVersion, grants.get_version, *_TARGET),
    _grant(GntTabOp.swap_grant_ref, gt.SwapGrantRef, grants.swap_grant_ref, *_SWAP),
    _memory(MemOp.increase_reservation, op.IncreaseReservation, frames.increase_reservation, e.NoFrame),
    _memory(MemOp.decrease_reservation, op.DecreaseReservation, frames.decrease_reservation, *_MOVE),
    _memory(MemOp.current_reservation, op.CurrentReservation, frames.current_reservation, *_TARGET),
    _memory(MemOp.maximum_reservation, op.MaximumReservation, frames.maximum_reservation, *_TARGET),
    _own(XenfsOp.alloc_frame, op.AllocFrame, frames.alloc_frame, e.NoFrame),
    _own(XenfsOp.free_frame, op.FreeFrame, frames.free_frame, *_MOVE, e.Invalid),
    _own(XenfsOp.grant_access, op.GrantAccess, grants.grant_access, e.NotOwned, e.Invalid, e.NoFreeGrant),
    _own(XenfsOp.end_access, op.EndAccess, grants.end_access, e.BadGrantRef, e.GrantRefused, e.GrantInUse, e.Invalid),
    _own(XenfsOp.accept_transfer, op.AcceptTransfer, flip.accept_transfer, e.NoFreeGrant),
    _own(XenfsOp.end_transfer, op.EndTransfer, flip.end_transfer, e.BadGrantRef, e.GrantRefused),
    _own(XenfsOp.name_ring, op.NameRing, frames.name_ring, e.Invalid, e.NameTaken, e.NotOwned, e.FrameInUse),
    _own(XenfsOp.unname_ring, op.UnnameRing, frames.unname_ring, e.NoSuchName),
    _own(XenfsOp.set_memory, op.SetMemory, frames.set_memory, *_TARGET, e.NoFrame, e.FrameInUse),
    _own(XenfsOp.shutdown_domain, op.ShutdownDomain, lives.shutdown_domain, *_TARGET, e.Invalid),
    _own(XenfsOp.rename_domain, op.RenameDomain, lives.rename_domain, *_TARGET, e.Invalid, e.NameTaken),
    _own(XenfsOp.create_domain, op.CreateDomain, lives.create_domain, *_CREATE, access=Access.CONTROL),
    _own(XenfsOp.destroy_domain, op.DestroyDomain, lives.destroy_domain, *_TARGET, access=Access.CONTROL),
    _own(XenfsOp.set_max_memory, op.SetMaxMemory, frames.set_max_memory, *_TARGET, e.Invalid, access=Access.CONTROL),
    _own(XenfsOp.raise_virq, op.RaiseVirq, events.raise_virq, *_TARGET, e.Invalid, access=Access.CONTROL),
    _own(XenfsOp.open_handle, op.OpenHandle, lives.open_handle, *_TARGET, e.TooManyHandles, access=Access.WORLD),
    _own(XenfsOp.close_handle, op.CloseHandle, lives.close_handle, e.NoSuchHandle, access=Access.WORLD),
    _own(XenfsOp.release_mapping, op.ReleaseMapping, grants.release_mapping, e.BadMapping, access=Access.WORLD),
    _own(XenfsOp.keep_port, op.KeepPort, events.keep_port, e.BadPort, access=Access.WORLD),
    _own(
        XenfsOp.reach_grant,
        op.ReachGrant,
        grants.reach_grant,
        e.BadGrantRef,
        e.NoSuchDomain,
        e.GrantRefused,
        e.Invalid,
        access=Access.WORLD,
    ),
    _own(XenfsOp.reap, op.Reap, lives.reap, access=Access.WORLD),
)


BY_NAME = {row.name: row for row in ROWS}
BY_NUMBER = {row.number: row for row in ROWS}
BY_REQUEST = {row.request: row for row in ROWS}
