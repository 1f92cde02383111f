"""The ring of transfers: each request is checked once, given to the device in its port, and answered when that is
done with it. Answers are in any order.

A request names its device by port and address. Address 0 is a device that was not given one yet, or was reset; which
resets it here, because a port's reset is the frontend's own affair and not told.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from xenfs.abi.usbif import FRAME, ISOC, SEGMENT, UNLINK, Flag, PipeType, Request, Segments, Status, Urb
from xenfs.abi.wire import FieldError
from xenfs.abi.xen import PAGE_SIZE
from xenfs.domain import Channel, Refused
from xenfs.ring import BackRing
from xenfs.xenbus import Counters
from xenfs.xenbus.grants import Grants, Pieces, Use
from xenfs.xenbus.turns import ROUNDS, Later, Turns
from xenusb.descriptors import Ask, Setup
from xenusb.device import Packet, Transfer
from xenusb.ports import Port

MOST_ADDRESS = 127
_NO_PIECES = Pieces(b"", (), 0)


class Bad(Exception):
    """A request that cannot be carried out, and what is answered."""

    def __init__(self, status: Status, why: str) -> None:
        """With the status."""
        super().__init__(why)
        self.status = status


@dataclass(slots=True, eq=False)
class Pending:
    """A request that a device has; `frames` is where an isochronous one wants its packets described."""

    id: int
    port: Port
    use: Use
    transfer: Transfer
    frames: Use | None = None


class Requests:
    """The requests of one frontend."""

    def __init__(
        self, ring: BackRing, channel: Channel, grants: Grants, ports: Mapping[int, Port], counters: Counters,
        later: Later,
    ) -> None:  # fmt: skip
        """Take from a ring. `later` has something called some seconds from now."""
        self._ring, self._channel, self._grants = ring, channel, grants
        self._ports, self._counters = ports, counters
        self._pending: dict[Transfer, Pending] = {}
        self._working = self._closed = False
        self._turns = Turns(later, self.work)
        self._eager = len(os.sched_getaffinity(0)) > 1
        """Whether there is another processor for the frontend, so that it is worth staying awake."""

    def work(self) -> None:
        """Take requests until there are none. Raises PeerRingError."""
        if self._closed:
            return
        self._working = True
        try:
            for _ in range(ROUNDS):
                for entry in self._ring.take():
                    self._counters.requests += 1
                    self._take(entry)
                self._publish()
                if not (self._eager and self._ring.linger()) and not self._ring.final_check():
                    break
            else:
                self._turns.rest()
        finally:
            self._working = False
        self._counters.write()

    def _take(self, entry: Request) -> None:
        try:
            urb = Urb.parse(entry)
            port = self._ports.get(urb.pipe.port)
            if port is None:
                raise Bad(Status.nodev, f"there is no port {urb.pipe.port}")
            if urb.pipe.unlink:
                self._unlink(urb, port)
            else:
                self._submit(urb, port)
        except FieldError:
            self._answer(entry[0], Status.inval)
        except Bad as bad:
            self._answer(entry[0], bad.status)

    def _unlink(self, urb: Urb, port: Port) -> None:
        """End the request with that number; its own answer comes first. One that is over is none any more."""
        (number,) = UNLINK.unpack(urb.special)
        for pending in list(self._pending.values()):
            if pending.id == number and pending.port is port and port.device is not None:
                port.cancel(pending.transfer)
                self._answer(urb.id, Status.ok)
                return
        self._answer(urb.id, Status.inval)

    def _submit(self, urb: Urb, port: Port) -> None:
        setup = self._checked(urb, port)
        size = urb.length
        if setup is not None:
            size = min(size, setup.length)
            if setup.is_standard(Ask.set_address):
                self._set_address(urb, port, setup)
                return
        packets, frames = self._packets(urb)
        try:
            use = self._map(_pieces(urb.data, size), readonly=not urb.pipe.inward)
        except Bad:
            if frames is not None:
                frames.done()
            raise
        transfer = Transfer(
            urb.pipe.type, urb.pipe.endpoint, urb.pipe.inward, size, use.views, self._done, setup, packets,
            whole=bool(urb.flags & Flag.short_not_ok),
        )  # fmt: skip
        self._pending[transfer] = Pending(urb.id, port, use, transfer, frames)
        port.submit(transfer)

    def _checked(self, urb: Urb, port: Port) -> Setup | None:
        """What the fields of a request say of each other; its setup packet if it is a control transfer."""
        pipe = urb.pipe
        if not port.speed:
            raise Bad(Status.nodev, f"port {port.number} is empty")
        if pipe.address not in (0, port.address):
            raise Bad(Status.nodev, f"there is no device with address {pipe.address} in port {port.number}")
        if not pipe.address and port.address:
            port.reset()
        if (pipe.type is PipeType.control) is not (pipe.endpoint == 0):
            raise Bad(Status.inval, f"endpoint {pipe.endpoint} has no {pipe.type.name} transfers")
        if pipe.type is not PipeType.control:
            if not pipe.address:
                raise Bad(Status.inval, "a device without an address has endpoint 0 only")
            return None
        setup = Setup.parse(urb.special)
        if setup.length > urb.length:
            raise Bad(Status.inval, f"wLength is {setup.length}, and the buffer has {urb.length} bytes")
        if setup.length and setup.inward is not pipe.inward:
            raise Bad(Status.inval, "the setup packet and the pipe have different directions")
        return setup

    def _set_address(self, urb: Urb, port: Port, setup: Setup) -> None:
        """No device hears of it: which one has an address is ours to know."""
        taken = any(other.address == setup.value for other in self._ports.values() if other is not port)
        if setup.value > MOST_ADDRESS or (setup.value and taken):
            raise Bad(Status.inval, f"address {setup.value} cannot be had")
        port.address = setup.value
        self._answer(urb.id, Status.ok)

    def _packets(self, urb: Urb) -> tuple[list[Packet], Use | None]:
        """The packets of an isochronous request, copied, and where to write what became of them."""
        if urb.pipe.type is not PipeType.isoc:
            return [], None
        count = ISOC.unpack(urb.special)[2]
        size = count * FRAME.size
        if not count:
            raise Bad(Status.inval, "an isochronous transfer without packets")
        use = self._map(_pieces(urb.frames, size), readonly=False)
        packets = [Packet(offset, length) for offset, length, _, _ in FRAME.iter_unpack(b"".join(use.views))]
        for packet in packets:
            if packet.offset + packet.length > urb.length:
                use.done()
                raise Bad(Status.inval, f"a packet of {packet.length} bytes at {packet.offset} of {urb.length}")
        return packets, use

    def _map(self, pieces: Pieces, *, readonly: bool) -> Use:
        if not pieces.list:
            return Use([], ())
        try:
            use = self._grants.use(pieces, readonly=readonly)
        except Refused as refused:
            raise Bad(Status.inval, str(refused.strerror)) from None
        self._counters.grants_mapped = self._grants.mapped
        return use

    def _done(self, transfer: Transfer) -> None:
        pending = self._pending.pop(transfer)
        errors = 0
        if pending.frames is not None:
            described = b"".join(
                FRAME.pack(packet.offset, packet.length, packet.actual, packet.status) for packet in transfer.packets
            )
            _put(pending.frames.views, described)
            pending.frames.done()
            errors = sum(packet.status != Status.ok for packet in transfer.packets)
        pending.use.done()
        if self._closed:
            return
        if transfer.inward:
            self._counters.units_out += 1
            self._counters.bytes_out += transfer.actual
        else:
            self._counters.units_in += 1
            self._counters.bytes_in += transfer.actual
        self._answer(pending.id, transfer.status, transfer.actual, errors)
        if not self._working:
            self._publish()
            self._counters.write()

    def _answer(self, number: int, status: Status, actual: int = 0, errors: int = 0) -> None:
        self._counters.responses += 1
        self._counters.errors += status is not Status.ok
        self._ring.respond(number, 0, int(status), actual, errors)

    def _publish(self) -> None:
        if self._ring.publish():
            self._counters.events_sent += 1
            self._channel.notify()

    def close(self) -> None:
        """There is no frontend any more: whatever devices still do, they do for nobody."""
        self._closed = True
        for pending in list(self._pending.values()):
            pending.port.cancel(pending.transfer)


def _pieces(segments: Segments, size: int) -> Pieces:
    """As much of the segments as `size` bytes need. Raises Bad when they are too little, or beyond their pages."""
    if not size:
        return _NO_PIECES
    found: list[tuple[int, int, int]] = []
    left = size
    for ref, offset, length in segments:
        if offset + length > PAGE_SIZE or not length:
            raise Bad(Status.inval, f"a segment of {length} bytes at {offset} of a page")
        if left:
            found.append((ref, offset, min(left, length)))
            left -= found[-1][2]
    if left:
        raise Bad(Status.inval, f"{size} bytes, and segments for {size - left}")
    return Pieces(b"".join(SEGMENT.pack(*piece) for piece in found), tuple(found), size)


def _put(views: Sequence[memoryview], data: bytes) -> None:
    at = 0
    for view in views:
        view[:] = data[at : at + len(view)]
        at += len(view)
