"""Ports that were bound through dev/evtchn, as Linux counts references on them (drivers/xen/events, evtchn_get/put).

The file that bound a port has one reference; each unmap notification that is to send an event through it has another,
so that the event can still be sent when the file is gone. The port is closed with the last.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from xenfs.abi.event_channel import Close, Send
from xenfs.abi.xenfs_op import KeepPort
from xenfs.hypervisor.errors import HypercallError

if TYPE_CHECKING:
    from xenfs.fs.dev.directory import Dev
    from xenfs.fs.dev.evtchn import OpenEvtchn
    from xenfs.hypervisor.state import Port


class BoundPort:
    """One of them, and the ear of its line. While it is masked an event is remembered, once."""

    def __init__(self, file: OpenEvtchn) -> None:
        """Masked and of no number, until it is `bound`."""
        self._file: OpenEvtchn | None = file
        self._dev: Dev = file.dev
        self._port: Port | None = None
        self.number = 0
        self.masked, self._pending = True, False
        self._references = 1

    def bound(self, number: int) -> None:
        """It has been allocated: begin to hear."""
        self.number, self._port = number, self._dev.domain.ports[number]
        self._dev.ports[number] = self
        self.unmask()

    @property
    def alive(self) -> bool:
        """Whether the number is still this port's: a hypercall may have closed it."""
        return self._dev.domain.ports.get(self.number) is self._port

    def event(self) -> None:
        """See Ear."""
        if self.masked or self._file is None:
            self._pending = True
            return
        self.masked, self._pending = True, False
        self._file.deliver(self.number)

    def unmask(self) -> None:
        """Hear again; what came meanwhile is delivered now."""
        self.masked = False
        if self._pending:
            self.event()
        elif self.alive and self._port is not None:
            self._dev.fs.fifos.pending(self._port.line).listen()

    def notify(self) -> None:
        """Send to the peer. As in Linux nobody hears of a port that cannot send."""
        if self.alive:
            with contextlib.suppress(HypercallError):
                self._dev.fs.call(Send(port=self.number), self._dev.domain, 0)

    def get(self) -> None:
        """One reference more."""
        self._references += 1

    def put(self) -> None:
        """One less; the last closes the port."""
        self._references -= 1
        if self._references == 0 and self.alive:
            self._dev.fs.call(Close(port=self.number), self._dev.domain, 0)
            self._forget()

    def _forget(self) -> None:
        if self._dev.ports.get(self.number) is self:
            del self._dev.ports[self.number]

    def leave(self) -> None:
        """The file unbinds it: it is closed, unless something else has a reference."""
        self.abandon()
        if not self._references and self.alive:
            self._dev.fs.call(Close(port=self.number), self._dev.domain, 0)

    def abandon(self) -> None:
        """The file lets go of it: with another reference it outlives the file's handle, else it goes with that."""
        self._file = None
        self._references -= 1
        if not self._references:
            self._forget()
        elif self.alive:
            self._dev.fs.machine.call(KeepPort(port=self.number), self._dev.domain.domid, world=True)
