"""The trace: what is kept, how a reader follows it, and that it is enough to live a life again."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from itertools import count

import pytest

from xenfs.abi.event_channel import AllocUnbound, BindInterdomain, Close, Send, Status
from xenfs.abi.grant_table import Copy, GetVersion, MapGrantRef, QuerySize, Transfer, UnmapGrantRef
from xenfs.abi.hypercall import BatchHeader
from xenfs.abi.wire import Wire
from xenfs.abi.xenfs_op import (
    AcceptTransfer,
    AllocFrame,
    CreateDomain,
    DecreaseReservation,
    EndAccess,
    EndTransfer,
    GrantAccess,
    IncreaseReservation,
    OpenHandle,
)
from xenfs.hypervisor import Config, Machine
from xenfs.hypervisor.errors import HypercallError, NoSuchDomain, NoSuchHandle, NotPermitted, UnknownOperation
from xenfs.hypervisor.machine import ReplayError
from xenfs.hypervisor.snapshot import snapshot
from xenfs.hypervisor.trace import Failure, Record, Trace

CONFIG = Config(frames=64, dom0_frames=16)


def record(seq: int) -> Record:
    return Record(seq, 0, 0, 0, False, Close(port=seq), Close(port=seq))


def filled(room: int, records: int) -> Trace:
    trace = Trace(room)
    for seq in range(1, records + 1):
        trace.append(record(seq))
    return trace


# What is kept.


@pytest.mark.parametrize(
    ("room", "records", "seq", "lost", "seqs"),
    [
        (3, 0, 0, 0, []),
        (3, 2, 0, 0, [1, 2]),
        (3, 2, 1, 0, [2]),
        (3, 2, 2, 0, []),
        (3, 3, 0, 0, [1, 2, 3]),
        (3, 5, 0, 2, [3, 4, 5]),
        (3, 5, 1, 1, [3, 4, 5]),
        (3, 5, 2, 0, [3, 4, 5]),
        (3, 5, 3, 0, [4, 5]),
        (3, 5, 5, 0, []),
        (3, 5, 9, 0, []),
        (1, 5, 0, 4, [5]),
        (0, 5, 0, 5, []),
        (0, 5, 5, 0, []),
    ],
)
def test_since_tells_what_is_lost_and_gives_the_rest(
    room: int, records: int, seq: int, lost: int, seqs: list[int]
) -> None:
    trace = filled(room, records)
    missing, found = trace.since(seq)
    assert (missing, [r.seq for r in found]) == (lost, seqs)
    assert len(trace) == min(room, records)
    assert trace.last == records


@pytest.mark.parametrize("stride", [1, 2, 3, 4, 7])
def test_a_reader_that_follows_sees_or_is_told_of_every_record(stride: int) -> None:
    trace, cursor, seen, lost = Trace(3), 0, [], 0
    for seq in range(1, 22):
        trace.append(record(seq))
        if seq % stride == 0:
            missing, found = trace.since(cursor)
            lost += missing
            seen += [r.seq for r in found]
            cursor = trace.last
    assert len(seen) + lost == cursor == 21 // stride * stride
    assert seen == sorted(set(seen))
    assert lost == max(0, stride - 3) * (21 // stride)


def test_readers_do_not_disturb_each_other() -> None:
    trace = filled(3, 3)
    assert trace.since(0) == trace.since(0)
    assert trace.since(1)[1] == trace.since(0)[1][1:]


def test_the_machine_keeps_as_many_as_its_config_says() -> None:
    m = Machine(replace(CONFIG, trace=2))
    for _ in range(5):
        m.call(GetVersion())
    lost, found = m.trace.since(0)
    assert (lost, [r.seq for r in found]) == (3, [4, 5])


# What is in a record.


def refused(m: Machine, request: Wire, kind: type[HypercallError], domid: int = 0, handle: int = 0) -> None:
    with pytest.raises(kind):
        m.call(request, domid, handle)


def test_records_are_numbered_from_1_in_order_with_the_time_of_the_clock() -> None:
    m = Machine(CONFIG, clock=count(100, 10).__next__)
    for _ in range(3):
        m.call(GetVersion())
    assert [(r.seq, r.time) for r in m.trace.since(0)[1]] == [(1, 100), (2, 110), (3, 120)]


def test_without_a_clock_all_times_are_0() -> None:
    m = Machine(CONFIG)
    m.call(GetVersion())
    assert m.trace.since(0)[1][0].time == 0


def test_a_record_says_who_asked_what_and_what_came_of_it() -> None:
    m = Machine(CONFIG)
    m.call(CreateDomain(frames=2, name="one"))
    handle = m.call(OpenHandle(), 1, world=True).handle
    frame = m.call(AllocFrame(), 1, handle).frame
    assert m.trace.since(2)[1] == [Record(3, 0, 1, handle, False, AllocFrame(), AllocFrame(frame=frame))]
    assert m.trace.since(1)[1][0].world


def test_refused_calls_are_in_it() -> None:
    m = Machine(CONFIG)
    refused(m, GetVersion(dom=9), NoSuchDomain)
    refused(m, GetVersion(), NoSuchDomain, domid=9)
    refused(m, GetVersion(), NoSuchHandle, handle=9)
    refused(m, QuerySize(dom=9), NoSuchDomain)
    refused(m, OpenHandle(), NotPermitted)
    answers = [r.answer for r in m.trace.since(0)[1]]
    assert [a.errno for a in answers if isinstance(a, Failure)] == ["ESRCH", "ESRCH", "EBADF", "ESRCH", "EPERM"]
    assert [a.status for a in answers if isinstance(a, Failure)] == ["", "", "", "GNTST_bad_domain", ""]
    assert all(isinstance(a, Failure) and a.text for a in answers)


def test_what_is_no_hypercall_is_refused_and_not_in_it() -> None:
    m = Machine(CONFIG)
    refused(m, BatchHeader(op=0, count=0), UnknownOperation)
    assert len(m.trace) == 0


WHOLE = record(1).line()


@pytest.mark.parametrize(
    "line",
    [
        "", "nonsense", "{}", "[]", "null", '{"op": "no_such"}', '{"op": "close", "in": {}}',
        WHOLE[:-1], WHOLE.replace('"port"', '"prt"'), WHOLE.replace('"out": {}', '"out": 1'),
        WHOLE.replace('"port": 1', '"port": -1'), WHOLE.replace('"port": 1', '"port": "1"'),
    ],
)  # fmt: skip
def test_a_line_that_is_not_ours_is_refused(line: str) -> None:
    with pytest.raises((ValueError, KeyError)):
        Record.parse(line)


# Living a life again.


def life() -> Machine:
    """Grants, mappings and events of two domains, with refusals, a death, and garbage in fields that come back."""
    m = Machine(CONFIG, clock=count(5, 5).__next__)
    m.call(CreateDomain(frames=4, max_frames=8, name="one"))
    handle = m.call(OpenHandle(), 1, world=True).handle
    ref = m.call(GrantAccess(frame=16, dom=0), 1, handle).ref
    mapped = m.call(MapGrantRef(ref=ref, dom=1), world=True).handle
    with pytest.raises(HypercallError):
        m.call(EndAccess(ref=ref), 1, handle)
    port = m.call(AllocUnbound(remote_dom=0), 1, handle).port
    local = m.call(BindInterdomain(remote_dom=1, remote_port=port)).local_port
    m.call(Send(port=local))
    m.call(UnmapGrantRef(handle=mapped), world=True)
    m.call(EndAccess(ref=ref), 1, handle)
    return m


def again(records: Iterable[Record]) -> Machine:
    return Machine.replay(CONFIG, records)


def test_replay_gives_the_same_machine() -> None:
    m = life()
    assert snapshot(again(m.trace.since(0)[1])) == snapshot(m)


def test_replay_from_the_lines_gives_the_same_machine() -> None:
    m = life()
    records = [Record.parse(r.line()) for r in m.trace.since(0)[1]]
    assert records == m.trace.since(0)[1]
    twin = again(records)
    assert snapshot(twin) == snapshot(m)
    assert [r._replace(time=0) for r in records] == twin.trace.since(0)[1]


TAMPERED: list[tuple[str, int, Callable[[Record], Record]]] = [
    ("a result", 3, lambda r: r._replace(answer=GrantAccess(frame=16, dom=0, ref=11))),
    ("the request", 3, lambda r: r._replace(request=GrantAccess(frame=17, dom=0))),
    ("the caller", 3, lambda r: r._replace(domid=0)),
    ("the handle", 3, lambda r: r._replace(handle=77)),
    ("the door", 4, lambda r: r._replace(world=False)),
    ("a refusal turned into success", 5, lambda r: r._replace(answer=r.request)),
    ("a success turned into refusal", 8, lambda r: r._replace(answer=Failure("EINVAL", "", "no"))),
    ("the words of a refusal", 5, lambda r: r._replace(answer=Failure("EBUSY", "", "another reason"))),
]


@pytest.mark.parametrize(("seq", "change"), [t[1:] for t in TAMPERED], ids=[t[0] for t in TAMPERED])
def test_replay_catches_a_tampered_record(seq: int, change: Callable[[Record], Record]) -> None:
    records = life().trace.since(0)[1]
    bad = change(records[seq - 1])
    assert bad != records[seq - 1]
    with pytest.raises(ReplayError, match=f"call {seq} gave "):
        again([*records[: seq - 1], bad, *records[seq:]])


def test_replay_catches_a_missing_record() -> None:
    records = life().trace.since(0)[1]
    with pytest.raises(ReplayError, match="call 3 gave "):
        again([records[0], *records[2:]])


def test_replay_catches_records_out_of_order() -> None:
    records = life().trace.since(0)[1]
    with pytest.raises(ReplayError):
        again([*records[:5], records[6], records[5], *records[7:]])


@pytest.mark.parametrize(
    "request_",
    [
        Copy(source=0, dest=1, len=0, status=-5),
        QuerySize(status=-5, nr_frames=9, max_nr_frames=9),
        Status(port=3, status=4, vcpu=9, remote_dom=9, remote_port=9),
        GetVersion(version=9, pad=9),
    ],
    ids=lambda r: type(r).__name__,
)
def test_garbage_in_fields_that_come_back_does_not_spoil_the_replay(request_: Wire) -> None:
    m = Machine(CONFIG)
    m.call(request_)
    lines = [r.line() for r in m.trace.since(0)[1]]
    assert snapshot(again(map(Record.parse, lines))) == snapshot(m)


# Calls that were made at once.


def flipping(m: Machine) -> None:
    """A life with rows in it: pages given, offered, flipped and collected, and some that are refused."""
    m.call(CreateDomain(dom=1, frames=8, max_frames=8))
    back, front = (m.call(OpenHandle(), domid, world=True).handle for domid in (0, 1))
    held = [m.call(AllocFrame(), 1, front).frame for _ in range(4)]

    def rows(kind: type[Wire], domid: int, handle: int, *rows: tuple[int, ...]) -> list[object]:
        return m.call_rows(kind, [kind.layout.row(row) for row in rows], domid, handle)

    rows(DecreaseReservation, 1, front, *[(frame,) for frame in [*held, 60]])
    refs = [row[1] for row in rows(AcceptTransfer, 1, front, *[(0, 0)] * 4)]  # type: ignore[index]
    frames = [row[0] for row in rows(IncreaseReservation, 0, back, *[(0,)] * 3)]  # type: ignore[index]
    rows(Transfer, 0, back, *[(frame, 1, ref, 0) for frame, ref in zip([*frames, 60], refs, strict=True)])
    rows(EndTransfer, 1, front, *[(ref, 0, 0) for ref in refs], (99, 0, 0))
    rows(EndTransfer, 1, 77, (refs[0], 0, 0))


def test_calls_made_at_once_are_records_like_others_and_can_be_lived_again() -> None:
    m = Machine(CONFIG)
    flipping(m)
    records = m.trace.since(0)[1]
    assert [r.seq for r in records] == list(range(1, m.trace.last + 1))
    refused = [r for r in records if isinstance(r.answer, Failure)]
    assert [(type(r.request), r.answer.errno) for r in refused if isinstance(r.answer, Failure)] == [
        (DecreaseReservation, "EINVAL"), (Transfer, "EINVAL"), (EndTransfer, "ENOENT"), (EndTransfer, "EBADF"),
    ]  # fmt: skip
    assert records == [Record.parse(r.line()) for r in records]
    assert snapshot(Machine.replay(CONFIG, records)) == snapshot(m)


@pytest.mark.parametrize("seq", [0, 3, 12, 17, 18, 24, 40])
@pytest.mark.parametrize("room", [1, 2, 5, 9, 100])
def test_since_looks_into_calls_that_were_made_at_once(seq: int, room: int) -> None:
    whole, part = Machine(CONFIG), Machine(replace(CONFIG, trace=room))
    for m in (whole, part):
        flipping(m)
    records, last = whole.trace.since(0)[1], whole.trace.last
    kept = [r for r in records if r.seq > last - room]
    assert len(part.trace) == min(room, last)
    lost, found = part.trace.since(seq)
    assert found == [r for r in kept if r.seq > seq]
    assert lost == max(0, last - min(room, last) - seq)
