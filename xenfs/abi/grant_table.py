"""grant_table_op (xen/grant_table.h): entries, flags, operations, status codes."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum, IntFlag
from typing import Annotated

from xenfs.abi.wire import OUT, S16, U16, U32, U64, After, CName, Scalar, Wire, Words, wire
from xenfs.abi.xen import DOMID_SELF, DomId

_HEADER = "xen/grant_table.h"
NR_RESERVED_ENTRIES = 8
RESERVED_CONSOLE = 0
RESERVED_XENSTORE = 1


class GntTabOp(IntEnum):
    """GNTTABOP_*."""

    map_grant_ref = 0
    unmap_grant_ref = 1
    setup_table = 2
    dump_table = 3
    transfer = 4
    copy = 5
    query_size = 6
    unmap_and_replace = 7
    set_version = 8
    get_status_frames = 9
    get_version = 10
    swap_grant_ref = 11
    cache_flush = 12


class GntStatus(IntEnum):
    """GNTST_*: how one element of a grant table operation ended."""

    okay = 0
    general_error = -1
    bad_domain = -2
    bad_gntref = -3
    bad_handle = -4
    bad_virt_addr = -5
    bad_dev_addr = -6
    no_device_space = -7
    permission_denied = -8
    bad_page = -9
    bad_copy_arg = -10
    address_too_big = -11
    eagain = -12
    no_space = -13


class Gtf(IntFlag):
    """GTF_*: the flags word of an entry. Bits 2 and 3 mean one thing for access, another for transfer."""

    permit_access = 1
    accept_transfer = 2
    readonly = 4
    reading = 8
    writing = 16
    sub_page = 256


GTF_TRANSFER_COMMITTED = 4
GTF_TRANSFER_COMPLETED = 8


class GntMap(IntFlag):
    """GNTMAP_*: how a grant is to be mapped."""

    device_map = 1
    host_map = 2
    readonly = 4
    application_map = 8
    contains_pte = 16


class GntCopy(IntFlag):
    """GNTCOPY_*: which side of a copy is a grant; the other is a frame of one's own."""

    source_gref = 1
    dest_gref = 2


OutStatus = Annotated[S16, OUT, Words({s.name: int(s) for s in GntStatus})]


@wire("struct grant_entry_v1", 8, header=_HEADER)
@dataclass(frozen=True, slots=True, kw_only=True)
class GrantEntryV1(Wire):
    """An entry as a guest would see it."""

    flags: U16
    domid: U16
    frame: U32


@wire("struct gnttab_map_grant_ref", 32, header=_HEADER)
@dataclass(frozen=True, slots=True, kw_only=True)
class MapGrantRef(Wire):
    """Map a page that `dom` granted. In xenfs opening a file under foreign/ does it; `host_addr` means nothing."""

    host_addr: U64 = 0
    flags: Annotated[int, Scalar("I"), Words({f.name or "": int(f) for f in GntMap}, bits=True)] = 2
    ref: U32
    dom: DomId
    status: OutStatus = 0
    handle: Annotated[U32, OUT] = 0
    dev_bus_addr: Annotated[U64, OUT] = 0


@wire("struct gnttab_unmap_grant_ref", 24, header=_HEADER)
@dataclass(frozen=True, slots=True, kw_only=True)
class UnmapGrantRef(Wire):
    """End one mapping."""

    host_addr: U64 = 0
    dev_bus_addr: U64 = 0
    handle: U32
    status: OutStatus = 0


@wire("struct gnttab_transfer", 24, header=_HEADER)
@dataclass(frozen=True, slots=True, kw_only=True)
class Transfer(Wire):
    """Flip a frame of the caller's to `domid`, which accepts it by the grant `ref`."""

    mfn: U64
    domid: DomId
    ref: U32
    status: OutStatus = 0


@wire("struct gnttab_copy", 40, header=_HEADER)
@dataclass(frozen=True, slots=True, kw_only=True)
class Copy(Wire):
    """Copy bytes between two pages, each a grant or (with domid self) a frame of the caller's."""

    source: Annotated[U64, CName("source.u.gmfn")]
    source_domid: Annotated[DomId, CName("source.domid")] = DOMID_SELF
    source_offset: Annotated[U16, CName("source.offset")] = 0
    dest: Annotated[U64, CName("dest.u.gmfn")]
    dest_domid: Annotated[DomId, CName("dest.domid")] = DOMID_SELF
    dest_offset: Annotated[U16, CName("dest.offset")] = 0
    len: Annotated[U16, After(8)]
    flags: Annotated[int, Scalar("H"), Words({f.name or "": int(f) for f in GntCopy}, bits=True)] = 0
    status: OutStatus = 0


@wire("struct gnttab_query_size", 16, header=_HEADER)
@dataclass(frozen=True, slots=True, kw_only=True)
class QuerySize(Wire):
    """Pages of grant table in use and allowed (512 entries a page)."""

    dom: DomId = DOMID_SELF
    nr_frames: Annotated[U32, OUT] = 0
    max_nr_frames: Annotated[U32, OUT] = 0
    status: OutStatus = 0


@wire("struct gnttab_set_version", 4, header=_HEADER)
@dataclass(frozen=True, slots=True, kw_only=True)
class SetVersion(Wire):
    """Choose the layout of entries; there is only version 1."""

    version: U32


@wire("struct gnttab_get_version", 8, header=_HEADER)
@dataclass(frozen=True, slots=True, kw_only=True)
class GetVersion(Wire):
    """Which layout of entries is in use."""

    dom: DomId = DOMID_SELF
    pad: U16 = 0
    version: Annotated[U32, OUT] = 0


@wire("struct gnttab_swap_grant_ref", 12, header=_HEADER)
@dataclass(frozen=True, slots=True, kw_only=True)
class SwapGrantRef(Wire):
    """Exchange two entries of the caller's, which nobody may map."""

    ref_a: U32
    ref_b: U32
    status: OutStatus = 0
