"""`rate=` of a vif: so many bytes in every so many microseconds (netback's credit scheduler)."""

from __future__ import annotations

import re

_RATE = re.compile(r"(\d{1,10})([KMG]?)([bB])/s(?:@(\d{1,9})(u?m?s))?")
_SCALE = {"": 1, "K": 1000, "M": 1000_000, "G": 1000_000_000}
_MICROSECONDS = {"us": 1, "ms": 1000, "s": 1000_000}
DEFAULT_MICROSECONDS = 50_000


def parse_rate(text: str) -> tuple[int, int]:
    """Bytes and microseconds of xl's `10Mb/s`, `1MB/s@20ms`. Raises ValueError."""
    found = _RATE.fullmatch(text)
    if found is None or (found[5] or "us") not in _MICROSECONDS:
        raise ValueError(f"{text!r} is no rate such as 10Mb/s, 250KB/s or 1MB/s@20ms")
    per_second = int(found[1]) * _SCALE[found[2]] // (8 if found[3] == "b" else 1)
    interval = int(found[4]) * _MICROSECONDS[found[5]] if found[4] else DEFAULT_MICROSECONDS
    size = per_second * interval // 1_000_000
    if not 0 < interval < 1 << 32 or not 0 < size < 1 << 32:
        raise ValueError(f"{text!r}: {size} bytes in {interval} microseconds; both must be from 1 to 4294967295")
    return size, interval


class Credit:
    """How much may still be sent in this interval. What is not used is lost with the interval, as in netback."""

    def __init__(self, size: int, microseconds: int) -> None:
        """So many bytes in so many microseconds; a packet larger than that waits for a full interval, and then goes."""
        self.size, self.interval = size, microseconds * 1000
        self._left, self._until = 0, 0

    def take(self, size: int, now: int) -> int:
        """0 and the credit is used, or nanoseconds until it is worth asking again; `now` in nanoseconds."""
        if now >= self._until:
            self._left, self._until = self.size, now + self.interval
        if size <= self._left or (size > self.size and self._left == self.size):
            self._left = max(0, self._left - size)
            return 0
        return self._until - now
