"""Packets out of transmit requests: what a guest queued, checked whole before anything of it is used.

Everything here works on copies. Sources: xen/io/netif.h and netback of Linux, for what is dropped and what is fatal.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from xenfs.abi.netif import (
    ETH_HLEN,
    EXTRA_FLAG_MORE,
    FATAL_SLOTS,
    GSO,
    NR_SLOTS_MIN,
    TX,
    ExtraType,
    GsoType,
    Status,
    TxFlag,
)
from xenfs.abi.xen import PAGE_SIZE
from xenfs.xenbus import PeerProtocolError

MORE, EXTRA = int(TxFlag.more_data), int(TxFlag.extra_info)
_NULL = TX.response.pack(0, int(Status.null))
_KNOWN = frozenset({ExtraType.gso, ExtraType.mcast_add, ExtraType.mcast_del, ExtraType.hash})
_SLOT = TX.request.size


@dataclass(slots=True)
class Packet:
    """One packet: its pieces (grant, offset, size), what is said of it, and the ids to be answered, slot by slot.

    `why` says why it must be dropped; then every slot of it is answered with an error.
    """

    flags: int
    size: int
    pieces: list[tuple[int, int, int]]
    ids: list[int | None]
    gso_type: int = 0
    gso_size: int = 0
    why: str = ""
    control: bool = False

    def responses(self, status: Status) -> bytes:
        """One for each slot, in order: extras are answered with null."""
        said = int(status)
        return b"".join(_NULL if number is None else TX.response.pack(number, said) for number in self.ids)


class Batch:
    """Requests taken at once, packet by packet."""

    def __init__(self, data: bytes, name: str) -> None:
        """`data`: whole requests; `name`: the ring's, for what is wrong with them."""
        self.data, self._name = data, name
        self.flags = memoryview(data).cast("H")[3 :: _SLOT // 2].tolist()
        self._entries: list[tuple[int, ...]] | None = None

    def __len__(self) -> int:
        return len(self.flags)

    def extent(self, at: int) -> int:
        """Where the packet ends that begins at a slot, if it has one extra slot at most and is whole."""
        flags, end = self.flags, len(self.flags)
        said = flags[at]
        at += 2 if said & EXTRA else 1
        while said & MORE and at < end:
            said = flags[at]
            at += 1
        return at

    def packet(self, at: int) -> tuple[Packet, int]:
        """The packet that begins at a slot, and where the next one does. Raises PeerProtocolError for what netback
        stops a device for."""
        if self._entries is None:
            self._entries = list(TX.request.iter_unpack(self.data))
        return _one(self._entries, at, self._name)


def _one(taken: Sequence[tuple[int, ...]], at: int, name: str) -> tuple[Packet, int]:
    gref, offset, flags, number, size = taken[at]
    at += 1
    packet = Packet(flags, size, [(gref, offset, size)], [number])
    if flags & EXTRA:
        at = _extras(packet, taken, at, name)
    if packet.control:
        return packet, at
    following, total = flags, 0
    while following & MORE:
        if at >= len(taken):
            raise PeerProtocolError(f"{name}: a packet of {len(packet.pieces)} slots goes on behind the last request")
        gref, offset, following, number, part = taken[at]
        at += 1
        if len(packet.pieces) > FATAL_SLOTS:
            raise PeerProtocolError(f"{name}: a packet of more than {FATAL_SLOTS} slots")
        _within(name, offset, part)
        packet.pieces.append((gref, offset, part))
        packet.ids.append(number)
        total += part
    _first(packet, total, name)
    return packet, at


def _within(name: str, offset: int, size: int) -> None:
    if offset + size > PAGE_SIZE:
        raise PeerProtocolError(f"{name}: offset {offset} + size {size} > {PAGE_SIZE}")


def _first(packet: Packet, others: int, name: str) -> None:
    """The first slot says the size of the whole packet; its own is what the others leave."""
    gref, offset, size = packet.pieces[0]
    if len(packet.pieces) > NR_SLOTS_MIN + 1:
        packet.why = f"{len(packet.pieces)} slots"
    elif size < ETH_HLEN:
        packet.why = f"a packet of {size} bytes"
    elif others >= size and len(packet.pieces) > 1:
        packet.why = f"slots of {others} bytes in a packet of {size}"
    else:
        _within(name, offset, size - others)
        packet.pieces[0] = (gref, offset, size - others)


def _extras(packet: Packet, taken: Sequence[tuple[int, ...]], at: int, name: str) -> int:
    while True:
        if at >= len(taken):
            raise PeerProtocolError(f"{name}: an extra info is missing")
        kind, more, size, gso, _ = GSO.unpack_from(TX.request.pack(*taken[at]))
        at += 1
        packet.ids.append(None)
        if kind not in _KNOWN:
            raise PeerProtocolError(f"{name}: extra info of type {kind}")
        if kind == ExtraType.gso:
            if not size or gso not in (GsoType.tcpv4, GsoType.tcpv6):
                raise PeerProtocolError(f"{name}: GSO of type {gso} with size {size}")
            packet.gso_type, packet.gso_size = gso, size
        elif kind in (ExtraType.mcast_add, ExtraType.mcast_del):
            packet.control = True
        if not more & EXTRA_FLAG_MORE:
            return at
