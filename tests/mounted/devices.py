"""The device files as Python programs use them, by Xen's own numbers or by their twins."""

from __future__ import annotations

import ctypes
import fcntl
import os
import select
import struct
from pathlib import Path

from tests.mounted.inside import home
from xenfs.abi import evtchn, gntalloc
from xenfs.abi.ioctl import Ioctl
from xenfs.abi.wire import Wire

LIBC = ctypes.CDLL(None, use_errno=True)


def by_pointer(fd: int, number: int, address: int) -> int:
    """An ioctl whose struct is at an address."""
    result = LIBC.ioctl(fd, ctypes.c_ulong(number), ctypes.c_void_p(address))
    if result < 0:
        raise OSError(ctypes.get_errno(), "ioctl")
    return int(result)


def native(fd: int, call: Ioctl, request: Wire | bytes) -> tuple[int, bytes]:
    """By Xen's own number: what it returns, and the struct afterwards."""
    data = request if isinstance(request, bytes) else request.emit()
    buffer = ctypes.create_string_buffer(data, len(data))
    return by_pointer(fd, call.native, ctypes.addressof(buffer)), buffer.raw


def twin(fd: int, call: Ioctl, request: Wire | bytes) -> tuple[int, bytes]:
    """By the number whose bytes come with it."""
    buffer = bytearray(request if isinstance(request, bytes) else request.emit())
    return int(fcntl.ioctl(fd, call.twin(len(buffer)), buffer)), bytes(buffer)


class Evtchn:
    """An open dev/evtchn."""

    def __init__(self, domain: int | Path, flags: int = os.O_RDWR) -> None:
        folder = home(domain) if isinstance(domain, int) else domain
        self.fd = os.open(folder / "dev" / "evtchn", flags)

    def unbound(self, domid: int) -> int:
        return twin(self.fd, evtchn.BIND_UNBOUND_PORT, evtchn.BindUnboundPort(remote_domain=domid))[0]

    def bind(self, domid: int, port: int) -> int:
        request = evtchn.BindInterdomain(remote_domain=domid, remote_port=port)
        return twin(self.fd, evtchn.BIND_INTERDOMAIN, request)[0]

    def unbind(self, port: int) -> None:
        twin(self.fd, evtchn.UNBIND, evtchn.Unbind(port=port))

    def notify(self, port: int) -> None:
        twin(self.fd, evtchn.NOTIFY, evtchn.Notify(port=port))

    def ready(self, seconds: float = 10.0) -> int:
        """What poll finds within the time."""
        poller = select.poll()
        poller.register(self.fd, select.POLLIN)
        return sum(events for _, events in poller.poll(seconds * 1000))

    def heard(self, seconds: float = 10.0) -> list[int]:
        """Ports with events, once there are some; none when there are none in that time."""
        if not self.ready(seconds):
            return []
        return [port for (port,) in struct.iter_unpack("<I", os.read(self.fd, 4096))]

    def unmask(self, *ports: int) -> None:
        os.write(self.fd, struct.pack(f"<{len(ports)}I", *ports))

    def close(self) -> None:
        os.close(self.fd)


def alloc_grefs(fd: int, domid: int, count: int, writable: bool = True) -> tuple[int, list[int]]:
    """Pages of dev/gntalloc: their index, and their refs."""
    head = gntalloc.AllocGref(domid=domid, flags=int(writable), count=count).emit()
    _, data = twin(fd, gntalloc.ALLOC_GREF, head[:16] + bytes(max(8, 4 * count)))
    return struct.unpack_from("<Q", data, 8)[0], list(struct.unpack_from(f"<{count}I", data, 16))
