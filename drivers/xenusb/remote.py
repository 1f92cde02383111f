"""A device of another machine, that a usbip server exports: `usbip:host/1-1`, `usbip:host:port/1-1`."""

from __future__ import annotations

import errno
import socket
import time

from xenfs.abi.usbif import PipeType, Speed, Status
from xenfs.xenbus.loop import Gate
from xenusb import usbip
from xenusb.descriptors import STANDARD, Ask, Setup
from xenusb.device import Host, Transfer
from xenusb.outbox import Outbox
from xenusb.usbip import Answers, Code, Exported, Malformed, Op, Short, Submit, Submitted

SECONDS = 5.0
"""How long is waited for the server when the device is plugged in."""
_ROOM = 1 << 16
_MOST_WAITING, _MOST_ASKED = 4 << 20, 1024
"""Bytes that a server does not take, and transfers that it does not answer, before it is given up."""
_KNOWN = {int(status): status for status in Status}
RESET_PORT = 0x23, 3, 4
"""How usbip asks for a reset of the device, as a hub is asked: type, request and value."""


def parse(argument: str) -> tuple[str, int, str]:
    """Host, port and bus id. Raises OSError."""
    place, slash, bus_id = argument.rpartition("/")
    host, colon, port = place.rpartition(":")
    if not colon:
        host, port = place, str(usbip.PORT)
    if not (slash and host and bus_id and port.isascii() and port.isdigit() and 0 < int(port) < 65536):
        raise OSError(errno.EINVAL, "not of the form usbip:host[:port]/bus-id", argument)
    return host.strip("[]"), int(port), bus_id


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


def _check_packets(transfer: Transfer, answer: Submitted) -> None:
    """Whether what is said of packets can be; of a transfer that failed as a whole nothing may be said. Raises
    Malformed.
    """
    asked, said = transfer.packets, answer.packets
    fit = len(said) == len(asked) and all(two.actual <= one.length for one, two in zip(asked, said, strict=True))
    adds_up = not transfer.inward or not said or sum(one.actual for one in said) == answer.actual
    if not (fit and adds_up) and (said or not answer.status):
        raise Malformed(f"packets of {answer.actual} bytes that do not fit those that were asked for")


class RemoteDevice:
    """The device. Implements UsbDevice."""

    def __init__(self, argument: str, host: Host) -> None:
        """Connect, and import it. Raises OSError."""
        name, port, bus_id = parse(argument)
        self._host, deadline = host, time.monotonic() + SECONDS
        try:
            self._socket = socket.create_connection((name, port), SECONDS)
        except OSError as error:
            raise OSError(error.errno or errno.EHOSTUNREACH, error.strerror or str(error), argument) from None
        try:
            exported = take(self._socket, bus_id, deadline)
            speeds = {int(speed): speed for speed in Speed if speed}
            if exported.speed not in speeds:
                raise OSError(errno.EPROTO, f"its speed is {exported.speed}, which usbif does not have")
        except OSError as error:
            self._socket.close()
            raise OSError(error.errno or errno.EIO, error.strerror or str(error), argument) from None
        self.speed, self._id = speeds[exported.speed], exported.id
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket.setblocking(False)
        self._number = 0
        self._asked: dict[int, Transfer] = {}
        self._numbers: dict[Transfer, int] = {}
        self._answers = Answers()
        self._unlinking: dict[int, int] = {}
        self._outbox = Outbox(host.loop, self._socket, lambda: host.attempt(self._outbox.push))
        self._listening = Gate(host.loop, self._socket.fileno(), lambda: host.attempt(self._came))
        self._listening.open()

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
        """See UsbDevice."""
        for transfer in list(self._numbers):
            self.cancel(transfer)
        for setup in (Setup(*RESET_PORT), Setup(STANDARD << 5, Ask.set_configuration, 0)):
            self.submit(Transfer(PipeType.control, 0, False, 0, [], lambda _: None, setup))

    def close(self) -> None:
        """See UsbDevice."""
        self._listening.shut()
        self._outbox.close()
        self._socket.close()
        for transfer in list(self._numbers):
            transfer.end(Status.nodev)
