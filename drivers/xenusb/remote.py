"""A device of another machine, that a usbip server exports: `usbip:host/1-1`, `usbip:host:port/1-1`."""

from __future__ import annotations

import errno
import socket

from xenfs.abi.usbif import PipeType, Speed, Status
from xenfs.xenbus.loop import Gate
from xenusb import usbip
from xenusb.descriptors import STANDARD, Ask, Setup
from xenusb.device import Host, Transfer
from xenusb.importing import Importing, Taken, parse
from xenusb.outbox import Outbox
from xenusb.usbip import Answers, Code, Malformed, Short, Submit, Submitted

_ROOM = 1 << 16
_MOST_WAITING, _MOST_ASKED = 4 << 20, 1024
"""Bytes that a server does not take, and transfers that it does not answer, before it is given up."""
SILENT_SECONDS = 40
"""How long nothing need be heard of a server's machine, before it is given up. Keyboards are silent for longer: it is
asked whether it is there.
"""
_KNOWN = {int(status): status for status in Status}
RESET_PORT = 0x23, 3, 4
"""How usbip asks for a reset of the device, as a hub is asked: type, request and value."""


def _check_packets(transfer: Transfer, answer: Submitted) -> None:
    """Whether what is said of packets can be; of a transfer that failed as a whole nothing may be said. Raises
    Malformed.
    """
    asked, said = transfer.packets, answer.packets
    fit = len(said) == len(asked) and all(two.actual <= one.length for one, two in zip(asked, said, strict=True))
    adds_up = not transfer.inward or not said or sum(one.actual for one in said) == answer.actual
    if not (fit and adds_up) and (said or not answer.status):
        raise Malformed(f"packets of {answer.actual} bytes that do not fit those that were asked for")


def _keep_alive(connection: socket.socket, seconds: int) -> None:
    """Have a connection end when its other end has not been heard of for so long, asked or not."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, max(1, seconds // 2))
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, max(1, seconds // 8))
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 4)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 1000 * seconds)


class RemoteDevice:
    """The device. Implements UsbDevice."""

    speed = Speed.none

    def __init__(self, argument: str, host: Host) -> None:
        """Begin to connect, and to import it. Raises OSError."""
        parse(argument)
        self._host = host
        self._asked: dict[int, Transfer] = {}
        self._numbers: dict[Transfer, int] = {}
        self._unlinking: dict[int, int] = {}
        self._number = self._id = 0
        self._answers = Answers()
        self._socket: socket.socket | None = None
        self._importing = Importing(argument, host.loop, lambda result: host.attempt(lambda: self._imported(result)))

    def _imported(self, result: Taken | OSError) -> None:
        if isinstance(result, OSError):
            raise result
        self._socket, exported = result
        self.speed, self._id = Speed(exported.speed), exported.id
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        _keep_alive(self._socket, SILENT_SECONDS)
        self._socket.setblocking(False)
        host = self._host
        self._outbox = Outbox(host.loop, self._socket, lambda: host.attempt(self._outbox.push))
        self._listening = Gate(host.loop, self._socket.fileno(), lambda: host.attempt(self._came))
        self._listening.open()
        host.arrived()

    def submit(self, transfer: Transfer) -> None:
        """See UsbDevice."""
        setup = transfer.setup
        packets = tuple(transfer.packets) if transfer.type is PipeType.isoc else None
        number = self._next()
        self._asked[number], self._numbers[transfer] = transfer, number
        self._answers.inward[number] = transfer.inward
        self._send(
            Submit(
                number, self._id, transfer.inward, transfer.endpoint, transfer.size,
                usbip.SHORT_NOT_OK if transfer.whole else 0,
                setup=bytes(8) if setup is None else setup.emit(),
                data=b"" if transfer.inward else transfer.data(), packets=packets,
            ).emit()
        )  # fmt: skip

    def _next(self) -> int:
        self._number = self._number % 0xFFFFFFFF + 1
        return self._number

    def _send(self, data: bytes) -> None:
        self._host.attempt(lambda: self._put(data))

    def _put(self, data: bytes) -> None:
        if self._outbox.size > _MOST_WAITING or len(self._asked) > _MOST_ASKED:
            raise OSError(errno.ETIMEDOUT, "the usbip server takes nothing, or answers nothing")
        self._outbox.send(data)

    def _came(self) -> None:
        assert self._socket is not None
        data = self._socket.recv(_ROOM)
        if not data:
            raise OSError(errno.ECONNRESET, "the usbip server has ended the connection")
        try:
            for answer in self._answers.feed(data):
                if isinstance(answer, Submitted):
                    self._over(answer)
                else:
                    self._unlinked(answer)
        except Malformed as error:
            raise OSError(errno.EPROTO, f"the usbip server: {error}") from None

    def _over(self, answer: Submitted) -> None:
        transfer = self._asked[answer.number]
        if answer.actual > transfer.size:
            raise Malformed(f"an answer of {answer.actual} bytes to a transfer of {transfer.size}")
        _check_packets(transfer, answer)
        del self._asked[answer.number], self._numbers[transfer]
        if transfer.over:
            return
        if transfer.type is PipeType.isoc:
            self._isochronous(transfer, answer)
        elif transfer.inward:
            transfer.fill(answer.data)
        transfer.end(_KNOWN.get(answer.status, Status.ioerror), answer.actual)

    def _unlinked(self, answer: Short) -> None:
        victim = self._unlinking.pop(answer.number, 0)
        if answer.value == usbip.ECONNRESET and victim in self._asked:  # else it is answered itself
            del self._numbers[self._asked.pop(victim)], self._answers.inward[victim]

    @staticmethod
    def _isochronous(transfer: Transfer, answer: Submitted) -> None:
        """Put each packet where it belongs."""
        room, at = bytearray(transfer.size), 0
        for packet, said in zip(transfer.packets, answer.packets, strict=False):
            packet.actual, packet.status = said.actual, said.status
            if transfer.inward:
                part = answer.data[at : at + said.actual]
                room[packet.offset : packet.offset + len(part)] = part
                at += said.actual
        if transfer.inward:
            transfer.fill(bytes(room))

    def cancel(self, transfer: Transfer) -> None:
        """See UsbDevice. The server is told; should it have been faster, its answer is for nobody."""
        number = self._numbers.get(transfer)
        transfer.end(Status.shutdown)
        if number is not None and number not in self._unlinking.values():
            own = self._next()
            self._unlinking[own] = number
            self._send(Short(Code.unlink, own, number, self._id).emit())

    def reset(self) -> None:
        """See UsbDevice. Nothing happens to one that has not been imported yet."""
        if self._socket is None:
            return
        for transfer in list(self._numbers):
            self.cancel(transfer)
        for setup in (Setup(*RESET_PORT), Setup(STANDARD << 5, Ask.set_configuration, 0)):
            self.submit(Transfer(PipeType.control, 0, False, 0, [], lambda _: None, setup))

    def close(self) -> None:
        """See UsbDevice."""
        self._importing.close()
        if self._socket is not None:
            self._listening.shut()
            self._outbox.close()
            self._socket.close()
        for transfer in list(self._numbers):
            transfer.end(Status.nodev)
