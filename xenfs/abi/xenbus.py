"""States of a xenbus device (xen/io/xenbus.h), written in one decimal digit to `state` by each end."""

from __future__ import annotations

from enum import IntEnum


class XenbusState(IntEnum):
    """How far one end of a device is."""

    Unknown = 0
    Initialising = 1
    InitWait = 2
    Initialised = 3
    Connected = 4
    Closing = 5
    Closed = 6
    Reconfiguring = 7
    Reconfigured = 8

    @classmethod
    def parse(cls, value: bytes) -> XenbusState | None:
        """The state that a node holds; None for what is no state."""
        return cls(value[0] - 0x30) if len(value) == 1 and 0x30 <= value[0] <= 0x38 else None
