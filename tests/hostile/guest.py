"""A guest without scruples: a frontend that does with its rings and keys what it likes, against the real netback.

netback is a process of its own in a network namespace of its own; the guest is this process.
"""

from __future__ import annotations

import select
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.hostile.peer import SECONDS, PeerGuest, PeerHost
from tests.mounted.mount import until
from tests.net.frames import UDP, ether, ipv4, udp
from tests.net.namespaces import inside, listening, namespace, need_network, run
from xenfs.abi.netif import CTRL, MAPPING, RX, TX, CtrlType, TxFlag
from xenfs.abi.stats import Stats
from xenfs.abi.xen import PAGE_SIZE
from xenfs.abi.xenbus import XenbusState as S
from xenfs.ring import Entry
from xenfs.testing.peers import MockFront

QUIET_BRIDGE = ("forward_delay", "0", "mcast_snooping", "0")
"""A bridge that forwards at once, and says nothing itself: one that snoops joins a group of routers."""
MORE, EXTRA = int(TxFlag.more_data), int(TxFlag.extra_info)
MAC = bytes.fromhex("00163e000001")
PAGES = 64
OKAY, ERROR, NULL = 0, -1, 1


def frame(payload: bytes = b"", *, source: bytes = MAC) -> bytes:
    """A UDP frame to everybody, from the guest."""
    return b"\xff" * 6 + source + ether(0x0800, ipv4(UDP, udp(payload)))[12:]


class Host(PeerHost):
    """A machine, and a namespace with the backends of its guests."""

    def __init__(self, folder: Path, held: ExitStack) -> None:
        super().__init__(folder, held)
        self.space = held.enter_context(namespace())
        run(self.space, "ip", "link", "add", "br0", "type", "bridge", *QUIET_BRIDGE)
        run(self.space, "ip", "link", "set", "br0", "up")

    @contextmanager
    def guest(self, line: str = "") -> Iterator[Guest]:
        """A guest with a vif, whose backend runs."""
        line = f"mac=00:16:3e:00:00:01,bridge=br0{line}"
        with self.backend("vif", line, "xennet.back", prefix=inside(self.space)) as (domain, device, back):
            made = Guest(self, domain, device, back)
            try:
                yield made
            finally:
                made.close()


