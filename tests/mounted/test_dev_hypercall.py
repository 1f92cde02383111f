"""dev/hypercall: every row of the table in binary, by ioctl and by write and read."""

from __future__ import annotations

import ctypes
import errno
import os
import select
import struct
import threading
from collections.abc import Callable, Sequence
from functools import partial

import pytest

from tests.hostile.files import refused
from tests.mounted.devices import by_pointer, twin
from tests.mounted.mount import Xen, until
from xenfs.abi.event_channel import AllocUnbound, Status
from xenfs.abi.grant_table import MapGrantRef, Transfer
from xenfs.abi.hypercall import BATCH, BatchAt
from xenfs.abi.wire import Wire
from xenfs.abi.xenfs_op import (
    AcceptTransfer,
    AllocFrame,
    CreateDomain,
    CurrentReservation,
    DecreaseReservation,
    EndTransfer,
    FreeFrame,
    IncreaseReservation,
)
from xenfs.hypervisor import binary
from xenfs.hypervisor.snapshot import Counts

Ask = Callable[[int, bytes], bytes]


def by_twin(fd: int, batch: bytes) -> bytes:
    return twin(fd, BATCH, batch)[1]


def by_address(fd: int, batch: bytes) -> bytes:
    data = ctypes.create_string_buffer(batch, len(batch))
    where = ctypes.create_string_buffer(BatchAt(address=ctypes.addressof(data), size=len(batch)).emit())
    assert by_pointer(fd, BATCH.native, ctypes.addressof(where)) == 0
    return data.raw


def by_stream(fd: int, batch: bytes) -> bytes:
    assert os.write(fd, batch) == len(batch)
    answer = b""
    while len(answer) < len(batch):
        answer += os.read(fd, 1000)
    return answer


WAYS = pytest.mark.parametrize("ask", [by_twin, by_address, by_stream])


def calls(ask: Ask, fd: int, requests: Sequence[Wire]) -> list[tuple[int, Wire]]:
    return binary.parse(ask(fd, binary.emit(requests)))


@pytest.fixture
def fd(mnt: Xen) -> int:
    """dev/hypercall of domain 1."""
    mnt.domain(1)
    mnt.domain(2)
    return opened(mnt, 1)


def opened(mnt: Xen, domid: int) -> int:
    ctl = mnt.ctl(domid, os.O_RDONLY)  # closed by the fixture; the device goes with this process's others
    os.close(ctl.fd)
    ctl.fd = os.open(mnt.home(domid) / "dev" / "hypercall", os.O_RDWR)
    return ctl.fd


@WAYS
def test_a_batch_carries_results_and_failures(mnt: Xen, fd: int, ask: Ask) -> None:
    frames = [answer for _, answer in calls(ask, fd, [AllocFrame()] * 5)]
    numbers = [frame.frame for frame in frames if isinstance(frame, AllocFrame)]
    assert len(set(numbers)) == 5
    results = [result for result, _ in calls(ask, fd, [FreeFrame(frame=n) for n in (numbers[0], 9, numbers[1])])]
    assert results == [0, -errno.EINVAL, 0]
    ((result, answer),) = calls(ask, fd, [CurrentReservation()])
    assert (result, answer) == (0, CurrentReservation(frames=1024))
    assert isinstance(calls(ask, fd, [AllocUnbound(remote_dom=2)])[0][1], AllocUnbound)
    assert len(list((mnt.home(1) / "evtchn").iterdir())) == 1


@WAYS
def test_who_may_what(mnt: Xen, fd: int, ask: Ask) -> None:
    for request in (CreateDomain(), MapGrantRef(host_addr=0, flags=2, ref=8, dom=2)):
        ((result, _),) = calls(ask, fd, [request])
        assert result == -errno.EPERM
    ((result, made),) = calls(ask, opened(mnt, 0), [CreateDomain(dom=7)])
    assert (result, getattr(made, "domid", None)) == (0, 7)
    assert mnt.home(7).is_dir()


MALFORMED = [
    (b"", errno.EINVAL),
    (struct.pack("<II", 32 << 8 | 6, 0), errno.EINVAL),
    (struct.pack("<II", 32 << 8 | 6, 1025), errno.EINVAL),
    (struct.pack("<II", 0xFFFF, 1) + bytes(64), errno.ENOTTY),
    (binary.emit([CurrentReservation()]) + b"more", errno.EINVAL),
    (binary.emit([CurrentReservation()])[:-1], errno.EINVAL),
]


@pytest.mark.parametrize(("batch", "code"), MALFORMED)
def test_a_malformed_batch_is_refused_as_a_whole(mnt: Xen, fd: int, batch: bytes, code: int) -> None:
    refused(code, by_address, fd, batch)
    if len(batch) >= BATCH.size:
        refused(code, by_twin, fd, batch)
    assert mnt.counts(1) == Counts(1024, 0, 0, 0)


