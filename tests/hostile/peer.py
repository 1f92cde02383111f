"""A guest without scruples, against a real backend, which is a process of its own: what every kind of device shares."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from xl import kinds, spec

from tests.mounted.mount import until
from xenfs.abi.stats import Stats
from xenfs.abi.xenbus import XenbusState as S
from xenfs.abi.xenfs_op import CreateDomain, DestroyDomain
from xenfs.domain import Channel, Refused
from xenfs.domain.mounted import MountedDomain
from xenfs.ring import Entry
from xenfs.testing.mount import Mount
from xenfs.testing.peers import MockFront
from xenfs.xenbus import Device
from xenfs.xenbus.end import read_state

SECONDS = 20.0


class PeerHost:
    """A machine."""

    def __init__(self, folder: Path, held: ExitStack) -> None:
        self.mount = Mount(folder / "xen", 1 << 15)
        held.callback(self.mount.close)
        self.mount.arm(600)
        self.point, self.folder = str(folder / "xen"), folder
        self.root = held.enter_context(MountedDomain(0, self.point))
        self.log = folder / "log"

    @contextmanager
    def backend(
        self, kind: str, line: str, module: str, frames: int = 1024, *, prefix: Sequence[str] = ()
    ) -> Iterator[tuple[MountedDomain, Device, subprocess.Popen[bytes]]]:
        """A domain with a device whose backend runs; afterwards it still does, and ends in order.

        `prefix` stands before its command.
        """
        domid = self.root.call(CreateDomain(frames=frames)).domid
        wanted = kinds.parse(kind, line, domid, 0, int)
        spec.add(self.root.store, wanted)
        with self.log.open("ab") as log:
            back = subprocess.Popen(
                [*prefix, sys.executable, "-m", module, str(domid), str(wanted.device.id)],
                env={**os.environ, "XEN": self.point, "XEN_DOMID": "0"},
                stderr=log,
                stdin=subprocess.DEVNULL,
            )
        with back:
            try:
                spec.wait_ready(self.root.store, wanted)
                with MountedDomain(domid, self.point) as domain:
                    yield domain, wanted.device, back
                assert back.poll() is None, f"{module} must not end"
            finally:
                back.send_signal(signal.SIGTERM)
                until(lambda: back.poll() is not None, SECONDS)
                spec.remove(self.root.store, wanted.device)
        self.root.call(DestroyDomain(dom=domid))
        assert back.returncode == 0

    def held(self) -> list[str]:
        """What is granted, mapped or dying anywhere."""
        lines = Path(self.point, "hypervisor/frames").read_text().splitlines()[1:-1]
        return [line for line in lines if line.split()[3:6] != ["0", "0", "0"] or line.split()[1] == "dying"]


class PeerGuest:
    """The frontend."""

    def __init__(self, host: PeerHost, domain: MountedDomain, device: Device, back: subprocess.Popen[bytes]) -> None:
        self.machine, self.domain, self.device, self.back = host, domain, device, back
        self.store, self.memory = domain.store, domain.memory
        self.path = f"device/{device.kind}/{device.id}"
        self.held = ExitStack()

    def share(self, count: int = 1, *, readonly: bool = False) -> tuple[memoryview, list[int], list[int]]:
        """Pages granted to the backend: view, frames, grants."""
        frames = self.memory.alloc(count)
        region = self.memory.view(frames)
        refs = self.memory.grant(frames, 0, readonly=readonly)
        self.held.callback(self.memory.free, frames, defer=True)
        self.held.callback(region.close)
        self.held.callback(self._revoke, refs)
        return region.view, frames, refs

    def _revoke(self, refs: list[int]) -> None:
        with suppress(Refused):  # a test has done so before
            self.memory.end_access(refs, defer=True)

    def publish(self, keys: Mapping[str, str | bytes | None], state: S = S.Initialised) -> None:
        """Write keys, and be in the state that follows."""
        for name, value in keys.items():
            if value is not None:
                self.store.write(f"{self.path}/{name}", value)
        self.set_state(state)

    def set_state(self, state: S) -> None:
        self.store.write(f"{self.path}/state", str(int(state)))

    def state(self) -> S | None:
        return read_state(self.machine.root.store, self.device.backend_path)

    def until_state(self, *states: S) -> None:
        until(lambda: self.state() in states, SECONDS)

    def until_stopped(self, words: str) -> None:
        """Until the backend has stopped the device, and says why."""
        self.until_state(S.Closing, S.Closed)
        assert words in self.error(), self.error()

    def error(self) -> str:
        """What the backend says is wrong."""
        path = f"error/backend/{self.device.kind}/{self.device.domid}/{self.device.id}/error"
        return self.machine.root.store.read(path).decode()

    def close(self) -> None:
        """Let go of everything, as a frontend that closes."""
        self.set_state(S.Closed)
        self.until_state(S.Closed, S.InitWait)
        self.held.close()
        self.held = ExitStack()

    def stats(self) -> Stats:
        """What the backend has counted."""
        name = f"{self.device.kind}-{self.device.domid}-{self.device.id}-stats"
        return Stats.parse(Path(self.machine.point, "domains/0/rings", name).read_bytes())


class RingGuest(PeerGuest):
    """A frontend that asks through one ring."""

    ring: MockFront
    channel: Channel

    def ask(self, *requests: Entry) -> list[Entry]:
        """Queue requests; as many responses, or those that come before the backend stops."""
        for request in requests:
            self.ring.ring.push(*request)
        self.ring.publish()
        self.channel.notify()
        return self.answers(len(requests))

    def answers(self, count: int) -> list[Entry]:
        """So many responses."""
        found: list[Entry] = []
        deadline = time.monotonic() + SECONDS
        while True:
            found += self.ring.ring.take()
            if len(found) >= count or self.state() is not S.Connected:
                return found
            assert time.monotonic() < deadline, f"{len(found)} of {count} responses"
            if not self.ring.ring.final_check():
                self.channel.wait(0.05)
                self.channel.drain()
