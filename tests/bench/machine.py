"""The model: hypercalls a second, and whether cost grows in line with size."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from statistics import median

from tests.bench.figure import Figure
from xenfs.abi.event_channel import AllocUnbound, BindInterdomain, Send
from xenfs.abi.xenfs_op import CreateDomain, EndAccess, GrantAccess
from xenfs.hypervisor import Config, Limits, Machine, binary, text

LINEAR = 1.5
"""A size ten times as large may cost this much more a piece before it counts as worse than linear."""


def seconds(work: Callable[[], object]) -> float:
    """Time one piece of work, collector off."""
    gc.collect()
    gc.disable()
    try:
        began = time.perf_counter()
        work()
        return time.perf_counter() - began
    finally:
        gc.enable()


def rate(calls: int, work: Callable[[], object], repeats: int = 5) -> float:
    """Calls a second, the median of several goes."""
    return calls / median(seconds(work) for _ in range(repeats))


def hypercalls(calls: int) -> list[Figure]:
    """Calls a second by the typed, the binary and the text form."""
    machine = Machine()
    domid = machine.call(CreateDomain()).domid
    port = machine.call(AllocUnbound(remote_dom=domid)).port
    machine.call(BindInterdomain(remote_dom=0, remote_port=port), domid)
    send = Send(port=port)
    batch = binary.emit([send] * 64)
    line = text.emit(send)

    def sends() -> None:
        for _ in range(calls):
            machine.call(send)

    def grants() -> None:
        for _ in range(calls // 2):
            machine.call(EndAccess(ref=machine.call(GrantAccess(frame=5, dom=domid)).ref))

    def batches() -> None:
        for _ in range(calls // 64):
            binary.run(batch, machine.call)

    def lines() -> None:
        for _ in range(calls // 10):
            text.answer(machine.call(text.parse(line)))

    return [
        Figure("send, typed", rate(calls, sends), "calls/s"),
        Figure("grant_access and end_access, typed", rate(calls, grants), "calls/s"),
        Figure("send, binary in batches of 64", rate(calls // 64 * 64, batches), "calls/s"),
        Figure("send, text", rate(calls // 10, lines), "calls/s"),
    ]


def _domains(count: int) -> Callable[[], object]:
    def work() -> None:
        machine = Machine(Config(frames=count * 64 + 64, dom0_frames=64))
        for _ in range(count):
            machine.call(CreateDomain(frames=64))

    return work


def _grants(count: int) -> Callable[[], object]:
    def work() -> None:
        machine = Machine(Config(dom0_limits=Limits(grants=count)))
        for i in range(count):
            machine.call(GrantAccess(frame=i % 4096, dom=1))
        for ref in range(8, 8 + count):
            machine.call(EndAccess(ref=ref))

    return work


def _ports(count: int) -> Callable[[], object]:
    def work() -> None:
        machine = Machine(Config(dom0_limits=Limits(ports=count)))
        for _ in range(count // 2):
            port = machine.call(AllocUnbound(remote_dom=0)).port
            machine.call(BindInterdomain(remote_dom=0, remote_port=port))

    return work


def growth(name: str, make: Callable[[int], Callable[[], object]], many: int) -> list[Figure]:
    """Cost of one of `many` against one of a tenth, taken in turns within this run."""
    pairs = [(seconds(make(many // 10)), seconds(make(many))) for _ in range(3)]
    ratio = median(large / small / 10 for small, large in pairs)
    cost = median(large for _, large in pairs) / many * 1e6
    return [
        Figure(f"{name}, each of {many:,}", cost, "µs"),
        Figure(f"{name}, each of {many:,} / each of a tenth", ratio, "", f"<= {LINEAR}", ratio <= LINEAR),
    ]


def run() -> list[Figure]:
    """All figures of the model."""
    return [
        *hypercalls(64_000),
        *growth("a domain", _domains, 1_000),
        *growth("a grant given and ended", _grants, 100_000),
        *growth("a port", _ports, 100_000),
    ]


if __name__ == "__main__":
    for figure in run():
        print(figure)
