"""Event channels through the FIFOs of a port: `pending` is read here, `notify` is written here.

The kernel moves the events; a notify is one write. `notify` is opened for writing only, so that the write fails with
EPIPE once nobody holds the peer's end any more: that is how a port learns that its peer has closed, and then the name
is opened again and leads to whoever is bound by now. Python ignores SIGPIPE; a process that takes it back would be
ended by such a write, so a domain is not entered in one (see MountedDomain).

A FIFO's inode belongs to one allocation of a port, so its number tells whether a port is still the one it was.
"""

from __future__ import annotations

import errno
import os
import select
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING, ClassVar

from xenfs.abi.event_channel import AllocUnbound, BindInterdomain, BindIpi, BindVirq, Close
from xenfs.domain.errors import Refused
from xenfs.domain.mounted.errors import MISSING, refusal

if TYPE_CHECKING:
    from xenfs.domain.mounted.xen import MountedDomain

_READ = 4096
_READS = 256
"""Reads of 4 KiB that empty the largest pipe which the kernel's default lets a user make."""
_ATTEMPTS = 3


class MountedChannel:
    """Implements domain.Channel over the two FIFOs."""

    EVENT: ClassVar[bytes] = b"\n"

    def __init__(self, events: MountedEvents, port: int) -> None:
        """Open the FIFOs of a port that was just allocated."""
        self._events, self._port = events, port
        self._take(events.domain, events.domain.open(f"evtchn/{port}/pending", os.O_RDWR | os.O_NONBLOCK))
        self._ino = os.fstat(self._fd).st_ino

    def _take(self, domain: MountedDomain, fd: int) -> None:
        self._domain, self._fd, self._notify = domain, fd, -1
        self._lock = threading.Lock()
        self._poll = select.poll()
        self._poll.register(fd, select.POLLIN)
        self._poll.register(domain.gone_fd, select.POLLIN)

    def __repr__(self) -> str:
        return f"port {self._port} of {self._domain}"

    @property
    def port(self) -> int:
        """The number."""
        return self._port

    def fileno(self) -> int:
        """See Channel."""
        return self._fd

    def wait(self, timeout: float | None = None) -> bool:
        """See Channel. Raises HypervisorGone when the daemon dies meanwhile."""
        deadline = None if timeout is None else time.monotonic() + timeout
        self._check_open()
        while True:
            ready = self._poll.poll(None if deadline is None else max(0.0, deadline - time.monotonic()) * 1000)
            if ready and self.drain():
                return True
            if ready and any(fd != self._fd for fd, _ in ready):
                self._domain.check()
            if not ready and deadline is not None:
                return False

    def drain(self) -> bool:
        """See Channel."""
        with self._lock:
            self._check_open()
            size = self._read()
            for _ in range(_READS):
                if size < _READ or self._read() < _READ:
                    break
            return size > 0

    def _read(self) -> int:
        try:
            return len(os.read(self._fd, _READ))
        except BlockingIOError:
            return 0

    def notify(self) -> None:
        """See Channel. One write, but for the first after the peer closed its port, which looks for a new peer."""
        with self._lock:
            self._check_open()
            try:
                os.write(self._notify, self.EVENT)
            except BlockingIOError:
                pass  # full: an event is pending already
            except OSError:
                self._signal_afresh()

    def _check_open(self) -> None:
        if self._fd < 0:
            raise Refused(errno.EINVAL, f"{self!r}: it is closed")

    def _signal(self) -> bool:
        """Whether anybody holds the other end."""
        try:
            os.write(self._notify, self.EVENT)
        except BrokenPipeError:
            return False
        except BlockingIOError:
            pass
        return True

    def _signal_afresh(self) -> None:
        for _ in range(_ATTEMPTS):  # each fails only when another peer has come and gone meanwhile
            self._drop_notify()
            self.open_notify()
            if self._notify < 0 or self._signal():
                return

    def open_notify(self) -> None:
        """Open `notify`, if anybody holds its other end. EINVAL when the port is closed or the machine's to raise."""
        name = f"evtchn/{self._port}/notify"
        try:
            self._notify = self._domain.open(name, os.O_WRONLY | os.O_NONBLOCK)
        except OSError as error:
            # without a name it is a port of the machine's own; without a holder events go nowhere
            if error.errno not in MISSING and error.errno != errno.ENXIO:
                raise refusal(error, f"{self!r}") from error
            if self.is_allocated() and error.errno != errno.ENXIO:
                raise Refused(errno.EINVAL, f"{self!r}: its events are raised by the machine") from None
        if not self.is_allocated():
            self._drop_notify()
            raise Refused(errno.EINVAL, f"{self!r}: it is closed")

    def _drop_notify(self) -> None:
        if self._notify >= 0:
            os.close(self._notify)
            self._notify = -1

    def is_allocated(self) -> bool:
        """Whether the port is still the allocation that this channel was made for. HypervisorGone."""
        try:
            return self._domain.stat(f"evtchn/{self._port}/pending").st_ino == self._ino
        except OSError as error:
            if error.errno in MISSING:
                return False
            raise refusal(error, f"{self!r}") from error

    def close_descriptors(self) -> bool:
        """Close the FIFOs and leave the port; False when they were closed before."""
        self._events.channels.discard(self)
        with self._lock:
            if self._fd < 0:
                return False
            self._drop_notify()
            os.close(self._fd)
            self._fd = -1
            return True

    def close(self) -> None:
        """See Channel. Silent also when the domain or the hypervisor has gone, and the port with it."""
        if self.close_descriptors():
            with suppress(Refused):
                # a reset may have closed it before, and the number may be another port's by now
                if self.is_allocated():
                    self._domain.call(Close(port=self._port))

    def __enter__(self) -> MountedChannel:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class MountedEvents:
    """Implements domain.Events."""

    def __init__(self, domain: MountedDomain) -> None:
        """Begin with no channel."""
        self.domain = domain
        self.channels: set[MountedChannel] = set()

    def _channel(self, port: int, *, notifies: bool = True) -> MountedChannel:
        channel: MountedChannel | None = None
        try:
            channel = MountedChannel(self, port)
            if notifies:
                channel.open_notify()
        except OSError as error:
            if channel is not None:
                channel.close_descriptors()
            with suppress(Refused):
                self.domain.call(Close(port=port))
            raise refusal(error, f"port {port} of {self.domain}") from error
        self.channels.add(channel)
        return channel

    def alloc_unbound(self, remote_domid: int) -> MountedChannel:
        """See Events."""
        return self._channel(self.domain.call(AllocUnbound(remote_dom=remote_domid)).port)

    def bind_interdomain(self, remote_domid: int, remote_port: int) -> MountedChannel:
        """See Events."""
        request = BindInterdomain(remote_dom=remote_domid, remote_port=remote_port)
        return self._channel(self.domain.call(request).local_port)

    def bind_virq(self, virq: int, vcpu: int = 0) -> MountedChannel:
        """See Events."""
        return self._channel(self.domain.call(BindVirq(virq=virq, vcpu=vcpu)).port, notifies=False)

    def bind_ipi(self, vcpu: int = 0) -> MountedChannel:
        """See Events."""
        return self._channel(self.domain.call(BindIpi(vcpu=vcpu)).port)

    def close(self) -> None:
        """Close every channel's descriptors; the ports go with the handle."""
        for channel in list(self.channels):
            channel.close_descriptors()
