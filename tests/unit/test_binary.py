"""Batches: a malformed one makes no call, and each element of another has a result of its own."""

from __future__ import annotations

import errno
from collections.abc import Callable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.forms import GENERAL, each, few, machine
from tests.unit.test_wire import padding, sample
from xenfs.abi.event_channel import AllocUnbound, Close
from xenfs.abi.grant_table import GntStatus, QuerySize, Transfer
from xenfs.abi.hypercall import BatchHeader, ElementHeader, element_size
from xenfs.abi.wire import FieldError, Wire
from xenfs.abi.xenfs_op import (
    AcceptTransfer,
    AllocFrame,
    CreateDomain,
    DecreaseReservation,
    EndTransfer,
    IncreaseReservation,
    OpenHandle,
    RenameDomain,
)
from xenfs.hypervisor import Machine, binary
from xenfs.hypervisor.errors import HypercallError, Invalid, UnknownOperation
from xenfs.hypervisor.snapshot import snapshot
from xenfs.hypervisor.table import Hypercall


def echo(request: Wire) -> Wire:
    return request


def no_call(request: Wire) -> Wire:
    pytest.fail(f"{request} was called")


def results(data: bytes) -> list[int]:
    return [result for result, _ in binary.parse(data)]


BATCH = binary.emit([Close(port=1), Close(port=2)])


@pytest.mark.parametrize(
    ("data", "kind", "said"),
    [
        (b"", Invalid, "0 of 8"),
        (BATCH[:7], Invalid, "7 of 8"),
        (BATCH[:8], Invalid, "close times 2"),
        (BATCH[:-1], Invalid, "39 of 40"),
        (BATCH + b"\0", Invalid, "41 of 40"),
        (BatchHeader(op=0xFFFF, count=1).emit(), UnknownOperation, "0xffff"),
        (BatchHeader(op=32 << 8 | 3, count=0).emit(), Invalid, "0 of 1024"),
        (BatchHeader(op=32 << 8 | 3, count=1025).emit() + bytes(1025 * 16), Invalid, "1025 of 1024"),
        (BatchHeader(op=32 << 8 | 3, count=0xFFFFFFFF).emit(), Invalid, "4294967295 of 1024"),
        (BatchHeader(op=32 << 8 | 3, count=3).emit() + BATCH[8:], Invalid, "40 of 56"),
    ],
)
def test_a_malformed_batch_makes_no_call(data: bytes, kind: type[HypercallError], said: str) -> None:
    with pytest.raises(kind, match=said):
        binary.run(data, no_call)
    with pytest.raises(kind, match=said):
        binary.parse(data)


def test_the_largest_batch_is_taken() -> None:
    assert results(binary.run(binary.emit([Close(port=1)] * 1024), echo)) == [0] * 1024


def test_a_batch_is_of_one_operation() -> None:
    with pytest.raises(Invalid, match="one operation"):
        binary.emit([Close(port=1), AllocUnbound(remote_dom=1)])


def test_a_failure_in_the_middle_leaves_the_others_done() -> None:
    m = machine()
    ports = [m.call(AllocUnbound(remote_dom=1)).port for _ in range(3)]
    done = binary.run(binary.emit([Close(port=p) for p in (ports[0], 99, ports[1], ports[0], ports[2])]), m.call)
    assert results(done) == [0, -errno.EINVAL, 0, -errno.EINVAL, 0]
    assert not m.state.domains[0].ports


def test_a_grant_table_failure_fills_the_status_in() -> None:
    m = machine()
    done = binary.parse(binary.run(binary.emit([QuerySize(), QuerySize(dom=5)]), m.call))
    assert [r for r, _ in done] == [0, -errno.ESRCH]
    assert [q.status for _, q in done if isinstance(q, QuerySize)] == [GntStatus.okay, GntStatus.bad_domain]


def test_garbage_text_fails_its_element_only() -> None:
    good = binary.emit([RenameDomain(name="a"), RenameDomain(name="b"), RenameDomain(name="c")])
    size, at = element_size(RenameDomain), good.index(b"b\0")
    for garbage in (b"\n", b"\xff"):
        m = machine()
        done = binary.run(good[:at] + garbage + good[at + 1 :], m.call)
        found = [ElementHeader.parse(done, 8 + n * size).result for n in range(3)]
        assert found == [0, -errno.EINVAL, 0]
        assert m.state.domains[0].name == "c"


