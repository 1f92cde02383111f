"""A program of a guest's that uses a device without scruples, against the real usbfront."""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any

from xenusb import usbip
from xenusb.descriptors import Setup
from xenusb.usbip import Short, Submit, Submitted

IMPORT = usbip.OP.pack(usbip.VERSION, usbip.Op.import_request, 0)


class Raw:
    """Somebody who uses a device, and says what he likes."""

    def __init__(self, call: Callable[[Callable[[], object]], object], connection: socket.socket) -> None:
        """What it waits for is done by `call`."""
        self._call, self.socket = call, connection
        self._answers = usbip.Answers()

    def submit(self, endpoint: int, size: int = 8, *, number: int = 1, inward: bool = True, **more: Any) -> Submit:
        """A transfer, which is to be sent."""
        self._answers.inward[number] = inward
        return Submit(number, 0, inward, endpoint, size, **more)

    def control(self, setup: Setup, *, number: int = 1) -> Submit:
        """A control transfer."""
        return self.submit(0, setup.length, number=number, inward=setup.inward, setup=setup.emit())

    def send(self, *asked: Submit | Short) -> None:
        """Send."""
        data = b"".join(one.emit() for one in asked)
        self._call(lambda: self.socket.sendall(data))

    def answers(self, count: int, *, serve: bool = True) -> list[Submitted | Short]:
        """So many answers; without serving for those that must come by themselves."""
        found: list[Submitted | Short] = []

        def enough() -> None:
            while len(found) < count:
                data = self.socket.recv(1 << 16)
                assert data, "usbfront has ended the connection"
                found.extend(self._answers.feed(data))

        if serve:
            self._call(enough)
        else:
            enough()
        return found

    def ask(self, *asked: Submit | Short) -> list[Submitted | Short]:
        """Send, and get as many answers."""
        self.send(*asked)
        return self.answers(len(asked))

    def statuses(self, *asked: Submit | Short) -> list[int]:
        """Send, and get the statuses of as many answers."""
        return [one.status if isinstance(one, Submitted) else one.value for one in self.ask(*asked)]

    def close(self) -> None:
        self.socket.close()
