"""Grant copy: bytes from page to page without mapping either."""

from __future__ import annotations

from xenfs.abi.grant_table import Copy, GntCopy
from xenfs.abi.xen import DOMID_SELF, PAGE_SIZE
from xenfs.hypervisor import frames, grants
from xenfs.hypervisor.errors import BadCopyRange, Invalid, NotPermitted
from xenfs.hypervisor.state import Caller, Domain, State


def _granter(state: State, caller: Caller, number: int, domid: int, *, is_ref: bool) -> Domain:
    if is_ref:
        return state.domain(caller.domain.domid if domid == DOMID_SELF else domid)
    if domid != DOMID_SELF:
        raise NotPermitted(
            f"frame {number} of domain {domid}", "a frame by number must be the caller's own, domid self"
        )
    return caller.domain


def _frame(caller: Caller, granter: Domain, number: int, *, is_ref: bool, write: bool) -> int:
    if not is_ref:
        frames.owned(granter, number)
        return number
    grant = grants.permitted(granter, number, caller.domain)
    if write:
        grants.writable(grant)
    assert grant.frame is not None
    return grant.frame.number


def copy(state: State, caller: Caller, request: Copy) -> dict[str, int]:
    """Copy `len` bytes; a length of 0 succeeds whatever else is said, as in Xen."""
    if request.len == 0:
        return {}
    if request.flags & ~int(GntCopy.source_gref | GntCopy.dest_gref):
        raise Invalid(f"flags {request.flags:#x}", "only source_gref (1) and dest_gref (2) are allowed")
    from_ref, to_ref = bool(request.flags & GntCopy.source_gref), bool(request.flags & GntCopy.dest_gref)
    giver = _granter(state, caller, request.source, request.source_domid, is_ref=from_ref)
    taker = _granter(state, caller, request.dest, request.dest_domid, is_ref=to_ref)
    for side, offset in (("source", request.source_offset), ("dest", request.dest_offset)):
        if offset + request.len > PAGE_SIZE:
            raise BadCopyRange(
                f"copy {side}",
                f"offset {offset} + length {request.len} leaves the page",
                offset + request.len,
                PAGE_SIZE,
            )
    source = _frame(caller, giver, request.source, is_ref=from_ref, write=False)
    dest = _frame(caller, taker, request.dest, is_ref=to_ref, write=True)
    state.contents.copy(source, request.source_offset, dest, request.dest_offset, request.len)
    return {}
