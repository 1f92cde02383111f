"""Devices that a mock backend has: honest ones, and those that lie about themselves or about what they do."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

from xenusb import bulk_only
from xenusb.bulk_only import Command, Outcome
from xenusb.descriptors import (
    Ask,
    Configuration,
    DeviceDescriptor,
    Endpoint,
    Interface,
    Kind,
    Setup,
    languages,
    string,
)

from xenfs.abi.usbif import PipeType, Speed, Status, Urb

BULK, QUIET, ISOC_END = 1, 2, 3
"""Endpoints of a Gizmo, all of them both ways. Nothing ever comes out of the quiet one, nor goes in."""
BLOCKS = 2048
Answer = bytes | Status | None
"""What a device says to a transfer: bytes, no bytes but a status, or nothing for ever."""
Lied = Callable[[bytes, bytes, bytes], tuple[Answer, Answer]]
"""Of the words of a command, the data and the status that an honest stick would send: what it sends instead. Data that
are no bytes are for each transfer of them."""

ENDS = tuple(
    Endpoint(number, inward, kind, 512, 1)
    for number, kind in ((BULK, PipeType.bulk), (QUIET, PipeType.interrupt), (ISOC_END, PipeType.isoc))
    for inward in (True, False)
)
PLAIN = Configuration((Interface(0, 0xFF, endpoints=ENDS),))
STICK = Configuration(
    (
        Interface(
            0, bulk_only.KLASS, bulk_only.SUBCLASS, bulk_only.PROTOCOL,
            (Endpoint(1, True, PipeType.bulk, 512), Endpoint(2, False, PipeType.bulk, 512)),
        ),
    )
)  # fmt: skip


class Gizmo:
    """A device that answers out of tables, and may be told to say something else."""

    speed = int(Speed.high)

    def __init__(
        self, product: int = 1, *, device: bytes | None = None, configurations: Sequence[bytes] | None = None,
        strings: Mapping[int, bytes] | None = None,
    ) -> None:  # fmt: skip
        self.device = DeviceDescriptor(0x1209, product, strings=(1, 2, 3)).emit() if device is None else device
        self.configurations = [PLAIN.emit()] if configurations is None else list(configurations)
        self.strings = {0: languages(), 1: string("Maker"), 2: string("Gizmo")} if strings is None else dict(strings)
        self.setups: list[Setup] = []

    def control(self, setup: Setup) -> Answer:
        """SET_ADDRESS does not come here."""
        self.setups.append(setup)
        if setup.request != Ask.get_descriptor or setup.request_type != 0x80:
            return bytes(setup.length) if setup.inward else b""
        kind, number = setup.value >> 8, setup.value & 0xFF
        found: bytes | None = None
        if kind == Kind.device:
            found = self.device
        elif kind == Kind.configuration and number < len(self.configurations):
            found = self.configurations[number]
        elif kind == Kind.string:
            found = self.strings.get(number)
        return Status.stall if found is None else found[: setup.length]

    def transfer(self, urb: Urb, data: bytes) -> Answer:
        """What is not control: `data` go out, and are what is taken of them. The device is full of the letter g."""
        if urb.pipe.endpoint == QUIET:
            return None
        return b"g" * urb.length if urb.pipe.inward else data


class Dead(Gizmo):
    """Says nothing to anything, for ever, or always the same."""

    def __init__(self, answer: Answer = None) -> None:
        super().__init__()
        self.answer = answer

    def control(self, setup: Setup) -> Answer:
        self.setups.append(setup)
        return self.answer


class MockStick(Gizmo):
    """Mass storage, full of the letter z."""

    def __init__(self, product: int = 0x57, *, configuration: Configuration = STICK) -> None:
        super().__init__(product, configurations=[configuration.emit()])
        self.capacity = struct.pack(">II", BLOCKS - 1, 512)
        self.capacity16 = bytes(32)
        self.lie: Lied = honest
        self.letter = b"z"
        self.commands: list[bytes] = []
        self._forget()

    def _forget(self) -> None:
        self._data: Answer = b""
        self._left = 0
        self._status: Answer = Status.stall

    def control(self, setup: Setup) -> Answer:
        if (setup.request_type, setup.request) == (0x21, bulk_only.RESET):
            self._forget()
        return super().control(setup)

    def transfer(self, urb: Urb, data: bytes) -> Answer:
        if not self._left and not urb.pipe.inward:
            return self._begin(data)
        if not self._left:
            return self._status
        self._left -= min(self._left, urb.length)
        if not isinstance(self._data, bytes):
            return self._data
        if not urb.pipe.inward:
            return data
        part, self._data = self._data[: urb.length], self._data[urb.length :]
        return part

    def _begin(self, data: bytes) -> Answer:
        command = Command.parse(data)
        if command is None:
            return Status.stall
        self.commands.append(command.words)
        said = self._read(command)[: command.size] if command.inward else b""
        residue = command.size - len(said) if command.inward else 0
        status = Outcome(command.tag, residue, bulk_only.PASSED).emit()
        self._left = command.size
        self._data, self._status = self.lie(command.words, said, status)
        return data

    def _read(self, command: Command) -> bytes:
        op = command.words[0]
        if op in (0x28, 0x88):
            return self.letter * command.size
        return {
            0x03: b"\x70\0\x05".ljust(18, b"\0"), 0x12: bytes(36), 0x1A: bytes(4), 0x25: self.capacity,
            0x9E: self.capacity16,
        }.get(op, b"")  # fmt: skip


# What they say of themselves.


def raw_configuration(body: bytes, total: int | None = None, interfaces: int = 1) -> bytes:
    """A configuration with anything behind its head."""
    return struct.pack("<BBHBBBBB", 9, 2, 9 + len(body) if total is None else total, interfaces, 1, 0, 0x80, 50) + body


def interface(number: int = 0, *, alternate: int = 0, ends: int = 0) -> bytes:
    return bytes((9, 4, number, alternate, ends, 0xFF, 0, 0, 0))


def endpoint(address: int, kind: int = 2) -> bytes:
    return bytes((7, 5, address, kind, 0, 2, 0))


HEAD = DeviceDescriptor(0x1209, 2).emit()
NO_DEVICE = {
    "nothing": b"",
    "seven bytes": HEAD[:7],
    "eight bytes": HEAD[:8],
    "bLength 0": b"\0" + HEAD[1:],
    "bLength 255": b"\xff" + HEAD[1:] + bytes(64),
    "a configuration": raw_configuration(interface()) + bytes(9),
    "zeros": bytes(64),
}
CONFIGURATIONS: Mapping[str, Sequence[bytes]] = {
    "none": [],
    "empty": [b""],
    "four bytes": [raw_configuration(interface())[:4]],
    "total 0": [raw_configuration(interface(), 0)],
    "total 8": [raw_configuration(interface(), 8)],
    "total 9": [raw_configuration(interface(), 9)],
    "total 65535": [raw_configuration(interface(), 65535)],
    "total 16384": [raw_configuration(interface(), 16384)],
    "total 16385, then a good one": [raw_configuration(interface(), 16385), raw_configuration(interface())],
    "more than sent": [raw_configuration(interface(ends=1) + endpoint(0x81)[:3], 25)],
    "head of length 0": [b"\0" + raw_configuration(interface())[1:]],
    "head of length 255": [b"\xff" + raw_configuration(interface())[1:]],
    "no configuration": [bytes((9, 1)) + raw_configuration(interface())[2:]],
    "descriptor of length 0": [raw_configuration(bytes(20))],
    "descriptor of length 1": [raw_configuration(b"\1" * 20)],
    "interface of 255 bytes": [raw_configuration(b"\xff" + interface()[1:])],
    "interface of two bytes": [raw_configuration(b"\2\4\2\5\2\5")],
    "endpoint of two bytes": [raw_configuration(interface() + b"\2\5")],
    "endpoints of nobody": [raw_configuration(endpoint(0x81) + interface())],
    "endpoints twice": [raw_configuration(interface(ends=3) + endpoint(0x81) * 3 + interface(1) + endpoint(0x81))],
    "endpoint 0 and reserved bits": [raw_configuration(interface() + endpoint(0) + endpoint(0x80) + endpoint(0x7F))],
    "256 interfaces": [raw_configuration(b"".join(interface(number) for number in range(256)), interfaces=255)],
    "256 settings": [raw_configuration(b"".join(interface(alternate=number) for number in range(256)))],
    "interface twice": [raw_configuration(interface() * 2, interfaces=255)],
    "255 times the same": [raw_configuration(interface())] * 255,
    "value 0": [raw_configuration(interface())[:5] + b"\0" + raw_configuration(interface())[6:]],
    "noise": [raw_configuration(bytes(range(256)) * 60)],
}
STRINGS: Mapping[str, Mapping[int, bytes]] = {
    "none": {},
    "of odd length": {1: string("Maker")[:-1], 2: b"\x05\x03a\0b"},
    "surrogates": {1: b"\x08\x03\x00\xd8a\0\x00\xdc", 2: b"\x04\x03\xff\xdf"},
    "zeros": {1: b"\xff\x03" + bytes(253), 2: bytes(255)},
    "controls": {1: string("\0\a\b\t\n\v\r\x1b[2J\x7f"), 2: string("a\u2028b\u202ec\x85d\ufeff")},
    "longer than sent": {1: b"\xff\x03a\0", 2: b"\xff\x03"},
    "shorter than sent": {1: b"\x04\x03a\0b\0", 2: b"\x00\x03a\0"},
    "of another type": {1: b"\x04\x02a\0", 2: HEAD},
    "of all the room": {1: string("\N{SNOWMAN}" * 126), 2: string("\N{PILE OF POO}" * 63)},
}


def liars() -> Iterator[tuple[str, Gizmo]]:
    """Each with what it is called."""
    for name, data in NO_DEVICE.items():
        yield f"device: {name}", Gizmo(device=data)
    for name, configurations in CONFIGURATIONS.items():
        device = replace(DeviceDescriptor(0x1209, 3), configurations=len(configurations))
        yield f"configuration: {name}", Gizmo(device=device.emit(), configurations=configurations)
    yield "255 configurations, and one", Gizmo(device=DeviceDescriptor(0x1209, 4, configurations=255).emit())
    for name, strings in STRINGS.items():
        yield f"strings: {name}", Gizmo(5, strings=strings)
    for status in (Status.stall, Status.nodev, Status.babble, Status.ioerror, Status.inval, b""):
        yield f"always {status!r}", Dead(status)


# What sticks do.


def honest(_words: bytes, data: bytes, status: bytes) -> tuple[Answer, Answer]:
    """A stick's lie that is none."""
    return data, status


