"""USB/IP servers of the tests' own, on the loopback of the host: one that exports a device as it should, and may be
told to lie about a transfer, and one that does whatever a test says.
"""

from __future__ import annotations

import select
import socket
import struct
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress

from xenusb import usbip
from xenusb.descriptors import Setup
from xenusb.device import Host, Packet, Transfer
from xenusb.gadget import Gadget
from xenusb.usbip import Asked, Code, Exported, Op, Short, Submit, Submitted

from xenfs.abi.usbif import PipeType, Status
from xenfs.xenbus import Loop
from xenfs.xenbus.loop import Call

BUS_ID = "7-3"
_SECONDS = 30.0
_RESET_PORT = 0x23, 3, 4
Tamper = Callable[[Submit, Submitted], bytes]


def exported(*, speed: int = 3, bus: int = 7) -> Exported:
    """What the servers say of their device."""
    return Exported("/sys/devices/7-3", BUS_ID, bus, 4, speed, 0x1209, 0x5857, 0x100, (0, 0, 0), 1, 1, ((255, 0, 0),))


def reply(status: int = 0, found: Exported | None = None, version: int = usbip.VERSION) -> bytes:
    """The answer to an import."""
    return usbip.OP.pack(version, Op.import_reply, status) + (found.emit() if found else b"")


class Listening(ABC):
    """A socket, and a thread that serves it."""

    def __init__(self) -> None:
        """On a port that is free."""
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.problem: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)

    @property
    def text(self) -> str:
        """What is to be in a port of a guest's."""
        return f"usbip:127.0.0.1:{self.listener.getsockname()[1]}/{BUS_ID}"

    def _run(self) -> None:
        try:
            self.serve()
        except BaseException as error:
            self.problem = error

    @abstractmethod
    def serve(self) -> None:
        """Until it is closed."""

    def start(self) -> None:
        """Begin to serve."""
        self._thread.start()

    def join(self) -> None:
        """Wait for the end, and raise what has ended it."""
        self._thread.join(_SECONDS)
        self.listener.close()
        assert not self._thread.is_alive()
        if self.problem is not None:
            raise self.problem


class Liar(Listening):
    """A server that does with each connection what a test says, in a thread."""

    def __init__(self, does: Callable[[socket.socket], None]) -> None:
        """Serve."""
        super().__init__()
        self._does = does
        self._current: socket.socket | None = None
        self._closed = False
        self.came = 0
        self.start()

    def serve(self) -> None:
        """See Listening."""
        while True:
            with suppress(OSError):
                self._current, _ = self.listener.accept()
            if self._closed:
                break
            assert self._current is not None
            self.came += 1
            with self._current, suppress(ConnectionError):
                self._current.settimeout(_SECONDS)
                self._does(self._current)

    def __enter__(self) -> Liar:
        return self

    def __exit__(self, *_: object) -> None:
        self._closed = True
        for one in (self._current, self.listener):
            if one is not None:
                with suppress(OSError):
                    one.shutdown(socket.SHUT_RDWR)
        self.join()
        if self._current is not None:
            self._current.close()


def drain(connection: socket.socket) -> None:
    """Hear, and say nothing, until the peer goes away."""
    while connection.recv(1 << 16):
        pass


