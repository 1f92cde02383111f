"""Named rings: which layout a page has by its name, and its entries in words."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from xenecho import LAYOUT

from xenfs.abi.blkif import X86_64
from xenfs.abi.netif import CTRL, RX, TX
from xenfs.abi.ring import ENTRIES, HEADER, RingFormat, u32
from xenfs.abi.usbif import CONN, URB
from xenfs.abi.xen import PAGE_SIZE

_FIELDS = {
    "tx": (("gref", "offset", "flags", "id", "size"), ("id", "status")),
    "rx": (("id", "gref"), ("id", "offset", "flags", "status")),
    "ctrl": (("id", "type", "data0", "data1", "data2"), ("id", "type", "status", "data")),
    "vbd": (("operation", "segments", "handle", "id", "sector", "rest"), ("id", "operation", "status")),
    "urb": (
        ("id", "segments", "pipe", "flags", "length", "special", "parts"),
        ("id", "start_frame", "status", "actual", "errors"),
    ),
    "conn": (("id",), ("id", "port", "speed")),
    "echo": (("id", "number"), ("id", "number")),
}


@dataclass(frozen=True, slots=True)
class Layout:
    """A ring's format, and the names of the fields of its requests and responses."""

    format: RingFormat
    request: tuple[str, ...]
    response: tuple[str, ...]


def layout(name: str) -> Layout | None:
    """The layout of a page named `<device>-<n>-<ring>`; None for one that is no ring, or not known."""
    if re.fullmatch(r"vif-\d+-tx", name):
        return Layout(TX, *_FIELDS["tx"])
    if re.fullmatch(r"vif-\d+-rx", name):
        return Layout(RX, *_FIELDS["rx"])
    if re.fullmatch(r"vif-\d+-ctrl", name):
        return Layout(CTRL, *_FIELDS["ctrl"])
    if re.fullmatch(r"vbd-\d+-ring", name):
        return Layout(X86_64, *_FIELDS["vbd"])
    if re.fullmatch(r"vusb-\d+-urb", name):
        return Layout(URB, *_FIELDS["urb"])
    if re.fullmatch(r"vusb-\d+-conn", name):
        return Layout(CONN, *_FIELDS["conn"])
    if re.fullmatch(r"echo-\d+-ring", name):
        return Layout(LAYOUT, *_FIELDS["echo"])
    return None


def slots(name: str) -> int | None:
    """How many entries a ring of that name has."""
    found = layout(name)
    return None if found is None else found.format.slots(PAGE_SIZE)


def words(name: str, page: bytes) -> Iterator[str]:
    """A page in lines: indices, then the entries in flight. A copy is decoded, never the page itself."""
    req_prod, req_event, rsp_prod, rsp_event = HEADER.unpack_from(page)[:4]
    size = slots(name)
    fill = u32(req_prod - rsp_prod)
    of = "" if size is None else f" of {size}"
    yield f"{name}: {fill}{of} in flight"
    yield f"  req_prod {req_prod:<10} the backend asks to hear of request {req_event}{_heard(req_event, req_prod)}"
    yield f"  rsp_prod {rsp_prod:<10} the frontend asks to hear of response {rsp_event}{_heard(rsp_event, rsp_prod)}"
    found = layout(name)
    if found is None or size is None:
        yield f"  a layout that is not known here: {page[ENTRIES : ENTRIES + 64].hex(' ', 4)}"
        return
    if fill > size:
        yield f"  broken: more than the ring holds ({size})"
        return
    stride = found.format.entry_size
    for index in range(fill):
        slot = u32(rsp_prod + index) % size
        entry = page[ENTRIES + slot * stride :][: found.format.request.size]
        values = zip(found.request, found.format.request.unpack(entry), strict=True)
        shown = (f"{field} {v.rstrip(bytes(1)).hex() if isinstance(v, bytes) else v}" for field, v in values)
        yield f"  {slot:>4}  " + "  ".join(shown)


def _heard(event: int, prod: int) -> str:
    """Whether a wish has been met."""
    return " (still to come)" if 0 < u32(event - prod) < 1 << 31 else " (past: not asked now)"