@each
def test_padding_of_elements_comes_back_zero(row: Hypercall) -> None:
    clean = binary.emit([sample(row.request)] * 2)
    size, head = element_size(row.request), ElementHeader.layout.size
    gaps = [*range(4, head), *(head + at for at in padding(row.request)), *range(head + row.request.layout.size, size)]
    dirty = bytearray(clean)
    for start in (8, 8 + size):
        for at in gaps:
            dirty[start + at] = 0xFF
    assert binary.run(dirty, echo) == clean


@each
@few
@given(data=st.data())
def test_elements_of_random_bytes_each_get_a_result(row: Hypercall, data: st.DataObject) -> None:
    m, size, count = machine(), element_size(row.request), data.draw(st.integers(1, 3))
    body = data.draw(st.binary(min_size=count * size, max_size=count * size))
    head = BatchHeader(op=row.number, count=count).emit()
    done = binary.run(head + body, lambda request: m.call(request, world=True))
    allowed = {0, -errno.EINVAL, *(-e.errno for e in (*row.errors, *GENERAL))}
    assert done[:8] == head
    assert len(done) == len(head) + len(body)
    for at in range(8, len(done), size):
        assert ElementHeader.parse(done, at).result in allowed


@given(st.binary(max_size=64) | st.binary(max_size=64).map(lambda tail: BATCH[:8] + tail))
def test_random_bytes_are_run_or_refused(data: bytes) -> None:
    try:
        assert len(binary.run(data, machine().call)) == len(data)
    except HypercallError:
        with pytest.raises((HypercallError, FieldError)):
            binary.parse(data)


def flipped(m: Machine, run: Callable[[bytes, int, int], bytes]) -> list[bytes]:
    """Batches of a life with flips in it, and what came back; some elements are refused, and headers are dirty."""
    m.call(CreateDomain(dom=1, frames=8, max_frames=8))
    back, front = (m.call(OpenHandle(), domid, world=True).handle for domid in (0, 1))
    held = [m.call(AllocFrame(), 1, front).frame for _ in range(4)]
    said: list[bytes] = []

    def make(requests: Sequence[Wire], domid: int, handle: int) -> list[Wire]:
        data = bytearray(binary.emit(requests))
        data[8:16] = b"\xff" * 8  # the first element's result and zero, which a caller may leave as they are
        said.append(run(bytes(data), domid, handle))
        return [answer for _, answer in binary.parse(said[-1])]

    make([DecreaseReservation(frame=frame) for frame in [*held, 60]], 1, front)
    refs = [answer.ref for answer in make([AcceptTransfer(dom=0)] * 4, 1, front) if isinstance(answer, AcceptTransfer)]
    grown = make([IncreaseReservation()] * 3, 0, back)
    frames = [answer.frame for answer in grown if isinstance(answer, IncreaseReservation)]
    make([Transfer(mfn=f, domid=1, ref=ref, status=5) for f, ref in zip([*frames, 60], refs, strict=True)], 0, back)
    make([EndTransfer(ref=ref) for ref in [99, *refs]], 1, front)
    make([QuerySize(dom=1), QuerySize(dom=9)], 0, back)
    make([EndTransfer(ref=1)], 1, 77)
    return said


def test_rows_give_byte_for_byte_what_requests_give() -> None:
    one, other = machine(), machine()
    slowly = flipped(one, lambda data, domid, handle: binary.run(data, lambda r: one.call(r, domid, handle)))

    def rows(data: bytes, domid: int, handle: int) -> bytes:
        return binary.run_rows(data, lambda kind, asked: other.call_rows(kind, asked, domid, handle))

    fast = flipped(other, rows)
    assert fast == slowly
    assert {r for data in fast for r in results(data)} >= {0, -errno.EINVAL, -errno.ENOENT, -errno.EBADF}
    assert snapshot(one) == snapshot(other)


def test_batches_that_lie_one_behind_the_other_are_told_apart() -> None:
    other = binary.emit([QuerySize(dom=1)])
    assert binary.split(BATCH + other + BATCH) == [BATCH, other, BATCH]
    assert binary.kind(other) is QuerySize
    for bad in (b"", BATCH + b"\0", BATCH + other[:-1], BATCH[:4]):
        with pytest.raises(Invalid):
            binary.split(bad)
