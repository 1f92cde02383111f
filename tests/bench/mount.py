"""The mount: events, round trips, mappings, flips, a ring through mounted pages, many domains, an idle daemon.

Everything that is compared is measured in turns within this run, both ends pinned alike.
"""

from __future__ import annotations

import ctypes
import os
import select
import signal
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import NoReturn, Protocol

from tests.bench.figure import Figure
from tests.bench.machine import LINEAR
from tests.bench.ring import Page, echo, library_back, library_front, plain_page
from tests.conformance.world import Mount
from xenfs.abi.grant_table import GntStatus
from xenfs.domain.mounted import MountedDomain
from xenfs.domain.mounted.events import MountedChannel

DEADLINE = 30


class Bell(Protocol):
    """What a round trip needs of a channel."""

    def wait(self, timeout: float | None = None) -> bool: ...

    def notify(self) -> None: ...


class EventFd(MountedChannel):
    """The very same wrapper over two raw eventfds."""

    EVENT = struct.pack("=Q", 1)

    def __init__(self, domain: MountedDomain, own: int, peer: int) -> None:
        self._take(domain, own)
        self._notify = peer


def _child(work: Callable[[], None], cpu: int) -> int:
    """Run something in a process of its own, which no fault of this one outlives."""
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(DEADLINE)
        os.sched_setaffinity(0, {cpu})
        work()
        code = 0
    finally:
        os._exit(code)


def _reap(pid: int) -> None:
    _, status = os.waitpid(pid, 0)
    if status:
        message = f"the other end ended with status {status}"
        raise RuntimeError(message)


