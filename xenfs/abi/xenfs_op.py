"""Requests that only xenfs has: what a guest kernel or a toolstack does to its own memory in Xen.

In Xen a guest writes its grant table itself, and ballooning passes arrays of extents by address. Here each is a
request of fixed size, one frame or entry an element, and arrays are batches.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Annotated

from xenfs.abi.wire import OUT, U16, U32, U64, Chars, Scalar, Wire, Words, wire
from xenfs.abi.xen import DOMID_SELF, NO_DOMID, DomId, VirqNumber

NAME_MAX = 64
UUID_MAX = 36
RING_NAME_MAX = 48
DEFAULT_FRAMES = 1024
"""Frames of a domain whose maker names no number: 4 MiB."""


class XenfsOp(IntEnum):
    """Numbers of the requests below, within hypercall 64, which Xen does not use."""

    create_domain = 0
    destroy_domain = 1
    rename_domain = 2
    shutdown_domain = 3
    set_memory = 4
    set_max_memory = 5
    open_handle = 6
    close_handle = 7
    reap = 8
    raise_virq = 9
    release_mapping = 10
    keep_port = 11
    reach_grant = 12
    alloc_frame = 16
    free_frame = 17
    grant_access = 18
    end_access = 19
    accept_transfer = 20
    end_transfer = 21
    name_ring = 22
    unname_ring = 23


class ShutdownReason(IntEnum):
    """SHUTDOWN_* of xen/sched.h."""

    poweroff = 0
    reboot = 1
    suspend = 2
    crash = 3
    watchdog = 4
    soft_reset = 5


@wire("xenfs_create_domain", 112)
@dataclass(frozen=True, slots=True, kw_only=True)
class CreateDomain(Wire):
    """Make a domain with `frames` frames; `dom` any takes the lowest free number."""

    dom: Annotated[int, Scalar("H"), Words({"any": NO_DOMID})] = NO_DOMID
    domid: Annotated[U16, OUT] = 0
    frames: U32 = DEFAULT_FRAMES
    max_frames: U32 = 0
    name: Annotated[str, Chars(NAME_MAX)] = ""
    uuid: Annotated[str, Chars(UUID_MAX)] = ""


@wire("xenfs_destroy_domain", 2)
@dataclass(frozen=True, slots=True, kw_only=True)
class DestroyDomain(Wire):
    """End a domain with all it has; frames that a peer maps wait for the peer."""

    dom: DomId


@wire("xenfs_rename_domain", 66)
@dataclass(frozen=True, slots=True, kw_only=True)
class RenameDomain(Wire):
    """Give a domain another name."""

    dom: DomId = DOMID_SELF
    name: Annotated[str, Chars(NAME_MAX)]


@wire("xenfs_shutdown_domain", 4)
@dataclass(frozen=True, slots=True, kw_only=True)
class ShutdownDomain(Wire):
    """Say that a domain has stopped, and why; raises VIRQ_DOM_EXC in domain 0."""

    dom: DomId = DOMID_SELF
    reason: Annotated[int, Scalar("H"), Words({r.name: int(r) for r in ShutdownReason})] = 0


@wire("xenfs_set_memory", 8)
@dataclass(frozen=True, slots=True, kw_only=True)
class SetMemory(Wire):
    """Balloon a domain to `frames` frames, by its idle ones."""

    dom: DomId = DOMID_SELF
    frames: U32


@wire("xenfs_set_max_memory", 8)
@dataclass(frozen=True, slots=True, kw_only=True)
class SetMaxMemory(Wire):
    """Set the most frames that a domain may own."""

    dom: DomId
    frames: U32


@wire("xenfs_open_handle", 8)
@dataclass(frozen=True, slots=True, kw_only=True)
class OpenHandle(Wire):
    """Begin a handle, which owns what is allocated through it."""

    dom: DomId = DOMID_SELF
    handle: Annotated[U32, OUT] = 0


@wire("xenfs_close_handle", 4)
@dataclass(frozen=True, slots=True, kw_only=True)
class CloseHandle(Wire):
    """End a handle and release what it owns."""

    handle: U32


@wire("xenfs_reap", 8)
@dataclass(frozen=True, slots=True, kw_only=True)
class Reap(Wire):
    """Go on releasing what closed handles and dead domains left, at most `budget` resources;
    `left` handles are still to be finished."""

    budget: U32
    left: Annotated[U32, OUT] = 0


@wire("xenfs_release_mapping", 8)
@dataclass(frozen=True, slots=True, kw_only=True)
class ReleaseMapping(Wire):
    """Unmap by the machine's own number of a mapping, which outlives the domain that mapped."""

    mapping: U64


