"""One USB/IP connection without a guest: its device's driver lets go when the test says so."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, suppress
from types import SimpleNamespace
from typing import Any, cast

import pytest
from xenusb.connection import Connection
from xenusb.descriptors import DeviceDescriptor
from xenusb.exports import Exports
from xenusb.hub import Attached, Hub

from tests.usb.vhci import LIST, importing
from xenfs.abi.usbif import Speed, Status
from xenfs.xenbus import Loop

LISTING = bytes(1 << 20)
"""More than a socket takes at once."""


class Driver:
    """Implements User."""

    def __init__(self) -> None:
        self.asked: list[Callable[[str], None]] = []

    def gone(self) -> None:
        raise AssertionError("it is not unplugged")

    def leave(self, then: Callable[[str], None]) -> None:
        self.asked.append(then)


class Guest:
    """A hub with a device, and a client."""

    def __init__(self, held: ExitStack) -> None:
        self.loop = held.enter_context(closing(Loop()))
        self.driver, self.released = Driver(), list[Attached]()
        self.device = Attached(1, Speed.high, 1, device=DeviceDescriptor(1, 2), claims={0: self.driver})
        end: Any = SimpleNamespace(loop=self.loop, log=print, device=SimpleNamespace(id=0))
        hub: Any = SimpleNamespace(devices={1: self.device}, reset=lambda _device, done: done(Status.ok))
        urbs: Any = SimpleNamespace(push=lambda: None)

        class Long(Exports):
            def listing(self) -> bytes:
                return LISTING

        listener = held.enter_context(socket.create_server(("127.0.0.1", 0)))
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        self.client = held.enter_context(socket.create_connection(listener.getsockname()))
        self.client.setblocking(False)
        exports = Long(end, cast("Hub", hub), urbs, self.released.append)
        self.connection = Connection(exports, listener.accept()[0], lambda _: None, local=False)
        held.callback(self.connection.close)

    def settle(self) -> None:
        """Until there is nothing to do."""
        while self.loop.turn(0.05):
            pass

    def take(self, size: int) -> None:
        """Read so many bytes, which are zeros."""
        while size:
            self.loop.turn(0.001)
            with suppress(BlockingIOError):
                data = self.client.recv(min(size, 1 << 16))
                assert data == bytes(len(data))
                size -= len(data)


@pytest.fixture
def guest() -> Iterator[Guest]:
    with ExitStack() as held:
        yield Guest(held)


def test_whoever_asks_for_a_device_is_not_heard_before_he_is_answered(guest: Guest) -> None:
    guest.client.sendall(LIST * 3 + importing("1-1") + importing("1-1"))
    guest.settle()
    (then,) = guest.driver.asked
    guest.take(3 * len(LISTING))
    guest.settle()
    with pytest.raises(BlockingIOError):
        guest.client.recv(1)
    guest.client.close()
    guest.settle()
    guest.device.claims.clear()
    then("ok")
    guest.settle()
    assert guest.connection.closed
    assert (guest.device.whole, guest.released) == (None, [guest.device])