@contextmanager
def pinned(cpu: int) -> Iterator[None]:
    """This process on one CPU."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {cpu})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def _answer(bell: Bell, rounds: int) -> None:
    for _ in range(rounds):
        bell.wait(DEADLINE)
        bell.notify()


def round_trip(here: Bell, there: Callable[[], Bell], rounds: int, cpu: int) -> float:
    """Microseconds of one notify and its answer, both ends on one CPU."""
    pid = _child(lambda: _answer(there(), rounds), cpu)
    with pinned(cpu):
        began = time.perf_counter()
        for _ in range(rounds):
            here.notify()
            here.wait(DEADLINE)
        took = time.perf_counter() - began
    _reap(pid)
    return took / rounds * 1e6


def events(root: Path, rounds: int = 20_000) -> list[Figure]:
    """A round trip through our channels against one through eventfds."""
    ours, raw = [], []
    cpu = min(os.sched_getaffinity(0))
    one, two = os.eventfd(0, os.EFD_NONBLOCK), os.eventfd(0, os.EFD_NONBLOCK)
    with MountedDomain(1, root) as here, MountedDomain(2, root) as there:
        a = here.events.alloc_unbound(2)
        b = there.events.bind_interdomain(1, a.port)
        b.drain()
        for _ in range(5):
            ours.append(round_trip(a, lambda: b, rounds, cpu))
            raw.append(round_trip(EventFd(here, one, two), lambda: EventFd(there, two, one), rounds, cpu))
    os.close(one)
    os.close(two)
    ratio = median(x / y for x, y in zip(ours, raw, strict=True))
    return [
        Figure("event round trip", median(ours), "µs"),
        Figure("event round trip / eventfd", ratio, "", "<= 1.1", ratio <= 1.1),
    ]


@contextmanager
def bare(place: Path, cpu: int) -> Iterator[Path]:
    """A mount of one file by fusepy as it comes."""
    place.mkdir()
    process = subprocess.Popen(["taskset", "-c", str(cpu), sys.executable, "-m", "tests.bench.bare", str(place)])
    try:
        deadline = time.monotonic() + DEADLINE
        while str(place) not in Path("/proc/self/mounts").read_text():
            if time.monotonic() > deadline or process.poll() is not None:
                raise RuntimeError("the bare mount did not come up")
            select.select([], [], [], 0.02)
        yield place / "file"
    finally:
        process.terminate()
        process.wait(DEADLINE)
        subprocess.run(["umount", "-l", str(place)], check=False, capture_output=True)


def fuse_round_trips(mount: Mount, scratch: Path, rounds: int = 5_000) -> list[Figure]:
    """fstat of an open file, which is one request, against that of a file by fusepy alone."""
    cpu = min(os.sched_getaffinity(0))
    ours, theirs = [], []

    def one(fd: int) -> float:
        began = time.perf_counter()
        for _ in range(rounds):
            os.fstat(fd)
        return (time.perf_counter() - began) / rounds * 1e6

    before = os.sched_getaffinity(mount.pid)
    with bare(scratch / "bare", cpu) as file, pinned(cpu):
        os.sched_setaffinity(mount.pid, {cpu})
        a, b = os.open(mount.root / "hypervisor" / "version", os.O_RDONLY), os.open(file, os.O_RDONLY)
        for _ in range(5):
            ours.append(one(a))
            theirs.append(one(b))
        os.close(a)
        os.close(b)
    os.sched_setaffinity(mount.pid, before)
    ratio = median(x / y for x, y in zip(ours, theirs, strict=True))
    return [
        Figure("FUSE round trip", median(ours), "µs"),
        Figure("FUSE round trip / bare fusepy", ratio, "", "<= 1", ratio <= 1),
    ]


def mappings(root: Path, count: int = 1_000) -> list[Figure]:
    """One grant mapped and unmapped."""
    with MountedDomain(1, root) as granter, MountedDomain(2, root) as grantee:
        frames = granter.memory.alloc(64)
        refs = granter.memory.grant(frames, 2)
        began = time.perf_counter()
        for i in range(count):
            grantee.memory.map(1, [refs[i % 64]]).close()
        took = (time.perf_counter() - began) / count * 1e6
        granter.memory.end_access(refs)
    return [Figure("a grant mapped and unmapped", took, "µs")]


def flips(root: Path, pages: int = 512) -> list[Figure]:
    """Transfers a second, in batches of 64 and one by one."""
    rates = {}
    with MountedDomain(0, root) as giver, MountedDomain(2, root) as taker:
        for batch in (64, 1, 64, 1):
            taker.memory.decrease_reservation(taker.memory.alloc(pages))
            refs = taker.memory.accept_transfer(0, pages)
            frames = giver.memory.increase_reservation(pages)
            began = time.perf_counter()
            for at in range(0, pages, batch):
                done = giver.memory.transfer(frames[at : at + batch], 2, refs[at : at + batch])
                assert done == [GntStatus.okay] * batch
            rates[batch] = pages / (time.perf_counter() - began)
            arrived = [f for f in taker.memory.end_transfer(refs) if f is not None]
            taker.memory.free(arrived)
    ratio = rates[64] / rates[1]
    return [
        Figure("pages flipped, in batches of 64", rates[64], "pages/s"),
        Figure("pages flipped, batches of 64 / one by one", ratio, ""),
    ]


def granted_page(root: Path) -> Page:
    """A page of domain 1 that a child maps as domain 2."""

    @contextmanager
    def page() -> Iterator[tuple[memoryview, Callable[[], memoryview]]]:
        with MountedDomain(1, root) as domain:
            frames = domain.memory.alloc()
            refs = domain.memory.grant(frames, 2)
            with domain.memory.view(frames) as view:
                yield view, lambda: MountedDomain(2, root).memory.map(1, refs).view

    return page


def rings(root: Path, total: int = 200_000) -> list[Figure]:
    """The ring of the benchmark `ring`, through mounted pages against a plain shared page."""
    cpu = min(os.sched_getaffinity(0))
    mounted, plain = [], []
    for _ in range(5):
        mounted.append(echo(library_front, library_back, (cpu, cpu), total, granted_page(root)))
        plain.append(echo(library_front, library_back, (cpu, cpu), total, plain_page))
    ratio = median(x / y for x, y in zip(mounted, plain, strict=True))
    return [
        Figure("ring echo through mounted pages", median(mounted), "requests/s"),
        Figure("ring echo, mounted / plain page", ratio, "", ">= 0.95", ratio >= 0.95),
    ]


def _syncs(root: Path) -> NoReturn:
    libc = ctypes.CDLL(None)
    fd = os.open(root, os.O_RDONLY)
    while True:
        libc.syncfs(fd)
        select.select([], [], [], 0.005)


def _slowest(words: memoryview, stores: int) -> float:
    times = []
    for i in range(stores):
        began = time.perf_counter_ns()
        words[i % 512] = i
        times.append(time.perf_counter_ns() - began)
    return sorted(times)[stores * 999 // 1000] / 1000


def writeback(root: Path, stores: int = 200_000) -> list[Figure]:
    """Stores to a shared page while it is written back all the time: how long the slowest take."""
    cpu = max(os.sched_getaffinity(0))
    with (
        MountedDomain(1, root) as domain,
        domain.memory.view(domain.memory.alloc()) as view,
        view.cast("Q") as words,
    ):
        quiet = _slowest(words, stores)
        pid = _child(lambda: _syncs(root), cpu)
        busy = _slowest(words, stores)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    return [
        Figure("store to a mounted page, p99.9", quiet, "µs"),
        Figure("the same while it is written back", busy, "µs"),
    ]


def _resident(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096


def many_domains(mount: Mount) -> list[Figure]:
    """A thousand domains: time to make one, and what the daemon grows by for each."""
    domains, times = mount.root / "domains", {}
    before = _resident(mount.pid)
    for first, last in ((100, 200), (200, 1_100)):
        began = time.perf_counter()
        for domid in range(first, last):
            (domains / str(domid)).mkdir()
        times[last] = (time.perf_counter() - began) / (last - first)
    grown = (_resident(mount.pid) - before) / 1_000 / 1024
    ratio = times[1_100] / times[200]
    for domid in range(100, 1_100):
        (domains / str(domid)).rmdir()
    return [
        Figure("mkdir of a domain", times[1_100] * 1e6, "µs"),
        Figure("mkdir of a domain, the last 900 / the first 100", ratio, "", f"<= {LINEAR}", ratio <= LINEAR),
        Figure("daemon's memory, each of 1,000 domains", grown, "KiB", "<= 20", grown <= 20),
    ]


def idle(pid: int, seconds: float = 3.0) -> list[Figure]:
    """CPU of a daemon that nobody asks anything."""

    def used() -> int:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
        return int(fields[11]) + int(fields[12])

    before = used()
    select.select([], [], [], seconds)
    ticks = used() - before
    return [Figure("CPU of the idle daemon", ticks / os.sysconf("SC_CLK_TCK") / seconds * 100, "%", "0", ticks == 0)]


def run() -> list[Figure]:
    """All figures of the mount."""
    figures: list[Figure] = []
    with tempfile.TemporaryDirectory() as scratch:
        mount = Mount(Path(scratch, "xen"), 1 << 20)
        try:
            for domid in ("1", "2"):
                (mount.root / "domains" / domid).mkdir()
            parts: list[Callable[[], list[Figure]]] = [
                lambda: events(mount.root),
                lambda: fuse_round_trips(mount, Path(scratch)),
                lambda: mappings(mount.root),
                lambda: flips(mount.root),
                lambda: rings(mount.root),
                lambda: writeback(mount.root),
                lambda: many_domains(mount),
                lambda: idle(mount.pid),
            ]
            for part in parts:
                mount.arm()
                figures += part()
                mount.rest()
        finally:
            mount.close()
    return figures


def main() -> NoReturn:
    """Print the figures."""
    for figure in run():
        print(figure)
    sys.exit(0)


if __name__ == "__main__":
    main()
