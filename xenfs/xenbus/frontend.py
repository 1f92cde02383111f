"""Frontend: the end in the guest. A driver says what to share and what to do then; the rest is the table's."""

from __future__ import annotations

import errno
from collections.abc import Callable
from contextlib import ExitStack
from typing import ClassVar

from xenfs.abi.ring import RingFormat
from xenfs.abi.xen import PAGE_SIZE
from xenfs.abi.xenbus import XenbusState
from xenfs.domain import Channel, Domain
from xenfs.ring import FrontRing
from xenfs.xenbus.device import Device, parse_backend
from xenfs.xenbus.end import End, Log, Values, to_stderr
from xenfs.xenbus.errors import PeerProtocolError
from xenfs.xenbus.keys import OtherEnd, Value, Writer
from xenfs.xenbus.loop import Call, Loop
from xenfs.xenbus.states import FrontStep

S = XenbusState
Shared = tuple[memoryview, list[int], list[int]]
"""Pages of one's own: where they are mapped, their frames, their grants."""


class Frontend(End):
    """One frontend. A driver has `publish`, and what of `connected` and `changed` it needs; `config` is what the
    toolstack says of the device."""

    role: ClassVar[str] = "frontend"

    def __init__(self, domain: Domain, number: int, *, loop: Loop | None = None, log: Log = to_stderr) -> None:
        """Be the frontend of device `number` in its domain."""
        super().__init__(domain, f"device/{self.CLASS.kind}/{number}", loop=loop, log=log)
        self._device = Device(self.CLASS.kind, domain.domid, number)
        self._connected = False
        self._told = ""
        self._kept_rings: dict[str, Shared] = {}
        self._seen: Values = {}
        self.config: Values = {}

    def publish(self, their: Values) -> None:
        """Share rings and channels with `share_ring` and `share_channel`; further keys go into `mine`."""

    def connected(self, their: Values) -> None:
        """The backend is connected: requests are answered from now on."""

    def changed(self, their: Values) -> None:
        """The backend has changed what it says of the device, such as the size of a disk."""

    def remove(self) -> None:
        """The device is removed: undo what was made for the guest."""

    @property
    def device(self) -> Device:
        """See End."""
        return self._device

    @property
    def other_path(self) -> str:
        """See End."""
        return self._device.backend_path

    def _find(self) -> None:
        own = OtherEnd(self.store, self.path)
        said = own.raw("backend")
        if said is None:
            raise PeerProtocolError(f"{self.path}/backend is missing", errno.ENOENT)
        found = parse_backend(said)
        if found is None or found[2:] != (self.domain.domid, self._device.id):
            raise PeerProtocolError(f"{self.path}/backend = {said[:80]!r}: not the backend of this device")
        domid, kind, _, _ = found
        self._device = Device(self.CLASS.kind, self.domain.domid, self._device.id, domid, kind)

    def _watched(self) -> str:
        return f"{self.path}/state"

    def _begin(self, own: XenbusState) -> XenbusState:
        if own is S.Unknown:
            return own
        self.set_state(S.Initialising if self._online() else S.Closed)
        return self._own()

    def _online(self) -> bool:
        """Whether the backend is to come back when it has closed."""
        return OtherEnd(self.store, self.other_path).raw("online") != "0"

    def _offered(self, *, late: bool) -> Values:
        """What the backend says, up to the offer or all of it."""
        keys = [k for k in self.CLASS.written_by(Writer.backend) if late or not k.late]
        found: dict[str, Value] = {}
        for transaction in self.store.transaction():
            with transaction as tx:
                found = OtherEnd(tx, self.other_path).read(keys)
        return found

    def _another(self) -> bool:
        """Whether the toolstack has taken the device away and made another in its place: what we told is not there."""
        return bool(self._told) and not self.store.exists(f"{self.path}/{self._told}")

    def _take(self, own: XenbusState, other: XenbusState | None) -> bool:
        if own is S.Initialising and self._another():
            return self._end()
        step = self.CLASS.front[own, other]
        if step is FrontStep.FAIL:
            raise self.illegal(other, own)
        return _STEPS[step](self)

    def _end(self) -> bool:
        self.release()
        self.remove()
        self.done = True
        return False

    def _await(self) -> bool:
        if self.state is S.Initialising:
            self.release()  # somebody has written that it is to begin anew
        return False

    def _publish(self) -> bool:
        self.release()
        if OtherEnd(self.store, self.path).raw("backend") != self.other_path:
            self.done = True  # another device by now
            return False
        config = self.CLASS.written_by(Writer.toolstack_front)
        self.config = OtherEnd(self.store, self.path).read(config)
        self.publish(self._offered(late=False))
        self.write(self.mine)
        self._told = next(iter(self.mine), "")
        self.set_state(self.CLASS.published)
        return True

    def _connect(self) -> bool:
        self._work()
        self.set_state(S.Connected)
        return True

    def _work(self) -> bool:
        their = self._offered(late=True)
        if not self._connected:
            self._connected = True
            self._seen = their
            self.content()
            self.connected(their)
        elif their != self._seen:
            self._seen = their
            self.changed(their)
        return False

    def _restart(self) -> bool:
        self.release()
        self.set_state(S.Initialising)
        return True

    def _close(self) -> bool:
        self.release()
        self.set_state(S.Closed)
        return True

    def _stopped(self) -> bool:
        self.done = self.leaving
        return False

    def _reopen(self) -> bool:
        if self.leaving or not self._online():
            return self._stopped()
        if self.wait_a_little():
            return False
        self.set_state(S.Initialising)
        return True

    def _depart(self) -> None:
        if self.state in (S.Initialised, S.Connected) and self.CLASS.says_closing:
            self.set_state(S.Closing)
        else:
            self.release()
            self.set_state(S.Closed)
            self.done = True

    def release(self) -> None:
        """See End."""
        self._connected = False
        super().release()

    # What drivers share.

    def share_pages(self, count: int, *, readonly: bool = False, keep: bool = False) -> Shared:
        """Zeroed pages of one's own, mapped one behind the other, and granted to the backend: view, frames, grants.

        They go with the connection, or with `keep` as late as with this end; and at once when not all can be done.
        """
        memory = self.memory
        with ExitStack() as held:
            frames = memory.alloc(count)
            held.callback(memory.free, frames, defer=True)
            region = memory.view(frames)
            held.callback(region.close)
            refs = memory.grant(frames, self._device.backend_domid, readonly=readonly)
            held.callback(memory.end_access, refs, defer=True)
            (self.kept if keep else self.held).push(held.pop_all())
        return region.view, frames, refs

    def share_ring(self, name: str, key: str, layout: RingFormat, *, keep: bool = False) -> FrontRing:
        """A ring of one page that the backend finds by `key`, and everybody as `rings/<device>-<n>-<name>`.

        With `keep` the next connection begins it anew in the same page, which takes less time.
        """
        shared = self._kept_rings.get(name)
        if shared is None:
            shared = self.share_pages(1, keep=keep)
            self.name_page(name, shared[1][0], keep=keep)
            if keep:
                self._kept_rings[name] = shared
        view, _, refs = shared
        ring = FrontRing(view[:PAGE_SIZE], layout, name=f"{self._device} {name}")
        self.held.callback(ring.release)
        self.mine[key] = str(refs[0])
        return ring

    def name_page(self, name: str, frame: int, *, keep: bool = False) -> None:
        """Show a page under rings/."""
        full = f"{self._device.ring_prefix}-{name}"
        self.memory.name_ring(full, frame)
        (self.kept if keep else self.held).callback(self.memory.unname_ring, full)

    def share_channel(self, key: str, call: Call) -> Channel:
        """An event channel that the backend finds by `key`; `call` when it rings."""
        channel = self.hear(self.events.alloc_unbound(self._device.backend_domid), call)
        self.mine[key] = str(channel.port)
        return channel


_STEPS: dict[FrontStep, Callable[[Frontend], bool]] = {
    FrontStep.END: lambda end: end._end(),
    FrontStep.AWAIT: lambda end: end._await(),
    FrontStep.PUBLISH: lambda end: end._publish(),
    FrontStep.CONNECT: lambda end: end._connect(),
    FrontStep.WORK: lambda end: end._work(),
    FrontStep.RESTART: lambda end: end._restart(),
    FrontStep.CLOSE: lambda end: end._close(),
    FrontStep.LEAVE: lambda end: end._close(),
    FrontStep.STOPPED: lambda end: end._stopped(),
    FrontStep.REOPEN: lambda end: end._reopen(),
}
