"""A program's way to the guest's USB devices: usbfront's socket, and one connection for each device that is open."""

from __future__ import annotations

import errno
import os
import socket
import threading
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from xenfs.domain import Domain, Refused
from xenfs.domain.mounted import open_domain
from xenfs.sockets import short
from xenusb import usbip
from xenusb.descriptors import ENGLISH, STANDARD, TO_DEVICE, Ask, Configuration, DeviceDescriptor, Kind, Setup, text
from xenusb.device import Packet
from xenusb.importing import receive, take
from xenusb.usbip import Answers, Code, Exported, Malformed, Op, Short, Submit, Submitted

_IN = 0x80
_ROOM = 1 << 16
_BACK_SECONDS = 5.0
"""How long a transfer that was taken back may take to end."""
_MOST_CONFIGURATIONS = 8


def sockets(domain: Domain) -> list[str]:
    """Where a guest's controllers listen."""
    found: list[str] = []
    with suppress(Refused):
        for number in sorted(domain.store.list("device/vusb"), key=int):
            with suppress(Refused):
                found.append(domain.store.read(f"device/vusb/{number}/{usbip.SOCKET_KEY}").decode())
    return found


def _connect(path: str) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX)
    try:
        with short(path) as address:
            connection.connect(address)
    except OSError as error:
        connection.close()
        raise OSError(error.errno, f"usbfront does not listen: {error.strerror}", path) from None
    return connection


def listed(connection: socket.socket) -> list[Exported]:
    """What a server exports. Raises OSError."""
    connection.sendall(usbip.OP.pack(usbip.VERSION, Op.list_request, 0))
    version, code, status = usbip.OP.unpack(receive(connection, usbip.OP.size))
    if version != usbip.VERSION or code != Op.list_reply or status:
        raise OSError(errno.EPROTO, f"the server answers 0x{code:x}, status {status}, in version {version:x}")
    found = []
    for _ in range(int.from_bytes(receive(connection, 4), "big")):
        device, interfaces = Exported.parse(receive(connection, usbip.DEVICE_SIZE))
        receive(connection, interfaces * usbip.INTERFACE_SIZE)
        found.append(device)
    return found


@dataclass(frozen=True, slots=True)
class Place:
    """A device that can be opened."""

    path: str
    exported: Exported

    def open(self) -> Handle:
        """Open it. Raises OSError."""
        connection = _connect(self.path)
        try:
            exported = take(connection, self.exported.bus_id)
        except OSError:
            connection.close()
            raise
        return Handle(connection, exported)


def devices(domid: int | None = None) -> Iterator[Place]:
    """The devices of the guest that $XEN_DOMID says, or of another. Raises OSError."""
    domain = open_domain(domid)
    try:
        paths = sockets(domain)
    finally:
        domain.close()
    for path in paths:
        try:
            connection = _connect(path)
        except OSError:
            continue  # a usbfront that has just died
        with connection:
            found = listed(connection)
        for exported in found:
            yield Place(path, exported)


@dataclass(eq=False)
class _Waiting:
    """Somebody who waits for an answer."""

    come: threading.Event = field(default_factory=threading.Event)
    answer: Submitted | Short | None = None


