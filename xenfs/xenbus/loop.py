"""The event loop of a driver process: descriptors, and things to do later."""

from __future__ import annotations

import heapq
import itertools
import select
import signal
import socket
import time
from collections.abc import Callable, Collection

Call = Callable[[], object]


class Loop:
    """epoll with timers. What a call raises ends the loop: drivers answer for what they do."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """`clock` in seconds, for the timers."""
        self._epoll = select.epoll()
        self._calls: dict[int, Call] = {}
        self._timers: list[tuple[float, int, Call]] = []
        self._numbers = itertools.count()
        self._clock = clock
        self._signals: tuple[socket.socket, ...] = ()
        self.stopped = False

    def watch(self, fd: int, call: Call) -> None:
        """Call when a descriptor is readable, as long as it is."""
        self._calls[fd] = call
        self._epoll.register(fd, select.EPOLLIN)

    def unwatch(self, fd: int) -> None:
        """Forget a descriptor, before it is closed; fine if it is not known."""
        if self._calls.pop(fd, None) is not None:
            self._epoll.unregister(fd)

    def now(self) -> float:
        """The time of the timers, in seconds."""
        return self._clock()

    def later(self, seconds: float, call: Call) -> None:
        """Call once, some time from now."""
        heapq.heappush(self._timers, (self._clock() + seconds, next(self._numbers), call))

    def on_signals(self, numbers: Collection[signal.Signals], call: Call) -> None:
        """Call when one of the signals has come, also when that was earlier and they were blocked until now. For the
        one loop of a process's main thread."""
        ours, theirs = self._signals = socket.socketpair()
        for end in self._signals:
            end.setblocking(False)
        signal.set_wakeup_fd(theirs.fileno(), warn_on_full_buffer=False)
        for number in numbers:
            signal.signal(number, lambda *_: None)

        def came() -> None:
            ours.recv(64)
            call()

        self.watch(ours.fileno(), came)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, numbers)

    def stop(self) -> None:
        """Let `run` return."""
        self.stopped = True

    def turn(self, timeout: float | None = None) -> bool:
        """Wait for something, at most `timeout` seconds, and do it; False when nothing came."""
        if self._timers:
            left = max(0.0, self._timers[0][0] - self._clock())
            timeout = left if timeout is None else min(left, timeout)
        ready = [(fd, self._calls.get(fd)) for fd, _ in self._epoll.poll(timeout)]
        for fd, call in ready:
            if call is not None and self._calls.get(fd) is call:  # and no other, whose descriptor has that number now
                call()
        due = self._clock()
        did = bool(ready)
        while self._timers and self._timers[0][0] <= due:
            heapq.heappop(self._timers)[2]()
            did = True
        return did

    def run(self) -> None:
        """Turn until stopped."""
        while not self.stopped:
            self.turn()

    def close(self) -> None:
        """Let go of the epoll; the descriptors are their owners'."""
        if self._signals:
            signal.set_wakeup_fd(-1)
            for end in self._signals:
                end.close()
        self._epoll.close()


class Gate:
    """A descriptor that is listened to only while the gate is open."""

    def __init__(self, loop: Loop, fd: int, call: Call) -> None:
        """Begin shut."""
        self._loop, self._fd, self._call = loop, fd, call
        self.is_open = False

    def open(self) -> None:
        """Listen; fine if it is open."""
        if not self.is_open:
            self.is_open = True
            self._loop.watch(self._fd, self._call)

    def shut(self) -> None:
        """Listen no more; fine if it is shut."""
        if self.is_open:
            self.is_open = False
            self._loop.unwatch(self._fd)
