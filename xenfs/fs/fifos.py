"""Event lines as FIFOs: the world's `Lines`.

Each allocation of a port has one FIFO, which its owner reads as `pending` and its peer writes as `notify`. The kernel
moves the events; the daemon only holds every FIFO open, so that an event survives until somebody reads it and a writer
never waits for a reader. A port that still waits for its peer already has the FIFO that the peer will read, so a
`notify` opened early stays right.

A port that was made through dev/evtchn has an ear: its events go there. What the machine raises goes straight; what a
peer writes into the FIFO is read by the daemon and goes on. Such a FIFO is opened only once somebody has looked it up,
so a port with dev/evtchn at both ends costs no descriptor.
"""

from __future__ import annotations

import array
import contextlib
import errno
import fcntl
import os
import resource
import stat
import termios
from typing import TYPE_CHECKING, Protocol

from xenfs.fs.nodes import Child, Directory, Node, Owner, number
from xenfs.hypervisor.errors import NoFreePort

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from xenfs.fs.filesystem import Filesystem

HIDDEN = ".lines"
"""A directory of the root, for the daemon alone, in which a FIFO is found by its inode number."""
RESERVED = 32
"""Descriptors that the daemon keeps for itself."""


class Ear(Protocol):
    """Whoever hears the events of a line instead of a FIFO's reader."""

    def event(self) -> None:
        """An event has come. From the FIFO no other comes until `Fifo.listen`."""


class Fifo(Node):
    """A FIFO. The kernel does everything but finding it; `fd` is the daemon's hold on it, once open."""

    type = stat.S_IFIFO
    attr_timeout = 3600.0

    def __init__(self, fs: Filesystem, owner: Owner) -> None:
        """Make the inode; `hold` opens it."""
        super().__init__(fs, fs.new_ino(), 0o666, owner)
        self.ear: Ear | None = None
        self.fd = -1
        self.wanted = self.closed = self._watched = False
        self._under_way = 0

    @property
    def held(self) -> bool:
        """Whether an event sent now stays until it is read."""
        return self.fd >= 0

    def hold(self) -> None:
        """Open it, once; what is asked of it afterwards waits for that."""
        if not self.wanted and not self.closed:
            self.wanted = True
            self.fs.fifos.by_ino[self.ino] = self
            self._soon(self._open)
            if self.ear is not None:
                self.fs.work.then(self.listen)

    def _soon(self, job: Callable[[], None]) -> None:
        """On the work thread, where this FIFO's jobs are done in order."""
        self._under_way += 1
        self.fs.work.put(job)
        self.fs.work.then(self._done)

    def _done(self) -> None:
        self._under_way -= 1

    def _do(self, action: Callable[[], None]) -> None:
        """Now when it is open and nothing is under way, else behind that; neither ever blocks."""
        if self.held and not self._under_way:
            action()
        elif self.wanted:
            self._soon(action)

    def _open(self) -> None:
        path = f"{self.fs.mountpoint}/{HIDDEN}/{self.ino}"
        try:
            self.fd = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            if not self.closed:
                raise

    def signal(self) -> None:
        """Put an event in."""
        self._do(self._signal)

    def _signal(self) -> None:
        if self.held:
            with contextlib.suppress(BlockingIOError):  # full: an event is pending already
                os.write(self.fd, b"\n")

    def drain(self) -> None:
        """Take out what was sent before there was anybody to hear it."""
        self._do(self._empty)

    def _empty(self) -> None:
        self._take()

    def _take(self) -> bool:
        """Whether there was an event; none is left."""
        with contextlib.suppress(BlockingIOError):
            # one read takes all there is; more would go on as long as somebody writes
            return self.held and bool(os.read(self.fd, fcntl.fcntl(self.fd, fcntl.F_GETPIPE_SZ)))
        return False

    def listen(self) -> None:
        """Tell the ear of the next event in the FIFO: at once when there is one."""
        if not self.held or self.closed or self.ear is None:
            return
        if self._take():
            self.ear.event()
        elif self._watched:
            self.fs.loop.again(self.fd)
        else:
            self._watched = True
            self.fs.loop.watch(self.fd, self._readable, once=True)

    def _readable(self) -> None:
        if self._take() and self.ear is not None:
            self.ear.event()

    def forget(self) -> None:
        """The line is closed."""
        if self.closed:
            return
        self.closed, self.ear = True, None
        if self._watched:
            self.fs.loop.unwatch(self.fd)
        if self.wanted:
            del self.fs.fifos.by_ino[self.ino]
            self._soon(self._close)

    def _close(self) -> None:
        if self.held:
            os.close(self.fd)
            self.fd = -1


class Fifos:
    """The FIFOs of all lines."""

    def __init__(self, fs: Filesystem) -> None:
        """Begin with none."""
        self._fs = fs
        self._lines: dict[int, Fifo] = {}
        self._awaited: dict[int, Fifo] = {}
        self._ear: Ear | None = None
        self.by_ino: dict[int, Fifo] = {}

    @contextlib.contextmanager
    def heard_by(self, ear: Ear) -> Iterator[None]:
        """Give the line that is opened meanwhile an ear."""
        self._ear = ear
        try:
            yield
        finally:
            self._ear = None

    def has_event(self, line: int) -> bool:
        """Whether an event waits for the line's owner to read it."""
        fifo = self._lines.get(line)
        if fifo is None or fifo.fd < 0:
            return False
        waiting = array.array("i", [0])
        fcntl.ioctl(fifo.fd, termios.FIONREAD, waiting)
        return waiting[0] > 0

    def pending(self, line: int) -> Fifo:
        """The FIFO that the line's owner reads."""
        return self._lines[line]

    def notify(self, line: int, peer: int) -> Fifo:
        """The FIFO that the line's owner writes: its peer's, or the one that a peer to come will read."""
        if peer:
            return self._lines[peer]
        if line not in self._awaited:
            self._awaited[line] = Fifo(self._fs, self._fs)
        return self._awaited[line]

    def _room(self) -> int:
        return resource.getrlimit(resource.RLIMIT_NOFILE)[0] - RESERVED - len(self.by_ino)

    def check_room(self) -> None:
        """Raise NoFreePort when there is no descriptor left to hold one more FIFO."""
        if self._room() <= 0:
            problem = "its daemon has no descriptor left for a port: raise RLIMIT_NOFILE (ulimit -n). In use"
            raise NoFreePort("machine", problem, len(self.by_ino), len(self.by_ino) + self._room())

    def look_up(self, fifo: Fifo) -> None:
        """Somebody is going to open it."""
        if not fifo.wanted and self._room() <= 0:
            raise OSError(errno.ENFILE, "no descriptor left")
        fifo.hold()

    def opened(self, line: int, peer: int) -> None:
        """See Lines."""
        fifo = self._awaited.pop(peer, None)
        if fifo is None:
            fifo = Fifo(self._fs, self._fs)
        fifo.drain()
        fifo.ear = self._ear
        self._lines[line] = fifo
        if self._ear is None:
            fifo.hold()
        elif fifo.wanted:
            self._fs.work.then(fifo.listen)

    def raised(self, line: int) -> None:
        """See Lines."""
        fifo = self._lines.get(line)
        if fifo is None:
            return
        if fifo.ear is not None:
            fifo.ear.event()
        else:
            fifo.signal()

    def closed(self, line: int) -> None:
        """See Lines."""
        self._lines.pop(line).forget()
        if line in self._awaited:
            self._awaited.pop(line).forget()

    def close(self) -> None:
        """Let every FIFO go, so that the mount is no longer busy."""
        for fifo in list(self.by_ino.values()):
            fifo.forget()


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