def test_a_batch_that_cannot_be(fd: int) -> None:
    where = ctypes.create_string_buffer(BatchAt(address=8, size=32).emit())
    refused(errno.EFAULT, by_pointer, fd, BATCH.native, ctypes.addressof(where))
    where = ctypes.create_string_buffer(BatchAt(address=8, size=1 << 31).emit())
    refused(errno.E2BIG, by_pointer, fd, BATCH.native, ctypes.addressof(where))


def test_the_largest_batch(fd: int) -> None:
    results = calls(by_address, fd, [CurrentReservation()] * 1024)
    assert results == [(0, CurrentReservation(frames=1024))] * 1024
    assert calls(by_stream, fd, [CurrentReservation()] * 1024) == results


def test_a_stream_dribbles_and_pours(fd: int) -> None:
    one = binary.emit([CurrentReservation()])
    poller = select.poll()
    poller.register(fd, select.POLLIN)
    assert os.read(fd, 100) == b""
    for byte in one:
        assert not poller.poll(0)
        os.write(fd, bytes([byte]))
    assert poller.poll(10000)
    assert binary.parse(os.read(fd, 100)) == [(0, CurrentReservation(frames=1024))]
    os.write(fd, one * 3 + one[:5])
    assert os.read(fd, 1000) == by_stream_of(one) * 3
    os.write(fd, one[5:])
    assert os.read(fd, 7) + os.read(fd, 100) == by_stream_of(one)


def by_stream_of(batch: bytes) -> bytes:
    return binary.run(batch, lambda _: CurrentReservation(frames=1024))


@pytest.mark.parametrize("garbage", [b"\xff" * 8, struct.pack("<II", 32 << 8 | 6, 1 << 30)])
def test_garbage_in_a_stream_is_refused_and_forgotten(fd: int, garbage: bytes) -> None:
    with pytest.raises(OSError, match=r"Errno (22|38)"):
        os.write(fd, garbage)
    assert calls(by_stream, fd, [CurrentReservation()]) == [(0, CurrentReservation(frames=1024))]


@WAYS
def test_64_pages_flip_in_one_batch(mnt: Xen, fd: int, ask: Ask) -> None:
    two = opened(mnt, 2)
    given = [a.frame for _, a in calls(ask, two, [AllocFrame()] * 64) if isinstance(a, AllocFrame)]
    calls(ask, two, [DecreaseReservation(frame=frame) for frame in given])
    refs = [a.ref for _, a in calls(ask, two, [AcceptTransfer(dom=1)] * 64) if isinstance(a, AcceptTransfer)]
    mine = [a.frame for _, a in calls(ask, fd, [AllocFrame()] * 64) if isinstance(a, AllocFrame)]
    for frame in mine:
        (mnt.home(1) / "frames" / str(frame)).write_bytes(struct.pack("<Q", frame))
    done = calls(ask, fd, [Transfer(mfn=f, domid=2, ref=r) for f, r in zip(mine, refs, strict=True)])
    assert [result for result, _ in done] == [0] * 64
    came = [a.frame for _, a in calls(ask, two, [EndTransfer(ref=ref) for ref in refs]) if isinstance(a, EndTransfer)]
    assert came == mine
    for frame in came:
        assert (mnt.home(2) / "frames" / str(frame)).read_bytes()[:8] == struct.pack("<Q", frame)
    assert mnt.counts(1).owned == 1024 - 64
    ((result, _),) = calls(ask, fd, [IncreaseReservation()])
    assert result == 0


def test_what_a_device_made_ends_with_it(mnt: Xen, fd: int) -> None:
    calls(by_twin, fd, [AllocUnbound(remote_dom=2)] * 3)
    user = mnt.client("""
        from tests.mounted.test_dev_hypercall import *
        fd = os.open(home(2) / "dev" / "hypercall", os.O_RDWR)
        calls(by_stream, fd, [AllocUnbound(remote_dom=1)] * 3)
        say("made")
        hear()
    """)
    assert user.line() == "made"
    assert len(list((mnt.home(2) / "evtchn").iterdir())) == 3
    user.kill()
    until(lambda: not list((mnt.home(2) / "evtchn").iterdir()), 1)
    ((_, status),) = calls(by_twin, fd, [Status(port=1)])
    assert isinstance(status, Status)


def test_threads_share_a_device(fd: int) -> None:

    failures: list[BaseException] = []

    def work(ask: Ask) -> None:
        try:
            for _ in range(50):
                assert calls(ask, fd, [CurrentReservation()] * 20) == [(0, CurrentReservation(frames=1024))] * 20
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=partial(work, ask)) for ask in (by_twin, by_address, by_twin, by_address)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not failures
