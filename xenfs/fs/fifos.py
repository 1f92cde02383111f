"""Event lines as FIFOs: the world's `Lines`.

Each allocation of a port has one FIFO, which its owner reads as `pending` and its peer writes as `notify`. The kernel
moves the events; the daemon only holds every FIFO open, so that an event survives until somebody reads it and a writer
never waits for a reader. A port that still waits for its peer already has the FIFO that the peer will read, so a
`notify` opened early stays right.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import resource
import stat
from typing import TYPE_CHECKING

from xenfs.fs.nodes import Child, Directory, Node, Owner, number
from xenfs.hypervisor.errors import NoFreePort

if TYPE_CHECKING:
    from collections.abc import Iterable

    from xenfs.fs.filesystem import Filesystem

HIDDEN = ".lines"
"""A directory of the root, for the daemon alone, in which a FIFO is found by its inode number."""
RESERVED = 32
"""Descriptors that the daemon keeps for itself."""


class Fifo(Node):
    """A FIFO. The kernel does everything but finding it; `fd` is the daemon's hold on it, once open."""

    type = stat.S_IFIFO
    attr_timeout = 3600.0

    def __init__(self, fs: Filesystem, owner: Owner) -> None:
        """Make the inode; `hold` opens it."""
        super().__init__(fs, fs.new_ino(), 0o666, owner)
        self.fd = -1
        self.closed = False

    @property
    def held(self) -> bool:
        """Whether an event sent now stays until it is read."""
        return self.fd >= 0


class Fifos:
    """The FIFOs of all lines."""

    def __init__(self, fs: Filesystem) -> None:
        """Begin with none."""
        self._fs = fs
        self._lines: dict[int, Fifo] = {}
        self._awaited: dict[int, Fifo] = {}
        self.by_ino: dict[int, Fifo] = {}

    def pending(self, line: int) -> Fifo:
        """The FIFO that the line's owner reads."""
        return self._lines[line]

    def notify(self, line: int, peer: int) -> Fifo:
        """The FIFO that the line's owner writes: its peer's, or the one that a peer to come will read."""
        if peer:
            return self._lines[peer]
        if line not in self._awaited:
            if self._room() <= 0:
                raise OSError(errno.ENFILE, "no descriptor left")
            self._awaited[line] = self._hold()
        return self._awaited[line]

    def _room(self) -> int:
        return resource.getrlimit(resource.RLIMIT_NOFILE)[0] - RESERVED - len(self.by_ino)

    def check_room(self) -> None:
        """Raise NoFreePort when there is no descriptor left to hold one more FIFO."""
        if self._room() <= 0:
            problem = "its daemon has no descriptor left for a port: raise RLIMIT_NOFILE (ulimit -n). In use"
            raise NoFreePort("machine", problem, len(self.by_ino), len(self.by_ino) + self._room())

    def _hold(self) -> Fifo:
        fifo = Fifo(self._fs, self._fs)
        self.by_ino[fifo.ino] = fifo
        self._fs.work.put(lambda: self._open(fifo))
        return fifo

    def _open(self, fifo: Fifo) -> None:
        path = f"{self._fs.mountpoint}/{HIDDEN}/{fifo.ino}"
        try:
            fifo.fd = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            if not fifo.closed:
                raise

    def _close(self, fifo: Fifo) -> None:
        if fifo.held:
            os.close(fifo.fd)
            fifo.fd = -1

    def _forget(self, fifo: Fifo) -> None:
        fifo.closed = True
        del self.by_ino[fifo.ino]
        self._fs.work.put(lambda: self._close(fifo))

    def opened(self, line: int, peer: int) -> None:
        """See Lines."""
        awaited = self._awaited.pop(peer, None)
        self._lines[line] = awaited or self._hold()
        if awaited is not None:
            # what was sent before there was anybody to hear it goes nowhere
            self._fs.work.put(lambda: self._drain(awaited))

    def _drain(self, fifo: Fifo) -> None:
        if fifo.held:
            with contextlib.suppress(BlockingIOError):
                # one read takes all there is; more would go on as long as somebody writes
                os.read(fifo.fd, fcntl.fcntl(fifo.fd, fcntl.F_GETPIPE_SZ))

    def raised(self, line: int) -> None:
        """See Lines."""
        fifo = self._lines.get(line)
        if fifo is not None:
            self._fs.work.put(lambda: self._signal(fifo))

    def _signal(self, fifo: Fifo) -> None:
        if fifo.held:
            with contextlib.suppress(BlockingIOError):  # full: an event is pending already
                os.write(fifo.fd, b"\n")

    def closed(self, line: int) -> None:
        """See Lines."""
        self._forget(self._lines.pop(line))
        if line in self._awaited:
            self._forget(self._awaited.pop(line))

    def close(self) -> None:
        """Let every FIFO go, so that the mount is no longer busy."""
        for fifo in list(self.by_ino.values()):
            self._forget(fifo)


class HiddenLines(Directory):
    """The hidden directory; empty to everybody, and its names lead somewhere for the daemon's own thread only."""

    def __init__(self, fs: Filesystem, owner: Owner) -> None:
        """Make the inode."""
        super().__init__(fs, fs.new_ino(), 0o700, owner)

    def child(self, name: str) -> Child | None:
        """See Directory."""
        fifo = self.fs.fifos.by_ino.get(number(name))
        return None if fifo is None or self.fs.caller != self.fs.work.tid else Child(fifo)

    def entries(self) -> Iterable[tuple[str, int, int]]:
        """See Directory."""
        return ()
