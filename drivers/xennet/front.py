"""netfront: a network card in the guest's namespace, whose packets go through two rings."""

from __future__ import annotations

import errno
import sys

from xenfs.abi.netif import CTRL, RX, TX
from xenfs.domain import Domain
from xenfs.xenbus import Frontend, Loop, PeerProtocolError, main
from xenfs.xenbus.classes import VIF
from xenfs.xenbus.counters import Counters
from xenfs.xenbus.end import Log, Values, to_stderr
from xenfs.xenbus.frontend import Shared
from xennet import links
from xennet.cable import Cable
from xennet.grants import MappedPages
from xennet.guest_flip import GuestFlip
from xennet.guest_receive import GuestReceive
from xennet.guest_transmit import GuestTransmit
from xennet.mac import parse_mac
from xennet.tap import Tap

PAGES = 256
"""In each direction: as many as the ring has slots, since the more is on the way the less often anybody sleeps."""


class NetFront(Frontend):
    """One network card, eth<number>."""

    CLASS = VIF
    tap: Tap | None = None
    cable: Cable
    transmit: GuestTransmit
    receive: GuestReceive
    counters: Counters
    _counted = False

    def __init__(self, domain: Domain, number: int, *, loop: Loop | None = None, log: Log = to_stderr) -> None:
        """See Frontend."""
        super().__init__(domain, number, loop=loop, log=log)
        self._kept_pages: dict[str, Shared] = {}

    def publish(self, their: Values) -> None:
        """Share two rings, the pages of both directions, and a channel for each."""
        flip = self.config["rx"] == "flip" and bool(their["feature-rx-flip"])
        if not flip and not their["feature-rx-copy"]:
            raise PeerProtocolError("the backend cannot receive by copy", errno.EOPNOTSUPP)
        tap = self._plug(their)
        self._ready = False
        split = bool(their["feature-split-event-channels"])
        tx_ring = self.share_ring("tx", "tx-ring-ref", TX, keep=True)
        rx_ring = self.share_ring("rx", "rx-ring-ref", RX, keep=True)
        if split:
            tx_channel = self.share_channel("event-channel-tx", self._tx_event)
            rx_channel = self.share_channel("event-channel-rx", self._rx_event)
        else:
            tx_channel = rx_channel = self.share_channel("event-channel", self._both)
        sent, _, sent_refs = self._pages("sent", readonly=True)
        self.transmit = GuestTransmit(tx_ring, tx_channel, sent, sent_refs, tap.fd, self.counters)
        self.transmit.gate = self.gate(tap.fd, self.transmit.work)
        self.transmit.large = bool(their["feature-sg"])
        mapped = [(sent_refs, True)]
        if flip:
            flips = GuestFlip(
                rx_ring, rx_channel, self.memory, self.device.backend_domid, tap.fd, self.counters, large=True
            )
            self.held.callback(flips.close)
            self.receive = flips
        else:
            got, _, got_refs = self._pages("got", readonly=False)
            self.receive = GuestReceive(rx_ring, rx_channel, got, got_refs, tap.fd, self.counters)
            mapped.insert(0, (got_refs, False))
        self.receive.post()
        if their["feature-ctrl-ring"]:
            ring = self.share_ring("ctrl", "ctrl-ring-ref", CTRL, keep=True)
            channel = self.share_channel("event-channel-ctrl", lambda: self.mapped.work())
            self.mapped = MappedPages(ring, channel, self, mapped)
        self.mine["request-rx-copy"] = "0" if flip else "1"
        for name in ("feature-rx-notify", "feature-sg"):
            self.mine[name] = "1"
        for name in ("feature-gso-tcpv4", "feature-gso-tcpv6", "feature-ipv6-csum-offload"):
            self.mine[name] = "1"
        if self.counters.reconnects:
            self.transmit.gate.open()  # what waits in the TAP is in the ring when the backend comes to it

    def _pages(self, name: str, *, readonly: bool) -> Shared:
        """The pages of a direction, which the next backend of the domain may have as well."""
        if name not in self._kept_pages:
            self._kept_pages[name] = self.share_pages(PAGES, readonly=readonly, keep=True)
        return self._kept_pages[name]

    def _plug(self, their: Values) -> Tap:
        """The interface, made or taken over from a frontend that died."""
        if self.tap is None:
            self.tap = Tap(f"eth{self.device.id}")
            self.tap.keep(True)
            self.cable = Cable(self.tap, self.loop)
            links.set_up(self.tap.name, mac=str(self.config["mac"]), mtu=int(self.config["mtu"]))
        if not self._counted:
            self._counted = True
            self.counters = Counters(role=0, loop=self.loop)
            self.counters.share(self.memory, f"{self.device.ring_prefix}-stats")
        large = bool(their["feature-sg"])
        self.tap.offload(
            csum=bool(their["feature-ipv6-csum-offload"]),
            tso4=large and bool(their["feature-gso-tcpv4"]),
            tso6=large and bool(their["feature-gso-tcpv6"]),
        )
        return self.tap

    def connected(self, their: Values) -> None:
        """The cable is in, and whoever knew us by another way is told where we are now."""
        assert self.tap is not None
        assert self.transmit.gate is not None
        self._ready = True
        self.counters.reconnects += 1
        self.cable.plug()
        self.held.callback(self.cable.pull)
        self.transmit.gate.open()
        self.transmit.announce(parse_mac(str(self.config["mac"])), links.ipv4_address(self.tap.name))
        self._both()
        if their["feature-ctrl-ring"]:
            self.mapped.add()

    def _tx_event(self) -> None:
        if self._ready:
            self.counters.events_received += 1
            self.transmit.answered()

    def _rx_event(self) -> None:
        if self._ready:
            self.counters.events_received += 1
            self.receive.work()
            if self.transmit.gate is not None and self.transmit.gate.is_open:
                self.transmit.work()  # what the guest has answered while it was given the packets

    def _both(self) -> None:
        self._tx_event()
        self._rx_event()

    def remove(self) -> None:
        """The interface goes with its file."""
        if self.tap is not None:
            self.tap.keep(False)
            self.tap.close()
            self.tap = None

    def release(self) -> None:
        """See End."""
        self._ready = False
        super().release()
        if self.tap is not None and not self.tap.alive:
            self.tap.close()  # somebody has deleted it: another is made for the next connection
            self.tap = None


if __name__ == "__main__":
    sys.exit(main(NetFront))
