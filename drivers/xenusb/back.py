"""usbback: a host controller, whose ports hold what `port/N` says."""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Mapping

from xenfs.abi.usbif import CONN, URB, Speed
from xenfs.domain import Channel, Domain
from xenfs.ring import BackRing
from xenfs.xenbus import Backend, Counters, Loop, main
from xenfs.xenbus.classes import VUSB
from xenfs.xenbus.end import Log, Values, to_stderr
from xenfs.xenbus.grants import Grants
from xenfs.xenbus.keys import OtherEnd
from xenusb.ports import STATUS, Port
from xenusb.requests import Requests

_LOOK_SECONDS = 10.0


class UsbBack(Backend):
    """One vusb."""

    CLASS = VUSB
    HELD = STATUS
    counters: Counters
    _requests: Requests | None = None

    def __init__(
        self, domain: Domain, frontend_domid: int, number: int, *, loop: Loop | None = None, log: Log = to_stderr
    ) -> None:
        """See Backend."""
        super().__init__(domain, frontend_domid, number, loop=loop, log=log)
        self.ports: dict[int, Port] = {}
        self._news: deque[tuple[int, Speed]] = deque()
        self._plugs: BackRing | None = None
        self._channel: Channel | None = None

    def offer(self) -> Mapping[str, object]:
        """There are no features; the ports are plugged now, so that what cannot be is known early."""
        if not self.ports:
            self.counters = Counters(role=1, loop=self.loop, device=3)
            self.counters.share(self.memory, f"vusb-{self.device.domid}-{self.device.id}-stats")
            count = int(self.config["num-ports"])
            self.ports = {number: Port(number, self) for number in range(1, count + 1)}
            self._plug()
        return {}

    def connect(self, their: Values) -> None:
        """Map both rings, and have every device as just plugged in."""
        grants = Grants(self.memory, self.device.domid, persistent=bool(their["feature-persistent"]),
                        clock=self.loop.now)  # fmt: skip
        self.held.callback(grants.close)
        ring = self.map_ring("urb", [int(their["urb-ring-ref"])], URB)
        self._plugs = self.map_ring("conn", [int(their["conn-ring-ref"])], CONN)
        self._news.clear()
        for port in self.ports.values():
            port.reset()
            if port.speed:
                self._news.append((port.number, port.speed))
        self._channel = self.bind_channel(int(their["event-channel"]), self._event)
        requests = Requests(ring, self._channel, grants, self.ports, self.counters, self.later)
        self.held.callback(requests.close)
        self._requests = requests
        self._expire(grants)

    def _expire(self, grants: Grants) -> None:
        """From time to time: pages that are not used any more."""
        requests = self._requests

        def again() -> None:
            if self._requests is requests:
                grants.expire()
                self._expire(grants)

        self.later(_LOOK_SECONDS, again)

    def connected(self) -> None:
        """Requests may be there already."""
        self.counters.reconnects += 1
        self._event()

    def _event(self) -> None:
        """One channel for both rings."""
        self.counters.events_received += 1
        self._tell()
        if self._requests is not None:
            self._requests.work()

    def plugged(self, port: Port, speed: Speed) -> None:
        """What is in a port has changed: the frontend is told, as soon as it wants to know."""
        if self._plugs is not None:
            if speed is Speed.none:  # what it has not heard of need not be taken back
                told = [news for news in self._news if news[0] != port.number]
                unheard = len(told) != len(self._news) and (port.number, Speed.none) not in self._news
                self._news = deque(told)
                if unheard:
                    return
            self._news.append((port.number, speed))
            self.attempt(self._tell)

    def _tell(self) -> None:
        ring, channel = self._plugs, self._channel
        if ring is None or channel is None:
            return
        while self._news and (entries := ring.take(1)):
            number, speed = self._news.popleft()
            ring.respond(entries[0][0], number, int(speed))
        if ring.publish():
            self.counters.events_sent += 1
            channel.notify()
        if self._news:
            ring.final_check()  # have it tell when it posts again

    def changed(self) -> None:
        """Perhaps what is to be in the ports."""
        self._plug()

    def _plug(self) -> None:
        own = OtherEnd(self.store, self.path)
        for number, port in self.ports.items():
            port.plug(own.raw(f"port/{number}") or "")

    def report(self, port: Port) -> None:
        """Say what is in a port, for the toolstack; nodes that it has taken away are not made again."""
        if self.store.exists(f"{self.path}/state"):
            self.write({f"{STATUS}/{port.number}": port.status})

    def release(self) -> None:
        """See End."""
        self._requests = self._plugs = self._channel = None
        super().release()

    def remove(self) -> None:
        """Unplug everything."""
        for port in self.ports.values():
            port.empty()
        self.ports = {}


class QusbBack(UsbBack):
    """The same under the name that it has where QEMU is the backend."""

    KIND = "qusb"


if __name__ == "__main__":
    sys.exit(main(UsbBack))