class Handle:
    """An open device. Any number of threads may use it; each waits for its own answers."""

    def __init__(self, connection: socket.socket, exported: Exported) -> None:
        """Over a connection that has imported the device."""
        self.exported = exported
        self._socket = connection
        self._lock, self._sending = threading.Lock(), threading.Lock()
        """The second is for sending only: while the server does not take more, its answers are taken."""
        self._answers = Answers()
        self._waiting: dict[int, _Waiting] = {}
        self._number = 0
        self._problem: OSError | None = None
        self._reader = threading.Thread(target=self._read, name="xenusb", daemon=True)
        self._reader.start()

    def _read(self) -> None:
        problem = OSError(errno.ENODEV, "the device is gone")
        try:
            while data := self._socket.recv(_ROOM):
                with self._lock:
                    for answer in self._answers.feed(data):
                        waiting = self._waiting.pop(answer.number, None)
                        if waiting is not None:
                            waiting.answer = answer
                            waiting.come.set()
        except (OSError, Malformed) as error:
            problem = OSError(errno.EPROTO, str(error))
        with self._lock:
            self._problem = problem
            for waiting in self._waiting.values():
                waiting.come.set()
            self._waiting.clear()

    def _next(self) -> int:
        with self._lock:
            self._number = self._number % 0xFFFFFFFF + 1
            return self._number

    def _ask(self, make: Submit | Short, waiting: _Waiting) -> None:
        with self._lock:
            if self._problem is not None:
                raise self._problem
            self._waiting[make.number] = waiting
            if isinstance(make, Submit):
                self._answers.inward[make.number] = make.inward
        try:
            with self._sending:
                self._socket.sendall(make.emit())
        except OSError:
            raise OSError(errno.ENODEV, "the device is gone") from None

    def transfer(
        self, address: int, data: bytes = b"", size: int = 0, *, seconds: float | None = None,
        setup: Setup | None = None, packets: Sequence[Packet] | None = None,
    ) -> Submitted:  # fmt: skip
        """One transfer. Raises OSError: what the device says, or ETIMEDOUT, after which it is taken back."""
        inward = bool(address & _IN)
        waiting = _Waiting()
        number = self._next()
        self._ask(
            Submit(
                number, self.exported.id, inward, address & 0x0F, size if inward else len(data),
                setup=bytes(8) if setup is None else setup.emit(), data=data,
                packets=None if packets is None else tuple(packets),
            ),
            waiting,
        )  # fmt: skip
        if not waiting.come.wait(seconds):
            self._take_back(number, waiting)
        return self._over(waiting)

    def _take_back(self, number: int, waiting: _Waiting) -> None:
        """It took too long. It may have been done nevertheless: then it was."""
        unlinked = _Waiting()
        if waiting.answer is None:
            self._ask(Short(Code.unlink, self._next(), number, self.exported.id), unlinked)
            unlinked.come.wait(_BACK_SECONDS)
        with self._lock:
            self._waiting.pop(number, None)
            if unlinked.answer is not None:
                self._answers.inward.pop(number, None)  # nothing comes any more
        if waiting.answer is None:
            raise OSError(errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT))

    def _over(self, waiting: _Waiting) -> Submitted:
        answer = waiting.answer
        if not isinstance(answer, Submitted):
            raise self._problem or OSError(errno.EPROTO, "an answer to another question")
        if answer.status:
            raise OSError(-answer.status, os.strerror(-answer.status))
        return answer

    def own(self, code: Code, interface: int) -> int:
        """Claim, release and the like. Raises OSError."""
        waiting = _Waiting()
        self._ask(Short(code, self._next(), interface, self.exported.id), waiting)
        waiting.come.wait()
        if not isinstance(waiting.answer, Short):
            raise self._problem or OSError(errno.EPROTO, "an answer to another question")
        if waiting.answer.value < 0:
            raise OSError(-waiting.answer.value, os.strerror(-waiting.answer.value))
        return waiting.answer.value

    def control(self, setup: Setup, data: bytes = b"", seconds: float | None = 5.0) -> bytes:
        """A control transfer; what the device says. Raises OSError."""
        return self.transfer(_IN if setup.inward else 0, data, setup.length, seconds=seconds, setup=setup).data

    def descriptor(self, kind: Kind, number: int = 0, size: int = 255, index: int = 0) -> bytes:
        """One of its descriptors. Raises OSError."""
        setup = Setup(_IN | STANDARD << 5 | TO_DEVICE, Ask.get_descriptor, kind << 8 | number, index, size)
        return self.control(setup)

    def device(self) -> DeviceDescriptor:
        """What it says of itself. Raises OSError."""
        found = DeviceDescriptor.parse(self.descriptor(Kind.device, size=18))
        if found is None:
            raise OSError(errno.EIO, "its device descriptor is none")
        return found

    def configurations(self) -> list[tuple[bytes, Configuration]]:
        """Its configurations, as sent and as read. Raises OSError."""
        found = []
        for number in range(min(self.device().configurations, _MOST_CONFIGURATIONS)):
            head = self.descriptor(Kind.configuration, number, 9)
            raw = self.descriptor(Kind.configuration, number, int.from_bytes(head[2:4], "little"))
            if (parsed := Configuration.parse(raw)) is not None:
                found.append((raw, parsed))
        return found

    def string(self, number: int) -> str:
        """A string by its number; "" for 0, and for one that it does not tell."""
        if number:
            with suppress(OSError):
                return text(self.descriptor(Kind.string, number, 255, ENGLISH))
        return ""

    def close(self) -> None:
        """Close it: what was claimed is free again."""
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._reader.join()
        self._socket.close()

    def __enter__(self) -> Handle:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
