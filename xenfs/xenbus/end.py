"""What both ends of a device have in common: look at both states, take the step that the table says, and look again.

An end is one object for one device, and lives as long as the device's nodes, through any number of connections. What it
holds for a connection is in `held` and goes with it; what the next may use again is in `kept`. Nothing that the other
end writes, and nothing that this end lacks, ends it: it is said in the error node, the device closes, and may be
connected again.
"""

from __future__ import annotations

import errno
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from typing import ClassVar

from xenfs.abi.xenbus import XenbusState
from xenfs.domain import Channel, Domain, Refused, Watch
from xenfs.domain.store import Reader
from xenfs.ring import RingError
from xenfs.xenbus.device import Device, DeviceClass
from xenfs.xenbus.errors import DeviceError, PeerProtocolError
from xenfs.xenbus.keys import OtherEnd, Value
from xenfs.xenbus.loop import Call, Gate, Loop

S = XenbusState
Values = Mapping[str, Value]
Log = Callable[[str], None]
_ROUNDS = 32
"""Steps in one go. More are needed by nobody who is not led in circles."""
_GONE = (errno.ENOTCONN, errno.ECONNRESET, errno.EBADF)
_BACKOFF = 0.1, 5.0
LEAVE_SECONDS = 5.0


def to_stderr(line: str) -> None:
    """Where an end says what became of it, unless told otherwise."""
    print(line, file=sys.stderr, flush=True)


def read_state(reader: Reader, path: str) -> XenbusState | None:
    """The state of an end: Unknown when there is none to be read, None when it is no state."""
    said = OtherEnd(reader, path).raw("state")
    return S.Unknown if said is None else S.parse(said.encode("ascii", "replace"))


