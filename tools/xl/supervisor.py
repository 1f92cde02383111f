"""A supervisor runs one process for each device that appears, and starts it again when it dies, saying why.

It looks at the device's nodes as they are: a device that has nodes has a process; one whose process has ended in order
gets another when somebody opens it again.

A driver's process is a fork of the supervisor's, which has the driver's modules loaded: it starts in milliseconds,
where a new interpreter takes a tenth of a second. It keeps none of the supervisor's descriptors.
"""

from __future__ import annotations

import gc
import os
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import NoReturn

from xenfs.abi.xenbus import XenbusState
from xenfs.domain import Domain, Refused, Watch
from xenfs.xenbus import Loop, kept
from xenfs.xenbus.end import Log, read_state
from xenfs.xenbus.process import PARENT, name_process

FIRST, LAST, GOOD = 0.1, 5.0, 2.0
"""Seconds before another start: at first, and at most; one that ran for the third of these is started at once."""
LEAVE_SECONDS = 8.0
_LEAVE = (signal.SIGTERM, signal.SIGINT)
Driver = Callable[[], int]
"""Be the driver until it ends; the exit status."""
Find = Callable[[str], "Driver | None"]


@dataclass
class Child:
    """The process of one device, or the memory of it."""

    path: str
    pid: int = 0
    pidfd: int = -1
    since: float = 0.0
    pause: float = 0.0
    not_before: float = 0.0
    ended: bool = False
    told: bool = False
    kept: dict[str, int] = field(default_factory=dict)
    """Descriptors that the next driver of the device has again."""

    @property
    def running(self) -> bool:
        """Whether there is a process."""
        return self.pid != 0

    def collect(self) -> int:
        """Wait for the process to end; its exit status, negative for a signal."""
        _, status = os.waitpid(self.pid, 0)
        os.close(self.pidfd)
        self.pid = 0
        return os.waitstatus_to_exitcode(status)

    def forget(self) -> None:
        """Let go of what was kept."""
        while self.kept:
            os.close(self.kept.popitem()[1])


def _close_all_but(fds: Iterable[int]) -> None:
    low = 3
    for fd in sorted(fds):
        os.closerange(low, fd)
        low = fd + 1
    os.closerange(low, os.sysconf("SC_OPEN_MAX"))


def _be(child: Child, driver: Driver, parent: int, theirs: socket.socket) -> NoReturn:
    """Be the driver, in the forked process. What the supervisor had open is closed, and nothing of it touched again."""
    code = 70
    try:
        signal.set_wakeup_fd(-1)
        gc.freeze()  # nothing of the supervisor's is ever finalised here
        os.setsid()
        _close_all_but([theirs.fileno(), *child.kept.values()])
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.environ[PARENT] = str(parent)
        os.environ[kept.VARIABLE] = kept.describe(theirs.fileno(), child.kept)
        path = child.path
        name_process(path)
        code = driver()
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


