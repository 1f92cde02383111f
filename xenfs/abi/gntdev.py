"""/dev/xen/gntdev (xen/gntdev.h): pages that other domains granted, mapped or copied here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from xenfs.abi.gntalloc import UNMAP_NOTIFY_CLEAR_BYTE, UNMAP_NOTIFY_SEND_EVENT
from xenfs.abi.ioctl import Ioctl
from xenfs.abi.wire import OUT, S16, U16, U32, U64, CName, Scalar, Wire, Words, wire

_HEADER = "xen/gntdev.h"
GNTCOPY_SOURCE_GREF = 1
GNTCOPY_DEST_GREF = 2


@wire("struct ioctl_gntdev_grant_ref", 8, header=_HEADER)
@dataclass(frozen=True, slots=True, kw_only=True)
class GrantRef(Wire):
    """One element of a map request."""

    domid: U32
    ref: U32


@wire("struct ioctl_gntdev_map_grant_ref", 24, header=_HEADER)
@dataclass(frozen=True, slots=True, kw_only=True)
class MapGrantRef(Wire):
    """Reserve an index for `count` grants; GrantRef elements stand from offset 16, as many as `count`."""

    count: U32
    pad: U32 = 0
    index: Annotated[U64, OUT] = 0
    domid: Annotated[U32, CName("refs[0].domid")] = 0
    ref: Annotated[U32, CName("refs[0].ref")] = 0


@wire("struct ioctl_gntdev_unmap_grant_ref", 16, header=_HEADER)
@dataclass(frozen=True, slots=True, kw_only=True)
class UnmapGrantRef(Wire):
    """Take a map request off the file's list."""

    index: U64
    count: U32
    pad: U32 = 0


@wire("struct ioctl_gntdev_get_offset_for_vaddr", 24, header=_HEADER)
@dataclass(frozen=True, slots=True, kw_only=True)
class GetOffsetForVaddr(Wire):
    """The index and count behind an address."""

    vaddr: U64
    offset: Annotated[U64, OUT] = 0
    count: Annotated[U32, OUT] = 0
    pad: U32 = 0


@wire("struct ioctl_gntdev_set_max_grants", 4, header=_HEADER)
@dataclass(frozen=True, slots=True, kw_only=True)
class SetMaxGrants(Wire):
    """Gone from Linux: ENOTTY."""

    count: U32


@wire("struct ioctl_gntdev_unmap_notify", 16, header=_HEADER)
@dataclass(frozen=True, slots=True, kw_only=True)
class UnmapNotify(Wire):
    """What to do when a map goes: clear a byte of it, send an event."""

    index: U64
    action: Annotated[
        int,
        Scalar("I"),
        Words({"clear_byte": UNMAP_NOTIFY_CLEAR_BYTE, "send_event": UNMAP_NOTIFY_SEND_EVENT}, bits=True),
    ]
    event_channel_port: U32


@wire("struct ioctl_gntdev_grant_copy", 16, header=_HEADER)
@dataclass(frozen=True, slots=True, kw_only=True)
class GrantCopy(Wire):
    """Copy `count` segments, which are at the address `segments`."""

    count: U32
    segments: U64


@wire("struct gntdev_grant_copy_segment", 24, header=_HEADER)
@dataclass(frozen=True, slots=True, kw_only=True)
class LocalToForeign(Wire):
    """A segment whose source is an address and whose destination is a grant."""

    source: Annotated[U64, CName("source.virt")]
    dest_ref: Annotated[U32, CName("dest.foreign.ref")]
    dest_offset: Annotated[U16, CName("dest.foreign.offset")]
    dest_domid: Annotated[U16, CName("dest.foreign.domid")]
    len: U16
    flags: Annotated[int, Scalar("H"), Words({"source": GNTCOPY_SOURCE_GREF, "dest": GNTCOPY_DEST_GREF}, bits=True)]
    status: Annotated[S16, OUT] = 0


@wire("struct gntdev_grant_copy_segment", 24, header=_HEADER)
@dataclass(frozen=True, slots=True, kw_only=True)
class ForeignToLocal(Wire):
    """A segment whose source is a grant and whose destination is an address."""

    source_ref: Annotated[U32, CName("source.foreign.ref")]
    source_offset: Annotated[U16, CName("source.foreign.offset")]
    source_domid: Annotated[U16, CName("source.foreign.domid")]
    dest: Annotated[U64, CName("dest.virt")]
    len: U16
    flags: Annotated[int, Scalar("H"), Words({"source": GNTCOPY_SOURCE_GREF, "dest": GNTCOPY_DEST_GREF}, bits=True)]
    status: Annotated[S16, OUT] = 0


MAP_GRANT_REF = Ioctl("IOCTL_GNTDEV_MAP_GRANT_REF", "G", 0, 24)
UNMAP_GRANT_REF = Ioctl("IOCTL_GNTDEV_UNMAP_GRANT_REF", "G", 1, 16)
GET_OFFSET_FOR_VADDR = Ioctl("IOCTL_GNTDEV_GET_OFFSET_FOR_VADDR", "G", 2, 24)
SET_MAX_GRANTS = Ioctl("IOCTL_GNTDEV_SET_MAX_GRANTS", "G", 3, 4)
SET_UNMAP_NOTIFY = Ioctl("IOCTL_GNTDEV_SET_UNMAP_NOTIFY", "G", 7, 16)
GRANT_COPY = Ioctl("IOCTL_GNTDEV_GRANT_COPY", "G", 8, 16)
DMABUF_EXP_FROM_REFS = Ioctl("IOCTL_GNTDEV_DMABUF_EXP_FROM_REFS", "G", 9, 20)
DMABUF_EXP_WAIT_RELEASED = Ioctl("IOCTL_GNTDEV_DMABUF_EXP_WAIT_RELEASED", "G", 10, 8)
DMABUF_IMP_TO_REFS = Ioctl("IOCTL_GNTDEV_DMABUF_IMP_TO_REFS", "G", 11, 20)
DMABUF_IMP_RELEASE = Ioctl("IOCTL_GNTDEV_DMABUF_IMP_RELEASE", "G", 12, 8)

IOCTLS = (
    MAP_GRANT_REF,
    UNMAP_GRANT_REF,
    GET_OFFSET_FOR_VADDR,
    SET_MAX_GRANTS,
    SET_UNMAP_NOTIFY,
    GRANT_COPY,
    DMABUF_EXP_FROM_REFS,
    DMABUF_EXP_WAIT_RELEASED,
    DMABUF_IMP_TO_REFS,
    DMABUF_IMP_RELEASE,
)
