"""Backend: the end that has the real thing. A driver says what it offers and what to do with a frontend's rings."""

from __future__ import annotations

import errno
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import ClassVar

from xenfs.abi.ring import RingFormat
from xenfs.abi.xenbus import XenbusState
from xenfs.domain import Channel, Domain
from xenfs.ring import BackRing
from xenfs.xenbus import kept
from xenfs.xenbus.device import Device, parse_frontend
from xenfs.xenbus.end import End, Log, Values, to_stderr
from xenfs.xenbus.errors import DeviceError, LocalDeviceError, PeerProtocolError
from xenfs.xenbus.keys import OtherEnd, Value, Writer
from xenfs.xenbus.loop import Call, Loop
from xenfs.xenbus.states import BackStep

S = XenbusState


class Backend(End):
    """One backend. A driver has `connect`, and what of the others it needs; `config` is what the toolstack says."""

    role: ClassVar[str] = "backend"
    KIND: ClassVar[str] = ""
    """What the class is called in the backend's domain, where that is another name, as `qusb` is for vusb."""
    HELD: ClassVar[str] = "hotplug-status"
    """The node that says that there is something on the host's side of the device."""

    def __init__(
        self, domain: Domain, frontend_domid: int, number: int, *, loop: Loop | None = None, log: Log = to_stderr
    ) -> None:
        """Be the backend, in its own domain, of a device of `frontend_domid`."""
        kind, named = self.CLASS.kind, self.KIND or self.CLASS.kind
        super().__init__(domain, f"backend/{named}/{frontend_domid}/{number}", loop=loop, log=log)
        self._device = Device(kind, frontend_domid, number, domain.domid, named)
        self.config: Values = {}
        self._settings: Values | None = None
        self._ready = self._offered = False

    def offer(self) -> Mapping[str, object]:
        """What it can do: keys that the frontend finds before it publishes. Raises LocalDeviceError."""
        return {}

    def hotplug(self) -> Mapping[str, object]:
        """Make ready what is on the host's side of the device; keys that a hotplug script would write."""
        return {}

    def more(self, their: OtherEnd) -> Values:
        """Keys of the frontend that no table can name, such as those of queues. Raises PeerProtocolError."""
        del their
        return {}

    def connect(self, their: Values) -> None:
        """Map the rings with `map_ring`, bind with `bind_channel`; further keys for the frontend go into `mine`."""

    def connected(self) -> None:
        """The frontend knows by now."""

    def changed(self) -> None:
        """Something in the backend's own nodes has changed, perhaps by the toolstack; there may be no frontend yet."""

    def remove(self) -> None:
        """The device is removed: undo `hotplug`."""

    @property
    def device(self) -> Device:
        """See End."""
        return self._device

    @property
    def other_path(self) -> str:
        """See End."""
        return self._device.frontend_path

    def _find(self) -> None:
        said = OtherEnd(self.store, self.path).raw("frontend")
        if said is None:
            raise PeerProtocolError(f"{self.path}/frontend is missing", errno.ENOENT)
        found = parse_frontend(said)
        if found is None or (found[0], found[2]) != (self._device.domid, self._device.id):
            raise PeerProtocolError(f"{self.path}/frontend = {said[:80]!r}: not the frontend of this device")

    def _watched(self) -> str:
        return self.path

    def _begin(self, own: XenbusState) -> XenbusState:
        if own is S.Initialising:
            kept.leave_none()  # no backend of this device has been here: it is another's
        if own is S.Unknown or not self._online():
            return own
        return S.Initialising

    def _online(self) -> bool:
        """Whether the device is to come back when it has closed."""
        return OtherEnd(self.store, self.path).raw("online") != "0"

    def _going(self) -> bool:
        """Whether it is the end of the device, or of this process."""
        return self.leaving or not self._online()

    def _take(self, own: XenbusState, other: XenbusState | None) -> bool:
        if own is S.Initialising and self._offered:
            return self._end()  # the toolstack has taken the device away, and made another in its place
        if own in (S.Initialising, S.InitWait, S.Connected) and not self._online():
            return self._evict() if own is S.Connected and other in (S.Initialised, S.Connected) else self._closed()
        step = self.CLASS.back[own, other]
        if step is BackStep.FAIL:
            raise self.illegal(other, own)
        if step is BackStep.REFUSE:
            if not self.problem:
                self.complain(str(self.illegal(other, own)))
            return self._stopped()
        return _STEPS[step](self)

    def _end(self) -> bool:
        self.release()
        self.done = True
        self.remove()
        kept.leave_none()
        return False

    def _over(self) -> bool:
        """Undo everything, and only then be Closed: whoever reads that may take the device away, and make another. What
        cannot be undone is said, and holds up nobody.
        """
        try:
            self._end()
        except DeviceError as error:
            self.complain(str(error), error.errno)
        except OSError as error:
            self.complain(str(error.strerror or error), error.errno or errno.EIO)
        self.set_state(S.Closed, self.HELD)
        return False

    def _await(self) -> bool:
        if self.state is S.InitWait:
            self.changed()
        return False

    def _offer(self) -> bool:
        if self._going():
            return self._over()
        if self.state is S.Closed and self.wait_a_little():
            return False
        self.release()
        self.config = OtherEnd(self.store, self.path).read(self.CLASS.written_by(Writer.toolstack))
        self.write(self.offer())
        if not self.set_state(S.InitWait):
            return True
        self._offered = True
        if self.CLASS.hotplug and not self._ready:
            self._plug()
        return True

    def _plug(self) -> None:
        try:
            done = self.hotplug()
        except LocalDeviceError as error:
            self.write({"hotplug-error": error, "hotplug-status": "error"})
            raise
        self._ready = True
        self.write({**done, "hotplug-status": "connected"})

    def _plugged(self) -> bool:
        return not self.CLASS.hotplug or OtherEnd(self.store, self.path).raw("hotplug-status") == "connected"

    def _published(self) -> Values:
        """The frontend's keys, as they are at one moment."""
        found: dict[str, Value] = {}
        for transaction in self.store.transaction():
            with transaction as tx:
                their = OtherEnd(tx, self.other_path)
                found = {**their.read(self.CLASS.written_by(Writer.frontend)), **self.more(their)}
        return found

    def _connect(self) -> bool:
        if not self._plugged():
            return False
        settings = self._published()
        self.release()
        self.connect(settings)
        self.write(self.mine)
        self._settings = settings
        self.set_state(S.Connected)
        self.content()
        self.connected()
        return True

    def _work(self) -> bool:
        if self._settings is None or self._published() != self._settings:
            return self._connect()  # another frontend than the one we know, which has come in the meantime
        self.changed()
        return False

    def _evict(self) -> bool:
        self.set_state(S.Closing)
        return True

    def _close(self) -> bool:
        self.release()
        self.set_state(S.Closing)
        return True

    def _closed(self) -> bool:
        if self._going():
            return self._over()
        self.release()
        self.set_state(S.Closed)
        return True

    def _stopped(self) -> bool:
        return self._going() and self._over()

    def _depart(self) -> None:
        self.release()
        self.set_state(S.Closing)

    def release(self) -> None:
        """See End."""
        self._settings = None
        super().release()

    def _machine_gone(self) -> None:
        if not self.done:
            self.release()
            with suppress(OSError, DeviceError):
                self.remove()
        super()._machine_gone()

    def _give_up(self) -> None:
        if not self.done:
            with suppress(OSError):
                self._over()
            self.close()

    # What drivers map.

    def map_pages(self, refs: Sequence[int], *, readonly: bool = False) -> memoryview:
        """The frontend's pages, one behind the other, until the connection ends."""
        region = self.memory.map(self._device.domid, refs, readonly=readonly)
        self.held.callback(region.close)
        return region.view

    def map_ring(self, name: str, refs: Sequence[int], layout: RingFormat) -> BackRing:
        """The frontend's ring."""
        ring = BackRing(self.map_pages(refs), layout, name=f"{self._device} {name}")
        self.held.callback(ring.release)
        return ring

    def bind_channel(self, port: int, call: Call) -> Channel:
        """The frontend's event channel; `call` when it rings, and once now."""
        return self.hear(self.events.bind_interdomain(self._device.domid, port), call)


_STEPS: dict[BackStep, Callable[[Backend], bool]] = {
    BackStep.END: lambda end: end._end(),
    BackStep.OFFER: lambda end: end._offer(),
    BackStep.AWAIT: lambda end: end._await(),
    BackStep.CONNECT: lambda end: end._connect(),
    BackStep.WORK: lambda end: end._work(),
    BackStep.RECONNECT: lambda end: end._offer(),
    BackStep.EVICT: lambda end: end._evict(),
    BackStep.CLOSE: lambda end: end._close(),
    BackStep.CLOSED: lambda end: end._closed(),
    BackStep.STOPPED: lambda end: end._stopped(),
}