class Supervisor:
    """Processes for the devices below `root` in a domain's home. `find` gives a device's driver.

    `depth`: how many names below `root` a device is, 2 for frontends (kind, number) and 3 for backends.
    """

    def __init__(self, domain: Domain, root: str, depth: int, find: Find, *, log: Log, loop: Loop) -> None:
        """Begin with none."""
        self.domain, self.root, self.depth, self.find = domain, root, depth, find
        self.log, self.loop = log, loop
        self.children: dict[str, Child] = {}
        self.gone = self.leaving = False
        self._watch: Watch | None = None

    def start(self) -> None:
        """Watch, and start what is there."""
        self._watch = self.domain.store.watch(self.root, "supervisor")
        self.loop.watch(self._watch.fileno(), self._woken)
        self._woken()
        self._scan(self.root, self.depth)

    def _woken(self) -> None:
        assert self._watch is not None
        try:
            touched = set()
            while (event := self._watch.wait(0)) is not None:
                words = event[0].split("/")
                length = len(self.root.split("/")) + self.depth
                touched.add("/".join(words[:length]))
            for path in touched:
                self._touched(path)
        except Refused as refused:
            self.log(f"{refused.strerror}")
            self.gone = True
            self.loop.stop()

    def _touched(self, path: str) -> None:
        missing = len(self.root.split("/")) + self.depth - len(path.split("/"))
        if missing:
            self._scan(path, missing)
        else:
            self.consider(path)

    def _scan(self, path: str, depth: int) -> None:
        if not depth:
            self.consider(path)
            return
        names: tuple[str, ...] = ()
        with suppress(Refused):
            names = self.domain.store.list(path)
        for name in names:
            self._scan(f"{path}/{name}", depth - 1)

    def consider(self, path: str) -> None:
        """Start a device's process, if there is to be one and is none."""
        if self.leaving:
            return
        state = read_state(self.domain.store, path)
        child = self.children.get(path)
        if state is XenbusState.Unknown:
            if child is not None and not child.running:
                child.forget()
                del self.children[path]
            return
        if child is None:
            child = self.children[path] = Child(path)
        if child.running or (child.ended and state is XenbusState.Closed):
            return
        wait = child.not_before - time.monotonic()
        if wait > 0:
            self.loop.later(wait, lambda: self.consider(path))
            return
        self._run(child)

    def _run(self, child: Child) -> None:
        try:
            driver = self.find(child.path)
        except Exception as error:
            if not child.told:
                self.log(f"{child.path}: its driver cannot be loaded: {error}")
            child.told = True
            return
        if driver is None:
            return
        child.pid, child.since, child.ended = self._fork(child, driver), time.monotonic(), False
        child.pidfd = os.pidfd_open(child.pid)
        self.loop.watch(child.pidfd, lambda: self._ended(child))

    def _fork(self, child: Child, driver: Driver) -> int:
        parent = os.getpid()
        sys.stdout.flush()
        sys.stderr.flush()
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        before = signal.pthread_sigmask(signal.SIG_BLOCK, _LEAVE)  # the driver hears of them when it listens
        pid = os.fork()
        if pid == 0:
            _be(child, driver, parent, theirs)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        theirs.close()
        self.loop.watch(ours.fileno(), lambda: self._keep(child, ours))
        return pid

    def _keep(self, child: Child, ours: socket.socket) -> None:
        """Keep what a driver sends, in place of what it sent before by that name; until it ends."""
        if not kept.take(ours, child.kept):
            self.loop.unwatch(ours.fileno())
            ours.close()

    def _ended(self, child: Child) -> None:
        self.loop.unwatch(child.pidfd)
        code = child.collect()
        child.ended = code == 0
        if child.ended:
            child.forget()
        now = time.monotonic()
        good = not code or now - child.since > GOOD
        child.pause = 0.0 if good else min(max(2 * child.pause, FIRST), LAST)
        child.not_before = now + child.pause
        try:
            self.consider(child.path)
            if code and not self.leaving and self.children.get(child.path) is child:
                when = f" in {child.pause:.1f} s" if child.pause else ""
                why = f"killed by {signal.Signals(-code).name}" if code < 0 else f"ended with status {code}"
                self.log(f"{child.path}: its driver was {why}, and starts again{when}")
        except Refused as refused:
            self.log(f"{refused.strerror}")
            self.gone = True
            self.loop.stop()

    def leave(self) -> None:
        """Ask every driver to leave in order, and wait for them; those that do not are killed."""
        self.leaving = True
        running = [child for child in self.children.values() if child.running]
        for child in running:
            os.kill(child.pid, signal.SIGTERM)
        deadline = time.monotonic() + LEAVE_SECONDS
        while any(child.running for child in running) and time.monotonic() < deadline:
            self.loop.turn(deadline - time.monotonic())
        self.kill()

    def kill(self) -> None:
        """End every driver at once."""
        self.leaving = True
        for child in self.children.values():
            if child.running:
                os.kill(child.pid, signal.SIGKILL)
                self.loop.unwatch(child.pidfd)
                child.collect()
            child.forget()
        if self._watch is not None:
            self.loop.unwatch(self._watch.fileno())
            self._watch.close()
            self._watch = None
