"""FrontRing and BackRing: the two ends of a shared ring (xen/io/ring.h), over any page and for any entry layout.

The frontend produces requests and consumes responses; the backend does the reverse, in the same slots. Each end
publishes its own producer index and, as its event index, the point where it wants to be woken. Everything else (what
was queued, what was consumed, what was last published) is private to each end and never read back from the page.

Both ends do the same three things, and `_Ring` holds them once:

    queue, publish      write entries, then the producer; learn whether the peer asked to be notified
    take                read the peer's producer once, hold it against what is possible, copy the entries out, decode
    final check         before sleeping: ask for the next notification, and look once more

Bounds, in indices that run free modulo 2^32, N slots:

    frontend may queue up to rsp_cons + N           and be answered up to what it published
    backend may queue up to req_cons                and be asked up to what it published + N

A producer outside its bounds breaks the ring for good (XSA-39): every later call raises the same PeerRingError. The
peer's event index is advice, and only ever costs the peer its own wake-up. A ring is used by one thread at a time.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import starmap
from struct import Struct
from typing import Any, ClassVar, Literal, TypeVar

from xenfs.abi.ring import ENTRIES, HEADER, RingFormat, u32
from xenfs.atomics import fence

LINGER = 150e-6
"""Seconds worth staying awake for the peer: to be woken on another processor takes about as long."""
Entry = tuple[Any, ...]
R = TypeVar("R", bound="_Ring")
_REQ_PROD, _REQ_EVENT, _RSP_PROD, _RSP_EVENT = range(4)


class RingError(Exception):
    """Base of the two: names the ring, the field, its value and the limit that it passed."""

    def __init__(self, ring: str, field: str, value: int, limit: int, text: str) -> None:
        """Keep the parts; the message is the ring's name and `text`."""
        super().__init__(f"{ring}: {text}")
        self.ring, self.field, self.value, self.limit = ring, field, value, limit


class LocalRingError(RingError):
    """This end asked for what its own ring cannot do; nothing was changed."""


class PeerRingError(RingError):
    """The other end published an impossible index; the ring is broken for good."""


@dataclass(frozen=True, slots=True)
class RingStats:
    """Counts since this end was made.

    Entries `pushed` and `taken`; publishes after which the peer was to be `notified`, and those it had not asked to
    hear of (`held_off`); event requests that let the caller sleep (`asleep`), and those that did not (`awake`).
    """

    pushed: int
    taken: int
    notified: int
    held_off: int
    asleep: int
    awake: int


def _unit(size: int, stride: int) -> tuple[Literal["Q", "I", "H", "B"], int]:
    """The widest integer, as code and bytes, of which both an entry and its slot are a whole number."""
    common = size | stride
    return ("B", 1) if common % 2 else ("H", 2) if common % 4 else ("I", 4) if common % 8 else ("Q", 8)


