"""A USB/IP client of the tests' own: it says what a kernel's vhci_hcd says, with structures of its own."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

from xenfs.commands.namespace import join_net

VERSION = 0x0111
SUBMIT, UNLINK, SUBMITTED, UNLINKED = 1, 2, 3, 4
ECONNRESET = -104
_OP = struct.Struct(">HHI")
_DEVICE = struct.Struct(">256s32sIIIHHHBBBBBB")
_HEAD = struct.Struct(">IIIII")
_ASK = struct.Struct(">Iiiii8s")
_SAID = struct.Struct(">iiiii8x")
_PACKET = struct.Struct(">IIIi")
_SIZE = 48
_SECONDS = 30.0
T = TypeVar("T")


def joined(pid: int, make: Callable[[], T]) -> T:
    """What something makes in the network namespace of a process, such as a socket, which stays in it."""
    made: list[T] = []

    def run() -> None:  # in a thread, since a namespace is a thread's
        join_net(pid)
        made.append(make())

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    (found,) = made
    return found


@dataclass(frozen=True)
class Listed:
    """A device as the server has it."""

    bus_id: str
    devid: int
    speed: int
    vendor: int
    product: int
    klass: tuple[int, int, int]
    configuration: int
    configurations: int
    interfaces: tuple[tuple[int, int, int], ...] = ()


@dataclass(frozen=True)
class Answer:
    """A RET_SUBMIT, or a RET_UNLINK, which has a status only. `packets` have length, actual length and status."""

    code: int
    number: int
    status: int
    actual: int = 0
    data: bytes = b""
    errors: int = 0
    packets: tuple[tuple[int, int, int], ...] = ()


LIST = _OP.pack(VERSION, 0x8005, 0)
"""OP_REQ_DEVLIST."""


def importing(bus_id: str) -> bytes:
    """OP_REQ_IMPORT."""
    return _OP.pack(VERSION, 0x8003, 0) + bus_id.encode().ljust(32, b"\0")


class Vhci:
    """One connection. Data is bytes for the device, or a number of bytes wanted from it."""

    def __init__(self, connection: socket.socket) -> None:
        """Connected."""
        self.socket = connection
        connection.settimeout(_SECONDS)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.devid = 0
        self.come: dict[int, Answer] = {}
        """Answers that nobody has waited for yet."""
        self._asked: dict[int, tuple[bool, int]] = {}
        self.number = 0
        """The last one given."""

    # Before there is a device.

    def _said(self, code: int) -> int:
        version, said, status = _OP.unpack(self.read(_OP.size))
        assert (version, said) == (VERSION, code)
        return int(status)

    def read(self, size: int) -> bytes:
        """So many bytes. Raises EOFError."""
        found = b""
        while len(found) < size:
            part = self.socket.recv(size - len(found))
            if not part:
                raise EOFError(f"{len(found)} of {size} bytes")
            found += part
        return found

    def _device(self) -> tuple[Listed, int]:
        _, bus_id, bus, number, speed, vendor, product, _, *rest = _DEVICE.unpack(self.read(_DEVICE.size))
        name = bus_id.rstrip(b"\0").decode("ascii")
        return Listed(name, bus << 16 | number, speed, vendor, product, (*rest[:3],), *rest[3:5]), rest[5]

    def list(self) -> dict[str, Listed]:
        """OP_REQ_DEVLIST; by bus id."""
        self.socket.sendall(LIST)
        return self.listed()

    def listed(self) -> dict[str, Listed]:
        """The answer to `LIST`."""
        assert self._said(5) == 0
        found = {}
        for _ in range(int.from_bytes(self.read(4), "big")):
            one, count = self._device()
            interfaces = tuple((*self.read(4)[:3],) for _ in range(count))
            found[one.bus_id] = Listed(**{**one.__dict__, "interfaces": interfaces})
        return found

    def take(self, bus_id: str) -> Listed | None:
        """OP_REQ_IMPORT; None when it is refused."""
        self.socket.sendall(importing(bus_id))
        return self.imported()

    def imported(self) -> Listed | None:
        """The answer to `importing`."""
        if self._said(3):
            return None
        found, _ = self._device()
        self.devid = found.devid
        return found

    # When there is.

    def submit(
        self, endpoint: int, data: bytes | int, *, setup: bytes = bytes(8), flags: int = 0,
        packets: Sequence[tuple[int, int]] = (),
    ) -> int:  # fmt: skip
        """CMD_SUBMIT; its number. `packets` have offset and length."""
        self.number += 1
        self.socket.sendall(self.message(self.number, endpoint, data, setup=setup, flags=flags, packets=packets))
        return self.number

    def message(
        self, number: int, endpoint: int, data: bytes | int, *, setup: bytes = bytes(8), flags: int = 0,
        packets: Sequence[tuple[int, int]] = (),
    ) -> bytes:  # fmt: skip
        """The bytes of a CMD_SUBMIT."""
        inward = isinstance(data, int)
        size, sent = (data, b"") if isinstance(data, int) else (len(data), data)
        self.number = max(self.number, number)
        self._asked[number] = inward, len(packets)
        head = _HEAD.pack(SUBMIT, number, self.devid, int(inward), endpoint)
        body = _ASK.pack(flags, size, 0, len(packets), 1 if packets else 0, setup)
        return head + body + sent + b"".join(_PACKET.pack(*one, 0, 0) for one in packets)

    def unlink(self, victim: int) -> int:
        """CMD_UNLINK; its own number."""
        self.number += 1
        body = victim.to_bytes(4, "big") + bytes(24)
        self.socket.sendall(_HEAD.pack(UNLINK, self.number, self.devid, 0, 0) + body)
        return self.number

    def next(self) -> Answer:
        """The next answer, whatever it answers."""
        raw = self.read(_SIZE)
        code, number, devid, direction, endpoint = _HEAD.unpack_from(raw)
        assert (devid, direction, endpoint) == (0, 0, 0), "a reply has none of them"
        if code == UNLINKED:
            return Answer(code, number, int.from_bytes(raw[20:24], "big", signed=True))
        assert code == SUBMITTED
        inward, asked = self._asked.pop(number)  # twice answered is an error
        status, actual, _, count, errors = _SAID.unpack_from(raw, _HEAD.size)
        assert count in (0, -1, asked)
        data = self.read(actual) if inward else b""
        raw = self.read(max(count, 0) * _PACKET.size)
        packets = tuple((length, real, verdict) for _, length, real, verdict in _PACKET.iter_unpack(raw))
        return Answer(code, number, status, actual, data, errors, packets)

    def answer(self, number: int) -> Answer:
        """The answer to one; others are kept."""
        while number not in self.come:
            found = self.next()
            assert found.number not in self.come
            self.come[found.number] = found
        return self.come.pop(number)

    def transfer(
        self, endpoint: int, data: bytes | int, *, flags: int = 0, packets: Sequence[tuple[int, int]] = ()
    ) -> Answer:
        """Ask, and wait."""
        return self.answer(self.submit(endpoint, data, flags=flags, packets=packets))

    def control(self, kind: int, request: int, value: int = 0, index: int = 0, data: bytes | int = b"") -> Answer:
        """A control transfer; the direction of `kind` is that of the data."""
        return self.answer(self.ask(kind, request, value, index, data))

    def ask(self, kind: int, request: int, value: int = 0, index: int = 0, data: bytes | int = b"") -> int:
        """A control transfer that nobody waits for; its number."""
        kind |= 0x80 if isinstance(data, int) else 0
        length = data if isinstance(data, int) else len(data)
        return self.submit(0, data, setup=struct.pack("<BBHHH", kind, request, value, index, length))

    def ended(self) -> bool:
        """Wait until the server ends the connection; whether it said nothing more before that."""
        try:
            return not self.socket.recv(1)
        except ConnectionResetError:
            return True

    def die(self) -> None:
        """As when a machine loses its power and is asked something afterwards: RST."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()


@contextmanager
def connected(pid: int, address: str) -> Iterator[Vhci]:
    """A connection to `host:port`, made in the network namespace of a process."""
    host, _, port = address.partition(":")
    with joined(pid, lambda: socket.create_connection((host, int(port)), _SECONDS)) as found:
        yield Vhci(found)
