"""Named rings: which layout a page has by its name, and its entries in words."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import IntFlag
from types import MappingProxyType
from typing import Any

from xenecho import LAYOUT

from xenfs.abi.blkif import MAX_SEGMENTS, SEGMENT, X86_64, Discard, Indirect, Op
from xenfs.abi.netif import CTRL, RX, TX, TxFlag
from xenfs.abi.ring import ENTRIES, HEADER, RingFormat, u32
from xenfs.abi.usbif import CONN, ISOC, UNLINK, URB, PipeType, Urb
from xenfs.abi.usbif import Flag as UsbFlag
from xenfs.abi.wire import FieldError
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
    for slot, shown in in_flight(name, page):
        yield f"  {slot:>4}  " + "  ".join(f"{field} {value}" for field, value in shown)


def in_flight(name: str, page: bytes) -> Iterator[tuple[int, list[tuple[str, str]]]]:
    """The requests in flight: slot, and fields with their values in words. None of a ring that is broken or unknown."""
    req_prod, _, rsp_prod = HEADER.unpack_from(page)[:3]
    found, size = layout(name), slots(name)
    if found is None or size is None or u32(req_prod - rsp_prod) > size:
        return
    for index in range(u32(req_prod - rsp_prod)):
        slot = u32(rsp_prod + index) % size
        entry = page[ENTRIES + slot * found.format.entry_size :][: found.format.request.size]
        values = found.format.request.unpack(entry)
        words = _WORDS.get(found.request)
        if words is not None:
            yield slot, words(values)
        else:
            yield slot, [(field, str(value)) for field, value in zip(found.request, values, strict=True)]


def _transmit(values: tuple[Any, ...]) -> list[tuple[str, str]]:
    gref, offset, flags, number, size = values
    return [
        ("gref", str(gref)), ("offset", str(offset)), ("flags", _flags(TxFlag, flags)), ("id", str(number)),
        ("size", str(size)),
    ]  # fmt: skip


def _block(values: tuple[Any, ...]) -> list[tuple[str, str]]:
    """A request of blkif, with what it says in its segments."""
    op, count, handle, number, sector, rest = values
    names = {int(one): one.name for one in Op}
    common = [("id", str(number)), ("sector", str(sector)), ("handle", str(handle))]
    if op == Op.indirect:
        try:
            inner = Indirect.parse(values)
        except FieldError:
            return [("operation", "indirect, malformed"), *common]
        shown = f"indirect {names.get(inner.op, inner.op)}"
        where = [*common[:2], ("handle", str(inner.handle))]
        return [("operation", shown), *where, ("segments", str(inner.count)), ("grefs", _list(inner.grefs))]
    if op == Op.discard:
        return [("operation", "discard"), *common, ("sectors", str(Discard.parse(values).sectors))]
    parts = SEGMENT.iter_unpack(rest[: min(count, MAX_SEGMENTS) * SEGMENT.size])
    shown = _list(f"{gref}[{first}-{last}]" for gref, first, last in parts)
    return [("operation", str(names.get(op, op))), *common, ("segments", f"{count}: {shown}" if count else "0")]


def _urb(values: tuple[Any, ...]) -> list[tuple[str, str]]:
    """A request of usbif, with its pipe and what its kind has besides."""
    try:
        urb = Urb.parse(values)
    except FieldError as error:
        return [("id", str(values[0])), ("malformed", str(error))]
    pipe, special = urb.pipe, urb.special
    way = "in" if pipe.inward else "out"
    where = f"port {pipe.port} address {pipe.address} endpoint {pipe.endpoint}"
    found = [("id", str(urb.id)), ("pipe", f"{pipe.type.name} {way} {where}")]
    if pipe.unlink:
        return [*found, ("unlinks", str(UNLINK.unpack(special)[0]))]
    if pipe.type is PipeType.control:
        found.append(("setup", special.hex(" ")))
    elif pipe.type is PipeType.isoc:
        found.append(("packets", str(ISOC.unpack(special)[2])))
    if urb.flags:
        found.append(("flags", _flags(UsbFlag, urb.flags)))
    shown = _list(f"{gref}[{offset}+{length}]" for gref, offset, length in urb.data)
    return [*found, ("length", str(urb.length)), ("segments", shown or "none")]


def _flags(kind: type[IntFlag], value: int) -> str:
    """Names, and what has none as a number."""
    names = [str(one.name) for one in kind if value & one]
    rest = value & ~sum(kind)
    return "|".join([*names, *([f"0x{rest:x}"] if rest else [])]) or "0"


def _list(parts: Iterable[object]) -> str:
    return " ".join(map(str, parts))


_WORDS: Mapping[tuple[str, ...], Callable[[tuple[Any, ...]], list[tuple[str, str]]]] = MappingProxyType(
    {_FIELDS["tx"][0]: _transmit, _FIELDS["vbd"][0]: _block, _FIELDS["urb"][0]: _urb}
)


def _heard(event: int, prod: int) -> str:
    """Whether a wish has been met."""
    return " (still to come)" if 0 < u32(event - prod) < 1 << 31 else " (past: not asked now)"
