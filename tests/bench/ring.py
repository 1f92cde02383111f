"""Echo over one shared ring between two processes: FrontRing and BackRing against the same work written out by hand.

The hand-written loops use the same tactics (batches, each span copied out before it is decoded, three barriers, the
event index, a final check before sleeping) with everything inlined and no overflow check, so that the ratio is the
price of the library. Entries are those of net tx: requests of 12 bytes, responses of 4, 256 slots.

    PYTHONPATH=. python -m tests.bench.ring
"""

from __future__ import annotations

import mmap
import os
import signal
import struct
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from itertools import starmap
from statistics import median
from time import perf_counter
from typing import NoReturn

from tests.bench.figure import Figure
from xenfs.abi.ring import ENTRIES, HEADER, RingFormat
from xenfs.atomics import fence
from xenfs.ring import BackRing, FrontRing

TX = RingFormat("tx", struct.Struct("<IHHHH"), struct.Struct("<Hh"))
SLOTS, BATCH = 256, 64
REQUESTS = [(1000 + slot, 0, 0, slot, 64) for slot in range(BATCH)]
GOAL = 0.6
DEADLINE = 60  # seconds, for one echo run


@dataclass(frozen=True, slots=True)
class Bell:
    """The two eventfds of a pair, as one end sees them."""

    own: int
    peer: int

    def ring(self) -> None:
        os.eventfd_write(self.peer, 1)

    def wait(self) -> None:
        os.eventfd_read(self.own)


End = Callable[[memoryview, Bell, int], None]


def library_front(view: memoryview, bell: Bell, total: int) -> None:
    sent = got = 0
    with FrontRing.attach(view, TX) as ring:
        while got < total:
            if count := min(ring.free, BATCH, total - sent):
                ring.push_many(REQUESTS[:count])
                sent += count
                if ring.publish():
                    bell.ring()
            if responses := ring.take():
                got += len(responses)
            elif not count and not ring.final_check():
                bell.wait()


def library_back(view: memoryview, bell: Bell, total: int) -> None:
    done = 0
    with BackRing(view, TX) as ring:
        while done < total:
            if requests := ring.take(BATCH):
                ring.respond_many([(request[3], 0) for request in requests])
                done += len(requests)
                if ring.publish():
                    bell.ring()
            elif not ring.final_check():
                bell.wait()


def hand_front(view: memoryview, bell: Bell, total: int) -> None:
    words, entries = view[:16].cast("I"), view[ENTRIES : ENTRIES + SLOTS * 12]
    pack, unpack = struct.Struct("<IHHHH").pack, struct.Struct("<Hh8x").iter_unpack
    prod = cons = 0
    while cons < total:
        if count := min(SLOTS - (prod - cons), BATCH, total - prod):
            data = b"".join(starmap(pack, REQUESTS[:count]))
            start = (prod & 255) * 12
            if (over := start + len(data) - SLOTS * 12) > 0:
                entries[start:] = data[:-over]
                entries[:over] = data[-over:]
            else:
                entries[start : start + len(data)] = data
            old, prod = prod, prod + count
            fence()
            words[0] = prod & 0xFFFF_FFFF
            fence()
            if (prod - words[1]) & 0xFFFF_FFFF < prod - old:
                bell.ring()
        if ready := (words[2] - cons) & 0xFFFF_FFFF:
            fence()
            start = (cons & 255) * 12
            data = entries[start : start + ready * 12].tobytes()
            if len(data) < ready * 12:
                data += entries[: ready * 12 - len(data)].tobytes()
            cons += len(list(unpack(data)))
        elif not count:
            words[3] = (cons + 1) & 0xFFFF_FFFF
            fence()
            if (words[2] - cons) & 0xFFFF_FFFF == 0:
                bell.wait()
    words.release()
    entries.release()


