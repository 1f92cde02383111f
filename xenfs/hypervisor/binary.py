"""The binary form of hypercalls: a batch of one operation, as laid out in abi/hypercall.

Every element is tried and carries its own result; a failure does not stop the ones behind it. An element whose bytes
are no request (text that is not text) gets EINVAL like any other bad argument.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Sequence
from itertools import starmap
from typing import Any

from xenfs.abi.grant_table import GntStatus
from xenfs.abi.hypercall import BatchHeader, ElementHeader, element_size, fields_codec
from xenfs.abi.wire import Buffer, FieldError, Wire
from xenfs.hypervisor.errors import HypercallError, Invalid, UnknownOperation
from xenfs.hypervisor.table import BY_NUMBER, BY_REQUEST

MAX_BATCH = 1024
"""Elements in one batch."""

MAX_SIZE = BatchHeader.layout.size + MAX_BATCH * max(element_size(request) for request in BY_REQUEST)
"""Bytes of the largest batch."""
_HEAD = BatchHeader.layout.size
_UNPACK_HEAD = BatchHeader.layout.codec.unpack_from
_ELEMENT_HEAD = ElementHeader.layout.size
Call = Callable[[Any], Wire]
CallRows = Callable[[type[Wire], Sequence[Any]], Sequence[Any | HypercallError]]


def _element(result: int, request: Wire) -> bytes:
    data = ElementHeader(result=result).emit() + request.emit()
    return data.ljust(element_size(type(request)), b"\0")


def emit(requests: Sequence[Wire]) -> bytes:
    """A batch of requests of one type, at least one."""
    kind = type(requests[0])
    if any(type(r) is not kind for r in requests):
        raise Invalid("batch", "all elements must be of one operation")
    header = BatchHeader(op=BY_REQUEST[kind].number, count=len(requests))
    return header.emit() + b"".join(_element(0, r) for r in requests)


def _header(data: Buffer) -> tuple[type[Wire], int]:
    need = size(data)
    if not need:
        raise Invalid("batch", "shorter than its header", len(data), _HEAD)
    number, count = _UNPACK_HEAD(data)
    row = BY_NUMBER[number]
    if len(data) != need:
        raise Invalid("batch", f"{row.name} times {count} has another size", len(data), need)
    return row.request, count


def size(data: Buffer) -> int:
    """Bytes of the batch that begins with `data`, 0 when its header is not whole. Raises Invalid, UnknownOperation."""
    if len(data) < _HEAD:
        return 0
    number, count = _UNPACK_HEAD(data)
    row = BY_NUMBER.get(number)
    if row is None:
        raise UnknownOperation(f"operation {number:#x}", "there is no such operation")
    if not 1 <= count <= MAX_BATCH:
        raise Invalid("batch", "count of elements must be at least 1 and within the limit", count, MAX_BATCH)
    return _HEAD + int(count) * element_size(row.request)


def parse(data: Buffer) -> list[tuple[int, Wire]]:
    """Take a batch apart: the result and the request of each element. Raises Invalid, UnknownOperation, FieldError."""
    request, count = _header(data)
    each = element_size(request)
    places = range(_HEAD, _HEAD + count * each, each)
    return [(ElementHeader.parse(data, at).result, request.parse(data, at + _ELEMENT_HEAD)) for at in places]


def split(data: bytes) -> list[bytes]:
    """Batches that lie one behind the other, as of Xen's multicall. Raises Invalid, UnknownOperation."""
    found: list[bytes] = []
    while data or not found:
        need = size(data)
        if not need or len(data) < need:
            raise Invalid("batch", "shorter than it says", len(data), need or _HEAD)
        found.append(data[:need])
        data = data[need:]
    return found


def run(data: Buffer, call: Call) -> bytes:
    """Make every call of a batch through `call`; the same bytes come back with results filled in.

    Raises Invalid or UnknownOperation, and makes no call, when the batch as a whole is malformed.
    """
    request, count = _header(data)
    each = element_size(request)
    done = bytearray(data)
    for at in range(_HEAD, _HEAD + count * each, each):
        try:
            asked = request.parse(data, at + _ELEMENT_HEAD)
        except FieldError:
            done[at : at + 4] = (-errno.EINVAL).to_bytes(4, "little", signed=True)
            continue
        try:
            done[at : at + each] = _element(0, call(asked))
        except HypercallError as error:
            done[at : at + each] = _refusal(asked, error)
    return bytes(done)


def kind(data: Buffer) -> type[Wire]:
    """The request of which a batch consists. Raises Invalid, UnknownOperation."""
    return _header(data)[0]


def run_rows(data: Buffer, call: CallRows) -> bytes:
    """The same for requests without text, through something that takes them all at once, as rows."""
    request, _ = _header(data)
    codec = fields_codec(request)
    rows = list(map(request.layout.row, codec.iter_unpack(memoryview(data)[_HEAD:])))
    answers = call(request, rows)
    refused = {place: a for place, a in enumerate(answers) if isinstance(a, HypercallError)}
    elements: list[Any] = [rows[place] if place in refused else answer for place, answer in enumerate(answers)]
    done = bytearray(data[:_HEAD]) + b"".join(starmap(codec.pack, elements))
    for place, error in refused.items():
        at = _HEAD + place * codec.size
        done[at : at + codec.size] = _refusal(request.of(rows[place]), error)
    return bytes(done)


def _refusal(asked: Wire, error: HypercallError) -> bytes:
    status = GntStatus.general_error if error.status is None else error.status
    if BY_REQUEST[type(asked)].has_status:
        asked = asked.with_results({"status": int(status)})
    return _element(-error.errno, asked)
