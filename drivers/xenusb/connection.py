"""One USB/IP connection: what is asked before there is a device, and then to whom everything else goes."""

from __future__ import annotations

import socket
from collections.abc import Callable
from functools import partial

from xenfs.xenbus.loop import Gate
from xenusb import usbip
from xenusb.exports import Exports
from xenusb.hold import Hold, being_renewed
from xenusb.outbox import Outbox
from xenusb.transfers import Transfers
from xenusb.usbip import Asked, Code, Malformed, Op, Short, Submit

_ROOM = 1 << 16
_MOST_WAITING = 4 << 20
"""Bytes of answers that somebody does not take, before he is not asked for more questions."""
_SOON = 0.01


class Connection:
    """Somebody who lists the devices, or uses one."""

    def __init__(
        self, exports: Exports, connection: socket.socket, over: Callable[[Connection], None], *, local: bool
    ) -> None:
        """Listen to what is asked; `over` is told when it is. A local one shares a device with others."""
        self._exports, self._socket, self._over, self._local = exports, connection, over, local
        connection.setblocking(False)
        if not local:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        loop = exports.end.loop
        self._outbox = Outbox(loop, connection, lambda: self._guarded(self._drained))
        self._gate = Gate(loop, connection.fileno(), lambda: self._guarded(self._came))
        self._gate.open()
        self._head = bytearray()
        self._hold: Hold | None = None
        self._transfers: Transfers | None = None
        """Once the device is imported."""
        self._importing = False
        """Whether that is being asked for."""
        self._asked = Asked()
        self.closed = False
        """Whether it is over."""

    def _guarded(self, call: Callable[[], None]) -> None:
        """What goes wrong with a connection ends it, and nothing else."""
        try:
            call()
        except (OSError, Malformed) as error:
            if not isinstance(error, OSError):
                self._exports.end.log(f"{self._exports.end!r}: a usbip client: {error}")
            self.close()

    def _send(self, data: bytes) -> None:
        if not self.closed:
            self._guarded(lambda: self._outbox.send(data))
            self._throttle()

    def _throttle(self) -> None:
        """Whoever does not take answers is not asked for more questions, nor who waits for a device."""
        if self.closed:
            return
        if self._importing or self._outbox.size > _MOST_WAITING:
            self._gate.shut()
        else:
            self._gate.open()

    def _drained(self) -> None:
        self._outbox.push()
        self._throttle()

    def _came(self) -> None:
        """Before there is a device no more is taken than the question that is asked: the next may be for the device."""
        data = self._socket.recv(_ROOM if self._transfers is not None else self._missing())
        if not data:
            self.close()
        elif self._transfers is not None:
            self._do(data)
        else:
            self._head += data
            if not self._missing():
                self._hear()

    def _missing(self) -> int:
        """How many bytes of the question have not come yet. Raises Malformed."""
        if len(self._head) < usbip.OP.size:
            return usbip.OP.size - len(self._head)
        version, code, _ = usbip.OP.unpack_from(self._head)
        if version != usbip.VERSION or code not in (Op.list_request, Op.import_request):
            raise Malformed(f"operation 0x{code:x} in version {version:x}")
        return usbip.OP.size + (usbip.BUS_ID.size if code == Op.import_request else 0) - len(self._head)

    def _hear(self) -> None:
        """What is asked before there is a device."""
        asked = bytes(self._head[usbip.OP.size :])
        self._head.clear()
        if not asked:
            self._send(self._exports.listing())
        else:
            self._import(asked.partition(b"\0")[0].decode("ascii", "replace"))

    def _import(self, bus_id: str) -> None:
        if self.closed:
            return
        device = self._exports.find(bus_id)
        self._importing = True
        if device is not None and being_renewed(device):
            self._throttle()
            self._exports.end.loop.later(_SOON, partial(self._import, bus_id))
        elif device is None or device.whole is not None:
            self._imported(None)
        else:
            hold = self._hold = Hold(device, self._exports.hub, self._exports.release, self._unplugged)
            if self._local:
                self._imported(hold)
            else:
                self._throttle()
                hold.take(lambda ours: self._imported(hold if ours else None))

    def _unplugged(self) -> None:
        """The device has gone; a program is told when it asks."""
        if not self._local:
            self.close()

    def _imported(self, hold: Hold | None) -> None:
        exports, self._hold = self._exports, hold
        self._importing = False
        found = b""
        if hold is not None:
            found = exports.exported(hold.device).emit()
            self._transfers = Transfers(hold, exports.hub, exports.urbs, self._send)
        self._send(usbip.OP.pack(usbip.VERSION, Op.import_reply, 0 if hold else 1) + found)

    def _do(self, data: bytes) -> None:
        """What is asked of the device. Raises Malformed."""
        transfers = self._transfers
        assert transfers is not None
        for asked in self._asked.feed(data):
            if self.closed:
                return
            if isinstance(asked, Submit):
                transfers.submit(asked)
            elif asked.code == Code.unlink:
                transfers.unlink(asked)
            elif self._local:
                self._own(asked)
            else:
                raise Malformed(f"command 0x{asked.code:x}, which is a local one")
        self._exports.urbs.push()
        self._throttle()

    def _own(self, asked: Short) -> None:
        assert self._hold is not None

        def answer(status: int) -> None:
            self._send(Short(asked.code, asked.number, status & 0xFFFFFFFF).emit())

        self._hold.do(asked.code, asked.value, answer)

    def close(self) -> None:
        """It is over; what was asked for is taken back, and what was had given back."""
        if self.closed:
            return
        self.closed = True
        self._over(self)
        self._gate.shut()
        self._outbox.close()
        self._socket.close()
        if self._transfers is not None:
            self._transfers.close()
        if self._hold is not None:
            self._hold.close()
