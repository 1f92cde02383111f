"""What netfront does with the guest's packets: read them from the TAP straight into granted pages.

The pages are a circle: a packet takes the next ones, one slot of the ring each, and they are free again in that order.
"""

from __future__ import annotations

import os
import struct

from xenfs.abi.netif import TX, Gso, Status, TxFlag
from xenfs.abi.xen import PAGE_SIZE
from xenfs.domain import Channel
from xenfs.ring import Entry, FrontRing
from xenfs.xenbus import PeerProtocolError
from xenfs.xenbus.loop import Gate
from xennet.counters import Counters
from xennet.headers import VNET_SIZE, tx_said

_BATCH = 64
_LARGEST = 17
_MORE, _EXTRA = int(TxFlag.more_data), int(TxFlag.extra_info)
_NULL, _OKAY = int(Status.null), int(Status.okay)
_ARP = struct.Struct(">6s6sHHHBBH6s4s6s4s")


class GuestTransmit:
    """One transmit ring, from a TAP to the backend."""

    def __init__(
        self, ring: FrontRing, channel: Channel, view: memoryview, refs: list[int], fd: int, counters: Counters
    ) -> None:
        """`view`: the pages that `refs` grant; `fd`: the TAP's file."""
        self._ring, self._channel, self._view, self._refs, self._fd = ring, channel, view, refs, fd
        self._counters = counters
        self._count = len(refs)
        self._busy = bytearray(self._count)
        self._head = self._used = 0
        self._header = bytearray(VNET_SIZE)
        self.large = True
        self.gate: Gate | None = None

    def answered(self) -> None:
        """Take the answers, and listen to the TAP again. Raises PeerRingError, PeerProtocolError."""
        assert self.gate is not None
        self._reclaim()
        if self._room():
            self.gate.open()

    def _reclaim(self) -> None:
        taken = self._ring.take()
        if not taken:
            return
        busy = self._busy
        self._counters.responses += len(taken)
        for number, status in taken:
            if status == _NULL:
                continue
            if number >= self._count or not busy[number]:
                raise PeerProtocolError(f"{self._ring.name}: response for inactive request {number}")
            busy[number] = 0
            if status != _OKAY:
                self._counters.errors += 1
        tail = (self._head - self._used) % self._count
        while self._used and not busy[tail]:
            tail = (tail + 1) % self._count
            self._used -= 1

    def _room(self) -> bool:
        """Whether the largest packet finds pages and slots. If not, the ring is asked to say when it may."""
        pages = _LARGEST if self.large else 1
        while self._count - self._used < pages or self._ring.free < pages + 1:
            if not self._ring.request_event(min(pages + 1, max(1, self._ring.in_flight))):
                return False
            self._reclaim()
        return True

    def work(self) -> None:
        """Read packets as long as there are some, and room for them."""
        assert self.gate is not None
        self._reclaim()
        queued: list[Entry] = []
        for _ in range(_BATCH):
            if self._count - self._used < _LARGEST or self._ring.free - len(queued) <= _LARGEST:
                self._push(queued)
                queued = []
                if not self._room():
                    self.gate.shut()
                    return
            try:
                size = os.readv(self._fd, [self._header, *self._free_pages()]) - VNET_SIZE
            except BlockingIOError:
                break
            queued += self._slots(size)
        self._push(queued)

    def _free_pages(self) -> list[memoryview]:
        start, pages = self._head * PAGE_SIZE, _LARGEST if self.large else 1
        over = self._head + pages - self._count
        if over <= 0:
            return [self._view[start : start + pages * PAGE_SIZE]]
        return [self._view[start:], self._view[: over * PAGE_SIZE]]

    def _slots(self, size: int) -> list[Entry]:
        """The requests for a packet that has been read into the next pages."""
        flags, kind, segment = tx_said(self._header)
        head, refs, count = self._head, self._refs, -(-size // PAGE_SIZE)
        more = _MORE if count > 1 else 0
        self._busy[head] = 1
        found: list[Entry] = [(refs[head], 0, flags | more | (_EXTRA if kind else 0), head, size)]
        if kind:
            found.append(TX.request.unpack(Gso(segment, kind).emit() + bytes(4)))
        left = size - PAGE_SIZE
        while left > 0:
            head = (head + 1) % self._count
            self._busy[head] = 1
            found.append((refs[head], 0, _MORE if left > PAGE_SIZE else 0, head, min(left, PAGE_SIZE)))
            left -= PAGE_SIZE
        self._head = (head + 1) % self._count
        self._used += count
        self._counters.units_out += 1
        self._counters.bytes_out += size
        return found

    def _push(self, queued: list[Entry]) -> None:
        if not queued:
            return
        self._counters.requests += len(queued)
        self._ring.push_many(queued)
        if self._ring.publish():
            self._counters.events_sent += 1
            self._channel.notify()
        self._counters.write()

    def announce(self, mac: bytes, address: bytes | None) -> None:
        """Send a gratuitous ARP, so that the network learns where this address is now."""
        if address is None or not self._room():
            return
        frame = _ARP.pack(b"\xff" * 6, mac, 0x0806, 1, 0x0800, 6, 4, 1, mac, address, bytes(6), address)
        start = self._head * PAGE_SIZE
        self._view[start : start + len(frame)] = frame
        self._header[:] = bytes(VNET_SIZE)
        self._push(self._slots(len(frame)))
