"""A guest that posts no pages: what waits for it grows old and is thrown away, and after a while its cable is pulled.

As in netback: packets wait for 10 s, and a guest that has posted nothing for 60 s is stalled (drain_timeout and
stall_timeout). How many wait is bounded by the TAP's queue, whose further packets the kernel drops.
"""

from __future__ import annotations

import os

from xenfs.xenbus import Loop
from xenfs.xenbus.counters import Counters
from xennet.tap import Tap

DRAIN_SECONDS, STALL_SECONDS = 10.0, 60.0
_AGAIN = 1.0


class Stall:
    """Watches one receive ring."""

    def __init__(self, loop: Loop, tap: Tap, counters: Counters) -> None:
        """Begin well."""
        self._loop, self._tap, self._counters = loop, tap, counters
        self._since: float | None = None
        self._armed = self._pulled = self.closed = False

    def begin(self) -> None:
        """There are not enough pages for a packet."""
        if self._since is None:
            self._since = self._loop.now()
            self._arm(DRAIN_SECONDS)

    def end(self) -> None:
        """There are again."""
        self._since = None
        if self._pulled:
            self._pulled = False
            self._tap.carrier(True)

    def _arm(self, seconds: float) -> None:
        if not self._armed:
            self._armed = True
            self._loop.later(seconds, self._look)

    def _look(self) -> None:
        self._armed = False
        if self._since is None or self.closed:
            return
        waited = self._loop.now() - self._since
        if waited < DRAIN_SECONDS:
            self._arm(DRAIN_SECONDS - waited)
            return
        self._discard()
        if waited >= STALL_SECONDS and not self._pulled:
            self._pulled = True
            self._tap.carrier(False)
        self._arm(_AGAIN)

    def _discard(self) -> None:
        try:
            while True:
                os.read(self._tap.fd, 64)
                self._counters.drop_no_buffer += 1
        except OSError:
            self._counters.write()

    def close(self) -> None:
        """The connection has ended."""
        self.closed = True