class Guest(PeerGuest):
    """The frontend. Its ids are the numbers of its pages."""

    @property
    def host(self) -> Host:
        """The machine."""
        assert isinstance(self.machine, Host)
        return self.machine

    def prepare(self) -> dict[str, str]:
        """Rings, pages and channels; the keys that an honest frontend would write."""
        tx, self.tx_frames, (tx_ref,) = self.share()
        rx, _, (rx_ref,) = self.share()
        ctrl, _, (ctrl_ref,) = self.share()
        self.tx = self.held.enter_context(MockFront(tx, TX, request_id=3))
        self.rx = self.held.enter_context(MockFront(rx, RX))
        self.ctrl = self.held.enter_context(MockFront(ctrl, CTRL))
        self.view, _, self.refs = self.share(PAGES)
        events = self.domain.events
        self.channels = [self.held.enter_context(events.alloc_unbound(0)) for _ in range(3)]
        ports = [str(channel.port) for channel in self.channels]
        return {
            "tx-ring-ref": str(tx_ref),
            "rx-ring-ref": str(rx_ref),
            "ctrl-ring-ref": str(ctrl_ref),
            "event-channel-tx": ports[0],
            "event-channel-rx": ports[1],
            "event-channel-ctrl": ports[2],
            "request-rx-copy": "1",
            "feature-rx-notify": "1",
            "feature-sg": "1",
            "feature-gso-tcpv4": "1",
            "feature-gso-tcpv6": "1",
            "feature-ipv6-csum-offload": "1",
        }

    def connect(self, **changes: str | None) -> Guest:
        """Prepare, publish and wait for the backend. Underscores in names of keys stand for dashes."""
        keys = self.prepare()
        for name, value in changes.items():
            keys.pop(name.replace("_", "-"), None)
            if value is not None:
                keys[name.replace("_", "-")] = value
        self.publish(keys, S.Connected)
        self.until_state(S.Connected)
        return self

    def again(self) -> None:
        """Close, connect as an honest frontend, and send a packet through."""
        self.close()
        self.set_state(S.Initialising)
        self.until_state(S.InitWait)
        self.connect()
        with self.heard() as heard:
            self.put(0, frame(b"again"))
            assert self.send((self.refs[0], 0, 0, 0, 60)) == [(0, OKAY)]
            self.until_heard(heard, b"again")

    def put(self, page: int, data: bytes, offset: int = 0) -> None:
        """Write into one of the pages."""
        self.view[page * PAGE_SIZE + offset : page * PAGE_SIZE + offset + len(data)] = data

    def send(self, *requests: Entry, kick: bool = True) -> list[Entry]:
        """Queue transmit requests; as many responses, or those that come before the backend stops."""
        for request in requests:
            self.tx.ring.push(*request)
        self.tx.publish()
        self.tx.ring.final_check()
        if kick:
            self.channels[0].notify()
        return self.answers(self.tx, len(requests), 0)

    def answers(self, mock: MockFront, count: int, channel: int) -> list[Entry]:
        """So many responses of a ring."""
        found: list[Entry] = []
        deadline = time.monotonic() + SECONDS
        while True:
            found += mock.ring.take()
            if len(found) >= count or self.state() is not S.Connected:
                return found
            assert time.monotonic() < deadline, f"{len(found)} of {count} responses"
            if not mock.ring.final_check():
                self.channels[channel].wait(0.05)
                self.channels[channel].drain()

    def post(self, *pages: int, refs: Sequence[int] | None = None) -> None:
        """Post receive buffers: the pages of those numbers."""
        for number in pages:
            self.rx.ring.push(number, (self.refs if refs is None else refs)[number])
        self.rx.publish()
        self.channels[1].notify()

    def ask(self, kind: CtrlType | int, *data: int) -> tuple[int, int]:
        """A control request: status and data of its response."""
        first, second, third = (*data, 0, 0, 0)[:3]
        self.ctrl.ring.push(7, int(kind), first, second, third)
        self.ctrl.publish()
        self.channels[2].notify()
        ((number, same, status, said),) = self.answers(self.ctrl, 1, 2)
        assert (number, same) == (7, int(kind))
        return status, said

    def keep_mapped(self, refs: Sequence[int], *, readonly: bool = False, kind: CtrlType | None = None) -> int:
        """Ask for grants to stay mapped; the status."""
        table, _, (table_ref,) = self.share()
        for number, ref in enumerate(refs):
            MAPPING.pack_into(table, number * MAPPING.size, ref, int(readonly), 0)
        return self.ask(kind or CtrlType.add_gref_mapping, table_ref, len(refs))[0]

    @contextmanager
    def heard(self) -> Iterator[socket.socket]:
        """What comes out of this guest's interface on the host."""
        with listening(self.host.space, f"vif{self.device.domid}.{self.device.id}") as found:
            yield found

    def until_heard(self, heard: socket.socket, words: bytes) -> bytes:
        """The next frame with these bytes in it."""
        deadline = time.monotonic() + SECONDS
        while time.monotonic() < deadline:
            if select.select([heard], [], [], 0.1)[0]:
                data = heard.recv(1 << 17)
                if words in data:
                    return data
        raise AssertionError(f"nothing with {words!r} came out")

    def stats(self) -> Stats:
        """What the backend has counted."""
        name = f"vif-{self.device.domid}-{self.device.id}-stats"
        return Stats.parse(Path(self.host.point, "domains/0/rings", name).read_bytes())

    def until_counted(self, name: str, least: int) -> None:
        until(lambda: getattr(self.stats(), name) >= least, SECONDS)


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    need_network()
    with ExitStack() as held:
        made = Host(tmp_path_factory.mktemp("host"), held)
        yield made
        until(lambda: not made.held(), SECONDS)
        assert made.mount.rest()


@pytest.fixture
def patient(host: Host) -> Iterator[Guest]:
    """A guest whose backend offers."""
    with host.guest() as guest:
        yield guest


@pytest.fixture
def guest(patient: Guest) -> Guest:
    """Connected."""
    return patient.connect()
