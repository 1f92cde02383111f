"""The pages that a guest has posted, where netback has them mapped, and in which order they come.

A guest posts the same pages in the same order again and again. So each slot of the ring remembers the request that was
last in it, and what that came to; a request that is the same again costs a comparison of bytes.
"""

from __future__ import annotations

from xenfs.abi.netif import RX, RxFlag
from xenfs.abi.xen import PAGE_SIZE
from xennet.pages import Pages

_SIZE = RX.entry_size
_MORE = int(RxFlag.more_data)
Place = tuple[memoryview, int]


class Posted:
    """A queue of posted pages, by the slots of their ring."""

    def __init__(self, slots: int, pages: Pages) -> None:
        """`slots`: of the ring; `pages`: where grants are kept mapped."""
        self._slots, self._pages = slots, pages
        self._generation = -1
        self._requests = bytearray(slots * _SIZE)
        self._answers = bytearray(2 * slots * _SIZE)
        self._places: list[Place | None] = [None] * slots
        self._rooms: dict[tuple[int, int], list[memoryview] | None] = {}
        self.head = self.count = 0

    def add(self, data: bytes) -> None:
        """Requests that have been taken from the ring."""
        if self._generation != self._pages.generation:
            self._forget()
        at = (self.head + self.count) % self._slots
        self.count += len(data) // _SIZE
        over = at * _SIZE + len(data) - len(self._requests)
        if over > 0:
            self._learn(at, data[: len(data) - over])
            self._learn(0, data[len(data) - over :])
        else:
            self._learn(at, data)

    def _forget(self) -> None:
        """Mappings have changed: look up again what is posted."""
        self._generation = self._pages.generation
        self._rooms.clear()
        for slot in range(self._slots):
            self._places[slot] = self._pages.place(RX.request.unpack_from(self._requests, slot * _SIZE)[1])

    def _learn(self, at: int, data: bytes) -> None:
        start = at * _SIZE
        if self._requests[start : start + len(data)] == data:
            return
        self._rooms.clear()
        self._requests[start : start + len(data)] = data
        for slot, (number, ref) in enumerate(RX.request.iter_unpack(data), at):
            self._places[slot] = self._pages.place(ref)
            answer = RX.response.pack(number, 0, _MORE, PAGE_SIZE)
            for place in (slot * _SIZE, (self._slots + slot) * _SIZE):
                self._answers[place : place + _SIZE] = answer

    def number(self, place: int) -> int:
        """The id of the request that is `place` behind the head."""
        number, _ = RX.request.unpack_from(self._requests, (self.head + place) % self._slots * _SIZE)
        return int(number)

    def ref(self, place: int) -> int:
        """The grant of the request that is `place` behind the head."""
        _, ref = RX.request.unpack_from(self._requests, (self.head + place) % self._slots * _SIZE)
        return int(ref)

    def whole(self, place: int, count: int) -> bytes:
        """Answers for whole pages of a packet that goes on, to `count` requests from `place` behind the head."""
        start = (self.head + place) % self._slots * _SIZE
        return bytes(self._answers[start : start + count * _SIZE])

    def drop(self, count: int) -> None:
        """The first requests have been answered."""
        self.head = (self.head + count) % self._slots
        self.count -= count

    def room(self, pages: int) -> list[memoryview] | None:
        """The page at the head, and behind it those of the third request and further on, `pages` requests in all;
        joined where they lie one behind the other. None when one is not kept mapped."""
        if self._generation != self._pages.generation:
            self._forget()
        key = self.head, pages
        try:
            return self._rooms[key]
        except KeyError:
            return self._rooms.setdefault(key, self._find_room(pages))

    def _find_room(self, pages: int) -> list[memoryview] | None:
        views: list[memoryview] = []
        last: memoryview | None = None
        start = end = 0
        for place in (0, *range(2, pages)):
            found = self._places[(self.head + place) % self._slots]
            if found is None:
                return None
            view, base = found
            if view is last and base == end:
                end += PAGE_SIZE
                continue
            if last is not None:
                views.append(last[start:end])
            last, start, end = view, base, base + PAGE_SIZE
        assert last is not None
        return [*views, last[start:end]]
