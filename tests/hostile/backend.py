"""A backend without scruples, against the real netfront, which is a process of its own in a guest's namespace."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from xl import kinds, spec

from tests.mounted.mount import until
from tests.net.namespaces import inside, listening, namespace, run
from xenfs.abi.netif import CTRL, RX, TX
from xenfs.abi.stats import Stats
from xenfs.abi.xenbus import XenbusState as S
from xenfs.abi.xenfs_op import CreateDomain, DestroyDomain
from xenfs.domain.mounted import MountedDomain
from xenfs.ring import Entry
from xenfs.testing.mount import Mount
from xenfs.testing.peers import MockBack
from xenfs.xenbus import OtherEnd
from xenfs.xenbus.end import read_state

SECONDS = 20.0
FEATURES = {
    "feature-sg": "1",
    "feature-gso-tcpv4": "1",
    "feature-gso-tcpv6": "1",
    "feature-ipv6-csum-offload": "1",
    "feature-rx-copy": "1",
    "feature-split-event-channels": "1",
    "feature-ctrl-ring": "1",
}


class Machine:
    """A machine whose domain 0 is this process."""

    def __init__(self, folder: Path, held: ExitStack) -> None:
        self.mount = Mount(folder / "xen", 1 << 15)
        held.callback(self.mount.close)
        self.mount.arm(600)
        self.point = str(folder / "xen")
        self.root = held.enter_context(MountedDomain(0, self.point))
        self.log = folder / "log"

    @contextmanager
    def back(self) -> Iterator[Back]:
        """A guest with a netfront, and its backend, which has not offered anything."""
        domid = self.root.call(CreateDomain(frames=2048)).domid
        wanted = kinds.parse("vif", "mac=00:16:3e:00:00:01", domid, 0, int)
        spec.add(self.root.store, wanted)
        with namespace() as space, self.log.open("ab") as log:
            front = subprocess.Popen(
                inside(space, sys.executable, "-m", "xennet.front", "0"),
                env={**os.environ, "XEN": self.point, "XEN_DOMID": str(domid)},
                stderr=log,
                stdin=subprocess.DEVNULL,
            )
            with front:
                try:
                    made = Back(self, domid, space, front)
                    try:
                        yield made
                    finally:
                        made.held.close()
                    assert front.poll() is None, "netfront must not end"
                    spec.remove(self.root.store, wanted.device)
                    until(lambda: front.poll() is not None, SECONDS)
                    assert front.returncode in (0, 1), "1 is for a device that went with a complaint"
                finally:
                    front.send_signal(signal.SIGKILL)
                    self.root.call(DestroyDomain(dom=domid))

    def held(self) -> list[str]:
        """What is granted, mapped or dying anywhere."""
        lines = Path(self.point, "hypervisor/frames").read_text().splitlines()[1:-1]
        return [line for line in lines if line.split()[3:6] != ["0", "0", "0"] or line.split()[1] == "dying"]


class Back:
    """The backend. It answers nothing by itself."""

    def __init__(self, machine: Machine, domid: int, space: int, front: subprocess.Popen[bytes]) -> None:
        self.machine, self.domid, self.space, self.front = machine, domid, space, front
        self.root, self.store = machine.root, machine.root.store
        self.path = f"/local/domain/0/backend/vif/{domid}/0"
        self.front_path = f"/local/domain/{domid}/device/vif/0"
        self.held = ExitStack()

    def set_state(self, state: S) -> None:
        self.store.write(f"{self.path}/state", str(int(state)))

    def state(self) -> S | None:
        """The frontend's."""
        return read_state(self.store, self.front_path)

    def until_state(self, *states: S) -> None:
        until(lambda: self.state() in states, SECONDS)

    def offer(self, **changes: str) -> None:
        """Say what it can do, and be InitWait."""
        self.until_state(S.Initialising)
        changed = {name.replace("_", "-"): value for name, value in changes.items()}
        for name, value in {**FEATURES, **changed}.items():
            self.store.write(f"{self.path}/{name}", value)
        self.set_state(S.InitWait)

    def map(self) -> None:
        """Map what the frontend shares."""
        keys = OtherEnd(self.store, self.front_path)
        memory, events = self.root.memory, self.root.events

        def page(name: str) -> memoryview:
            return self.held.enter_context(memory.map(self.domid, [keys.number(name)]))

        def channel(name: str) -> object:
            return self.held.enter_context(events.bind_interdomain(self.domid, keys.number(name)))

        def silent(*_request: object) -> None:
            return None

        self.tx = self.held.enter_context(MockBack(page("tx-ring-ref"), TX, silent))
        self.rx = self.held.enter_context(MockBack(page("rx-ring-ref"), RX, silent))
        self.ctrl = self.held.enter_context(MockBack(page("ctrl-ring-ref"), CTRL, silent))
        names = ("event-channel-tx", "event-channel-rx", "event-channel-ctrl")
        self.channels = [events.bind_interdomain(self.domid, keys.number(name)) for name in names]
        for bound in self.channels:
            self.held.callback(bound.close)

    def connect(self, **changes: str) -> Back:
        """Offer, map, be Connected, and have the guest's interface up."""
        self.offer(**changes)
        self.until_state(S.Connected)
        self.map()
        self.set_state(S.Connected)
        run(self.space, "ip", "link", "set", "eth0", "up")
        return self

    def again(self) -> None:
        """Let go, and connect honestly; a packet goes through each way."""
        self.held.close()
        self.held = ExitStack()
        self.set_state(S.Closed)
        self.until_state(S.Closed, S.Initialising)
        self.set_state(S.InitWait)
        self.until_state(S.Connected)
        self.map()
        self.set_state(S.Connected)
        with listening(self.space, "eth0") as heard:
            self.deliver(b"\xff" * 6 + b"\x02" * 6 + b"\x88\xb5" + b"welcome back".ljust(50))
            self.until_heard(heard, b"welcome back")
            self.until_sent(heard, b"\xff" * 6 + bytes.fromhex("00163e000001") + b"\x88\xb5" + b"goodbye".ljust(50))

    def until_stopped(self, words: str) -> None:
        """Until the frontend has closed, and says why."""
        error = f"/local/domain/{self.domid}/error/device/vif/0/error"
        until(lambda: self.store.exists(error), SECONDS)
        assert words in self.store.read(error).decode(), self.store.read(error)
        self.until_state(S.Closing, S.Closed)

    def posted(self, count: int) -> list[Entry]:
        """So many of the guest's receive requests."""
        found: list[Entry] = []

        def enough() -> bool:
            found.extend(self.rx.ring.take(count - len(found)))
            return len(found) == count

        until(enough, SECONDS)
        return found

    def answer(self, *responses: Entry) -> None:
        """Receive responses, for requests that have been taken."""
        self.rx.ring.respond_many(responses)
        self.rx.publish()
        self.channels[1].notify()

    def deliver(self, data: bytes) -> None:
        """An honest packet for the guest."""
        ((number, ref),) = self.posted(1)
        with self.root.memory.map(self.domid, [ref]) as page:
            page[: len(data)] = data
        self.answer((number, 0, 0, len(data)))

    def until_heard(self, heard: socket.socket, words: bytes) -> None:
        """Until a frame with these bytes passes the guest's interface."""
        heard.settimeout(SECONDS)
        while words not in heard.recv(1 << 17):
            pass

    def until_sent(self, heard: socket.socket, data: bytes) -> Entry:
        """Send a frame from the guest until its request is here."""
        deadline = time.monotonic() + SECONDS
        while time.monotonic() < deadline:
            heard.send(data)
            if found := self.sent(0.1):
                return found[0]
        raise AssertionError("the guest's packet did not come")

    def sent(self, seconds: float = SECONDS) -> list[Entry]:
        """The next transmit requests, if they come in time."""
        deadline = time.monotonic() + seconds
        while not (found := self.tx.ring.take()):
            if self.tx.ring.final_check():
                continue
            if (left := deadline - time.monotonic()) <= 0:
                return []
            self.channels[0].wait(left)
            self.channels[0].drain()
        return found

    def reply(self, *responses: Entry) -> None:
        """Transmit responses, for requests that have been taken."""
        self.tx.ring.respond_many(responses)
        self.tx.publish()
        self.channels[0].notify()

    def stats(self) -> Stats:
        """What the frontend has counted."""
        return Stats.parse(Path(self.machine.point, "domains", str(self.domid), "rings/vif-0-stats").read_bytes())
