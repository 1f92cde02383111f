"""To have a device of a usbip server's, on a thread: names are looked up meanwhile, and a server may take its time."""

from __future__ import annotations

import errno
import os
import socket
import threading
import time
from collections.abc import Callable

from xenfs.abi.usbif import Speed
from xenfs.xenbus.loop import Loop
from xenusb import usbip
from xenusb.usbip import Exported, Op

SECONDS = 5.0
"""How long is waited for a server, from when its name is known."""
Taken = tuple[socket.socket, Exported]
Done = Callable[[Taken | OSError], None]


def parse(argument: str) -> tuple[str, int, str]:
    """Host, port and bus id. Raises OSError."""
    place, slash, bus_id = argument.rpartition("/")
    host, colon, port = place.rpartition(":")
    if not colon:
        host, port = place, str(usbip.PORT)
    if not (slash and host and bus_id and port.isascii() and port.isdigit() and 0 < int(port) < 65536):
        raise OSError(errno.EINVAL, "not of the form usbip:host[:port]/bus-id", argument)
    return host.strip("[]"), int(port), bus_id


def _connect(host: str, port: int) -> tuple[socket.socket, float]:
    """To the first of its addresses that answers, and when to give up. Raises OSError."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    deadline, failed = time.monotonic() + SECONDS, OSError(errno.EHOSTUNREACH, "it has no address")
    for family, kind, protocol, _, address in found:
        connection = socket.socket(family, kind, protocol)
        try:
            connection.settimeout(max(0.001, deadline - time.monotonic()))
            connection.connect(address)
        except OSError as error:
            connection.close()
            failed = error
        else:
            return connection, deadline
    raise failed


def receive(connection: socket.socket, size: int, deadline: float | None = None) -> bytes:
    """So many bytes. Raises OSError when the peer ends before, or it takes too long."""
    found = bytearray()
    while len(found) < size:
        if deadline is not None:
            connection.settimeout(max(0.001, deadline - time.monotonic()))
        part = connection.recv(size - len(found))
        if not part:
            raise OSError(errno.ECONNRESET, "the server has ended the connection")
        found += part
    return bytes(found)


def take(connection: socket.socket, bus_id: str, deadline: float | None = None) -> Exported:
    """Have a device of a server's. Raises OSError."""
    connection.sendall(usbip.OP.pack(usbip.VERSION, Op.import_request, 0) + usbip.BUS_ID.pack(bus_id.encode()))
    version, code, status = usbip.OP.unpack(receive(connection, usbip.OP.size, deadline))
    if version != usbip.VERSION or code != Op.import_reply:
        raise OSError(errno.EPROTO, f"the server answers 0x{code:x} in version {version:x}")
    if status:
        raise OSError(errno.ENODEV, "the server does not give it: there is none, or somebody has it")
    return Exported.parse(receive(connection, usbip.DEVICE_SIZE, deadline))[0]


def obtain(argument: str) -> Taken:
    """Connect, and have the device that an argument names. Raises OSError, which names it too."""
    host, port, bus_id = parse(argument)
    try:
        connection, deadline = _connect(host, port)
        try:
            exported = take(connection, bus_id, deadline)
            if exported.speed not in {int(speed) for speed in Speed if speed}:
                raise OSError(errno.EPROTO, f"its speed is {exported.speed}, which usbif does not have")
        except BaseException:
            connection.close()
            raise
    except OSError as error:
        raise OSError(error.errno or errno.EIO, error.strerror or str(error), argument) from None
    return connection, exported


class Importing:
    """One attempt. `done` is called on the loop, unless nobody wants it any more."""

    def __init__(self, argument: str, loop: Loop, done: Done) -> None:
        """Begin."""
        self._loop, self._done = loop, done
        self._lock = threading.Lock()
        self._result: Taken | OSError | None = None
        self._fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._wanted = True
        loop.watch(self._fd, self._collect)
        threading.Thread(target=self._run, args=(argument,), name="xenusb-usbip", daemon=True).start()

    def _run(self, argument: str) -> None:
        result: Taken | OSError
        try:
            result = obtain(argument)
        except OSError as error:
            result = error
        except Exception as error:  # of what a server said
            result = OSError(errno.EPROTO, f"{type(error).__name__}: {error}", argument)
        with self._lock:
            self._result = result
            if self._wanted:
                os.eventfd_write(self._fd, 1)
            else:
                self._drop()

    def _drop(self) -> None:
        if isinstance(self._result, tuple):
            self._result[0].close()

    def _end(self) -> None:
        self._wanted = False
        self._loop.unwatch(self._fd)
        os.close(self._fd)

    def _collect(self) -> None:
        with self._lock:
            result = self._result
            self._end()
        assert result is not None
        self._done(result)

    def close(self) -> None:
        """Nobody wants it any more; twice is fine."""
        with self._lock:
            if self._wanted:
                self._end()
                self._drop()
