"""Numbers handed out lowest first, as Xen hands out ports and references."""

from __future__ import annotations

from heapq import heappop, heappush


class Numbers:
    """`count` numbers from `first` on. Taking and giving back cost O(log of what was given back)."""

    __slots__ = ("_free", "_next", "count", "first")

    def __init__(self, first: int, count: int) -> None:
        """Begin with all of them free."""
        self.first, self.count = first, count
        self._next = first
        self._free: list[int] = []

    @property
    def in_use(self) -> int:
        """How many are taken."""
        return self._next - self.first - len(self._free)

    def take(self) -> int | None:
        """The lowest free number, or None when all are taken."""
        if self._free:
            return heappop(self._free)
        if self._next - self.first >= self.count:
            return None
        self._next += 1
        return self._next - 1

    def give(self, number: int) -> None:
        """Give back a number that `take` handed out."""
        heappush(self._free, number)
