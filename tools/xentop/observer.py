"""The thread that looks: a daemon that does not answer holds that up, and neither the screen nor the end."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable
from contextlib import suppress

from xentop import text
from xentop.feed import Feed
from xentop.look import Look, Sample
from xentop.panes import PANES
from xentop.wanted import Wanted

DELAYS = 0.05, 3600.0
"""Seconds: the shortest and the longest time between two looks."""


class Observer:
    """Looks at the machine at `point` again and again, and tells what it saw; the next look waits until it is taken.

    `delay`, `paused` and `wanted` may be set at any time, and count at once after `hurry`.
    """

    def __init__(
        self,
        point: str,
        delay: float,
        pane: str,
        tell: Callable[[Sample | None, Exception | None], bool],
        look: Look | None = None,
    ) -> None:
        """`tell` has a look, None for nothing new but the bytes of what is wanted; or why there is nothing more to
        come. It says whether there is anybody who will take it.
        """
        self.delay = delay
        self.paused = False
        self.wanted: Wanted | None = None
        self.asked: float | None = None
        """Since when the machine has been asked something, while it is."""
        self.feed: Feed | None = None
        self.thread = threading.Thread(target=self._watch, name="xentop", daemon=True)
        self._point, self._pane, self._tell, self._look = point, pane, tell, look
        self._last: Sample | None = None
        self._once = False
        self._kick, self._taken = threading.Event(), threading.Event()
        self.over = False
        """Whether nobody wants to know any more."""

    def start(self) -> None:
        """Begin."""
        self.thread.start()

    def turn_to(self, pane: str) -> None:
        """Look at what another pane needs, once even while all is held."""
        self._pane, self._once = pane, True
        self.hurry()

    def hurry(self) -> None:
        """Look now, and not when it is time."""
        self._kick.set()

    def taken(self) -> None:
        """What was told is drawn."""
        self._taken.set()

    def stop(self) -> None:
        """Look no more."""
        self.over = True
        self._kick.set()
        self._taken.set()

    def _watch(self) -> None:
        """Look, again and again, until it is over; what fails is told, and then there is nothing to look at."""
        self.asked = time.monotonic()
        look = self._look
        try:
            look = look or Look(self._point)
            while not self.over:
                self._kick.clear()
                began = self.asked = time.monotonic()
                self._turn(look)
                self._kick.wait(max(0.01, self.delay - (time.monotonic() - began)))
        except Exception as error:
            self.asked = None
            self._say(None, error)
        finally:
            if look is not None:
                look.close()
            if self.feed is not None:
                with suppress(OSError):
                    self.feed.close()

    def _turn(self, look: Look) -> None:
        """Look, when it is time; and at the bytes of what is wanted, once while all is held."""
        once, self._once = self._once, False
        needed = once or self._last is None
        sample = self._sample(look) if needed or not self.paused else None
        if self.paused and not needed:
            sample = None  # it was to hold still before all of this was seen
        wanted = self.wanted
        fresh = sample is not None or (wanted is not None and not wanted.read)
        if fresh and wanted is not None:
            wanted.fetch(look, sample or self._last)
        if not fresh:
            look.keep_up()
        self.asked = None
        if fresh:
            self._last = sample or self._last
            self._say(sample)

    def _say(self, sample: Sample | None, error: Exception | None = None) -> None:
        """Tell the screen, and wait until it has drawn it."""
        self._taken.clear()
        with suppress(RuntimeError):  # there is no screen any more
            if not self.over and self._tell(sample, error):
                self._taken.wait()

    def _sample(self, look: Look) -> Sample:
        if self._pane == text.TRACE:
            if self.feed is None:
                self.feed = Feed(self._point)
            self.feed.update()
        elif self.feed is not None:
            self.feed.close()
            self.feed = None
        wants = PANES[self._pane].wants if self._pane in PANES else ()
        frame = self.wanted is not None and self.wanted.pane == "pages"
        return look.sample(*wants, *(("grants",) if frame else ()))


def seconds(said: str) -> float | None:
    """A time between two looks, None for what is none."""
    value = float(said) if re.fullmatch(r"\d{1,9}(\.\d*)?|\.\d+", said, re.ASCII) else 0.0
    return value if DELAYS[0] <= value <= DELAYS[1] else None
