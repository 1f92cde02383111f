"""Receive by page flipping beside receive by copy, in turns within one run; and what each step of a flip costs."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median

from tests.bench.figure import Figure
from tests.bench.net import ROUNDS, Measure, ping, tcp_back
from tests.bench.wires import Route, Xennet, cpu_seconds, measure
from tests.conformance.world import Mount
from xenfs.abi.xen import PAGE_SIZE
from xenfs.domain.mounted import MountedDomain

PIECE = 1472
"""Bytes of UDP that make a packet of the MTU."""
STEP_PAGES, STEP_ROUNDS = 64, 200


class Copying(Xennet):
    """The guests have packets copied into their pages."""

    name, net = "copy", 74
    line = ",rx=copy"


class Flipping(Xennet):
    """The guests are handed the pages with the packets."""

    name, net = "flip", 75
    line = ",rx=flip"


def packets(route: Route) -> float:
    """UDP packets of the MTU that arrive at the client, a second."""
    said = measure(route, "-u", "-b", "0", "-l", str(PIECE), "-R", seconds=2)["sum_received"]
    return float(said["bytes"]) / PIECE / float(said["seconds"])


def efforts(wire: Xennet) -> dict[str, float]:
    """CPU seconds of the processes that carry the first guest's packets, and of the hypervisor, so far."""
    pids = {"netback": wire.back(1)[0], "netfront": wire.front(1)[0], "hypervisor": wire.stage.mount.pid}
    return {name: cpu_seconds(pid) for name, pid in pids.items()}


def effort(wire: Xennet) -> Iterator[tuple[str, float]]:
    """CPU of each process for a packet that arrives, in us."""
    before = efforts(wire)
    count = packets(wire.to_host) * 2
    for name, seconds in efforts(wire).items():
        yield name, (seconds - before[name]) / count * 1e6


def compared(copying: Xennet, flipping: Xennet) -> Iterator[Figure]:
    """Rates and round trips."""
    cases: list[tuple[str, Measure, str, str | None]] = [
        ("UDP packets of the MTU, host to guest", packets, "packets/s", ">= 0.25"),
        ("TCP in segments of 64 KiB, host to guest", tcp_back, "Gbit/s", None),
        ("ping", ping, "ms", None),
    ]
    for what, take, unit, goal in cases:
        found: dict[str, list[float]] = {"copy": [], "flip": []}
        for _ in range(ROUNDS):
            for wire in (copying, flipping):
                found[wire.name].append(take(wire.to_host))
        by = {name: median(values) for name, values in found.items()}
        for name, value in by.items():
            yield Figure(f"{what}, {name}", value, unit)
        ratio = by["flip"] / by["copy"]
        yield Figure(f"{what}, flip / copy", ratio, "", *((goal, ratio >= 0.25) if goal else (None, None)))


def effort_figures(wires: list[Xennet]) -> Iterator[Figure]:
    """CPU for a packet, by process."""
    for wire in wires:
        for name, us in effort(wire):
            yield Figure(f"CPU of {name} for a packet, {wire.name}", us, "us")


class Steps:
    """Two domains that flip pages, and the time that each part takes."""

    def __init__(self, giver: MountedDomain, taker: MountedDomain) -> None:
        self._giver, self._taker = giver.memory, taker.memory
        self._to, self._from = taker.domid, giver.domid
        self.seconds: dict[str, float] = {}
        self._room = memoryview(bytearray(STEP_PAGES * PAGE_SIZE))
        self._pages = [self._room[at : at + PAGE_SIZE] for at in range(0, len(self._room), PAGE_SIZE)]

    @contextmanager
    def _timed(self, name: str) -> Iterator[None]:
        begun = time.perf_counter()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - begun

    def run(self) -> None:
        """Batches as netback and netfront make them, one behind the other."""
        giver, taker, count = self._giver, self._taker, STEP_PAGES
        back = taker.alloc(count)
        _, refs = taker.take_flips([], taker.alloc(count), self._from, count)
        _, stock = giver.give_flips([], self._to, [], count)
        for _ in range(STEP_ROUNDS):
            with self._timed("packets into pages"):
                giver.write_frames(stock, self._room)
            with self._timed("hand over, new pages"):
                _, stock = giver.give_flips(stock, self._to, refs, count)
            with self._timed("collect, give back, offer"):
                frames, refs = taker.take_flips(refs, back, self._from, count)
            back = [frame for frame in frames if frame is not None]
            with self._timed("packets out of pages"):
                taker.read_frames(back, self._pages)
        taker.free(back)

    def run_mapped(self) -> None:
        """The same with every page mapped by both, as it would be done without `mem`; hypercalls of the guest aside."""
        giver, taker, count = self._giver, self._taker, STEP_PAGES
        for _ in range(STEP_ROUNDS // 20):
            taker.decrease_reservation(taker.alloc(count))
            refs = taker.accept_transfer(self._from, count)
            stock = giver.increase_reservation(count)
            with self._timed("packets into pages"):
                region = giver.view(stock)
                region.view[:] = self._room
            with self._timed("hand over"):
                giver.transfer(stock, self._to, refs)
                region.close()
            frames = [frame for frame in taker.end_transfer(refs) if frame is not None]
            with self._timed("packets out of pages"), taker.view(frames) as view:
                self._room[:] = view
            taker.free(frames)


def steps() -> Iterator[Figure]:
    """The parts of a flip."""
    with tempfile.TemporaryDirectory(prefix="xenfs-bench-") as folder:
        mount = Mount(Path(folder) / "xen")
        try:
            mount.arm(60)
            (mount.root / "domains/1").mkdir()
            with MountedDomain(0, mount.root) as giver, MountedDomain(1, mount.root) as taker:
                parts = Steps(giver, taker)
                parts.run()
                whole = sum(parts.seconds.values())
                pages = STEP_PAGES * STEP_ROUNDS
                yield Figure("a flip, step by step", whole / pages * 1e6, "us a page")
                for name, seconds in parts.seconds.items():
                    yield Figure(f"  share of: {name}", seconds / whole, "")
                mapped = Steps(giver, taker)
                mapped.run_mapped()
                each = sum(mapped.seconds.values()) / (STEP_PAGES * (STEP_ROUNDS // 20))
                yield Figure("  every page mapped / by mem", each / (whole / pages), "")
        finally:
            mount.close()


def bench() -> Iterator[Figure]:
    """See __main__."""
    with Copying() as copying, Flipping() as flipping:
        assert isinstance(copying, Xennet)
        assert isinstance(flipping, Xennet)
        yield from compared(copying, flipping)
        yield from effort_figures([copying, flipping])
    yield from steps()