class End(ABC):
    """One end of a device. See Frontend and Backend."""

    CLASS: ClassVar[DeviceClass]
    role: ClassVar[str]

    def __init__(self, domain: Domain, path: str, *, loop: Loop | None = None, log: Log = to_stderr) -> None:
        """Be the end whose nodes are at `path`. Nothing is read or written before `start`."""
        self.domain, self.path, self.log = domain, path, log
        self.loop = Loop() if loop is None else loop
        self.store, self.memory, self.events = domain.store, domain.memory, domain.events
        self.state: XenbusState = S.Unknown
        self.other_state: XenbusState | None = S.Unknown
        self.done = self.leaving = False
        self.problem = ""
        self.held, self.kept, self._life = ExitStack(), ExitStack(), ExitStack()
        self.mine: dict[str, str] = {}
        self._fresh, self._stepping, self._found = True, False, False
        self._not_before = self._pause = 0.0
        self._complained = True  # perhaps, before us

    def __repr__(self) -> str:
        return f"{self.device} {self.role}"

    # What the two roles differ in.

    @property
    @abstractmethod
    def device(self) -> Device:
        """Which device. Known from `start` on."""

    @property
    @abstractmethod
    def other_path(self) -> str:
        """The other end's directory."""

    @abstractmethod
    def _find(self) -> None:
        """Learn from the own nodes where the other end is. Raises DeviceError."""

    @abstractmethod
    def _watched(self) -> str:
        """Which of the own nodes to watch."""

    @abstractmethod
    def _take(self, own: XenbusState, other: XenbusState | None) -> bool:
        """Take the step of the table; whether to look again."""

    @abstractmethod
    def _begin(self, own: XenbusState) -> XenbusState:
        """What a process that has just started makes of its own state."""

    # The life of an end.

    def start(self) -> None:
        """Begin: watch both ends, and take the first steps."""
        self._guarded(self._begin_to_watch)
        self.step()

    def _begin_to_watch(self) -> bool:
        self._find()
        for path in (self._watched(), f"{self.other_path}/state"):
            self._watch(self.store.watch(path, self.role))
        self._found = True
        return False

    def _watch(self, watch: Watch) -> None:
        self._life.callback(watch.close)

        def drain() -> bool:
            while watch.wait(0) is not None:
                pass
            return False

        def woken() -> None:
            self._guarded(drain)
            self.step()

        self.loop.watch(watch.fileno(), woken)
        self._life.callback(self.loop.unwatch, watch.fileno())
        drain()

    def close(self) -> None:
        """Let go of everything at once, and tell nobody; twice is fine."""
        self.done = True
        self.release()
        self._let_go(self.kept)
        self._life.close()

    def step(self) -> None:
        """Look at both ends and do what there is to do, until that is to wait."""
        if self._stepping:
            return
        self._stepping = True
        try:
            for _ in range(_ROUNDS):
                if self.done or not self._found or not self._guarded(self._once):
                    break
            else:
                self.loop.later(_BACKOFF[0], self.step)
        finally:
            self._stepping = False
            if self.done or not self._found:
                self.close()

    def _once(self) -> bool:
        own = self._own()
        if self._fresh:
            self._fresh = False
            own = self._begin(own)
        other = read_state(self.store, self.other_path)
        self.state, self.other_state = own, other
        return not self.done and self._take(own, other)

    def _own(self, reader: Reader | None = None) -> XenbusState:
        """The own state as it stands in the store: Unknown when the node is gone; for what no end ever writes, one that
        no end is ever in."""
        said = OtherEnd(reader or self.store, self.path).raw("state")
        if said is None:
            return S.Unknown
        return S.parse(said.encode("ascii", "replace")) or S.Reconfigured

    def _theirs(self, own: XenbusState) -> bool:
        """Whether what stands there is another device's by now: that of a new one, which we have been beyond."""
        return own is S.Initialising and self.state not in (S.Initialising, S.Unknown)

    def _guarded(self, call: Callable[[], bool]) -> bool:
        """Call; what goes wrong with the device closes it, and then there is more to do."""
        try:
            return call()
        except DeviceError as error:
            return self._fail(str(error), error.errno)
        except RingError as error:
            return self._fail(str(error), errno.EINVAL)
        except (Refused, OSError) as error:
            if error.errno in _GONE:
                self.log(f"{self!r}: {error.strerror}")
                self._machine_gone()
                return False
            return self._fail(str(error.strerror or error), error.errno or errno.EIO)

    def _machine_gone(self) -> None:
        """There is nobody any more to be told anything."""
        self.done = True
        self.loop.stop()

    def _fail(self, text: str, code: int) -> bool:
        """Say what is wrong, let go of everything, and be Closing; whether there is more to do."""
        self.complain(text, code)
        self.release()
        try:
            if self._own() is S.Unknown:
                self.done = True
                return False
            self.set_state(S.Closing)
        except OSError as error:
            self.log(f"{self!r}: {error.strerror}")
            self.done = error.errno in _GONE
            return False
        return True

    def complain(self, text: str, code: int = errno.EINVAL) -> None:
        """Write the error node, `error/<own node>/error` in the own home, and log."""
        self.problem = text
        self.log(f"{self!r}: {text}")
        self._complained = True
        with suppress(OSError):
            self.store.write(self._error_node, f"{code} {text[:1000]}".encode("ascii", "replace"))

    @property
    def _error_node(self) -> str:
        return f"error/{self.path}/error"

    def content(self) -> None:
        """All is well: what was complained of is over."""
        self.problem = ""
        if self._complained:
            self._complained = False
            with suppress(OSError):
                self.store.rm(f"error/{self.path}")

    def set_state(self, state: XenbusState, without: str = "") -> bool:
        """Write the own state, unless it is that already, and take a key away; whether it is so then. A device that is
        gone is not made again, and another in its place is let be."""
        done = False
        for transaction in self.store.transaction():
            with transaction as tx:
                own = self._own(tx)
                done = own is not S.Unknown and not self._theirs(own)
                if done and without:
                    with suppress(Refused):
                        tx.rm(f"{self.path}/{without}")
                if done and own is not state:
                    tx.write(f"{self.path}/state", str(int(state)))
        if done:
            self.state = state
        return done

    def write(self, keys: Mapping[str, object]) -> None:
        """Write own keys, all at once, with the same care."""
        if keys:
            for transaction in self.store.transaction():
                with transaction as tx:
                    own = self._own(tx)
                    if own is S.Unknown or self._theirs(own):
                        continue
                    for name, value in keys.items():
                        tx.write(f"{self.path}/{name}", str(int(value) if isinstance(value, bool) else value))

    # What a driver holds for a connection.

    def listen(self, fd: int, call: Call) -> None:
        """Call when a descriptor is readable, until the connection ends. What goes wrong closes the device."""

        def guarded() -> None:
            self.attempt(call)

        self.loop.watch(fd, guarded)
        self.held.callback(self.loop.unwatch, fd)

    def gate(self, fd: int, call: Call) -> Gate:
        """As `listen`, but to be opened and shut at will; it begins shut."""
        made = Gate(self.loop, fd, lambda: self.attempt(call))
        self.held.callback(made.shut)
        return made

    def attempt(self, call: Call) -> None:
        """Call; what goes wrong closes the device."""

        def did() -> bool:
            call()
            return False

        if self._guarded(did):
            self.step()

    def later(self, seconds: float, call: Call) -> None:
        """Call once, some time from now, perhaps after the connection has ended. What goes wrong closes the device."""
        self.loop.later(seconds, lambda: self.attempt(call))

    def hear(self, channel: Channel, call: Call) -> Channel:
        """Hold an event channel, and call when it rings."""
        self.held.callback(channel.close)

        def rung() -> None:
            if channel.drain():
                call()

        self.listen(channel.fileno(), rung)
        return channel

    def release(self) -> None:
        """Let go of all that the connection holds; it may be that there is none."""
        held, self.held = self.held, ExitStack()
        self.mine = {}
        self._let_go(held)

    def _let_go(self, stack: ExitStack) -> None:
        try:
            stack.close()
        except OSError as error:
            self.log(f"{self!r}: {error.strerror}")

    def wait_a_little(self) -> bool:
        """Whether it is too early to start again: the pause grows with every start, up to 5 s, and after a good while
        without one begins anew."""
        now = time.monotonic()
        if now < self._not_before:
            self.loop.later(self._not_before - now, self.step)
            return True
        rested = now - self._not_before > _BACKOFF[1]
        self._pause = 0.0 if rested else min(max(2 * self._pause, _BACKOFF[0]), _BACKOFF[1])
        self._not_before = now + self._pause
        return False

    def illegal(self, other: XenbusState | None, own: XenbusState) -> PeerProtocolError:
        """What is to be said of a state that the other end may not have."""
        said = OtherEnd(self.store, self.other_path).raw("state") if other is None else f"{int(other)} ({other.name})"
        return PeerProtocolError(f"{self.other_path}/state is {str(said)[:40]} while we are {own.name}")

    def leave(self) -> None:
        """Close in order, and be done; at once when that takes longer than it should."""
        if not self.leaving:
            self.leaving = True
            self.loop.later(LEAVE_SECONDS, self._give_up)
            self.attempt(self._depart)
            self.step()

    def _give_up(self) -> None:
        if not self.done:
            self.release()
            with suppress(OSError):
                self.set_state(S.Closed)
            self.close()

    @abstractmethod
    def _depart(self) -> None:
        """Begin to close."""

    def run(self) -> None:
        """Be the end until it is done."""
        self.start()
        while not self.done:
            self.loop.turn()
