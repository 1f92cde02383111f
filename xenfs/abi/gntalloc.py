"""/dev/xen/gntalloc (xen/gntalloc.h): pages of one's own, granted to another domain."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from xenfs.abi.ioctl import Ioctl
from xenfs.abi.wire import OUT, U16, U32, U64, Scalar, Wire, Words, wire

_HEADER = "xen/gntalloc.h"
FLAG_WRITABLE = 1
UNMAP_NOTIFY_CLEAR_BYTE = 1
UNMAP_NOTIFY_SEND_EVENT = 2


@wire("struct ioctl_gntalloc_alloc_gref", 24, header=_HEADER)
@dataclass(frozen=True, slots=True, kw_only=True)
class AllocGref(Wire):
    """Allocate `count` zeroed pages with a grant each; the refs (u32) stand from offset 16, as many as `count`."""

    domid: U16
    flags: Annotated[int, Scalar("H"), Words({"writable": FLAG_WRITABLE}, bits=True)]
    count: U32
    index: Annotated[U64, OUT] = 0
    gref_ids: Annotated[U32, OUT] = 0


@wire("struct ioctl_gntalloc_dealloc_gref", 16, header=_HEADER)
@dataclass(frozen=True, slots=True, kw_only=True)
class DeallocGref(Wire):
    """Drop the file's reference on a run of pages."""

    index: U64
    count: U32


@wire("struct ioctl_gntalloc_unmap_notify", 16, header=_HEADER)
@dataclass(frozen=True, slots=True, kw_only=True)
class UnmapNotify(Wire):
    """What to do when a page goes: clear a byte of it, send an event."""

    index: U64
    action: Annotated[
        int,
        Scalar("I"),
        Words({"clear_byte": UNMAP_NOTIFY_CLEAR_BYTE, "send_event": UNMAP_NOTIFY_SEND_EVENT}, bits=True),
    ]
    event_channel_port: U32


ALLOC_GREF = Ioctl("IOCTL_GNTALLOC_ALLOC_GREF", "G", 5, 24)
DEALLOC_GREF = Ioctl("IOCTL_GNTALLOC_DEALLOC_GREF", "G", 6, 16)
SET_UNMAP_NOTIFY = Ioctl("IOCTL_GNTALLOC_SET_UNMAP_NOTIFY", "G", 7, 16)

IOCTLS = (ALLOC_GREF, DEALLOC_GREF, SET_UNMAP_NOTIFY)
