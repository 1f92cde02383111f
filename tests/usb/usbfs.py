"""The kernel's side of /dev/bus/usb for a program under umockdev-run: here libusb's ioctls on a device are answered.

umockdev makes the program's /sys and /dev, and sends what it asks of a device to a socket in `$UMOCKDEV_DIR/ioctl`:
three longs each way, that is a command and two arguments. umockdev's own server there replays records, and has neither
control transfers that bring data, nor configurations, nor cancelling, nor a device that is unplugged; `Usbfs` has them,
as drivers/usb/core/devio.c of Linux does them.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
import threading
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

from xenusb.descriptors import Configuration, Endpoint, Interface, Setup

from tests.usb.umock import Sample, Terminal, aside

SECONDS = 20.0
_LONGS = struct.Struct("lll")
_ASKED, _DONE, _READ, _WRITE = 1, 3, 5, 6
_URB = struct.Struct("BBiIPiiiiiIP")
_PACKET = struct.Struct("III")
_CAPABILITIES = 0x1F
"""Zero packets, continuation, no limit of packets, scatter and gather, reaping of what was unplugged."""
_ISOC, _CONTROL = 0, 2
_NAMES = MappingProxyType({
    4: "set_interface", 5: "set_configuration", 8: "get_driver", 10: "submit", 11: "discard", 13: "reap", 15: "claim",
    16: "release", 18: "ask_driver", 20: "reset", 21: "clear_halt", 22: "disconnect", 23: "connect",
    26: "get_capabilities", 27: "take",
})  # fmt: skip
"""By their numbers in linux/usbdevice_fs.h."""
_QUIET = ("get_driver", "submit", "discard", "reap", "get_capabilities")
_WITHOUT_NUMBER = ("discard", "reap", "reset")
SHUTDOWN, ENOENT = -errno.ESHUTDOWN, -errno.ENOENT


class Denied(Exception):
    """What an ioctl fails with."""

    def __init__(self, code: int) -> None:
        super().__init__(os.strerror(code))
        self.code = code


@dataclass(eq=False)
class Urb:
    """A transfer that was submitted. `packets` are lengths; `data` is what the device gets."""

    at: int
    type: int
    endpoint: int
    buffer: int
    size: int
    data: bytes = b""
    packets: list[int] = field(default_factory=list)
    setup: Setup | None = None
    answer: tuple[int, int, bytes] = (0, 0, b"")
    described: list[tuple[int, int]] = field(default_factory=list)

    @property
    def inward(self) -> bool:
        """Whether the device gives."""
        return bool(self.endpoint & 0x80) if self.setup is None else self.setup.inward


class Memory:
    """That of the program, while one of its ioctls is being answered."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection

    def receive(self, size: int) -> bytes:
        """Less only when the program is gone."""
        found = bytearray()
        while len(found) < size and (part := self._connection.recv(size - len(found))):
            found += part
        return bytes(found)

    def read(self, at: int, size: int) -> bytes:
        if not size:
            return b""
        self._connection.sendall(_LONGS.pack(_READ, at, size))
        return self.receive(size)

    def write(self, at: int, data: bytes) -> None:
        if data:
            self._connection.sendall(_LONGS.pack(_WRITE, at, len(data)) + data)


