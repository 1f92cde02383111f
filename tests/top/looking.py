"""Waiting for what is to be seen, by whoever looks at a screen."""

from __future__ import annotations

import select
import time
from collections.abc import Callable

from tests.mounted.mount import SOON

_BETWEEN = 0.02
"""Seconds between two looks: each costs the machine that is looked at something too."""


def look_until(true: Callable[[], bool], screen: Callable[[], str], seconds: float = SOON) -> None:
    """Look again and again until something is true; the screen is in the failure if it does not come."""
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, f"it did not come to pass:\n{screen()}"
        select.select([], [], [], _BETWEEN)
