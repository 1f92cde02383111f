"""A ring is worked through in turns: a peer that never stops asking does not keep everybody else from being heard."""

from __future__ import annotations

from collections.abc import Callable

from xenfs.xenbus.loop import Call

ROUNDS = 64
"""How often a ring is emptied in one turn."""
Later = Callable[[float, Call], None]
"""Has something called some seconds from now, as End.later does."""


class Turns:
    """The turns of one ring. Its `work` ends a turn by `rest` when it is not done after so many rounds."""

    def __init__(self, later: Later, work: Call) -> None:
        """None is to come. `work` may be called when there is no ring any more."""
        self._later, self._work, self._coming = later, work, False

    def rest(self) -> None:
        """Have another turn, after whatever else there is to do."""
        if not self._coming:
            self._coming = True
            self._later(0, self._again)

    def _again(self) -> None:
        self._coming = False
        self._work()
