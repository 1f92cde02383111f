"""What netback does with a guest's packets: check a copy, copy the headers, hand the kernel those and the pages.

The headers are copied to private memory before they are looked at, and what was looked at is what is sent: the guest
may change its pages meanwhile, but only the payload's bytes can be others then. The payload is never copied here: its
pages and the private headers go to the TAP in one writev.

A guest uses the same pages again and again, so the same requests come again. What was found out about a packet whose
grants stay mapped is remembered by the bytes of its requests, as long as the mappings stay.
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from xenfs.abi.netif import TX, Status, TxFlag
from xenfs.domain import Channel, Refused, Region
from xenfs.ring import BackRing
from xenfs.xenbus.counters import Counters
from xenfs.xenbus.turns import ROUNDS, Later, Turns
from xennet.headers import HEADERS_MAX, HEADERS_MIN, parse, vnet
from xennet.packets import Batch, Packet
from xennet.pages import Pages
from xennet.rate import Credit
from xennet.sources import Sources

_BLANK, _VALID = int(TxFlag.csum_blank), int(TxFlag.data_validated)
_SLOT = TX.request.size
_BATCH = 72
"""Slots after which answers are published, so that the guest goes on while the next packets are being sent."""
_REMEMBERED = 8192
Capture = Callable[[Sequence[bytes | memoryview], bool], None]


@dataclass(slots=True)
class Ready:
    """A packet, its bytes if its grants stay mapped, and what is answered when it has been sent."""

    packet: Packet
    views: list[memoryview] | None
    okay: bytes
    slots: int


class Transmit:
    """One transmit ring, from a guest to a TAP."""

    def __init__(
        self, ring: BackRing, channel: Channel, pages: Pages, fd: int, counters: Counters, later: Later
    ) -> None:
        """`fd`: the TAP's file; `later` has something called some seconds from now."""
        self._ring, self._channel, self._pages, self._fd = ring, channel, pages, fd
        self._counters, self._later = counters, later
        self._turns = Turns(later, self.work)
        self._known: dict[bytes, Ready] = {}
        self._generation = -1
        self._waiting: deque[Ready] = deque()
        self._answers: list[bytes] = []
        self._unpublished = 0
        self.sources: Sources | None = None
        self.credit: Credit | None = None
        self.capture: Capture | None = None
        self.closed = False

    def work(self) -> None:
        """Send what is queued, until there is nothing more. Raises PeerProtocolError and PeerRingError."""
        if self.closed or self._waiting:
            return  # a timer goes on with what waits
        for _ in range(ROUNDS):
            data = self._ring.take_bytes()
            if data:
                self._counters.requests += len(data) // _SLOT
                try:
                    self._batch(Batch(data, self._ring.name))
                finally:
                    self._publish()
                if self._waiting:
                    break
            elif not self._ring.final_check():
                break
        else:
            self._turns.rest()
        self._counters.write()

    def _batch(self, batch: Batch) -> None:
        at, end = 0, len(batch)
        while at < end:
            following = batch.extent(at)
            found = self._known.get(batch.data[at * _SLOT : following * _SLOT])
            if found is None or self._generation != self._pages.generation:
                found, following = self._find_out(batch, at, following)
            at = following
            if self._waiting or not self._has_credit(found):
                self._waiting.append(found)
            else:
                self._send(found)

    def _find_out(self, batch: Batch, at: int, expected: int) -> tuple[Ready, int]:
        packet, following = batch.packet(at)
        views = None if packet.why or packet.control else self._pages.slices(packet.pieces)
        found = Ready(packet, views, packet.responses(Status.okay), following - at)
        if self._generation != self._pages.generation or len(self._known) >= _REMEMBERED:
            self._known.clear()
            self._generation = self._pages.generation
        if views is not None and following == expected:
            self._known[batch.data[at * _SLOT : following * _SLOT]] = found
        return found, following

    def _has_credit(self, found: Ready) -> bool:
        if self.credit is None or not (wait := self.credit.take(found.packet.size, time.monotonic_ns())):
            return True
        self._later(wait / 1e9, self.go_on)
        return False

    def go_on(self) -> None:
        """There is credit again."""
        if self.closed:
            return
        while self._waiting and self._has_credit(self._waiting[0]):
            self._send(self._waiting.popleft())
        self._publish()
        self.work()

    def _send(self, found: Ready) -> None:
        packet = found.packet
        okay = packet.control or self._one(packet, found.views)
        self._answers.append(found.okay if okay else packet.responses(Status.error))
        self._unpublished += found.slots
        if self._unpublished >= _BATCH:
            self._publish()

    def _publish(self) -> None:
        """Answer what has been done."""
        if self._answers:
            answers, self._answers = self._answers, []
            self._counters.responses += self._unpublished
            self._unpublished = 0
            self._ring.respond_bytes(b"".join(answers))
            if self._ring.publish():
                self._counters.events_sent += 1
                self._channel.notify()

    def _one(self, packet: Packet, views: list[memoryview] | None) -> bool:
        """Send one packet; False when the guest is to be told that it was not."""
        if packet.why:
            self._counters.drop_malformed += 1
            return False
        if views is not None:
            return self._write(packet, views)
        regions: list[Region] = []
        try:
            regions, views = self._pages.once(packet.pieces, readonly=True)
            self._counters.grants_mapped += len(regions)
            return self._write(packet, views)
        except Refused:
            self._counters.errors += 1
            return False
        finally:
            del views
            for region in regions:
                region.close()

    def _write(self, packet: Packet, views: list[memoryview]) -> bool:
        copied = bytes(views[0][:HEADERS_MAX])
        if len(copied) < HEADERS_MAX and len(views) > 1:
            copied = _gather(views)
        found = parse(copied)
        header = None
        if found is not None:
            kind, flags = packet.gso_type, packet.flags
            blank, valid = bool(flags & _BLANK) or bool(kind), bool(flags & _VALID)
            header = vnet(found, blank=blank, valid=valid, gso_type=kind, gso_size=packet.gso_size)
        if found is None or header is None:
            self._counters.drop_malformed += 1
            return False
        if self.sources is not None and not self.sources.allow(copied, found):
            self._counters.drop_filtered += 1
            return True  # the guest is not told what is filtered
        copied = copied[: max(HEADERS_MIN, found.end)]
        out: list[bytes | memoryview] = [header + copied]
        out += _without(views, len(copied))
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
        self._known.clear()
        self._counters.flush()


def _gather(views: Sequence[memoryview]) -> bytes:
    """The first bytes of a packet whose headers lie in several pieces."""
    copied = b""
    for view in views:
        copied += bytes(view[: HEADERS_MAX - len(copied)])
        if len(copied) == HEADERS_MAX:
            break
    return copied


def _without(views: Sequence[memoryview], count: int) -> list[memoryview]:
    """What follows the first bytes."""
    first = views[0]
    if count < len(first):
        return [first[count:], *views[1:]]
    rest: list[memoryview] = []
    for view in views:
        if count >= len(view):
            count -= len(view)
        else:
            rest.append(view[count:] if count else view)
            count = 0
    return rest
