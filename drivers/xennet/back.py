"""netback: the host's end of a guest's network card, a TAP on a bridge or with routes."""

from __future__ import annotations

import errno
import sys
from collections.abc import Mapping, Sequence

from xenfs.abi.netif import CTRL, RX, TX
from xenfs.xenbus import Backend, LocalDeviceError, OtherEnd, PeerProtocolError, kept, main
from xenfs.xenbus.classes import VIF
from xenfs.xenbus.counters import Counters
from xenfs.xenbus.end import Values
from xenfs.xenbus.loop import Call
from xennet import links
from xennet.cable import Cable
from xennet.capture import Capture
from xennet.control import Control
from xennet.flip import FlipReceive
from xennet.mac import parse_mac
from xennet.pages import Pages
from xennet.rate import Credit
from xennet.receive import Receive
from xennet.sources import Network, Sources, networks
from xennet.stall import Stall
from xennet.tap import Tap
from xennet.transmit import Transmit

CAPTURE = "capture"
"""The backend's node that says where to send the packets, for `xenfs trace --pcap`."""
_POLL_SECONDS = 0.03
"""As netback looks for pages of a guest without feature-rx-notify."""
_ROUTED = "vif-route"


class NetBack(Backend):
    """One vif."""

    CLASS = VIF
    tap: Tap | None = None
    cable: Cable
    transmit: Transmit | None = None
    receive: Receive | FlipReceive | None = None
    counters: Counters
    _capture: Capture | None = None
    _looking = _counted = False

    def offer(self) -> Mapping[str, object]:
        """The features, in the order in which Linux writes them."""
        return {
            "feature-sg": 1,
            "feature-gso-tcpv4": 1,
            "feature-gso-tcpv6": 1,
            "feature-ipv6-csum-offload": 1,
            "feature-rx-copy": 1,
            "feature-rx-flip": int(self._flips),
            "feature-split-event-channels": 1,
            "multi-queue-max-queues": 1,
            "feature-ctrl-ring": 1,
        }

    @property
    def _flips(self) -> bool:
        """Whether this guest's pages may be flipped: only where its line asks for it."""
        return self.config["rx"] == "flip"

    def hotplug(self) -> Mapping[str, object]:
        """Make the interface, and put it on the bridge; or take over the one of a netback that died."""
        name = str(self.config["vifname"]) or f"vif{self.device.domid}.{self.device.id}"
        fd = kept.inherited(name)
        self.tap = self._plug_in(name) if fd is None else Tap.adopt(name, fd)
        self.cable = Cable(self.tap, self.loop, plugged=fd is not None)
        if not self._counted:
            self._counted = True
            self.counters = Counters(role=1, loop=self.loop)
            self.counters.share(self.memory, f"vif-{self.device.domid}-{self.device.id}-stats")
        return {}

    def _plug_in(self, name: str) -> Tap:
        tap = Tap(name)
        try:
            tap.carrier(False)
            links.set_up(name, mac=links.BACK_MAC, mtu=int(self.config["mtu"]))
            addresses = str(self.config["ip"]).split()
            if str(self.config["script"]).endswith(_ROUTED):
                links.route(name, addresses, str(self.config["gatewaydev"]))
            elif self.config["bridge"]:
                links.join(name, str(self.config["bridge"]))
            else:
                raise LocalDeviceError("neither a bridge nor vif-route")
        except BaseException:
            tap.close()
            raise
        kept.keep(name, tap.fd)
        return tap

    def connect(self, their: Values) -> None:
        """Map the rings, bind the channels, and let packets through."""
        assert self.tap is not None
        flip = not their["request-rx-copy"]
        if flip and not self._flips:
            raise PeerProtocolError("the frontend does not ask to receive by copy", errno.EOPNOTSUPP)
        self._offload(self.tap, their)
        pages = Pages(self.memory, self.device.domid)
        self.held.callback(pages.close)
        tx_ring = self.map_ring("tx", [int(their["tx-ring-ref"])], TX)
        rx_ring = self.map_ring("rx", [int(their["rx-ring-ref"])], RX)
        tx_port, rx_port = int(their["event-channel-tx"]), int(their["event-channel-rx"])
        if tx_port and rx_port:
            tx_channel = self.bind_channel(tx_port, self._tx_event)
            rx_channel = self.bind_channel(rx_port, self._rx_event)
        elif their["event-channel"]:
            tx_channel = rx_channel = self.bind_channel(int(their["event-channel"]), self._both)
        else:
            raise PeerProtocolError(f"{self.other_path}/event-channel is missing", errno.ENOENT)
        self.transmit = Transmit(tx_ring, tx_channel, pages, self.tap.fd, self.counters, self._later)
        self.transmit.sources = Sources(parse_mac(str(self.config["mac"])), self._networks())
        if self.config["rate"]:
            self.transmit.credit = Credit(*(int(word) for word in str(self.config["rate"]).split(",")))
        self.held.callback(self.transmit.close)
        if flip:
            flips = FlipReceive(rx_ring, rx_channel, self.memory, self.device.domid, self.tap.fd, self.counters)
            self.held.callback(flips.close)
            self.receive = flips
        else:
            self.receive = Receive(rx_ring, rx_channel, pages, self.tap.fd, self.counters)
        self.receive.gate = self.gate(self.tap.fd, self.receive.work)
        self.receive.later = self._later
        if their["feature-rx-notify"]:
            stall = Stall(self.loop, self.tap, self.counters)
            self.held.callback(stall.close)
            self.receive.starved, self.receive.fed = stall.begin, stall.end
        else:
            self.receive.starved = self._look_later
        if not their["feature-sg"]:
            self.receive.slots = 1
        self._control(their, pages)

    def _networks(self) -> list[Network]:
        try:
            return networks(str(self.config["ip"]).split())
        except ValueError as error:
            raise LocalDeviceError(f"{self.path}/ip: {error}", errno.EINVAL) from None

    def _later(self, seconds: float, call: Call) -> None:
        """Call some time from now, if this connection is still there."""
        of = self.receive
        self.later(seconds, lambda: call() if self.receive is of else None)

    def _look_later(self) -> None:
        """The guest does not say when it has posted pages."""
        if self.receive is not None and not self._looking:
            self._looking = True
            self._later(_POLL_SECONDS, self._look)

    def _look(self) -> None:
        self._looking = False
        if self.receive is not None:
            self.receive.posted()

    def changed(self) -> None:
        """Somebody may want to see the packets, or no longer."""
        wanted = self._read_capture()
        if self._capture is not None and self._capture.path != wanted:
            self._stop_capture()
        if wanted and self._capture is None and self.tap is not None:
            try:
                self._capture = Capture(wanted, self.tap.name)
            except OSError as error:
                self.log(f"{self!r}: capture to {wanted}: {error.strerror}")
        capture = None if self._capture is None else self._captured
        if self.transmit is not None and self.receive is not None:
            self.transmit.capture = self.receive.capture = capture

    def _read_capture(self) -> str:
        return OtherEnd(self.store, self.path).raw(CAPTURE) or ""

    def _captured(self, pieces: Sequence[bytes | memoryview], outbound: bool) -> None:
        if self._capture is not None:
            try:
                self._capture.packet(pieces, outbound)
            except OSError:
                self._stop_capture()

    def _stop_capture(self) -> None:
        if self._capture is not None:
            self._capture.close()
            self._capture = None

    def _control(self, their: Values, pages: Pages) -> None:
        if int(their["ctrl-ring-ref"]) < 0 or not their["event-channel-ctrl"]:
            return
        ring = self.map_ring("ctrl", [int(their["ctrl-ring-ref"])], CTRL)
        channel = self.bind_channel(int(their["event-channel-ctrl"]), lambda: self._control_work())
        self.control = Control(ring, channel, pages, self.memory, self.device.domid, self._control_later)
        self.held.callback(self.control.close)

    def _control_work(self) -> None:
        self.control.work()

    def _control_later(self) -> None:
        control = self.control
        self.later(0, control.go_on)

    def _offload(self, tap: Tap, their: Values) -> None:
        """What the guest can take unfinished."""
        whole = bool(their["feature-no-csum-offload"]) or not their["feature-ipv6-csum-offload"]
        large = bool(their["feature-sg"])
        tap.offload(
            csum=not whole,
            tso4=large and bool(their["feature-gso-tcpv4"]),
            tso6=large and bool(their["feature-gso-tcpv6"]),
        )

    def connected(self) -> None:
        """The cable is in."""
        assert self.tap is not None
        self.counters.reconnects += 1
        self.cable.plug()
        self.held.callback(self.cable.pull)
        self.changed()
        self._both()

    def _tx_event(self) -> None:
        if self.transmit is not None:
            self.counters.events_received += 1
            self.transmit.work()
            if self.receive is not None and self.receive.gate is not None and self.receive.gate.is_open:
                self.receive.work()  # what the host has answered while it was given the packets

    def _rx_event(self) -> None:
        if self.receive is not None:
            self.counters.events_received += 1
            self.receive.posted()

    def _both(self) -> None:
        self._tx_event()
        self._rx_event()

    def release(self) -> None:
        """See End."""
        self.transmit = self.receive = None
        self._looking = False
        super().release()
        if self.tap is not None and not self.tap.alive:
            self.remove()
            self._ready = False  # another is made when the device is offered again

    def remove(self) -> None:
        """The interface goes with its file."""
        self._stop_capture()
        if self.tap is not None:
            self.tap.close()
            kept.drop(self.tap.name)
            self.tap = None

    def more(self, their: OtherEnd) -> Values:
        """See Backend."""
        return {}


if __name__ == "__main__":
    sys.exit(main(NetBack))
