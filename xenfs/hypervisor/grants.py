"""Grants: entries of a domain's table, and the mappings that peers have of them.

An entry is in use from grant_access to end_access. A peer's mapping pins it: end_access is then refused, or deferred.
A deferred end revokes at once (nothing more can be mapped) but keeps the entry, its number and its frame until the
last mapping goes. A mapping holds on to the entry itself, not to its number, so that it stays right when the granter
dies and another domain gets its number.
"""

from __future__ import annotations

from xenfs.abi import grant_table as gt
from xenfs.abi import xenfs_op as op
from xenfs.abi.grant_table import GntMap, Gtf
from xenfs.abi.xen import DOMID_SELF
from xenfs.hypervisor import frames
from xenfs.hypervisor.errors import (
    BadGrantRef,
    BadMapping,
    GrantInUse,
    GrantRefused,
    Invalid,
    NoFreeGrant,
    NoFreeMapping,
    UnknownOperation,
)
from xenfs.hypervisor.state import PIN_MAX, Caller, Domain, Grant, Mapping, State

ENTRIES_PER_FRAME = 512


def _grantee(caller: Caller, domid: int) -> int:
    return caller.domain.domid if domid == DOMID_SELF else domid


def new(caller: Caller, grantee: int, type_: Gtf, *, readonly: bool = False) -> Grant:
    """Take an entry for the caller. Raises NoFreeGrant."""
    domain = caller.domain
    ref = domain.refs.take()
    if ref is None:
        raise NoFreeGrant(f"{domain}", "no free grant", domain.refs.in_use, domain.limits.grants)
    grant = Grant(domain, ref, _grantee(caller, grantee), caller.handle, type_, readonly)
    domain.grants[ref] = grant
    caller.handle.owns[grant] = None
    return grant


def lookup(domain: Domain, ref: int) -> Grant:
    """The entry of that number. Raises BadGrantRef."""
    grant = domain.grants.get(ref)
    if grant is None:
        raise BadGrantRef(f"grant {ref} of {domain}", "there is no such grant")
    return grant


def in_table(domain: Domain, ref: int) -> None:
    """Raise BadGrantRef beyond the table."""
    size = domain.refs.first + domain.limits.grants
    if ref >= size:
        raise BadGrantRef(f"grant {ref} of {domain}", "beyond the end of the table", ref, size)


def permitted(granter: Domain, ref: int, grantee: Domain) -> Grant:
    """The entry, if it lets `grantee` at a frame now. Raises BadGrantRef beyond the table, else GrantRefused."""
    in_table(granter, ref)
    where = f"grant {ref} of {granter}"
    grant = granter.grants.get(ref)
    if grant is None or grant.ending or grant.handle.closed:
        raise GrantRefused(where, "the entry is not in use")
    if grant.type is not Gtf.permit_access:
        raise GrantRefused(where, "it accepts a transfer, it grants no access")
    if grant.grantee != grantee.domid:
        raise GrantRefused(where, f"it is not for domain {grantee.domid}")
    return grant


def writable(grant: Grant) -> None:
    """Raise GrantRefused when the entry allows reading only."""
    if grant.readonly:
        raise GrantRefused(f"{grant}", "it is read-only")


def free(state: State, grant: Grant) -> None:
    """Take an entry that nobody maps out of the table."""
    grant.handle.owns.pop(grant, None)
    domain = grant.domain
    del domain.grants[grant.ref]
    domain.refs.give(grant.ref)
    if grant.type is Gtf.accept_transfer:
        domain.in_flight -= grant.frame is None
        return
    domain.granted -= 1
    assert grant.frame is not None
    grant.frame.grants -= 1
    frames.settle(state, grant.frame)


def grant_access(state: State, caller: Caller, request: op.GrantAccess) -> dict[str, int]:
    """Permit access to a frame."""
    domain = caller.domain
    frames.owned(domain, request.frame)
    if request.flags & ~int(Gtf.readonly):
        raise Invalid(f"flags {request.flags:#x}", f"only readonly ({int(Gtf.readonly)}) is allowed")
    grant = new(caller, request.dom, Gtf.permit_access, readonly=bool(request.flags))
    grant.frame = frames.busy(state, domain, request.frame)
    grant.frame.grants += 1
    domain.granted += 1
    return {"ref": grant.ref}


def end_access(state: State, caller: Caller, request: op.EndAccess) -> dict[str, int]:
    """Revoke."""
    if request.flags & ~1:
        raise Invalid(f"flags {request.flags:#x}", "only defer (1) is allowed")
    grant = lookup(caller.domain, request.ref)
    if grant.type is not Gtf.permit_access:
        raise GrantRefused(f"{grant}", "it accepts a transfer: use end_transfer")
    if grant.maps and not request.flags & 1:
        raise GrantInUse(f"{grant}", f"domain {grant.grantee} maps it {grant.maps} times")
    end(state, grant)
    return {}


def end(state: State, grant: Grant) -> None:
    """Revoke now, and free the entry now or with the last mapping."""
    if grant.maps:
        grant.ending = True
        grant.handle.owns.pop(grant, None)
    else:
        free(state, grant)


