"""A backend without scruples, against the real netfront, which is a process of its own in a guest's namespace."""

from __future__ import annotations

import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.hostile.peer import SECONDS
from tests.hostile.peer_back import FrontHost, PeerBack
from tests.mounted.mount import until
from tests.net.namespaces import inside, listening, namespace, run
from xenfs.abi.netif import CTRL, RX, TX
from xenfs.abi.stats import Stats
from xenfs.abi.xenbus import XenbusState as S
from xenfs.ring import Entry
from xenfs.testing.peers import MockBack
from xenfs.xenbus import Device

__all__ = ["SECONDS", "Back", "Machine"]
FEATURES = {
    "feature-sg": "1",
    "feature-gso-tcpv4": "1",
    "feature-gso-tcpv6": "1",
    "feature-ipv6-csum-offload": "1",
    "feature-rx-copy": "1",
    "feature-split-event-channels": "1",
    "feature-ctrl-ring": "1",
}


class Machine(FrontHost):
    """A machine whose guests have a netfront."""

    @contextmanager
    def back(self) -> Iterator[Back]:
        """A guest with a netfront, and its backend, which has not offered anything."""
        with namespace() as space:
            running = self.frontend("vif", "mac=00:16:3e:00:00:01", "-m", "xennet.front", prefix=inside(space))
            with running as (device, front):
                made = Back(self, device, space, front)
                try:
                    yield made
                finally:
                    made.close()


class Back(PeerBack):
    """The backend. It answers nothing by itself."""

    def __init__(self, host: FrontHost, device: Device, space: int, front: subprocess.Popen[bytes]) -> None:
        super().__init__(host, device, front)
        self.space = space

    def offer(self, **changes: str) -> None:
        """Say what it can do, and be InitWait."""
        self.until_state(S.Initialising)
        changed = {name.replace("_", "-"): value for name, value in changes.items()}
        for name, value in {**FEATURES, **changed}.items():
            self.store.write(f"{self.path}/{name}", value)
        self.set_state(S.InitWait)

    def share(self) -> None:
        """Map what the frontend shares."""

        def silent(*_request: object) -> None:
            return None

        self.tx = self.held.enter_context(MockBack(self.map("tx-ring-ref"), TX, silent))
        self.rx = self.held.enter_context(MockBack(self.map("rx-ring-ref"), RX, silent))
        self.ctrl = self.held.enter_context(MockBack(self.map("ctrl-ring-ref"), CTRL, silent))
        names = ("event-channel-tx", "event-channel-rx", "event-channel-ctrl")
        self.channels = [self.bind(name) for name in names]

    def connect(self, **changes: str) -> Back:
        """Offer, map, be Connected, and have the guest's interface up."""
        self.offer(**changes)
        self.until_state(S.Connected)
        self.share()
        self.set_state(S.Connected)
        run(self.space, "ip", "link", "set", "eth0", "up")
        return self

    def again(self) -> None:
        """Let go, and connect honestly; a packet goes through each way."""
        self.let_go()
        self.set_state(S.InitWait)
        self.until_state(S.Connected)
        self.share()
        self.set_state(S.Connected)
        with listening(self.space, "eth0") as heard:
            self.deliver(b"\xff" * 6 + b"\x02" * 6 + b"\x88\xb5" + b"welcome back".ljust(50))
            self.until_heard(heard, b"welcome back")
            self.until_sent(heard, b"\xff" * 6 + bytes.fromhex("00163e000001") + b"\x88\xb5" + b"goodbye".ljust(50))

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