def stick(*ends: Endpoint, klass: int = 8) -> MockStick:
    """With other endpoints than it should have."""
    return MockStick(configuration=Configuration((replace(STICK.interfaces[0], klass=klass, endpoints=ends),)))


ENDLESS = [
    stick(),
    stick(Endpoint(1, True, PipeType.bulk, 512)),
    stick(Endpoint(1, True, PipeType.bulk, 512), Endpoint(2, True, PipeType.bulk, 512)),
    stick(Endpoint(1, True, PipeType.interrupt, 64), Endpoint(2, False, PipeType.interrupt, 64)),
    stick(Endpoint(0, True, PipeType.bulk, 512), Endpoint(0, False, PipeType.bulk, 512)),
    stick(*STICK.interfaces[0].endpoints, klass=0xFF),
]
LARGE, LARGER = b"\xff" * 8, struct.pack(">QI", (1 << 64) - 1, 512).ljust(32, b"\0")
CAPACITIES: Mapping[str, tuple[bytes, bytes]] = {
    "blocks of 0 bytes": (struct.pack(">II", 2047, 0), b""),
    "blocks of 7 bytes": (struct.pack(">II", 2047, 7), b""),
    "blocks of 1 MiB": (struct.pack(">II", 2047, 1 << 20), b""),
    "2^64 blocks": (LARGE, LARGER),
    "2^63 bytes": (LARGE, struct.pack(">QI", (1 << 54) - 1, 512).ljust(32, b"\0")),
    "2^63 bytes of large blocks": (LARGE, struct.pack(">QI", (1 << 51) - 1, 4096).ljust(32, b"\0")),
    "short": (struct.pack(">I", 2047), b""),
    "nothing": (b"", b""),
    "short at last": (LARGE, LARGER[:11]),
}