class Exporter(Listening):
    """A server that exports a device. Implements Host for it. Answers go through `tamper`, if there is one."""

    def __init__(self, make: Callable[[str, Host], Gadget], argument: str = "", tamper: Tamper | None = None) -> None:
        """Plug the device in, and serve."""
        super().__init__()
        self.loop = Loop()
        self.tamper = tamper
        self.submits: list[Submit] = []
        self.unlinks: list[Short] = []
        self.imports = self.resets = 0
        self.deaf = False
        """Whether it passes over whatever is to be unlinked."""
        self.said: list[str] = []
        self._orders: list[tuple[Call, threading.Event]] = []
        self._bell, self._rings = socket.socketpair()
        self._connection: socket.socket | None = None
        self._imported = False
        self._head = b""
        self._asked = Asked()
        self._flying: dict[int, Transfer] = {}
        self._unlinked: set[int] = set()
        self.gadget = make(argument, self)
        self.loop.watch(self._rings.fileno(), self._ordered)
        self.loop.watch(self.listener.fileno(), self._came)
        self.start()

    # Host.

    def attempt(self, call: Call) -> None:
        """See Host."""
        call()

    def arrived(self) -> None:
        """See Host."""
        raise AssertionError("it had its speed from the beginning")

    def unplugged(self, why: str) -> None:
        """See Host."""
        raise AssertionError(why)

    def say(self, line: str) -> None:
        """See Host."""
        self.said.append(line)

    # The thread.

    def serve(self) -> None:
        """See Listening."""
        try:
            self.loop.run()
        finally:
            self._drop()
            self.gadget.close()
            self.loop.close()

    def _ordered(self) -> None:
        self._rings.recv(64)
        while self._orders:
            call, done = self._orders.pop(0)
            call()
            done.set()

    def order(self, call: Call) -> None:
        """Have the thread do something, and wait for that."""
        done = threading.Event()
        self._orders.append((call, done))
        self._bell.send(b".")
        assert done.wait(3 * _SECONDS), self.problem

    def drop(self, *, reset: bool = False) -> None:
        """End the connection."""
        self.order(lambda: self._drop(reset=reset))

    @contextmanager
    def stopped(self) -> Iterator[None]:
        """It hears and says nothing for a while."""
        stopping, going_on = threading.Event(), threading.Event()

        def stop() -> None:
            stopping.set()
            going_on.wait(2 * _SECONDS)

        order = threading.Thread(target=lambda: self.order(stop), daemon=True)
        order.start()
        assert stopping.wait(_SECONDS)
        try:
            yield
        finally:
            going_on.set()
            order.join()

    @property
    def busy(self) -> bool:
        """Whether somebody has the device."""
        return self._imported

    def close(self) -> None:
        """Be no more."""
        with suppress(AssertionError):
            self.order(self.loop.stop)
        try:
            self.join()
        finally:
            self._bell.close()
            self._rings.close()

    def __enter__(self) -> Exporter:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # The connection.

    def _came(self) -> None:
        connection, _ = self.listener.accept()
        if self._connection is not None and select.select([self._connection], [], [], 0)[0]:
            self._hear()  # perhaps whoever had it has just gone
        if self._connection is not None:
            connection.close()
            return
        connection.settimeout(_SECONDS)
        self._connection, self._head = connection, b""
        self.loop.watch(connection.fileno(), self._hear)

    def _drop(self, *, reset: bool = False) -> None:
        connection, self._connection = self._connection, None
        if connection is None:
            return
        self.loop.unwatch(connection.fileno())
        if reset:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.close()
        self._imported = False
        for transfer in list(self._flying.values()):
            self.gadget.cancel(transfer)
        self._flying.clear()
        self._asked = Asked()
        self.gadget.reset()

    def _hear(self) -> None:
        assert self._connection is not None
        try:
            data = self._connection.recv(1 << 16)
        except ConnectionError:
            data = b""
        if not data:
            self._drop()
        elif self._imported:
            self._do(data)
        else:
            self._import(data)

    def _import(self, data: bytes) -> None:
        self._head += data
        if len(self._head) < usbip.OP.size + usbip.BUS_ID.size:
            return
        assert self._head == usbip.OP.pack(usbip.VERSION, Op.import_request, 0) + usbip.BUS_ID.pack(BUS_ID.encode())
        self._imported = True
        self.imports += 1
        self._send(reply(0, exported(speed=int(self.gadget.speed))))

    def _send(self, data: bytes) -> None:
        if self._connection is not None:
            try:
                self._connection.sendall(data)
            except ConnectionError:
                self._drop()

    def _do(self, data: bytes) -> None:
        for asked in self._asked.feed(data):
            if isinstance(asked, Submit):
                self.submits.append(asked)
                self._submit(asked)
            else:
                assert asked.code == Code.unlink
                self.unlinks.append(asked)
                if not self.deaf:
                    self._unlink(asked)

    def _kind(self, asked: Submit) -> PipeType:
        address = asked.endpoint | (0x80 if asked.inward else 0)
        ends = (end for one in self.gadget.interfaces for end in one.endpoints)
        return next(end.type for end in ends if end.address == address)

    def _submit(self, asked: Submit) -> None:
        setup = Setup.parse(asked.setup)
        if not asked.endpoint and (setup.request_type, setup.request, setup.value) == _RESET_PORT:
            self.resets += 1
            self.gadget.reset()
            self._send(Submitted(asked.number, 0, 0).emit())
            return
        room = bytearray(asked.size if asked.inward else asked.data)
        transfer = Transfer(
            self._kind(asked) if asked.endpoint else PipeType.control, asked.endpoint, asked.inward, asked.size,
            [memoryview(room)], lambda over: self._over(asked, over, room), None if asked.endpoint else setup,
            [Packet(one.offset, one.length) for one in asked.packets or ()], bool(asked.flags & usbip.SHORT_NOT_OK),
        )  # fmt: skip
        self._flying[asked.number] = transfer
        self.gadget.submit(transfer)

    def _over(self, asked: Submit, transfer: Transfer, room: bytearray) -> None:
        self._flying.pop(asked.number, None)
        if asked.number in self._unlinked:
            self._unlinked.remove(asked.number)
            return
        data = bytes(room[: transfer.actual]) if asked.inward else b""
        errors = sum(one.status != Status.ok for one in transfer.packets)
        if asked.inward and transfer.packets:
            data = b"".join(bytes(room[one.offset : one.offset + one.actual]) for one in transfer.packets)
        packets = tuple(transfer.packets)
        answer = Submitted(asked.number, int(transfer.status), transfer.actual, data, 0, errors, packets)
        self._send(self.tamper(asked, answer) if self.tamper is not None else answer.emit())

    def _unlink(self, asked: Short) -> None:
        transfer = self._flying.get(asked.value)
        if transfer is not None:
            self._unlinked.add(asked.value)
            self.gadget.cancel(transfer)
        status = 0 if transfer is None else usbip.ECONNRESET
        self._send(Short(Code.unlinked, asked.number, status).emit())


def count(submits: Sequence[Submit], endpoint: int, *, inward: bool) -> int:
    """How many transfers of an endpoint were asked for."""
    return sum((one.endpoint, one.inward) == (endpoint, inward) for one in submits)