def hand_back(view: memoryview, bell: Bell, total: int) -> None:
    words, entries = view[:16].cast("I"), view[ENTRIES : ENTRIES + SLOTS * 12]
    grid = entries.cast("I")
    pack, unpack = struct.Struct("<Hh").pack, struct.Struct("<IHHHH").iter_unpack
    cons = 0
    while cons < total:
        if ready := min((words[0] - cons) & 0xFFFF_FFFF, BATCH):
            fence()
            slot = cons & 255
            data = entries[slot * 12 : (slot + ready) * 12].tobytes()
            if len(data) < ready * 12:
                data += entries[: ready * 12 - len(data)].tobytes()
            answers = [(request[3], 0) for request in unpack(data)]
            out = memoryview(b"".join(starmap(pack, answers))).cast("I")
            if (over := slot + ready - SLOTS) > 0:
                grid[slot * 3 :: 3] = out[: ready - over]
                grid[: over * 3 : 3] = out[ready - over :]
            else:
                grid[slot * 3 : (slot + ready) * 3 : 3] = out
            old, cons = cons, cons + ready
            fence()
            words[2] = cons & 0xFFFF_FFFF
            fence()
            if (cons - words[3]) & 0xFFFF_FFFF < cons - old:
                bell.ring()
        else:
            words[1] = (cons + 1) & 0xFFFF_FFFF
            fence()
            if (words[0] - cons) & 0xFFFF_FFFF == 0:
                bell.wait()
    for held in (grid, entries, words):
        held.release()


Page = Callable[[], AbstractContextManager[tuple[memoryview, Callable[[], memoryview]]]]
"""A page to share: this process's view of it, and how a child gets its own."""


@contextmanager
def plain_page() -> Iterator[tuple[memoryview, Callable[[], memoryview]]]:
    """A shared anonymous mapping, which a child inherits."""
    with mmap.mmap(-1, 4096) as page, memoryview(page) as view:
        yield view, lambda: view


def _backend(back: End, mapped: Callable[[], memoryview], bell: Bell, total: int, cpu: int) -> NoReturn:
    code = 1
    try:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(DEADLINE)
        os.sched_setaffinity(0, {cpu})
        back(mapped(), bell, total)
        code = 0
    finally:
        os._exit(code)


@contextmanager
def _pinned(cpu: int) -> Iterator[None]:
    """This process on one CPU, and an alarm that ends a run in which the other end died."""

    def late(*_: object) -> NoReturn:
        message = f"no echo within {DEADLINE} s"
        raise TimeoutError(message)

    before, handler = os.sched_getaffinity(0), signal.signal(signal.SIGALRM, late)
    signal.alarm(DEADLINE)
    os.sched_setaffinity(0, {cpu})
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, handler)
        os.sched_setaffinity(0, before)


def echo(front: End, back: End, cpus: tuple[int, int], total: int, page: Page = plain_page) -> float:
    """Requests per second of one run of `total`, the frontend on the first CPU and the backend on the second."""
    bells = [os.eventfd(0) for _ in range(2)]
    try:
        with page() as (view, mapped), _pinned(cpus[0]):
            view[:ENTRIES] = HEADER.pack(0, 1, 0, 1)
            child = os.fork()
            if not child:
                _backend(back, mapped, Bell(bells[1], bells[0]), total, cpus[1])
            try:
                began = perf_counter()
                front(view, Bell(bells[0], bells[1]), total)
                took = perf_counter() - began
            except BaseException:
                os.kill(child, signal.SIGKILL)
                raise
            finally:
                _, status = os.waitpid(child, 0)
            if status:
                message = f"the backend ended with status {status}"
                raise RuntimeError(message)
            return total / took
    finally:
        for bell in bells:
            os.close(bell)


def compare(label: str, cpus: tuple[int, int], total: int, repeats: int) -> list[Figure]:
    """Library and hand-written loop in turns; the ratio is the median of those of neighbouring runs."""
    library, hand = [], []
    for _ in range(repeats):
        library.append(echo(library_front, library_back, cpus, total))
        hand.append(echo(hand_front, hand_back, cpus, total))
    ratio = median(ours / theirs for ours, theirs in zip(library, hand, strict=True))
    return [
        Figure(f"ring echo, {label}", median(library), "requests/s"),
        Figure(f"ring echo by hand, {label}", median(hand), "requests/s"),
        Figure(f"ring echo, library / by hand, {label}", ratio, "", f">= {GOAL}", ratio >= GOAL),
    ]


def run(total: int = 200_000, repeats: int = 7) -> list[Figure]:
    """Both ends on one CPU and, where there are two, on two."""
    cpus = sorted(os.sched_getaffinity(0))
    figures = compare("one CPU", (cpus[0], cpus[0]), total, repeats)
    if len(cpus) > 1:
        figures += compare("two CPUs", (cpus[0], cpus[1]), total, repeats)
    return figures


def main() -> int:
    """Print the figures; 1 when a goal was missed."""
    figures = run()
    for figure in figures:
        print(figure)
    return int(any(figure.met is False for figure in figures))


if __name__ == "__main__":
    sys.exit(main())