@wire("xenfs_keep_port", 4)
@dataclass(frozen=True, slots=True, kw_only=True)
class KeepPort(Wire):
    """Let a port outlive the handle through which it was made; it ends with its domain, or when closed."""

    port: U32


@wire("xenfs_reach_grant", 16)
@dataclass(frozen=True, slots=True, kw_only=True)
class ReachGrant(Wire):
    """Find the frame of a grant that lets the caller copy from it, and with `write` into it."""

    dom: DomId
    flags: Annotated[int, Scalar("H"), Words({"write": 1}, bits=True)] = 0
    ref: U32
    frame: Annotated[U64, OUT] = 0


@wire("xenfs_raise_virq", 12)
@dataclass(frozen=True, slots=True, kw_only=True)
class RaiseVirq(Wire):
    """Raise a virtual interrupt in a domain; nothing happens when it is not bound there."""

    dom: DomId
    virq: VirqNumber
    vcpu: U32 = 0


@wire("xenfs_frame", 8)
@dataclass(frozen=True, slots=True, kw_only=True)
class AllocFrame(Wire):
    """Take an idle frame of one's own, zeroed; it belongs to the handle."""

    frame: Annotated[U64, OUT] = 0


@wire("xenfs_free_frame", 16)
@dataclass(frozen=True, slots=True, kw_only=True)
class FreeFrame(Wire):
    """Make a frame idle again: refused while it is in use, or with `defer` as soon as it no longer is."""

    frame: U64
    flags: Annotated[int, Scalar("I"), Words({"defer": 1}, bits=True)] = 0


@wire("xenfs_frame", 8)
@dataclass(frozen=True, slots=True, kw_only=True)
class IncreaseReservation(Wire):
    """Get a frame from the machine, zeroed; it belongs to the handle."""

    frame: Annotated[U64, OUT] = 0


@wire("xenfs_frame", 8)
@dataclass(frozen=True, slots=True, kw_only=True)
class DecreaseReservation(Wire):
    """Give a frame back to the machine."""

    frame: U64


@wire("xenfs_reservation", 8)
@dataclass(frozen=True, slots=True, kw_only=True)
class CurrentReservation(Wire):
    """Frames that a domain owns."""

    dom: DomId = DOMID_SELF
    frames: Annotated[U32, OUT] = 0


@wire("xenfs_reservation", 8)
@dataclass(frozen=True, slots=True, kw_only=True)
class MaximumReservation(Wire):
    """Frames that a domain may own."""

    dom: DomId = DOMID_SELF
    frames: Annotated[U32, OUT] = 0


@wire("xenfs_grant_access", 16)
@dataclass(frozen=True, slots=True, kw_only=True)
class GrantAccess(Wire):
    """Let `dom` map and copy a frame of one's own."""

    frame: U64
    dom: DomId
    flags: Annotated[int, Scalar("H"), Words({"readonly": 4}, bits=True)] = 0
    ref: Annotated[U32, OUT] = 0


@wire("xenfs_end_access", 8)
@dataclass(frozen=True, slots=True, kw_only=True)
class EndAccess(Wire):
    """Revoke a grant: refused while it is mapped, or with `defer` as soon as it no longer is."""

    ref: U32
    flags: Annotated[int, Scalar("I"), Words({"defer": 1}, bits=True)] = 0


@wire("xenfs_accept_transfer", 8)
@dataclass(frozen=True, slots=True, kw_only=True)
class AcceptTransfer(Wire):
    """Let `dom` flip one frame to here."""

    dom: DomId
    ref: Annotated[U32, OUT] = 0


@wire("xenfs_end_transfer", 16)
@dataclass(frozen=True, slots=True, kw_only=True)
class EndTransfer(Wire):
    """Collect the frame that came by an accept_transfer grant, or withdraw the offer when none has (`completed` 0)."""

    ref: U32
    completed: Annotated[U32, OUT] = 0
    frame: Annotated[U64, OUT] = 0


@wire("xenfs_name_ring", 56)
@dataclass(frozen=True, slots=True, kw_only=True)
class NameRing(Wire):
    """Show a frame of one's own under rings/, as `<device>-<n>-<ring>`; it stays in use until unnamed."""

    frame: U64
    name: Annotated[str, Chars(RING_NAME_MAX)]


@wire("xenfs_unname_ring", RING_NAME_MAX)
@dataclass(frozen=True, slots=True, kw_only=True)
class UnnameRing(Wire):
    """Take a name out of rings/."""

    name: Annotated[str, Chars(RING_NAME_MAX)]