def status(word: bytes = b"", *, tag: int = 0, residue: int = 0, code: int | None = None) -> Lied:
    """Another status than the right one: signature, tag, residue, code."""

    def lie(_words: bytes, data: bytes, right: bytes) -> tuple[bytes, bytes]:
        own_word, own_tag, own_residue, own_code = struct.unpack("<4sIIB", right)
        tags = word or own_word, own_tag + tag & 0xFFFFFFFF, (own_residue + residue) & 0xFFFFFFFF
        return data, struct.pack("<4sIIB", *tags, own_code if code is None else code)

    return lie


LIES: Mapping[str, Lied] = {
    "another tag": status(tag=1),
    "another signature": status(b"USBC"),
    "a status that is none": status(code=3),
    "a phase error": status(code=2),
    "refused": status(code=1),
    "a residue": status(residue=1),
    "a residue of more than was asked": status(residue=(1 << 32) - 1),
    "a short status": lambda _words, data, right: (data, right[:12]),
    "no status": lambda _words, data, _: (data, b""),
    "a status that stalls": lambda _words, data, _: (data, Status.stall),
    "a status that fails": lambda _words, data, _: (data, Status.ioerror),
    "short data": lambda _words, data, right: (data[:-1], right),
    "no data": lambda _words, _data, right: (b"", right),
    "data that stall": lambda _words, _data, right: (Status.stall, right),
    "data that stall, and so does the status": lambda _words, _data, _: (Status.stall, Status.stall),
    "data that babble": lambda _words, _data, right: (Status.babble, right),
    "data that fail": lambda _words, _data, right: (Status.ioerror, right),
}
NEVER: Mapping[str, Lied] = {
    "never a status": lambda _words, data, _: (data, None),
    "never any data": lambda _words, _data, right: (None, right),
    "never anything": lambda _words, _data, _: (None, None),
}


def when(op: int, lie: Lied) -> Lied:
    """Only for one command."""
    return lambda words, data, right: lie(words, data, right) if words[0] == op else (data, right)


def refusing(op: int, key: int, code: int, qualifier: int = 0) -> Lied:
    """Refuse one command, and say why."""
    sense = struct.pack("BxB4xB4xBB4x", 0x70, key, 10, code, qualifier)

    def lie(words: bytes, data: bytes, right: bytes) -> tuple[Answer, Answer]:
        if words[0] == 0x03:
            return sense, right
        return status(code=1)(words, data, right) if words[0] == op else (data, right)

    return lie
