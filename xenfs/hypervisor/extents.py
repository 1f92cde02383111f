"""A set of frame numbers kept as runs, so that a gigabyte of idle memory costs as little as a page."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator


class Extents:
    """Disjoint, sorted, merged runs [start, stop). Size by runs: finding is O(log runs), changing O(runs) at worst."""

    __slots__ = ("_starts", "_stops", "count")

    def __init__(self, start: int = 0, stop: int = 0) -> None:
        """Begin with one run, or with nothing."""
        self._starts: list[int] = [start] if stop > start else []
        self._stops: list[int] = [stop] if stop > start else []
        self.count = max(0, stop - start)

    def __len__(self) -> int:
        return self.count

    def __contains__(self, number: int) -> bool:
        at = bisect_right(self._starts, number) - 1
        return at >= 0 and number < self._stops[at]

    def covers(self, start: int, stop: int) -> bool:
        """Whether the whole of a run that is not empty is in the set: runs are merged, so it is within one of them."""
        at = bisect_right(self._starts, start) - 1
        return at >= 0 and stop <= self._stops[at]

    def __iter__(self) -> Iterator[int]:
        for start, stop in self.runs():
            yield from range(start, stop)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Extents) and self._starts == other._starts and self._stops == other._stops

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"Extents({', '.join(f'{a}-{b - 1}' for a, b in self.runs())})"

    def runs(self) -> list[tuple[int, int]]:
        """The runs, lowest first, each as [start, stop)."""
        return list(zip(self._starts, self._stops, strict=True))

    def add(self, start: int, stop: int) -> None:
        """Put in a run of which nothing is in the set yet."""
        at = bisect_right(self._starts, start)
        joins_left = at > 0 and self._stops[at - 1] == start
        joins_right = at < len(self._starts) and self._starts[at] == stop
        if joins_left and joins_right:
            self._stops[at - 1] = self._stops[at]
            del self._starts[at], self._stops[at]
        elif joins_left:
            self._stops[at - 1] = stop
        elif joins_right:
            self._starts[at] = start
        else:
            self._starts.insert(at, start)
            self._stops.insert(at, stop)
        self.count += stop - start

    @property
    def lowest(self) -> int:
        """The lowest number. Raises IndexError when there is none."""
        return self._starts[0]

    def remove(self, start: int, stop: int) -> None:
        """Take out a run that is in the set as a whole."""
        at = bisect_right(self._starts, start) - 1
        first, last = self._starts[at], self._stops[at]
        left, right = first < start, stop < last
        if left and right:
            self._stops[at] = start
            self._starts.insert(at + 1, stop)
            self._stops.insert(at + 1, last)
        elif left:
            self._stops[at] = start
        elif right:
            self._starts[at] = stop
        else:
            del self._starts[at], self._stops[at]
        self.count -= stop - start

    def discard(self, number: int) -> None:
        """Take out one number that is in the set."""
        self.remove(number, number + 1)

    def take_run(self, most: int) -> tuple[int, int]:
        """Take out the highest run, or its upper end when it is longer than `most`. Raises IndexError when empty."""
        start, stop = self._starts[-1], self._stops[-1]
        if stop - start <= most:
            del self._starts[-1], self._stops[-1]
        else:
            start = self._stops[-1] = stop - most
        self.count -= stop - start
        return start, stop

    def take(self, count: int) -> list[tuple[int, int]]:
        """Take out the `count` lowest numbers, of at least as many; answers their runs."""
        taken: list[tuple[int, int]] = []
        whole = 0
        while count > 0:
            start, stop = self._starts[whole], self._stops[whole]
            size = min(count, stop - start)
            taken.append((start, start + size))
            count -= size
            self.count -= size
            if start + size == stop:
                whole += 1
            else:
                self._starts[whole] = start + size
        del self._starts[:whole], self._stops[:whole]
        return taken
