"""What netback does with a guest's packets: check a copy, copy the headers, hand the kernel those and the pages.

The headers are copied to private memory before they are looked at, and what was looked at is what is sent: the guest
may change its pages meanwhile, but only the payload's bytes can be others then. The payload is never copied here: its
pages and the private headers go to the TAP in one writev.
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress

from xenfs.abi.netif import TxFlag
from xenfs.domain import Channel, Refused, Region
from xenfs.ring import BackRing
from xenfs.xenbus import Loop
from xennet.counters import Counters
from xennet.headers import HEADERS_MAX, HEADERS_MIN, parse, vnet
from xennet.packets import Packet, assemble
from xennet.pages import Pages
from xennet.rate import Credit

_BLANK, _VALID = int(TxFlag.csum_blank), int(TxFlag.data_validated)
_BATCH = 64
Capture = Callable[[Sequence[bytes | memoryview], bool], None]


class Transmit:
    """One transmit ring, from a guest to a TAP."""

    def __init__(self, ring: BackRing, channel: Channel, pages: Pages, fd: int, counters: Counters, loop: Loop) -> None:
        """`fd`: the TAP's file."""
        self._ring, self._channel, self._pages, self._fd = ring, channel, pages, fd
        self._counters, self._loop = counters, loop
        self._waiting: deque[Packet] = deque()
        self.mac: bytes | None = None
        self.credit: Credit | None = None
        self.capture: Capture | None = None
        self.closed = False

    def work(self) -> None:
        """Send what is queued, until there is nothing more. Raises PeerProtocolError and PeerRingError."""
        if self._waiting:
            return  # a timer goes on with it
        while True:
            taken = self._ring.take(_BATCH * 4)
            if taken:
                self._counters.requests += len(taken)
                taken += self._rest_of(taken)
                self._send(assemble(taken, self._ring.name))
                if self._waiting:
                    return
            elif not self._ring.final_check():
                break
        self._counters.write()

    def _rest_of(self, taken: Sequence[tuple[int, ...]]) -> list[tuple[int, ...]]:
        """What belongs to the last packet of a batch that was cut off."""
        more: list[tuple[int, ...]] = []
        last = taken[-1][2]
        # an extra slot cannot be told from a request by itself: the whole ring is taken then
        if len(taken) == _BATCH * 4 and last:
            more = list(self._ring.take())
        return more

    def _send(self, packets: Sequence[Packet]) -> None:
        responses = []
        for number, packet in enumerate(packets):
            if self.credit is not None and (wait := self.credit.take(packet.size, time.monotonic_ns())):
                self._waiting.extend(packets[number:])
                self._loop.later(wait / 1e9, self.go_on)
                break
            responses += packet.responses(okay=packet.control or self._one(packet))
        if responses:
            self._counters.responses += len(responses)
            self._ring.respond_many(responses)
            if self._ring.publish():
                self._counters.events_sent += 1
                self._channel.notify()

    def go_on(self) -> None:
        """There is credit again."""
        if self._waiting and not self.closed:
            waiting, self._waiting = list(self._waiting), deque()
            self._send(waiting)
            self.work()

    def _one(self, packet: Packet) -> bool:
        """Send one packet; False when the guest is to be told that it was not."""
        if packet.why:
            self._counters.drop_malformed += 1
            return False
        pieces = self._pages.slices(packet.pieces)
        if pieces is not None:
            return self._write(packet, pieces)
        regions: list[Region] = []
        try:
            regions, pieces = self._pages.once(packet.pieces, readonly=True)
            self._counters.grants_mapped += len(regions)
            return self._write(packet, pieces)
        except Refused:
            self._counters.errors += 1
            return False
        finally:
            del pieces
            for region in regions:
                region.close()

    def _write(self, packet: Packet, pieces: list[memoryview]) -> bool:
        copied = bytes(pieces[0][:HEADERS_MAX])
        if len(copied) < HEADERS_MAX and len(pieces) > 1:
            copied = _gather(pieces)
        found = parse(copied)
        header = None
        if found is not None:
            header = vnet(
                found,
                blank=bool(packet.flags & _BLANK) or bool(packet.gso_type),
                valid=bool(packet.flags & _VALID),
                gso_type=packet.gso_type,
                gso_size=packet.gso_size,
            )
        if found is None or header is None:
            self._counters.drop_malformed += 1
            return False
        if self.mac is not None and copied[6:12] != self.mac:
            self._counters.drop_filtered += 1
            return True  # the guest is not told what is filtered
        copied = copied[: max(HEADERS_MIN, found.end)]
        out: list[bytes | memoryview] = [header + copied]
        out += _without(pieces, len(copied))
        if self.capture is not None:
            self.capture([copied, *out[1:]], False)
        try:
            os.writev(self._fd, out)
        except OSError:
            self._counters.drop_other += 1
            return False
        self._counters.units_in += 1
        self._counters.bytes_in += packet.size
        return True

    def close(self) -> None:
        """Answer nothing more."""
        self.closed = True
        self._waiting.clear()
        with suppress(ValueError):
            self._counters.write()


def _gather(pieces: Sequence[memoryview]) -> bytes:
    """The first bytes of a packet whose headers lie in several pieces."""
    copied = b""
    for piece in pieces:
        copied += bytes(piece[: HEADERS_MAX - len(copied)])
        if len(copied) == HEADERS_MAX:
            break
    return copied


def _without(pieces: Sequence[memoryview], count: int) -> list[memoryview]:
    """What follows the first bytes."""
    rest: list[memoryview] = []
    for piece in pieces:
        if count >= len(piece):
            count -= len(piece)
        else:
            rest.append(piece[count:] if count else piece)
            count = 0
    return rest