class _Ring(ABC):
    """One end; which header words are whose, and how far each side may go, is all in which the ends differ."""

    _front: ClassVar[bool]
    _own_prod: ClassVar[int]
    _own_event: ClassVar[int]
    _peer_prod: ClassVar[int]
    _peer_event: ClassVar[int]
    _names: ClassVar[tuple[str, str]]
    _full: ClassVar[str]

    def __init__(self, view: memoryview, layout: RingFormat, *, name: str | None = None, start: int = 0) -> None:
        """Join a page whose indices began at `start` (BACK_RING_INIT). ValueError: read-only, or too small a page."""
        self._open(view, layout, name)
        self._start(u32(start), u32(start))

    @classmethod
    def attach(cls: type[R], view: memoryview, layout: RingFormat, *, name: str | None = None) -> R:
        """Take over a page in use after this end died, trusting only that the published indices are not impossible.

        A frontend (FRONT_RING_ATTACH) goes on at req_prod and rsp_prod: what is between them will still be answered.
        Lost: requests queued but not published, responses published but not taken, and, unless the caller kept it, who
        asked for what.

        A backend (BACK_RING_ATTACH) goes on at rsp_prod: every request not known to be answered is taken again, so
        requests must bear being done twice. Lost: responses queued but not published, and with them the requests whose
        slots they overwrote; after a backend that answers out of order, also requests it had passed over, since a ring
        tells how many were answered and not which. Only a frontend that re-issues makes up for that.

        Raises PeerRingError when the indices are more than the ring apart.
        """
        self = cls.__new__(cls)
        self._open(view, layout, name)
        req_prod, rsp_prod = self._words[_REQ_PROD], self._words[_RSP_PROD]
        if u32(req_prod - rsp_prod) > self.slots:
            raise self._overflow(req_prod, rsp_prod)
        self._start(req_prod if cls._front else rsp_prod, rsp_prod)
        return self

    def _open(self, view: memoryview, layout: RingFormat, name: str | None) -> None:
        self.name, self.layout, self.slots = name or layout.name, layout, layout.slots(view.nbytes)
        if view.readonly:
            message = f"{self.name}: a ring needs a writable page"
            raise ValueError(message)
        out, into = (layout.request, layout.response) if self._front else (layout.response, layout.request)
        self._room, self._ahead = (self.slots, 0) if self._front else (0, self.slots)
        self._codec, self._size, self._stride = out, out.size, layout.entry_size
        self._nbytes = self.slots * self._stride
        self._words, self._entries = view[:16].cast("I"), view[ENTRIES : ENTRIES + self._nbytes]
        self._code, self._width = _unit(out.size, self._stride)
        self._units = self._entries.cast(self._code)
        self._taken_size = into.size
        code, width = _unit(into.size, self._stride)
        self._lane: Literal["Q", "I", "H", "B", ""] = code if width == into.size else ""
        self._unpack = Struct(f"{into.format}{self._stride - into.size}x").iter_unpack
        self._pushed = self._taken = self._notified = self._held_off = self._asleep = self._awake = 0
        self._broken: PeerRingError | None = None

    def _start(self, prod: int, cons: int) -> None:
        self._prod_pvt = self._published = prod
        self._cons = cons

    def _claim(self, count: int) -> int:
        """The index of the first of `count` new entries."""
        if self._broken is not None:
            raise self._broken.with_traceback(None)
        prod = self._prod_pvt
        if count > (may := u32(self._cons + self._room - prod)):
            text = self._full.format(count=count, may=may, slots=self.slots)
            raise LocalRingError(self.name, self._names[0], count, may, text)
        return prod

    def _queue(self, *fields: Any) -> None:
        """Write one entry into the next slot, for `publish` to announce.

        Raises LocalRingError when there is no room, struct.error when `fields` do not fit the entry.
        """
        prod = self._claim(1)
        self._codec.pack_into(self._entries, prod % self.slots * self._stride, *fields)
        self._prod_pvt = u32(prod + 1)
        self._pushed += 1

    def _queue_many(self, entries: Sequence[Entry]) -> None:
        """Write a batch of entries, for `publish` to announce; on an error, none of them.

        Raises LocalRingError when there is no room, struct.error when fields do not fit the entry.
        """
        self._claim(len(entries))
        self._queue_bytes(b"".join(starmap(self._codec.pack, entries)))

    def _queue_bytes(self, data: bytes) -> None:
        """Write a batch of entries that are packed already, one behind the other; on an error, none of them.

        Raises LocalRingError when there is no room, ValueError when the bytes are no whole number of entries.
        """
        count, rest = divmod(len(data), self._size)
        if rest:
            message = f"{self.name}: {len(data)} bytes are no whole number of entries of {self._size}"
            raise ValueError(message)
        prod = self._claim(count)
        first = prod % self.slots
        if (over := first + count - self.slots) > 0:
            split = (count - over) * self._size
            self._write(first, data[:split])
            self._write(0, data[split:])
        else:
            self._write(first, data)
        self._prod_pvt = u32(prod + count)
        self._pushed += count

    def _write(self, first: int, data: bytes) -> None:
        """Lay entries into slots that follow each other; behind an entry smaller than its slot nothing is touched."""
        start, size, stride = first * self._stride, self._size, self._stride
        if size == stride:
            self._entries[start : start + len(data)] = data
            return
        units, width = memoryview(data).cast(self._code), self._width
        end = (start + len(data) // size * stride) // width
        for lane in range(size // width):
            self._units[start // width + lane : end : stride // width] = units[lane :: size // width]

    def publish(self) -> bool:
        """Announce everything queued. True: the peer asked for it and must be notified now.

        The hold-off of RING_PUSH_*_AND_CHECK_NOTIFY. Raises PeerRingError on a broken ring.
        """
        if self._broken is not None:
            raise self._broken.with_traceback(None)
        old, new, words = self._published, self._prod_pvt, self._words
        if old == new:
            return False
        fence()  # entries before the index that announces them
        words[self._own_prod] = self._published = new
        fence()  # that index before the question whether the peer sleeps
        if u32(new - words[self._peer_event]) < u32(new - old):
            self._notified += 1
            return True
        self._held_off += 1
        return False

    def take(self, limit: int | None = None) -> list[Entry]:
        """Consume what the peer published, at most `limit` entries, oldest first; an empty list when there is nothing.

        Shared memory is read once: the index, then each contiguous span of entries, copied before it is decoded
        (XSA-155). Raises PeerRingError when the peer's producer is impossible, and ever after.
        """
        return list(self._unpack(self._take(limit)))

    def take_bytes(self, limit: int | None = None) -> bytes:
        """The same, not decoded: a private copy of the entries, one behind the other without what pads their slots."""
        data, size, stride = self._take(limit), self._taken_size, self._stride
        if size == stride:
            return data
        if self._lane:
            return memoryview(data).cast(self._lane)[:: stride // size].tobytes()
        return b"".join(data[at : at + size] for at in range(0, len(data), stride))

    def _take(self, limit: int | None) -> bytes:
        """A copy of the slots that the peer published, and they count as consumed."""
        if self._broken is not None:
            raise self._broken.with_traceback(None)
        prod, cons = self._words[self._peer_prod], self._cons
        count = u32(prod - cons)
        if not count:
            return b""
        if count > u32(self._published + self._ahead - cons):
            self._broken = self._impossible(prod)
            raise self._broken
        if limit is not None and limit < count:
            count = max(limit, 0)
        fence()  # the index before the entries it announced
        start = cons % self.slots * self._stride
        end = start + count * self._stride
        data = self._entries[start:end].tobytes()
        if end > self._nbytes:
            data += self._entries[: end - self._nbytes].tobytes()
        self._cons = u32(cons + count)
        self._taken += count
        return data

    def request_event(self, count: int) -> bool:
        """Ask to be notified once `count` entries wait, unless they do already. True: they do, do not sleep.

        For a consumer that cannot use fewer, such as netback with a large packet. Only False allows sleep. The peer's
        producer is read a second time, as it must be. Raises LocalRingError when the ring cannot hold `count`.
        """
        if self._broken is not None:
            raise self._broken.with_traceback(None)
        if not 1 <= count <= self.slots:
            text = f"cannot wait for {count} entries; the ring has {self.slots} slots"
            raise LocalRingError(self.name, "count", count, self.slots, text)
        words, cons = self._words, self._cons
        if u32(words[self._peer_prod] - cons) < count:
            words[self._own_event] = u32(cons + count)
            fence()  # the wish before the second look
            if u32(words[self._peer_prod] - cons) < count:
                self._asleep += 1
                return False
        self._awake += 1
        return True

    def final_check(self) -> bool:
        """RING_FINAL_CHECK_FOR_*: ask to be notified of the next entry. True: one waits already, do not sleep."""
        return self.request_event(1)

    def linger(self, seconds: float = LINGER, clock: Callable[[], float] = time.perf_counter) -> bool:
        """Stay awake for the peer's next entry, at most so long; whether there is one. For before `final_check`, where
        to be woken takes longer than the peer does.
        """
        words, cons, theirs = self._words, self._cons, self._peer_prod
        ends = clock() + seconds
        while words[theirs] == cons:
            if clock() >= ends:
                return False
        return True

    def stats(self) -> RingStats:
        """Counts as they are now."""
        return RingStats(self._pushed, self._taken, self._notified, self._held_off, self._asleep, self._awake)

    def release(self) -> None:
        """Let go of the page, so that its mapping can be closed; using the ring afterwards raises ValueError."""
        for view in (self._units, self._entries, self._words):
            view.release()

    def __enter__(self: R) -> R:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def __repr__(self) -> str:
        shape, state = f"{self.slots}x{self._stride}", " broken" if self._broken else ""
        indices = f"{self._names[0]}={self._prod_pvt} {self._names[1]}={self._cons}"
        return f"<{type(self).__name__} {self.name} {shape} {indices}{state}>"

    @abstractmethod
    def _impossible(self, prod: int) -> PeerRingError:
        """What is wrong with the peer's producer."""

    def _overflow(self, req_prod: int, rsp_prod: int) -> PeerRingError:
        ahead = u32(req_prod - rsp_prod)
        text = f"req_prod {req_prod} is {ahead} ahead of rsp_prod {rsp_prod}; the ring has {self.slots} slots"
        return PeerRingError(self.name, "req_prod", req_prod, self.slots, text)


class FrontRing(_Ring):
    """The frontend's end: pushes requests, takes responses. Making one initialises the page."""

    _front = True
    _own_prod, _peer_event, _peer_prod, _own_event = _REQ_PROD, _REQ_EVENT, _RSP_PROD, _RSP_EVENT
    _names = ("req_prod_pvt", "rsp_cons")
    _full = "no room for {count} requests; {may} of {slots} slots are free"

    def __init__(self, view: memoryview, layout: RingFormat, *, name: str | None = None, start: int = 0) -> None:
        """Initialise the page, indices at `start` (XEN_FRONT_RING_INIT). ValueError: read-only, or too small a page."""
        super().__init__(view, layout, name=name, start=start)
        view[:ENTRIES] = HEADER.pack(u32(start), u32(start + 1), u32(start), u32(start + 1))

    push, push_many, push_bytes = _Ring._queue, _Ring._queue_many, _Ring._queue_bytes

    @property
    def free(self) -> int:
        """Requests that can be pushed now (RING_FREE_REQUESTS)."""
        return u32(self._cons + self._room - self._prod_pvt)

    @property
    def in_flight(self) -> int:
        """Requests pushed whose response was not taken."""
        return u32(self._prod_pvt - self._cons)

    def _impossible(self, prod: int) -> PeerRingError:
        cons, asked = self._cons, u32(self._published - self._cons)
        text = f"rsp_prod {prod} is {u32(prod - cons)} ahead of rsp_cons {cons}; {asked} requests are in flight"
        return PeerRingError(self.name, "rsp_prod", prod, asked, text)


class BackRing(_Ring):
    """The backend's end: takes requests, responds. It never initialises the page, nor believes its own words there."""

    _front = False
    _peer_prod, _own_event, _own_prod, _peer_event = _REQ_PROD, _REQ_EVENT, _RSP_PROD, _RSP_EVENT
    _names = ("rsp_prod_pvt", "req_cons")
    _full = "no request for {count} responses; {may} await one"

    respond, respond_many, respond_bytes = _Ring._queue, _Ring._queue_many, _Ring._queue_bytes

    @property
    def unanswered(self) -> int:
        """Requests taken that have no response yet: how many `respond` will accept."""
        return u32(self._cons + self._room - self._prod_pvt)

    def _impossible(self, prod: int) -> PeerRingError:
        if u32(prod - self._published) > self.slots:
            return self._overflow(prod, self._published)
        text = f"req_prod {prod} is {u32(self._cons - prod)} behind req_cons {self._cons}"
        return PeerRingError(self.name, "req_prod", prod, self.slots, text)
