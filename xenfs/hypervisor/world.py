"""What the machine asks of the world around it: somewhere for the bytes of pages to be, and lines for events.

The machine decides, the world carries out. Behind the filesystem these are inodes and FIFOs; here are the plainest
ones that work.
"""

from __future__ import annotations

from typing import Protocol

from xenfs.abi.xen import PAGE_SIZE


class Contents(Protocol):
    """The bytes of frames. A call may be carried out later, but before the answer of the hypercall that made it."""

    def drop(self, start: int, stop: int) -> None:
        """Frames [start, stop) change hands empty: they read as zeros, and views handed out before are dead."""

    def move(self, frame: int) -> None:
        """A frame changes hands with its bytes; views handed out before are dead and see no more of it."""

    def copy(self, source: int, source_offset: int, dest: int, dest_offset: int, length: int) -> None:
        """Copy `length` bytes from one frame to another, or within one as memmove does."""


class Lines(Protocol):
    """Where events go: a line for each allocation of a port. A line's number is never used again."""

    def opened(self, line: int, peer: int) -> None:
        """A port was allocated, as the other end of the port of line `peer`; 0 for a port without one as yet."""

    def raised(self, line: int) -> None:
        """An event for the port's owner."""

    def closed(self, line: int) -> None:
        """The port is gone; what is sent on the line from now on goes nowhere."""


class ByteContents:
    """Frames as bytearrays, made when first touched."""

    def __init__(self) -> None:
        """Begin with every frame zero."""
        self._pages: dict[int, bytearray] = {}

    def page(self, frame: int) -> bytearray:
        """The bytes of a frame, as they are in this tenure."""
        page = self._pages.get(frame)
        if page is None:
            page = self._pages[frame] = bytearray(PAGE_SIZE)
        return page

    def drop(self, start: int, stop: int) -> None:
        """Forget the bytes of frames [start, stop)."""
        if stop - start <= len(self._pages):
            for frame in range(start, stop):
                self._pages.pop(frame, None)
        else:
            for frame in [f for f in self._pages if start <= f < stop]:
                del self._pages[frame]

    def move(self, frame: int) -> None:
        """Give the bytes to a fresh page; whoever holds the old one keeps a copy that nobody else sees."""
        if frame in self._pages:
            self._pages[frame] = bytearray(self._pages[frame])

    def copy(self, source: int, source_offset: int, dest: int, dest_offset: int, length: int) -> None:
        """Copy through a private copy, so that overlapping ranges come out right."""
        self.page(dest)[dest_offset : dest_offset + length] = bytes(
            self.page(source)[source_offset : source_offset + length]
        )


class EventCounts:
    """Lines that only count: how many events have come on each that is open."""

    def __init__(self) -> None:
        """Begin with no line."""
        self.events: dict[int, int] = {}

    def opened(self, line: int, peer: int) -> None:
        """Begin to count."""
        del peer
        self.events[line] = 0

    def raised(self, line: int) -> None:
        """Count an event, unless the line has been closed."""
        if line in self.events:
            self.events[line] += 1

    def closed(self, line: int) -> None:
        """Forget the line."""
        self.events.pop(line, None)
