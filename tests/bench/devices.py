"""The device files: an event through dev/evtchn against the FIFOs, an ioctl by pointer against its twin, batches.

Everything that is compared is measured in turns within this run, both ends pinned alike.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import struct
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

from tests.bench.figure import Figure
from tests.bench.mount import pinned, round_trip
from tests.conformance.world import Mount
from xenfs.abi import evtchn
from xenfs.abi.hypercall import BATCH
from xenfs.abi.ioctl import Ioctl
from xenfs.abi.wire import Wire
from xenfs.abi.xenfs_op import CurrentReservation
from xenfs.domain.mounted import MountedDomain
from xenfs.hypervisor import binary

LIBC = ctypes.CDLL(None, use_errno=True)
ROUNDS = 3_000


def by_twin(fd: int, call: Ioctl, request: Wire) -> int:
    """An ioctl whose bytes come with it."""
    return int(fcntl.ioctl(fd, call.twin(), bytearray(request.emit())))


def by_pointer(fd: int, call: Ioctl, request: Wire) -> int:
    """An ioctl whose struct is at an address of ours, as C programs make it."""
    data = ctypes.create_string_buffer(request.emit())
    return int(LIBC.ioctl(fd, ctypes.c_ulong(call.native), data))


class DeviceBell:
    """A port of a dev/evtchn, as far as a round trip needs it."""

    def __init__(self, fd: int, port: int) -> None:
        self._fd, self._port = fd, struct.pack("<I", port)
        self._notify = bytearray(evtchn.Notify(port=port).emit())

    def notify(self) -> None:
        fcntl.ioctl(self._fd, evtchn.NOTIFY.twin(), self._notify)

    def wait(self, timeout: float | None = None) -> bool:
        del timeout
        os.read(self._fd, 4)
        os.write(self._fd, self._port)
        return True


def events(mount: Mount) -> list[Figure]:
    """A round trip with dev/evtchn at both ends, against one through the FIFOs."""
    cpu = min(os.sched_getaffinity(0))
    before = os.sched_getaffinity(mount.pid)
    os.sched_setaffinity(mount.pid, {cpu})
    device, fifo = [], []
    one, two = (os.open(mount.root / "domains" / d / "dev" / "evtchn", os.O_RDWR) for d in ("1", "2"))
    a = by_twin(one, evtchn.BIND_UNBOUND_PORT, evtchn.BindUnboundPort(remote_domain=2))
    b = by_twin(two, evtchn.BIND_INTERDOMAIN, evtchn.BindInterdomain(remote_domain=1, remote_port=a))
    here, there = DeviceBell(one, a), DeviceBell(two, b)
    there.wait()
    with MountedDomain(1, mount.root) as left, MountedDomain(2, mount.root) as right:
        near = left.events.alloc_unbound(2)
        far = right.events.bind_interdomain(1, near.port)
        far.drain()
        for _ in range(5):
            device.append(round_trip(here, lambda: there, ROUNDS, cpu))
            fifo.append(round_trip(near, lambda: far, ROUNDS, cpu))
    os.close(one)
    os.close(two)
    os.sched_setaffinity(mount.pid, before)
    return [
        Figure("event round trip through dev/evtchn", median(device), "µs"),
        Figure("event round trip, dev/evtchn / FIFOs", median(x / y for x, y in zip(device, fifo, strict=True)), ""),
    ]


def _each(action: Callable[[], object], rounds: int) -> float:
    began = time.perf_counter()
    for _ in range(rounds):
        action()
    return (time.perf_counter() - began) / rounds * 1e6


def numbers(mount: Mount) -> list[Figure]:
    """An ioctl by Xen's own number against its twin."""
    cpu = min(os.sched_getaffinity(0))
    before = os.sched_getaffinity(mount.pid)
    fd = os.open(mount.root / "domains" / "1" / "dev" / "evtchn", os.O_RDWR)
    port = by_twin(fd, evtchn.BIND_UNBOUND_PORT, evtchn.BindUnboundPort(remote_domain=2))
    request, twin, pointer = evtchn.Notify(port=port), [], []
    with pinned(cpu):
        os.sched_setaffinity(mount.pid, {cpu})
        for _ in range(5):
            twin.append(_each(lambda: by_twin(fd, evtchn.NOTIFY, request), ROUNDS))
            pointer.append(_each(lambda: by_pointer(fd, evtchn.NOTIFY, request), ROUNDS))
    os.sched_setaffinity(mount.pid, before)
    os.close(fd)
    return [
        Figure("ioctl by its twin", median(twin), "µs"),
        Figure("ioctl by pointer / by twin", median(x / y for x, y in zip(pointer, twin, strict=True)), ""),
    ]


def batches(mount: Mount) -> list[Figure]:
    """64 hypercalls in one batch against 64 of one."""
    fd = os.open(mount.root / "domains" / "1" / "dev" / "hypercall", os.O_RDWR)
    many, single = (binary.emit([CurrentReservation()] * count) for count in (64, 1))

    def call(batch: bytes) -> None:
        fcntl.ioctl(fd, BATCH.twin(len(batch)), bytearray(batch))

    together, apart = [], []
    for _ in range(5):
        together.append(_each(lambda: call(many), 200) / 64)
        apart.append(_each(lambda: call(single), ROUNDS))
    os.close(fd)
    ratio = median(y / x for x, y in zip(together, apart, strict=True))
    return [
        Figure("hypercalls in batches of 64", 1e6 / median(together), "calls/s"),
        Figure("hypercalls, batches of 64 / one by one", ratio, ""),
    ]


def run() -> list[Figure]:
    """All figures of the device files."""
    figures: list[Figure] = []
    with tempfile.TemporaryDirectory() as scratch:
        mount = Mount(Path(scratch, "xen"))
        try:
            for domid in ("1", "2"):
                (mount.root / "domains" / domid).mkdir()
            for part in (events, numbers, batches):
                mount.arm()
                figures += part(mount)
                mount.rest()
        finally:
            mount.close()
    return figures
