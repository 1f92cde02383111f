"""dev/evtchn, as Linux's drivers/xen/evtchn.c behaves (xen-interfaces.md 1.2 and D.1).

A read gives the ports on which an event has come, as u32; each is masked from then on until it is written back.
"""

from __future__ import annotations

import errno
import struct
from collections import deque
from typing import TYPE_CHECKING

from xenfs.abi import event_channel as ec
from xenfs.abi import evtchn as abi
from xenfs.abi.xen import DOMID_FIRST_RESERVED
from xenfs.fs.dev.device import Call, OpenDevice
from xenfs.fs.dev.ports import BoundPort
from xenfs.fs.stream import POLLERR, POLLIN, POLLOUT

if TYPE_CHECKING:
    from xenfs.fs.dev.directory import Dev
    from xenfs.fs.dev.ioctl import Asked
    from xenfs.fs.request import Request

_PORT = struct.Struct("<I")
MAX_BYTES = 4096
"""Of one read or write; more is not looked at."""
TABLE_STEP = 1024
"""Ports by which the table of ports grows: a page of the FIFO ABI's event words."""
FIRST_CAPACITY = 64


class EventQueue:
    """Ports waiting to be read, in order of arrival. One too many, and it is broken until it is emptied."""

    def __init__(self) -> None:
        """Begin without room: there is no port."""
        self._ports: deque[int] = deque()
        self._capacity = 0
        self.overflowed = False

    def __len__(self) -> int:
        return len(self._ports)

    def make_room(self, ports: int) -> None:
        """So many ports are bound. Room never shrinks."""
        if ports > self._capacity:
            self._capacity = 2 * self._capacity or FIRST_CAPACITY

    def put(self, port: int) -> None:
        """Queue a port."""
        if len(self._ports) < self._capacity:
            self._ports.append(port)
        else:
            self.overflowed = True

    def take(self, count: int) -> list[int]:
        """The first `count` ports, or as many as there are."""
        return [self._ports.popleft() for _ in range(min(count, len(self._ports)))]

    def clear(self) -> None:
        """Empty it, and forget that it overflowed."""
        self._ports.clear()
        self.overflowed = False


class OpenEvtchn(OpenDevice):
    """An open dev/evtchn: its ports, its queue, and the one domain it may bind to once restricted."""

    def __init__(self, dev: Dev, flags: int) -> None:
        """Begin without a port."""
        super().__init__(dev, flags)
        self._queue = EventQueue()
        self._ports: dict[int, BoundPort] = {}
        self._restricted: int | None = None
        self._dead = False

    def deliver(self, port: int) -> None:
        """An event has come on a port."""
        self._queue.put(port)
        self.wake()

    def bury(self) -> None:
        """See OpenDevice."""
        self._dead = True
        super().bury()

    def take(self, size: int) -> bytes | None:
        """See OpenStream."""
        count = min(size, MAX_BYTES) // _PORT.size
        if not count:
            return b""
        if self._queue.overflowed:
            raise OSError(errno.EFBIG, "events were lost: reset it")
        if not self._queue:
            if self._dead:
                raise OSError(errno.ENODEV, "the domain has been destroyed")
            return b"" if self.readonly else None
        return b"".join(_PORT.pack(port) for port in self._queue.take(count))

    def write(self, request: Request, data: bytes, offset: int) -> None:
        """Unmask the ports written; what is not a masked port of this file is passed over."""
        del offset
        size = min(len(data), MAX_BYTES) // _PORT.size * _PORT.size
        for (number,) in _PORT.iter_unpack(data[:size]):
            port = self._ports.get(number)
            if port is not None and port.masked:
                port.unmask()
        request.written(size)

    def events(self) -> int:
        """See OpenFile."""
        if self._queue.overflowed or self._dead:
            return POLLERR
        return POLLOUT | (POLLIN if self._queue else 0)

    def _bind(self, request: ec.AllocUnbound | ec.BindInterdomain | ec.BindVirq) -> int:
        port = BoundPort(self)
        with self.fs.fifos.heard_by(port):
            answer = self.fs.call(request, self.domain, self.handle)
        number = answer.local_port if isinstance(answer, ec.BindInterdomain) else answer.port
        self._ports[number] = port
        self._queue.make_room(len(self._ports))
        port.bound(number)
        return number

    def _only(self, domid: int | None) -> None:
        """Raise EACCES when this file is restricted, except to `domid`."""
        if self._restricted not in (None, domid):
            raise OSError(errno.EACCES, f"restricted to domain {self._restricted}")

    def _own(self, number: int) -> BoundPort:
        port = self._ports.get(number)
        if port is None:
            raise OSError(errno.ENOTCONN, f"port {number} is not bound here")
        return port

    def _bind_virq(self, _asked: Asked, request: abi.BindVirq) -> int:
        self._only(None)
        return self._bind(ec.BindVirq(virq=request.virq))

    def _bind_interdomain(self, _asked: Asked, request: abi.BindInterdomain) -> int:
        self._only(request.remote_domain)
        remote = request.remote_domain & 0xFFFF  # a u32 here, a domid_t in the hypercall
        return self._bind(ec.BindInterdomain(remote_dom=remote, remote_port=request.remote_port))

    def _bind_unbound_port(self, _asked: Asked, request: abi.BindUnboundPort) -> int:
        self._only(None)
        return self._bind(ec.AllocUnbound(remote_dom=request.remote_domain & 0xFFFF))

    def _unbind(self, _asked: Asked, request: abi.Unbind) -> int:
        if request.port not in self._ports:
            highest = max(self.domain.ports, default=0)
            if request.port >= (highest // TABLE_STEP + 1) * TABLE_STEP:
                raise OSError(errno.EINVAL, f"port {request.port} is beyond the table")
        self._own(request.port).leave()
        del self._ports[request.port]
        return 0

    def _notify(self, _asked: Asked, request: abi.Notify) -> int:
        self._own(request.port).notify()
        return 0

    def _reset(self, _asked: Asked, _request: None) -> int:
        self._queue.clear()
        return 0

    def _restrict_domid(self, _asked: Asked, request: abi.RestrictDomid) -> int:
        self._only(None)
        if not 0 < request.domid < DOMID_FIRST_RESERVED:
            raise OSError(errno.EINVAL, f"domain {request.domid} is not one to restrict to")
        self._restricted = request.domid
        return 0

    calls = (
        Call(abi.BIND_VIRQ, abi.BindVirq, _bind_virq),
        Call(abi.BIND_INTERDOMAIN, abi.BindInterdomain, _bind_interdomain),
        Call(abi.BIND_UNBOUND_PORT, abi.BindUnboundPort, _bind_unbound_port),
        Call(abi.UNBIND, abi.Unbind, _unbind),
        Call(abi.NOTIFY, abi.Notify, _notify),
        Call(abi.RESET, None, _reset),
        Call(abi.RESTRICT_DOMID, abi.RestrictDomid, _restrict_domid),
    )

    def release(self) -> None:
        """See OpenFile: ports that nothing else holds go with the handle, in slices."""
        for port in self._ports.values():
            port.abandon()
        super().release()
