"""Event channels straight on the model."""

from __future__ import annotations

import errno
import os
import select
from typing import TYPE_CHECKING

from xenfs.abi.event_channel import AllocUnbound, BindInterdomain, BindIpi, BindVirq, Close, Send
from xenfs.domain.errors import Refused

if TYPE_CHECKING:
    from xenfs.domain.inprocess.xen import InProcessDomain


class InProcessChannel:
    """Implements domain.Channel over the line's eventfd."""

    def __init__(self, events: InProcessEvents, port: int, line: int, fd: int) -> None:
        """Take the port and the descriptor over."""
        self._events, self._port, self._line, self._fd = events, port, line, fd

    def __repr__(self) -> str:
        return f"port {self._port} of domain {self._events.domain.domid}"

    @property
    def port(self) -> int:
        """The number."""
        return self._port

    def fileno(self) -> int:
        """See Channel."""
        return self._fd

    def wait(self, timeout: float | None = None) -> bool:
        """See Channel."""
        self._check_open()
        poll = select.poll()
        poll.register(self._fd, select.POLLIN)
        poll.poll(None if timeout is None else max(0.0, timeout * 1000))
        return self.drain()

    def drain(self) -> bool:
        """See Channel."""
        self._check_open()
        try:
            return os.eventfd_read(self._fd) > 0
        except BlockingIOError:
            return False

    def _check_open(self) -> None:
        if not self._events.has(self):
            raise Refused(errno.EINVAL, f"{self!r}: it is closed")

    def notify(self) -> None:
        """See Channel."""
        with self._events.domain.xen.lock:
            if not self._events.is_open(self._port, self._line):
                raise Refused(errno.EINVAL, f"{self!r}: it is closed")
            self._events.domain.call(Send(port=self._port))

    def close(self) -> None:
        """See Channel."""
        if self._events.forget(self):
            os.close(self._fd)
            with self._events.domain.xen.lock:
                # a reset may have closed it before, and the number may be another port's by now
                if self._events.is_open(self._port, self._line):
                    self._events.domain.call(Close(port=self._port))

    def __enter__(self) -> InProcessChannel:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class InProcessEvents:
    """Implements domain.Events."""

    def __init__(self, domain: InProcessDomain) -> None:
        """Begin with no channel."""
        self.domain = domain
        self._channels: set[InProcessChannel] = set()

    def _channel(self, port: int) -> InProcessChannel:
        xen = self.domain.xen
        line = xen.machine.state.domain(self.domain.domid).ports[port].line
        channel = InProcessChannel(self, port, line, xen.lines.take(line))
        self._channels.add(channel)
        return channel

    def is_open(self, number: int, line: int) -> bool:
        """Whether a port is still the allocation that a channel was made for."""
        if not self.domain.alive:
            return False
        port = self.domain.xen.machine.state.domain(self.domain.domid).ports.get(number)
        return port is not None and port.line == line

    def has(self, channel: InProcessChannel) -> bool:
        """Whether a channel is open."""
        return channel in self._channels

    def forget(self, channel: InProcessChannel) -> bool:
        """Take a channel off the list; False when it was not on it."""
        if channel not in self._channels:
            return False
        self._channels.remove(channel)
        return True

    def alloc_unbound(self, remote_domid: int) -> InProcessChannel:
        """See Events."""
        with self.domain.xen.lock:
            return self._channel(self.domain.call(AllocUnbound(remote_dom=remote_domid)).port)

    def bind_interdomain(self, remote_domid: int, remote_port: int) -> InProcessChannel:
        """See Events."""
        with self.domain.xen.lock:
            request = BindInterdomain(remote_dom=remote_domid, remote_port=remote_port)
            return self._channel(self.domain.call(request).local_port)

    def bind_virq(self, virq: int, vcpu: int = 0) -> InProcessChannel:
        """See Events."""
        with self.domain.xen.lock:
            return self._channel(self.domain.call(BindVirq(virq=virq, vcpu=vcpu)).port)

    def bind_ipi(self, vcpu: int = 0) -> InProcessChannel:
        """See Events."""
        with self.domain.xen.lock:
            return self._channel(self.domain.call(BindIpi(vcpu=vcpu)).port)

    def close(self) -> None:
        """Close every channel."""
        for channel in list(self._channels):
            channel.close()
