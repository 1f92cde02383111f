"""The store: a C client against a bare echo server in Python, large stores against small ones, many watches.

Client and server are on one CPU; everything that is compared is measured in turns within this run.
"""

from __future__ import annotations

import os
import resource
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median

from tests.bench.figure import Figure
from tests.bench.machine import LINEAR
from tests.bench.mount import pinned
from tests.conformance.world import Mount
from tests.need import need_tool
from xenfs.abi.xs_wire import XsType
from xenfs.domain.mounted import MountedDomain
from xenfs.xenstore.client import Client
from xenfs.xenstore.connection import Connection
from xenfs.xenstore.store import Store
from xenfs.xenstore.wire import Message

ROUNDS = 10_000
OPERATIONS = ("read", "write", "list", "empty", "read-modify-write")
ECHO = """
import socket, sys
server = socket.socket(socket.AF_UNIX)
server.bind(sys.argv[1])
server.listen()
while True:
    peer, _ = server.accept()
    while data := peer.recv(65536):
        peer.sendall(data)
"""


def _client(scratch: Path) -> Path:
    program = scratch / "store_client"
    source = Path(__file__).with_name("store_client.c")
    subprocess.run([need_tool("gcc", "gcc"), "-O2", "-o", str(program), str(source)], check=True)
    return program


@contextmanager
def echo(scratch: Path, cpu: int) -> Iterator[Path]:
    """A server that sends back what it gets."""
    path = scratch / "echo"
    process = subprocess.Popen(["taskset", "-c", str(cpu), sys.executable, "-c", ECHO, str(path)])
    try:
        deadline = time.monotonic() + 20
        with socket.socket(socket.AF_UNIX) as probe:
            while probe.connect_ex(str(path)):
                if time.monotonic() > deadline or process.poll() is not None:
                    raise RuntimeError("the echo server did not come up")
        yield path
    finally:
        process.kill()
        process.wait()


def _seconds(program: Path, path: Path, operation: str, cpu: int) -> float:
    words = ["taskset", "-c", str(cpu), str(program), str(path), operation, str(ROUNDS)]
    done = subprocess.run(words, capture_output=True, text=True, check=True, timeout=120)
    return float(done.stdout) / ROUNDS * 1e6


def clients(mount: Mount, scratch: Path) -> list[Figure]:
    """A C client through the socket, and our own through dev/xenbus."""
    cpu, program = min(os.sched_getaffinity(0)), _client(scratch)
    store = Path(f"{mount.root}.sock")
    os.sched_setaffinity(mount.pid, {cpu})
    figures: list[Figure] = []
    with MountedDomain(0, mount.root) as dom0, echo(scratch, cpu) as bare:
        for number in range(20):
            dom0.store.write(f"/bench/child-{number}", "")
        dom0.store.write("/bench/node", "value")
        base = median(_seconds(program, bare, "read", cpu) for _ in range(3))
        for operation in OPERATIONS:
            ours, theirs = [], []
            for _ in range(3):
                ours.append(_seconds(program, store, operation, cpu))
                theirs.append(_seconds(program, bare, operation, cpu))
            ratio = median(y / x for x, y in zip(ours, theirs, strict=True))
            goal = (">= 0.5", ratio >= 0.5) if operation == "read" else ()
            figures.append(Figure(f"{operation} by a C client, echo server / store", ratio, "", *goal))
            mount.rest()
            mount.arm()
        figures.insert(0, Figure("a request and its echo by a bare Python server", base, "µs"))
        with pinned(cpu):
            took = _each(lambda: dom0.store.read("/bench/node"), 3_000)
        figures.append(Figure("read by our own client through dev/xenbus", took, "µs"))
    return figures


def _each(action: Callable[[], object], rounds: int) -> float:
    began = time.perf_counter()
    for _ in range(rounds):
        action()
    return (time.perf_counter() - began) / rounds * 1e6


def _large(nodes: int) -> tuple[Store, Client, float]:
    """A store with that many nodes, a client, and the µs that loading took for each."""
    store = Store()
    client = store.connect(Client(0, lambda _path, _token: None))
    began = time.perf_counter()
    for number in range(nodes):
        store.write(client, f"/big/{number // 1000}/{number}", b"value")
    took = (time.perf_counter() - began) / nodes * 1e6
    for number in range(1000):
        store.write(client, f"/list/{number}", b"")
    return store, client, took


def _transaction(store: Store, client: Client) -> None:
    store.end(client, store.begin(client), commit=True)


def sizes() -> list[Figure]:
    """100 000 nodes against 1 000."""
    small, one, _ = _large(1_000)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    large, other, load = _large(100_000)
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 / 100_000
    actions: dict[str, Callable[[Store, Client], object]] = {
        "read": lambda s, c: s.read(c, "/big/0/7"),
        "write": lambda s, c: s.write(c, "/big/0/7", b"again"),
        "transaction": _transaction,
        "a list of 1,000": lambda s, c: s.look(c, "/list").names(),
    }
    figures = [Figure("loading, each of 100,000 nodes", load, "µs"), Figure("memory of a node", grown, "bytes")]
    for name, action in actions.items():
        rounds = 200 if "list" in name else 5_000
        ratios = []
        for _ in range(5):
            few = _each(lambda: action(small, one), rounds)  # noqa: B023 - called at once
            many = _each(lambda: action(large, other), rounds)  # noqa: B023 - called at once
            ratios.append(many / few)
        ratio = median(ratios)
        figures.append(Figure(f"{name}, 100,000 nodes / 1,000", ratio, "", f"<= {LINEAR}", ratio <= LINEAR))
    return figures


def watches(count: int = 1_000) -> list[Figure]:
    """A change of one path that a thousand connections watch."""
    store = Store()
    writer = Connection(store, 0)
    for number in range(count):
        peer = Connection(store, 0)
        peer.feed(Message(XsType.WATCH, 0, 0, b"/w\0%d\0" % number).emit())
        peer.take(1 << 20)
    request = Message(XsType.WRITE, 0, 0, b"/w\0value").emit()

    def change() -> None:
        writer.feed(request)
        writer.take(1 << 20)

    took = _each(change, 100)
    return [Figure("a change that 1,000 connections watch, each", took / count, "µs")]


def run() -> list[Figure]:
    """All figures of the store."""
    with tempfile.TemporaryDirectory() as scratch:
        mount = Mount(Path(scratch, "xen"))
        try:
            mount.arm()
            figures = clients(mount, Path(scratch))
            mount.rest()
        finally:
            mount.close()
    return [*figures, *sizes(), *watches()]