def map_grant_ref(state: State, caller: Caller, request: gt.MapGrantRef) -> dict[str, int]:
    """Map, with Xen's checks in Xen's order."""
    domain = caller.domain
    if not request.flags & (GntMap.host_map | GntMap.device_map):
        raise BadGrantRef(f"flags {request.flags:#x}", "neither host_map nor device_map")
    granter = state.domain(_grantee(caller, request.dom))
    if domain.map_numbers.in_use >= domain.limits.maps:
        raise NoFreeMapping(f"{domain}", "no free mapping", domain.map_numbers.in_use, domain.limits.maps)
    grant = permitted(granter, request.ref, domain)
    readonly = bool(request.flags & GntMap.readonly)
    if not readonly:
        writable(grant)
    pins = grant.readers if readonly else grant.writers
    if pins >= PIN_MAX:
        raise GrantRefused(f"{grant}", "no more mappings of this kind", pins, PIN_MAX)
    number = domain.map_numbers.take()
    assert number is not None
    assert grant.frame is not None
    state.last_mapping += 1
    mapping = Mapping(number, state.last_mapping, domain, caller.handle, grant, grant.frame, readonly)
    domain.maps[number] = state.mappings[mapping.serial] = mapping
    caller.handle.owns[mapping] = None
    pin(grant, readonly, 1)
    grant.frame.maps += 1
    return {"handle": number}


def pin(grant: Grant, readonly: bool, by: int) -> None:
    """Count a mapping in or out."""
    if readonly:
        grant.readers += by
    else:
        grant.writers += by


def unmap_grant_ref(state: State, caller: Caller, request: gt.UnmapGrantRef) -> dict[str, int]:
    """Unmap."""
    mapping = caller.domain.maps.get(request.handle)
    if mapping is None:
        raise BadMapping(f"mapping {request.handle} of {caller.domain}", "there is no such mapping")
    unmap(state, mapping)
    return {}


def release_mapping(state: State, _caller: Caller, request: op.ReleaseMapping) -> dict[str, int]:
    """Unmap for a process whose domain may be gone."""
    mapping = state.mappings.get(request.mapping)
    if mapping is None:
        raise BadMapping(f"mapping {request.mapping} of the machine", "there is no such mapping")
    unmap(state, mapping)
    return {}


def leave(state: State, mapping: Mapping) -> None:
    """Unmap what a handle leaves, unless its domain has died and a process of it may still have the page."""
    mapping.handle.owns.pop(mapping, None)
    if not (state.config.lingering_maps and mapping.domain.state == "dying"):
        unmap(state, mapping)


def unmap(state: State, mapping: Mapping) -> None:
    """End a mapping; the last one of an entry given up frees it, and the frame with it when its owner is gone."""
    mapping.handle.owns.pop(mapping, None)
    del mapping.domain.maps[mapping.number], state.mappings[mapping.serial]
    mapping.domain.map_numbers.give(mapping.number)
    grant = mapping.grant
    pin(grant, mapping.readonly, -1)
    mapping.frame.maps -= 1
    frames.forget_if_empty(state, mapping.domain)
    if grant.ending and not grant.maps:
        free(state, grant)


def reach_grant(state: State, caller: Caller, request: op.ReachGrant) -> dict[str, int]:
    """The frame behind a grant, as a copy checks it."""
    if request.flags & ~1:
        raise Invalid(f"flags {request.flags:#x}", "only write (1) is allowed")
    grant = permitted(state.domain(_grantee(caller, request.dom)), request.ref, caller.domain)
    if request.flags:
        writable(grant)
    assert grant.frame is not None
    return {"frame": grant.frame.number}


def query_size(state: State, caller: Caller, request: gt.QuerySize) -> dict[str, int]:
    """How large the table is, by what is in use; only one's own, or any for domain 0."""
    domain = frames.target(state, caller, request.dom)
    highest = max(domain.grants, default=0)
    return {
        "nr_frames": highest // ENTRIES_PER_FRAME + 1,
        "max_nr_frames": -(-(domain.refs.first + domain.limits.grants) // ENTRIES_PER_FRAME),
    }


def set_version(_state: State, _caller: Caller, request: gt.SetVersion) -> dict[str, int]:
    """Only version 1."""
    if request.version == 2:
        raise UnknownOperation("grant table version 2", "this machine has version 1 only")
    if request.version != 1:
        raise Invalid(f"grant table version {request.version}", "there are versions 1 and 2, and this machine has 1")
    return {}


def get_version(state: State, caller: Caller, request: gt.GetVersion) -> dict[str, int]:
    """Version 1, of every domain."""
    frames.target(state, caller, request.dom)
    return {"version": 1}


def swap_grant_ref(_state: State, caller: Caller, request: gt.SwapGrantRef) -> dict[str, int]:
    """Exchange two entries in use that nobody maps; an entry with itself is exchanged for nothing."""
    domain, a, b = caller.domain, request.ref_a, request.ref_b
    in_table(domain, a)
    in_table(domain, b)
    if a == b:
        return {}
    one, other = lookup(domain, a), lookup(domain, b)
    for grant in (one, other):
        if grant.maps:
            raise GrantInUse(f"{grant}", f"domain {grant.grantee} maps it {grant.maps} times")
    one.ref, other.ref = b, a
    domain.grants[a], domain.grants[b] = other, one
    return {}
