"""The statistics page of one end (xenfs.abi.stats): counted in plain integers, written out a few times a second."""

from __future__ import annotations

import os
import time

from xenfs.abi.stats import Stats
from xenfs.domain import Memory
from xenfs.xenbus.loop import Loop

_SECONDS = 0.1

_FIELDS = [name for name in Stats.__slots__ if name not in ("magic", "version", "role", "device", "pid", "since")]


class Counters:
    """Counters with the names of the page's fields, to be added to as attributes."""

    def __init__(self, role: int, loop: Loop, device: int = 1) -> None:
        """`role`: 0 frontend, 1 backend; `loop`: of the driver; `device`: its kind, by the words of Stats."""
        self._loop, self._due = loop, False
        self._head = {"role": role, "device": device, "pid": os.getpid(), "since": time.time_ns()}
        self._view: memoryview | None = None
        self.requests = self.responses = self.errors = 0
        self.events_sent = self.events_received = 0
        self.bytes_in = self.bytes_out = self.units_in = self.units_out = 0
        self.grants_mapped = self.pages_flipped = self.reconnects = 0
        self.drop_malformed = self.drop_no_buffer = self.drop_no_memory = 0
        self.drop_filtered = self.drop_rate = self.drop_peer_gone = self.drop_other = 0

    def share(self, memory: Memory, name: str) -> None:
        """Have a page, under rings/, for as long as the domain's handle is open."""
        if self._view is None:
            frames = memory.alloc(1)
            self._view = memory.view(frames).view
            memory.name_ring(name, frames[0])
            self.flush()

    def stats(self) -> Stats:
        """As they are now."""
        counted = {name: getattr(self, name) for name in _FIELDS if hasattr(self, name)}
        return Stats(**self._head, **counted)

    def write(self) -> None:
        """Have them put into the page soon."""
        if not self._due:
            self._due = True
            self._loop.later(_SECONDS, self.flush)

    def flush(self) -> None:
        """Put them into the page now."""
        self._due = False
        if self._view is not None:
            data = self.stats().emit()
            self._view[: len(data)] = data
