"""Whose calls are carried out.

A hypercall that moves pages is answered when the work thread has carried it out. That thread works for everybody, so a
domain has no more under way there than one write's worth: the next of any of its handles waits.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

Waiter = Callable[[], None]


class Turns:
    """The calls of one domain."""

    def __init__(self) -> None:
        """Nothing under way."""
        self._owed = 0
        self._waiting: deque[Waiter] = deque()
        self._going_on = False

    @property
    def free(self) -> bool:
        """Whether nothing is under way and nobody waits."""
        return not (self._owed or self._waiting)

    def owe(self) -> None:
        """A call is under way."""
        self._owed += 1

    def paid(self) -> None:
        """It has been answered."""
        self._owed -= 1
        self.go_on()

    def wait(self, waiter: Waiter) -> Waiter:
        """Do something when nothing is under way: now, or in its turn. Gives what `cancel` wants."""
        self._waiting.append(waiter)
        self.go_on()
        return waiter

    def cancel(self, waiter: Waiter) -> None:
        """Do not."""
        self._waiting.remove(waiter)

    def go_on(self) -> None:
        """Let those that have waited have their turn, as long as nothing is under way."""
        if self._going_on:
            return
        self._going_on = True
        try:
            while self._waiting and not self._owed:
                self._waiting.popleft()()
        finally:
            self._going_on = False
