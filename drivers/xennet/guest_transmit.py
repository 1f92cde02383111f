"""What netfront does with the guest's packets: read them from the TAP straight into granted pages.

The pages are a circle: a packet takes the next ones, one slot of the ring each, and they are free again in that order.
Slots of whole pages are packed once and for all, so that a packet costs the same however many it takes.
"""

from __future__ import annotations

import os
import struct

from xenfs.abi.netif import GSO, TX, ExtraType, TxFlag
from xenfs.abi.xen import PAGE_SIZE
from xenfs.domain import Channel
from xenfs.ring import FrontRing
from xenfs.xenbus import PeerProtocolError
from xenfs.xenbus.counters import Counters
from xenfs.xenbus.loop import Gate
from xennet.headers import VNET_SIZE, tx_said
from xennet.outstanding import InactiveError, Outstanding
from xennet.tap import unread

_LARGEST = 17
"""Pages of the largest packet: 65535 bytes of IP and the Ethernet header."""
_TURN = 64
"""Packets read before other things get their turn."""
_BATCH = 4 * _LARGEST
"""Slots that are published at once, so that the backend works while the next ones are being read."""
_MORE, _EXTRA = int(TxFlag.more_data), int(TxFlag.extra_info)
_ARP = struct.Struct(">6s6sHHHBBH6s4s6s4s")
_PACK = TX.request.pack


class GuestTransmit:
    """One transmit ring, from a TAP to the backend."""

    def __init__(
        self, ring: FrontRing, channel: Channel, view: memoryview, refs: list[int], fd: int, counters: Counters
    ) -> None:
        """`view`: the pages that `refs` grant; `fd`: the TAP's file."""
        self._ring, self._channel, self._view, self._refs, self._fd = ring, channel, view, refs, fd
        self._counters = counters
        self._count = len(refs)
        self._whole = b"".join(_PACK(ref, 0, _MORE, number, PAGE_SIZE) for number, ref in enumerate(refs)) * 2
        self._head = 0
        self._outstanding = Outstanding(self._count)
        self._header = bytearray(VNET_SIZE)
        self._rooms: list[list[bytearray | memoryview]] = []
        self._largest = 0
        self.large = True
        self.gate: Gate | None = None

    @property
    def large(self) -> bool:
        """Whether the backend takes packets of several slots."""
        return self._largest > 1

    @large.setter
    def large(self, large: bool) -> None:
        self._largest = _LARGEST if large else 1
        spill = () if large else (bytearray(1),)  # a TAP cuts off what does not fit, and does not say so
        self._rooms = [[self._header, *self._from(head, self._largest), *spill] for head in range(self._count)]

    def _from(self, head: int, pages: int) -> list[memoryview]:
        """So many pages of the circle."""
        start, over = head * PAGE_SIZE, head + pages - self._count
        if over <= 0:
            return [self._view[start : start + pages * PAGE_SIZE]]
        return [self._view[start:], self._view[: over * PAGE_SIZE]]

    def answered(self) -> None:
        """Take the answers, and listen to the TAP again. Raises PeerRingError, PeerProtocolError."""
        assert self.gate is not None
        if self._room():
            self.gate.open()

    def _reclaim(self) -> None:
        data = self._ring.take_bytes()
        if data:
            try:
                self._counters.errors += self._outstanding.answered(data)
            except InactiveError as error:
                raise PeerProtocolError(f"{self._ring.name}: {error}") from None
            self._counters.responses += len(data) // TX.response.size

    def _room(self) -> bool:
        """Whether the largest packet finds pages and slots. If not, the ring is asked to say when it may."""
        pages = self._largest
        while True:
            self._reclaim()
            if self._outstanding.free >= pages and self._ring.free > pages:
                return True
            some = max(pages + 1, self._ring.in_flight // 2)  # while we wake up the backend has the other half to do
            if not self._ring.request_event(min(some, max(1, self._ring.in_flight))):
                return False

    def work(self) -> None:
        """Read packets as long as there are some, and room for them."""
        assert self.gate is not None
        self._reclaim()
        queued: list[bytes] = []
        slots, fd, largest = 0, self._fd, self._largest
        batch = 1  # the first goes at once, and wakes the backend while the others are being read
        try:
            for _ in range(_TURN):
                if slots >= batch or self._outstanding.free < largest or self._ring.free - slots <= largest:
                    self._push(queued)
                    queued, slots, batch = [], 0, _BATCH if queued else batch
                    if not self._room():
                        self.gate.shut()
                        return
                size = os.readv(fd, self._rooms[self._head]) - VNET_SIZE
                if size > largest * PAGE_SIZE:
                    self._counters.drop_other += 1
                    continue
                data = self._slots(size)
                queued.append(data)
                slots += len(data) // TX.request.size
        except BlockingIOError:
            pass
        except OSError as error:
            unread(error)
            self._counters.drop_other += 1
        self._push(queued)

    def _slots(self, size: int) -> bytes:
        """The requests for a packet that has been read into the next pages."""
        flags, kind, segment = tx_said(self._header)
        head, count = self._head, -(-size // PAGE_SIZE)
        if kind:
            flags |= _EXTRA
        if count <= 1:
            data = _PACK(self._refs[head], 0, flags, head, size)
            last, count = head, 1
        else:
            last = (head + count - 1) % self._count
            data = _PACK(self._refs[head], 0, flags | _MORE, head, size)
        if kind:
            data += GSO.pack(ExtraType.gso, 0, segment, kind, 0) + b"\0\0\0\0"
        if count > 1:
            data += self._whole[12 * head + 12 : 12 * (head + count) - 12]
            data += _PACK(self._refs[last], 0, 0, last, size - PAGE_SIZE * (count - 1))
        self._outstanding.sent(count, extra=bool(kind))
        self._head = (last + 1) % self._count
        self._counters.units_out += 1
        self._counters.bytes_out += size
        return data

    def _push(self, queued: list[bytes]) -> None:
        if not queued:
            return
        data = b"".join(queued)
        self._counters.requests += len(data) // TX.request.size
        self._ring.push_bytes(data)
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
        self._push([self._slots(len(frame))])


assert (TX.request.size, TX.entry_size) == (12, 12)
