"""The cable of an interface: in while the other end is connected, and for a while longer, since it may come back.

What is sent meanwhile waits in the TAP's queue, and neither side's addresses and neighbours are gone through again.
"""

from __future__ import annotations

from xenfs.xenbus import Loop
from xennet.tap import Tap

GRACE_SECONDS = 5.0


class Cable:
    """One TAP's."""

    def __init__(self, tap: Tap, loop: Loop, *, plugged: bool = False) -> None:
        """Begin unplugged, or as somebody else who may have been connected has left it."""
        self._tap, self._loop = tap, loop
        self._in = plugged
        if plugged:
            self.pull()
        else:
            tap.carrier(False)

    def plug(self) -> None:
        """The other end is connected."""
        self._in = True
        self._tap.carrier(True)

    def pull(self) -> None:
        """It no longer is."""
        if self._in:
            self._in = False
            self._loop.later(GRACE_SECONDS, self._pulled)

    def _pulled(self) -> None:
        if not self._in and self._tap.fd >= 0:
            self._tap.carrier(False)