class Usbfs:
    """One device of the program's, with the host's own drivers for some of its interfaces."""

    def __init__(self, root: Path, sample: Sample, drivers: Mapping[int, str]) -> None:
        """Take the place of umockdev's node in the program's root, until this is closed."""
        self._sample, self._sys = sample, root / f"sys{sample.place}"
        self._kinds = drivers
        self.drivers: dict[int, str] = {}
        """By interface. That of the program is usbfs."""
        self.calls: list[tuple[str, int]] = []
        self.configuration: Configuration | None = sample.configurations[0]
        self.alternates: dict[int, int] = {}
        self.deny: dict[str, int] = {}
        """What fails, and with which errno."""
        self.at_once: dict[int, bytes] = {}
        """What the device has ready, by endpoint."""
        self._flying: dict[int, Urb] = {}
        self._fresh: deque[Urb] = deque()
        self._over: deque[Urb] = deque()
        self._changed = threading.Condition()
        self.vanishing: set[int] = set()
        """Interfaces whose driver goes when it is to go, before it could be told."""
        self.opened, self.unplugged = 0, False
        for interface in self._interfaces():
            self._probe(interface.number)
        self._root, self._terminal = root, Terminal(root / "dev" / sample.node)
        self._terminal.ready(is_ready=False)
        self._listener = socket.socket(socket.AF_UNIX)
        self._place = root / "ioctl" / "dev" / sample.node
        self._place.parent.mkdir(parents=True, exist_ok=True)
        self._listener.bind(str(self._place))
        self._listener.listen()
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        """Have all as it was."""
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        with suppress(FileNotFoundError):  # umockdev-run has ended
            self._terminal.close()
            self._place.unlink()
            if self.unplugged:
                aside(self._sys).rename(self._sys)
            (self._sys / "bConfigurationValue").write_text(f"{self._sample.configurations[0].value}\n")

    # What a test does

    def urb(self, endpoint: int) -> Urb:
        """The next transfer that was submitted to an endpoint, and is not taken yet."""
        found: list[Urb] = []

        def there() -> bool:
            found.extend([urb for urb in self._fresh if urb.endpoint == endpoint][:1])
            return bool(found)

        with self._changed:
            assert self._changed.wait_for(there, SECONDS), f"nothing asked of endpoint 0x{endpoint:02x}: {self.calls}"
            self._fresh.remove(found[0])
        return found[0]

    def complete(self, urb: Urb, data: bytes = b"", status: int = 0, actual: int | None = None) -> None:
        """The device has done it: `data` is what it gives, `actual` how much of it else it took."""
        if actual is None:
            actual = len(data) if urb.inward else len(urb.data)
        with self._changed:
            self._finish(urb, status, actual, data)

    def complete_packets(self, urb: Urb, packets: Sequence[bytes | int]) -> None:
        """An isochronous one: for each packet what came or was taken, or an error."""
        room = bytearray(sum(urb.packets))
        at = moved = 0
        for length, what in zip(urb.packets, packets, strict=True):
            data = what if isinstance(what, bytes) else b""
            room[at : at + len(data)] = data
            urb.described.append((len(data), 0 if isinstance(what, bytes) else what))
            at, moved = at + length, moved + len(data)
        with self._changed:
            self._finish(urb, 0, moved, bytes(room))

    def flying(self) -> list[Urb]:
        """The transfers that the device has."""
        with self._changed:
            return list(self._flying.values())

    def until_closed(self) -> None:
        """Wait until the program has nothing open."""
        with self._changed:
            assert self._changed.wait_for(lambda: not self.opened, SECONDS), self.calls

    def unplug(self) -> None:
        """Take it away."""
        with self._changed:
            self.unplugged = True
            for urb in list(self._flying.values()):
                self._finish(urb, SHUTDOWN)
            self._sys.rename(aside(self._sys))
            self._terminal.hang_up()

    def forbid(self) -> None:
        """Let nobody open it, but let it be seen."""
        self._root.chmod(0o777)
        self._place.chmod(0o777)
        Path(self._terminal.name).chmod(0)

    # What the program does

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        memory = Memory(connection)
        with self._changed:
            self.opened += 1
        with connection, suppress(OSError):
            while len(head := memory.receive(_LONGS.size)) == _LONGS.size:
                command, request, argument = _LONGS.unpack(head)
                assert command == _ASKED, f"command {command}: not a protocol of umockdev's that is known here"
                with self._changed:
                    try:
                        result, code = self._asked(memory, request & 0xFF, argument), 0
                    except Denied as denied:
                        result, code = -1, denied.code
                    self._changed.notify_all()
                connection.sendall(_LONGS.pack(_DONE, result, code))
        with self._changed:
            self.opened -= 1
            self._changed.notify_all()

    def _asked(self, memory: Memory, number: int, argument: int) -> int:
        name = _NAMES.get(number)
        if name is None:
            raise Denied(errno.ENOTTY)
        if self.unplugged and name != "reap":
            raise Denied(errno.ENODEV)
        value = 0 if name in _WITHOUT_NUMBER else struct.unpack("i", memory.read(argument, 4))[0]
        if name == "ask_driver":  # what stands inside, and there is nothing more to it
            name = _NAMES[struct.unpack("ii", memory.read(argument, 8))[1] & 0xFF]
        if name not in _QUIET:
            self.calls.append((name, value))
        if name in self.deny:
            raise Denied(self.deny[name])
        getattr(self, f"_{name}")(memory, argument, value)
        return 0

    def _get_capabilities(self, memory: Memory, argument: int, _: int) -> None:
        memory.write(argument, struct.pack("I", _CAPABILITIES))

    def _get_driver(self, memory: Memory, argument: int, number: int) -> None:
        if number not in self.drivers:
            raise Denied(errno.ENODATA)
        memory.write(argument + 4, self.drivers[number].encode() + bytes(1))

    def _claim(self, _: Memory, __: int, number: int) -> None:
        if all(one.number != number for one in self._interfaces()):
            raise Denied(errno.EINVAL)
        if self.drivers.get(number, "usbfs") != "usbfs":
            raise Denied(errno.EBUSY)
        self.drivers[number] = "usbfs"

    def _take(self, memory: Memory, argument: int, number: int) -> None:
        self.drivers.pop(number, None)
        self._claim(memory, argument, number)

    def _release(self, _: Memory, __: int, number: int) -> None:
        if self.drivers.get(number) != "usbfs":
            raise Denied(errno.EINVAL)
        self._kill(number)
        del self.drivers[number]

    def _disconnect(self, _: Memory, __: int, number: int) -> None:
        if number in self.vanishing:
            del self.drivers[number]
        if number not in self.drivers:
            raise Denied(errno.ENODATA)
        self._kill(number)
        del self.drivers[number]

    def _connect(self, _: Memory, __: int, number: int) -> None:
        if number in self.drivers:
            raise Denied(errno.EBUSY)
        self._probe(number)

    def _probe(self, number: int) -> None:
        """Give an interface to the host's own driver for it."""
        if number in self._kinds:
            self.drivers[number] = self._kinds[number]

    def _set_configuration(self, _: Memory, __: int, value: int) -> None:
        if self.drivers:
            raise Denied(errno.EBUSY)
        found = [one for one in self._sample.configurations if one.value == value]
        if not found and value not in (0, -1):
            raise Denied(errno.EINVAL)
        self.configuration, self.alternates = found[0] if found else None, {}
        (self._sys / "bConfigurationValue").write_text(f"{value}\n" if found else "")
        for interface in self._interfaces():
            self._probe(interface.number)

    def _set_interface(self, memory: Memory, argument: int, number: int) -> None:
        if self.drivers.get(number) != "usbfs":
            raise Denied(errno.EINVAL)
        self._kill(number)
        (alternate,) = struct.unpack("i", memory.read(argument + 4, 4))
        if self.configuration is None or self.configuration.interface(number, alternate) is None:
            raise Denied(errno.EINVAL)
        self.alternates[number] = alternate

    def _clear_halt(self, _: Memory, __: int, endpoint: int) -> None:
        if endpoint not in {end.address for end in self._ends()}:
            raise Denied(errno.ENOENT)

    def _reset(self, _: Memory, __: int, ___: int) -> None:
        self._kill(None)

    def _interfaces(self) -> tuple[Interface, ...]:
        return () if self.configuration is None else self.configuration.interfaces

    def _ends(self, number: int | None = None) -> Iterator[Endpoint]:
        """The endpoints that there are at present, of one interface or of all."""
        for one in self._interfaces():
            if number in (None, one.number) and self.alternates.get(one.number, 0) == one.alternate:
                yield from one.endpoints

    def _submit(self, memory: Memory, at: int, _: int) -> None:
        kind, endpoint, _, _, buffer, size, _, _, packets, _, _, _ = _URB.unpack(memory.read(at, _URB.size))
        urb = Urb(at, kind, endpoint, buffer, size)
        if kind != _CONTROL and endpoint not in {end.address for end in self._ends()}:
            raise Denied(errno.ENOENT)
        if kind == _ISOC:
            described = memory.read(at + _URB.size, packets * _PACKET.size)
            urb.packets = [length for length, _, _ in _PACKET.iter_unpack(described)]
            urb.size = sum(urb.packets)
        if kind == _CONTROL:
            whole = memory.read(buffer, size)
            urb.setup, urb.data = Setup.parse(whole[:8]), whole[8:]
        elif not endpoint & 0x80:
            urb.data = memory.read(buffer, urb.size)
        self._flying[at] = urb
        self._fresh.append(urb)
        if (data := self.at_once.get(endpoint)) is not None:
            self._finish(urb, 0, len(data), data)

    def _discard(self, _: Memory, at: int, __: int) -> None:
        urb = self._flying.get(at)
        if urb is None:
            raise Denied(errno.EINVAL)
        self._finish(urb, ENOENT)

    def _kill(self, number: int | None) -> None:
        addresses = {end.address for end in self._ends(number)}
        for urb in list(self._flying.values()):
            if urb.endpoint in addresses:
                self._finish(urb, ENOENT)

    def _finish(self, urb: Urb, status: int, actual: int = 0, data: bytes = b"") -> None:
        del self._flying[urb.at]
        with suppress(ValueError):
            self._fresh.remove(urb)
        urb.answer = (status, actual, data)
        self._over.append(urb)
        self._terminal.ready(is_ready=True)

    def _reap(self, memory: Memory, argument: int, _: int) -> None:
        if not self._over:
            raise Denied(errno.ENODEV if self.unplugged else errno.EAGAIN)
        urb = self._over.popleft()
        status, actual, data = urb.answer
        memory.write(urb.at + 4, struct.pack("i", status))
        memory.write(urb.at + 28, struct.pack("i", actual))
        if urb.type == _ISOC:
            described = urb.described or [(0, status)] * len(urb.packets)
            memory.write(urb.at + 40, struct.pack("i", sum(bool(bad) for _, bad in described)))
            packets = zip(urb.packets, described, strict=True)
            words = b"".join(_PACKET.pack(length, moved, bad & 0xFFFFFFFF) for length, (moved, bad) in packets)
            memory.write(urb.at + _URB.size, words)
        memory.write(urb.buffer + (8 if urb.setup is not None else 0), data)
        memory.write(argument, struct.pack("P", urb.at))
        if not self._over:
            self._terminal.ready(is_ready=False)
