"""The guest's devices for its programs: USB/IP, on a Unix socket and, in a network of the guest's own, on loopback.

Whoever imports a device over TCP has all of it, as usbip has it: a kernel's vhci_hcd, say. On the Unix socket any
number of programs may have a device open, and each interface belongs to whoever has claimed it, as with usbfs.
"""

from __future__ import annotations

import errno
import os
import socket
import tempfile
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path

from xenfs.domain.mounted.xen import default_root
from xenfs.sockets import Door, short
from xenfs.xenbus import Frontend, OtherEnd
from xenfs.xenbus.process import OWN_NETWORK
from xenusb import usbip
from xenusb.connection import Connection
from xenusb.exports import Exports
from xenusb.hub import Attached, Hub
from xenusb.urbs import Urbs

_PREFIX = "usb-"
_MOST_CONNECTIONS = 128
_PORTS = 32
"""Ports that are tried, for a guest with several controllers."""


class Server:
    """Both sockets, and the connections that came in over them."""

    def __init__(self, end: Frontend, hub: Hub, urbs: Urbs, release: Callable[[Attached], None]) -> None:
        """Listen. `release` is told of a device that nobody has to himself any more. Raises OSError."""
        self._end, self._exports = end, Exports(end, hub, urbs, release)
        self._connections: set[Connection] = set()
        self._listeners: list[socket.socket] = []
        self._doors: list[Door] = []
        self._forget_last()
        known = Path(f"{default_root()}.run", str(end.domain.domid))
        self._folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=known if os.access(known, os.W_OK) else None))
        try:
            self._listen()
        except BaseException:
            self.close()
            raise

    def _forget_last(self) -> None:
        """Take away the socket of a usbfront that has died, or left."""
        said = OtherEnd(self._end.store, self._end.path).raw(usbip.SOCKET_KEY)
        if said and Path(said).parent.name.startswith(_PREFIX):
            _take_away(Path(said))

    def _listen(self) -> None:
        end = self._end
        self._local = socket.socket(socket.AF_UNIX)
        self._listeners.append(self._local)
        with short(f"{self._folder}/{end.device.id}") as path:
            self._local.bind(path)
        end.store.write(f"{end.path}/{usbip.SOCKET_KEY}", f"{self._folder}/{end.device.id}")
        if os.environ.get(OWN_NETWORK) and (public := self._public()) is not None:
            self._listeners.append(public)
            host, port = public.getsockname()
            end.store.write(f"{end.path}/{usbip.ADDRESS_KEY}", f"{host}:{port}")
        for listener in self._listeners:
            listener.setblocking(False)
            listener.listen(16)
            door = Door(listener)
            self._doors.append(door)
            end.loop.watch(listener.fileno(), partial(self._came, door, listener is self._local))

    @staticmethod
    def _public() -> socket.socket | None:
        """A socket at the first port from 3240 on that nobody has."""
        found = socket.socket(socket.AF_INET)
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        for port in range(usbip.PORT, usbip.PORT + _PORTS):
            with suppress(OSError):
                found.bind(("127.0.0.1", port))
                return found
        found.close()
        return None

    def _came(self, door: Door, local: bool) -> None:
        if (connection := door.accept()) is None:
            return
        try:
            if len(self._connections) >= _MOST_CONNECTIONS:
                raise OSError(errno.EMFILE, "too many connections")
            self._connections.add(Connection(self._exports, connection, self._connections.discard, local=local))
        except OSError:
            connection.close()

    def close(self) -> None:
        """Listen no more, and end every connection."""
        for listener in self._listeners:
            self._end.loop.unwatch(listener.fileno())
            listener.close()
        for door in self._doors:
            door.close()
        for connection in list(self._connections):
            connection.close()
        _take_away(Path(self._folder, str(self._end.device.id)))


def _take_away(path: Path) -> None:
    """A socket, if it is there, and its folder."""
    with suppress(OSError):
        path.unlink(missing_ok=True)
        path.parent.rmdir()
