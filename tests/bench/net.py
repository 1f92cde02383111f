"""netfront and netback beside a pure-Python forwarder and the kernel's own veth, alternating within one run."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from statistics import median
from typing import Any

from xl.supervisor import GOOD

from tests.bench.figure import Figure
from tests.bench.wires import ROOT, Forwarder, Route, Veth, Wire, Xennet, cpu_seconds, measure
from tests.net.namespaces import inside, run
from xenfs.xenbus import Device

ROUNDS = 3
KILLS = 7
Measure = Callable[[Route], float]


def tcp(route: Route) -> float:
    """Gbit/s towards the server."""
    return float(measure(route, "-O", "1", seconds=2)["sum_received"]["bits_per_second"]) / 1e9


def tcp_back(route: Route) -> float:
    """Gbit/s from the server."""
    return float(measure(route, "-R", "-O", "1", seconds=2)["sum_received"]["bits_per_second"]) / 1e9


def small(route: Route) -> float:
    """UDP frames of 64 bytes that arrive, a second."""
    return _arrived(measure(route, "-u", "-b", "0", "-l", "18", seconds=2))


def _arrived(said: dict[str, Any]) -> float:
    """Packets of 18 bytes a second. By what was received: iperf3 counts lost packets against one end or the other."""
    return float(said["sum_received"]["bytes"]) / 18 / float(said["sum_received"]["seconds"])


def ping(route: Route) -> float:
    """Round trip, ms."""
    said = run(route.client, "ping", "-q", "-i", "0.005", "-c", "300", route.address)
    found = re.search(r"= [\d.]+/([\d.]+)/", said)
    assert found is not None
    return float(found[1])


def alternate(wires: list[Wire], take: Measure, route: Callable[[Wire], Route]) -> dict[str, float]:
    """The median of each, taken in turns."""
    found: dict[str, list[float]] = {wire.name: [] for wire in wires}
    for _ in range(ROUNDS):
        for wire in wires:
            found[wire.name].append(take(route(wire)))
    return {name: median(values) for name, values in found.items()}


def host(wire: Wire) -> Route:
    """Guest and host."""
    return wire.to_host


def guests(wire: Wire) -> Route:
    """Guest and guest."""
    return wire.to_guest


CASES: list[tuple[str, Measure, Callable[[Wire], Route], float | None]] = [
    ("TCP guest to host", tcp, host, 0.5),
    ("TCP host to guest", tcp_back, host, 0.5),
    ("TCP guest to guest", tcp, guests, 0.5),
    ("UDP of 64 bytes, guest to host", small, host, None),
    ("UDP of 64 bytes, host to guest", lambda route: small_back(route), host, None),
]


def small_back(route: Route) -> float:
    """UDP frames of 64 bytes that arrive at the client, a second."""
    return _arrived(measure(route, "-u", "-b", "0", "-l", "18", "-R", seconds=2))


def throughput(wires: list[Wire]) -> Iterator[Figure]:
    """Rates, as ratios."""
    for what, take, route, least in CASES:
        found = alternate(wires, take, route)
        ours, forwarder, veth = (found[name] for name in ("xennet", "forwarder", "veth"))
        large = take in (tcp, tcp_back)
        yield Figure(what, ours, "Gbit/s" if large else "packets/s")
        ratio = ours / forwarder
        yield Figure(f"{what} / forwarder", ratio, "", *((">= 0.8", ratio >= 0.8) if large else (None, None)))
        ratio = ours / veth
        yield Figure(f"{what} / veth", ratio, "", *((f">= {least}", ratio >= least) if least else (None, None)))


def latency(wires: list[Wire]) -> Iterator[Figure]:
    """Round trips."""
    for what, route in (("guest and host", host), ("guest and guest", guests)):
        found = alternate(wires, ping, route)
        ratio = found["xennet"] / found["forwarder"]
        yield Figure(f"ping between {what}", found["xennet"], "ms")
        yield Figure(f"ping between {what} / forwarder", ratio, "", "<= 2", ratio <= 2)


def effort(wire: Xennet) -> Iterator[Figure]:
    """CPU of each process for a Gbit, both ways."""
    wire.find_workers()
    workers = {name: pids[0] for name, pids in wire.workers.items() if name.endswith("1")}
    for what, take in (("guest to host", tcp), ("host to guest", tcp_back)):
        before = {name: cpu_seconds(pid) for name, pid in workers.items()}
        gbits = take(wire.to_host) * 3
        for name, pid in workers.items():
            yield Figure(f"CPU of {name[:-2]}, {what}", (cpu_seconds(pid) - before[name]) / gbits, "s/Gbit")


def silence(wire: Xennet, strike: Callable[[], None]) -> float:
    """Milliseconds without a packet after `strike`, the median of some."""
    words = (sys.executable, "-m", "tests.bench.beat")
    pipe = subprocess.PIPE
    hearer = subprocess.Popen(
        inside(wire.host, *words, "hear"), stdin=pipe, stdout=pipe, text=True, bufsize=1, cwd=ROOT
    )
    sender = subprocess.Popen(inside(wire.guests[0], *words, "send", wire.address(9)), cwd=ROOT)
    found = []
    try:
        assert hearer.stdout is not None
        assert hearer.stdin is not None
        hearer.stdout.readline()
        for _ in range(KILLS):
            time.sleep(GOOD + 0.2)  # a driver that dies sooner is started again with a pause
            hearer.stdin.write("\n")
            strike()
            found.append(float(hearer.stdout.readline()))
            wire.stage.until_connected(Device("vif", 1, 0))
    finally:
        for process in (sender, hearer):
            process.kill()
            process.communicate()
    return median(found)


def gaps(wire: Xennet) -> Iterator[Figure]:
    """Silence after kill -9 of netback and netfront, restarted by their supervisors and by hand."""

    def kill(name: str) -> Callable[[], None]:
        return lambda: wire.stage.kill(name)

    ms = silence(wire, kill("backend/vif/1"))
    yield Figure("silence after kill -9 of netback, devd's spare", ms, "ms", "<= 50", ms <= 50)
    ms = silence(wire, lambda: kill_front(wire))
    yield Figure("silence after kill -9 of netfront", ms, "ms")
    wire.stage.processes[0].terminate()
    wire.stage.processes[0].wait(30)
    cold = Cold(wire)
    try:
        cold.start()
        wire.stage.until_connected(Device("vif", 1, 0))
        ms = silence(wire, cold.strike)
    finally:
        cold.end()
    yield Figure("silence after kill -9 of netback, cold start", ms, "ms", "<= 250", ms <= 250)


def kill_front(wire: Xennet) -> None:
    """kill -9 of the first guest's netfront."""
    for pid in wire.front(1):
        os.kill(pid, signal.SIGKILL)


class Cold:
    """A netback started as a new interpreter each time, by nobody but us."""

    def __init__(self, wire: Xennet) -> None:
        self._wire = wire
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        words = inside(self._wire.host, sys.executable, "-m", "xennet.back", "1", "0")
        environment = {**self._wire.stage.environment, "XEN_DOMID": "0"}
        self._process = subprocess.Popen(words, env=environment)

    def end(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def strike(self) -> None:
        self.end()
        self.start()


def bench() -> Iterator[Figure]:
    """See __main__."""
    with Veth() as veth, Forwarder() as forwarder, Xennet() as xennet:
        assert isinstance(xennet, Xennet)
        wires = [veth, forwarder, xennet]
        yield from throughput(wires)
        yield from latency(wires)
        yield from effort(xennet)
        yield from gaps(xennet)
