"""Three ways to connect two guests to a host's bridge: xennet, a pure-Python forwarder, the kernel's own veth."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from abc import ABC, abstractmethod
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xl import kinds, spec

from tests.net.namespaces import inside, namespace, run
from tests.net.town import Place, iperf
from tests.toolstack.stage import Stage
from xenfs.xenbus import Device

TICKS = os.sysconf("SC_CLK_TCK")
ROOT = Path(__file__).parents[2]


def cpu_seconds(pid: int) -> float:
    """What a process has used so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


@dataclass(frozen=True, slots=True)
class Route:
    """From a client to a server: whose namespaces, and the server's address."""

    client: int
    server: int
    address: str


class Wire(ABC):
    """A host with a bridge and two guests. Address .9 is the host, .1 and .2 the guests."""

    name: str
    net: int

    def __init__(self) -> None:
        self.held = ExitStack()
        self.guests: list[int] = []
        self.workers: dict[str, list[int]] = {}
        self.host = self.namespace()

    def __enter__(self) -> Wire:
        with ExitStack() as undo:
            undo.callback(self.held.close)
            run(self.host, "ip", "link", "add", "br0", "type", "bridge", "forward_delay", "0")
            run(self.host, "ip", "addr", "add", self.address(9) + "/24", "dev", "br0")
            run(self.host, "ip", "link", "set", "br0", "up")
            self.build()
            for number, guest in enumerate(self.guests, 1):
                run(guest, "ip", "addr", "add", self.address(number) + "/24", "dev", "eth0")
                run(guest, "ip", "link", "set", "eth0", "up")
            for guest in self.guests:
                self.until_answers(guest)
            undo.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self.held.close()

    def address(self, number: int) -> str:
        return f"10.{self.net}.0.{number}"

    def until_answers(self, guest: int) -> None:
        words = ("ping", "-q", "-c", "1", "-W", "20", self.address(9))
        subprocess.run(inside(guest, *words), check=True, capture_output=True, timeout=30)

    def namespace(self) -> int:
        return self.held.enter_context(namespace())

    @abstractmethod
    def build(self) -> None:
        """Make the guests, with an eth0 each, and connect them to br0."""

    @property
    def to_host(self) -> Route:
        return Route(self.guests[0], self.host, self.address(9))

    @property
    def to_guest(self) -> Route:
        return Route(self.guests[0], self.guests[1], self.address(2))


class Veth(Wire):
    """The kernel's own."""

    name, net = "veth", 71

    def build(self) -> None:
        for number in (1, 2):
            guest = self.namespace()
            self.guests.append(guest)
            words = ("ip", "link", "add", f"v{number}", "type", "veth", "peer", "name", "eth0", "netns", str(guest))
            run(self.host, *words)
            run(self.host, "ip", "link", "set", f"v{number}", "master", "br0", "up")


class Forwarder(Wire):
    """A process of pure Python for each guest."""

    name, net = "forwarder", 72

    def build(self) -> None:
        for number in (1, 2):
            guest = self.namespace()
            self.guests.append(guest)
            words = [sys.executable, "-m", "tests.bench.forwarder", str(guest), "eth0", str(self.host), f"f{number}"]
            process = subprocess.Popen(words, stdout=subprocess.PIPE, cwd=ROOT)
            self.held.callback(process.wait)
            self.held.callback(process.kill)
            assert process.stdout is not None
            assert process.stdout.readline() == b"ok\n"
            self.held.callback(process.stdout.close)
            run(self.host, "ip", "link", "set", f"f{number}", "master", "br0", "up")
            self.workers[f"forwarder {number}"] = [process.pid]


class Xennet(Wire):
    """netfront and netback, by devd and guests as anybody has them. `line` is added to each vif."""

    name, net = "xennet", 73
    line = ""

    def build(self) -> None:
        folder = Path(self.held.enter_context(tempfile.TemporaryDirectory(prefix="xenfs-bench-")))
        self.stage = Stage(folder)
        self.held.callback(self.stage.close)
        self.stage.mount.arm(3000)
        self.stage.spawn_in(self.host, "-m", "xenfs", "devd", "-F")
        for number in (1, 2):
            domid = self.stage.guest(f"g{number}")
            wanted = kinds.parse("vif", f"bridge=br0{self.line}", domid, 0, lambda _: 0)
            spec.add(self.stage.store, wanted)
            spec.wait_ready(self.stage.store, wanted)
            self.stage.until_connected(Device("vif", domid, 0))
            keeper = self.stage.place.holder(f"{domid}/keeper.pid")
            assert keeper is not None
            self.guests.append(keeper)
        self.find_workers()

    def find_workers(self) -> None:
        """Which processes carry packets now."""
        for number in (1, 2):
            self.workers[f"netfront {number}"] = self.front(number)
            self.workers[f"netback {number}"] = self.back(number)

    def front(self, number: int) -> list[int]:
        pids = []
        for pid in self.stage.pids("device/vif/0"):
            environment = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
            if f"XEN_DOMID={number}".encode() in environment:
                pids.append(pid)
        return pids

    def back(self, number: int) -> list[int]:
        return self.stage.pids(f"backend/vif/{number}")


def measure(route: Route, *words: str, seconds: int = 2) -> dict[str, Any]:
    """One iperf3 run; what it says at its end."""
    here, there = (Place(pid, route.address, "") for pid in (route.client, route.server))
    return iperf(there, here, route.address, *words, seconds=seconds)
