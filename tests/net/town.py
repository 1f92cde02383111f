"""A host with a bridge and netbacks, in a namespace of its own, and guests with netfronts: by devd and the toolstack.

Guests have 10.50.0.N and fd50::N, N being their domain's number; the host has 10.50.0.254 and fd50::fe.
"""

from __future__ import annotations

import json
import subprocess
import sys
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xl import kinds, spec

from tests.mounted.mount import until
from tests.net import pinger
from tests.net.namespaces import inside, namespace, run
from tests.toolstack.stage import SECONDS, Stage
from xenfs.abi.stats import Stats
from xenfs.xenbus import Device

BRIDGE = "xenbr0"


@dataclass(frozen=True)
class Place:
    """Where programs run: the pid of a process in that namespace, and its addresses."""

    pid: int
    ipv4: str
    ipv6: str

    def run(self, *words: str) -> str:
        """Run a command there; its output."""
        return run(self.pid, *words)

    def ping(self, address: str, size: int = 56, count: int = 20, *words: str) -> int:
        """How many of so many echo requests come back; `whole`: they are not sent in fragments."""
        return int(self.run(sys.executable, pinger.__file__, address, str(size), str(count), *words))

    def start(self, *words: str) -> subprocess.Popen[str]:
        """Start a program of Python there."""
        return subprocess.Popen(
            inside(self.pid, sys.executable, *words), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )


class Town:
    """The host, and those who live there."""

    def __init__(self, folder: Path, rx: str = "copy") -> None:
        self.rx = rx
        self.held = ExitStack()
        self.stage = Stage(folder)
        self.held.callback(self.stage.close)
        self.stage.mount.arm(900)
        pid = self.held.enter_context(namespace())
        self.host = Place(pid, "10.50.0.254", "fd50::fe")
        run(pid, "ip", "link", "add", BRIDGE, "type", "bridge", "forward_delay", "0")
        run(pid, "ip", "address", "add", f"{self.host.ipv4}/24", "dev", BRIDGE)
        run(pid, "ip", "address", "add", f"{self.host.ipv6}/64", "dev", BRIDGE, "nodad")
        run(pid, "ip", "link", "set", BRIDGE, "up")
        self.devd = self.stage.spawn_in(pid, "-m", "xenfs", "devd", "-F")

    def guest(self, line: str = "", *, number: int = 0, up: bool = True) -> Place:
        """A guest with a vif on the bridge."""
        domid = self.stage.guest(memory=16)
        self.attach(domid, line, number=number)
        place = self.place(domid)
        if up:
            self.address(place, f"eth{number}")
        return place

    def place(self, domid: int) -> Place:
        """Where a guest's programs run."""
        keeper = self.stage.place.holder(f"{domid}/keeper.pid")
        assert keeper is not None
        return Place(keeper, f"10.50.0.{domid}", f"fd50::{domid:x}")

    def address(self, place: Place, card: str = "eth0") -> None:
        """Give a guest its addresses."""
        place.run("ip", "address", "add", f"{place.ipv4}/24", "dev", card)
        place.run("ip", "address", "add", f"{place.ipv6}/64", "dev", card, "nodad")
        place.run("ip", "link", "set", card, "up")

    def attach(self, domid: int, line: str = "", *, number: int = 0) -> Device:
        """A vif for a guest, connected."""
        line = line if "bridge" in line or "script" in line else f"bridge={BRIDGE}{line}"
        line += ",rx=flip" if self.rx == "flip" else ""
        wanted = kinds.parse("vif", line, domid, number, int)
        spec.add(self.stage.store, wanted)
        spec.wait_ready(self.stage.store, wanted)
        self.stage.until_connected(wanted.device)
        until(self.settled, SECONDS)
        return wanted.device

    def settled(self) -> bool:
        """Whether every netback has mapped what it is to keep mapped: all but the table of each list of pages."""
        lines = Path(self.stage.point, "hypervisor/frames").read_text().splitlines()[1:-1]
        granted, mapped = (sum(int(line.split()[column]) for line in lines) for column in (3, 4))
        return mapped == granted - (1 if self.rx == "flip" else 2) * len(self.stage.pids("device/vif/"))

    def front(self, domid: int) -> int:
        """The netfront of a guest."""
        pids = []
        for pid in self.stage.pids("device/vif/"):
            with suppress(OSError):
                if f"XEN_DOMID={domid}".encode() in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"):
                    pids.append(pid)
        (found,) = pids
        return found

    def back(self, domid: int) -> int:
        """The netback of a guest."""
        (found,) = self.stage.pids(f"backend/vif/{domid}/")
        return found

    def front_stats(self, domid: int, number: int = 0) -> Stats:
        return self._stats(domid, f"vif-{number}-stats")

    def back_stats(self, domid: int, number: int = 0) -> Stats:
        return self._stats(0, f"vif-{domid}-{number}-stats")

    def _stats(self, domid: int, name: str) -> Stats:
        return Stats.parse(Path(self.stage.point, "domains", str(domid), "rings", name).read_bytes())

    def links(self) -> list[str]:
        """The host's interfaces by name."""
        return sorted(link["ifname"] for link in json.loads(self.host.run("ip", "-j", "link")))

    def close(self) -> None:
        """End everything; nothing is left."""
        with self.held:
            for domid in self.stage.domids():
                for device in spec.attached(self.stage.store, domid, "vif"):
                    spec.detach(self.stage.store, [device])
            until(lambda: self.links() == ["lo", BRIDGE], SECONDS)


def iperf(server: Place, client: Place, address: str, *words: str, seconds: int = 1) -> dict[str, Any]:
    """One run of iperf3; what it says of the whole, at its end."""
    served = subprocess.Popen(
        inside(server.pid, "iperf3", "-s", "-1", "--forceflush"), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    try:
        assert served.stdout is not None
        while b"listening" not in served.stdout.readline():
            pass
        said = json.loads(client.run("iperf3", "-c", address, "-t", str(seconds), "-J", *words))
        end: dict[str, Any] = said["end"]
        return end
    finally:
        with suppress(OSError):
            served.kill()
        served.communicate()


def fetch(server: Place, client: Place, address: str, mebibytes: int) -> tuple[str, str]:
    """Bytes and checksum of a TCP transfer, as each end saw them."""
    serving = server.start("-m", "xl.demo.pour", "serve", "7100", str(mebibytes))
    try:
        assert serving.stdout is not None
        assert serving.stdout.readline() == "ready\n"
        taken = client.run(sys.executable, "-m", "xl.demo.pour", "fetch", address, "7100").split()
        sent = serving.stdout.read().split()
    finally:
        serving.kill()
        serving.communicate()
    return f"{sent[0]} {sent[2]}", f"{taken[0]} {taken[2]}"
