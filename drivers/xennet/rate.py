"""`rate=` of a vif: so many bytes in every so many microseconds (netback's credit scheduler)."""

from __future__ import annotations

import re

_RATE = re.compile(r"([0-9]{1,10})([KMG]?)([bB])/s(?:@([0-9]{1,9})([mu]?s?))?")
_SCALE = {"": 1, "K": 1000, "M": 1000_000, "G": 1000_000_000}
_MICROSECONDS = {"u": 1, "us": 1, "m": 1000, "ms": 1000, "": 1000_000, "s": 1000_000}
DEFAULT_MICROSECONDS = 50_000
_BURST = 131_072
"""Credit of so many bytes may be saved up whatever the rate, or a packet larger than one interval's never went."""


def parse_rate(text: str) -> tuple[int, int]:
    """Bytes and microseconds of xl's `10Mb/s`, `1MB/s@20ms`; without a unit the interval is in seconds.

    As xlu_vif_parse_rate, but numbers are decimal even with a leading 0, and a rate of nothing is refused too. Raises
    ValueError.
    """
    found = _RATE.fullmatch(text)
    if found is None:
        raise ValueError(f"{text!r} is no rate such as 10Mb/s, 250KB/s or 1MB/s@20ms")
    per_second = int(found[1]) * _SCALE[found[2]] // (8 if found[3] == "b" else 1)
    interval = int(found[4]) * _MICROSECONDS[found[5]] if found[4] else DEFAULT_MICROSECONDS
    size = per_second * interval // 1_000_000
    if not 0 < interval < 1 << 32 or not 0 < size < 1 << 32:
        raise ValueError(f"{text!r}: {size} bytes in {interval} microseconds; both must be from 1 to 4294967295")
    return size, interval


class Credit:
    """How much may still be sent in this interval, as in netback (tx_add_credit, tx_credit_exceeded).

    Each interval that is seen to begin adds its bytes to what is left, up to one interval's bytes or 128 KiB, whichever
    is more.
    """

    def __init__(self, size: int, microseconds: int) -> None:
        """So many bytes in so many microseconds; a packet larger than that waits until enough is saved up."""
        self.size, self.interval = size, microseconds * 1000
        self._most = max(size, _BURST)
        self._left, self._until = 0, 0

    def take(self, size: int, now: int) -> int:
        """0 and the credit is used, or nanoseconds until it is worth asking again; `now` in nanoseconds.

        A packet larger than can ever be saved up goes when as much as can be is there, and takes all of it.
        """
        if now >= self._until:
            self._left, self._until = min(self._left + self.size, self._most), now + self.interval
        if size <= self._left or self._left == self._most:
            self._left = max(0, self._left - size)
            return 0
        return self._until - now
