"""A backend without scruples, against a real frontend, a process of its own: what every kind of device shares."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from xl import kinds, spec

from tests.hostile.peer import SECONDS, PeerHost
from tests.mounted.mount import until
from xenfs.abi.xenbus import XenbusState as S
from xenfs.abi.xenfs_op import CreateDomain, DestroyDomain
from xenfs.domain import Channel
from xenfs.xenbus import Device, OtherEnd
from xenfs.xenbus.end import read_state
from xenfs.xenbus.process import PARENT


class FrontHost(PeerHost):
    """A machine whose domain 0 is this process."""

    @contextmanager
    def frontend(
        self, kind: str, line: str, *program: str, prefix: Sequence[str] = ()
    ) -> Iterator[tuple[Device, subprocess.Popen[bytes]]]:
        """A guest with a device whose frontend runs; afterwards it still does, and ends when the device is gone.

        `program` is what Python is told to do, `prefix` stands before the command.
        """
        domid = self.root.call(CreateDomain(frames=2048)).domid
        wanted = kinds.parse(kind, line, domid, 0, int)
        spec.add(self.root.store, wanted)
        own = {"XEN": self.point, "XEN_DOMID": str(domid), "TMPDIR": str(self.folder), PARENT: str(os.getpid())}
        with self.log_of(domid).open("wb") as log:
            front = subprocess.Popen(
                [*prefix, sys.executable, *program, "0"],
                env={**os.environ, **own},
                stderr=log,
                stdin=subprocess.DEVNULL,
            )
        with front:
            try:
                try:
                    yield wanted.device, front
                    assert front.poll() is None, f"the frontend must not end: {self.log_of(domid).read_text()}"
                finally:
                    spec.remove(self.root.store, wanted.device)
                until(lambda: front.poll() is not None, SECONDS)
                assert front.returncode in (0, 1), "1 is for a device that went with a complaint"
            finally:
                front.send_signal(signal.SIGKILL)
                self.root.call(DestroyDomain(dom=domid))

    def log_of(self, domid: int) -> Path:
        """The file of what a guest's frontend says."""
        return self.folder / f"log-{domid}"


class PeerBack:
    """The backend."""

    def __init__(self, host: FrontHost, device: Device, front: subprocess.Popen[bytes]) -> None:
        self.machine, self.device, self.domid, self.front = host, device, device.domid, front
        self.root, self.store = host.root, host.root.store
        self.path, self.front_path = device.backend_path, device.frontend_path
        self.held = ExitStack()

    def set_state(self, state: S) -> None:
        self.store.write(f"{self.path}/state", str(int(state)))

    def state(self) -> S | None:
        """The frontend's."""
        return read_state(self.store, self.front_path)

    def until_state(self, *states: S) -> None:
        until(lambda: self.state() in states, SECONDS)

    def until_stopped(self, words: str) -> None:
        """Until the frontend has closed, and says why."""
        error = f"/local/domain/{self.domid}/error/device/{self.device.kind}/{self.device.id}/error"
        until(lambda: self.store.exists(error), SECONDS)
        assert words in self.store.read(error).decode(), self.store.read(error)
        self.until_state(S.Closing, S.Closed)

    def map(self, key: str) -> memoryview:
        """The page that the frontend shares by a key."""
        ref = OtherEnd(self.store, self.front_path).number(key)
        return self.held.enter_context(self.root.memory.map(self.domid, [ref]))

    def bind(self, key: str) -> Channel:
        """The channel that it offers by a key."""
        port = OtherEnd(self.store, self.front_path).number(key)
        return self.held.enter_context(self.root.events.bind_interdomain(self.domid, port))

    def let_go(self, *states: S) -> PeerBack:
        """Close, from one moment to the next, by way of other states perhaps."""
        self.close()
        for state in (*states, S.Closed):
            self.set_state(state)
        self.until_state(S.Closed, S.Initialising)
        return self

    def close(self) -> None:
        """Unmap and unbind everything."""
        self.held.close()
        self.held = ExitStack()

    def log(self) -> str:
        """What the frontend has said."""
        return self.machine.log_of(self.domid).read_text()
