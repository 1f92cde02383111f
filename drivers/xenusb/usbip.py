"""What goes over a USB/IP connection (Documentation/usb/usbip_protocol.rst in Linux), without the connection.

First a list of devices is asked for, or a device imported; then the connection is that device's, and carries transfers.
Everything is big-endian. The packets of an isochronous transfer are described behind its data; of those that come in
only the bytes that came are sent, one behind the other.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import IntEnum

from xenusb.device import Packet

SOCKET_KEY, ADDRESS_KEY = "xenfs-usb", "xenfs-usbip"
"""Keys of a frontend's: where a guest's programs find its server, on a Unix socket and on loopback."""
PORT = 3240
VERSION = 0x0111
OP = struct.Struct(">HHI")
BUS_ID = struct.Struct(">32s")
_DEVICE = struct.Struct(">256s32sIIIHHHBBBBBB")
_INTERFACE = struct.Struct(">BBBx")
_HEAD = struct.Struct(">IIIII")
_SUBMIT = struct.Struct(">IIIiI8s")
_RETURN = struct.Struct(">iIIII8x")
_UNLINK = struct.Struct(">I24x")
_UNLINKED = struct.Struct(">i24x")
_PACKET = struct.Struct(">IIIi")
HEAD_SIZE = 48
MOST_DATA = 1 << 22
"""Bytes of a transfer that are taken from a peer."""
MOST_PACKETS = 1024
SHORT_NOT_OK = 1
NO_PACKETS = 0xFFFFFFFF
ECONNRESET = -104
"""The status of a transfer that was taken back in time."""

assert (OP.size, _DEVICE.size, _PACKET.size) == (8, 312, 16)
assert {_HEAD.size + body.size for body in (_SUBMIT, _RETURN, _UNLINK, _UNLINKED)} == {HEAD_SIZE}


class Op(IntEnum):
    """What is asked before there is a device; answers have the highest bit clear."""

    import_request = 0x8003
    import_reply = 0x0003
    list_request = 0x8005
    list_reply = 0x0005


class Code(IntEnum):
    """What a device's connection carries. The last four are ours, and local: usbfs has them as ioctls."""

    submit = 1
    unlink = 2
    submitted = 3
    unlinked = 4
    claim = 0x101
    release = 0x102
    detach_driver = 0x103
    attach_driver = 0x104
    driver_active = 0x105


LOCAL = (Code.claim, Code.release, Code.detach_driver, Code.attach_driver, Code.driver_active)


class Malformed(Exception):
    """The peer does not speak this protocol; nothing that follows can be understood."""


@dataclass(frozen=True, slots=True)
class Exported:
    """A device as it is listed: `interfaces` are class, subclass and protocol of each."""

    path: str
    bus_id: str
    bus: int
    number: int
    speed: int
    vendor: int
    product: int
    release: int
    klass: tuple[int, int, int]
    configuration: int
    configurations: int
    interfaces: tuple[tuple[int, int, int], ...] = ()

    @property
    def id(self) -> int:
        """The devid of its transfers."""
        return (self.bus << 16 | self.number) & 0xFFFFFFFF

    def emit(self) -> bytes:
        """Without its interfaces, as an import answers."""
        return _DEVICE.pack(
            self.path.encode()[:255], self.bus_id.encode()[:31], self.bus, self.number, self.speed, self.vendor,
            self.product, self.release, *self.klass, self.configuration, self.configurations, len(self.interfaces),
        )  # fmt: skip

    @classmethod
    def parse(cls, data: bytes) -> tuple[Exported, int]:
        """The device, and how many interfaces are described behind it in a list."""
        path, bus_id, bus, number, speed, vendor, product, release, *rest = _DEVICE.unpack(data)
        names = [name.partition(b"\0")[0].decode("ascii", "replace") for name in (path, bus_id)]
        klass = (rest[0], rest[1], rest[2])
        own = cls(names[0], names[1], bus, number, speed, vendor, product, release, klass, rest[3], rest[4])
        return own, rest[5]


DEVICE_SIZE, INTERFACE_SIZE, PACKET_SIZE = _DEVICE.size, _INTERFACE.size, _PACKET.size


def listing(devices: Sequence[Exported]) -> bytes:
    """The answer to a list request."""
    found = [OP.pack(VERSION, Op.list_reply, 0), struct.pack(">I", len(devices))]
    for device in devices:
        found.append(device.emit())
        found += [_INTERFACE.pack(*one) for one in device.interfaces]
    return b"".join(found)


@dataclass(frozen=True, slots=True)
class Submit:
    """A transfer that is asked for."""

    number: int
    device: int
    inward: bool
    endpoint: int
    size: int
    flags: int = 0
    start_frame: int = 0
    interval: int = 0
    setup: bytes = bytes(8)
    data: bytes = b""
    packets: tuple[Packet, ...] | None = None

    def emit(self) -> bytes:
        """With its data and packets behind it."""
        count = 0 if self.packets is None else len(self.packets)
        head = _HEAD.pack(Code.submit, self.number, self.device, int(self.inward), self.endpoint)
        body = _SUBMIT.pack(self.flags, self.size, self.start_frame, count, self.interval, self.setup)
        return head + body + (b"" if self.inward else self.data) + _packets(self.packets or ())


@dataclass(frozen=True, slots=True)
class Submitted:
    """A transfer that is over. `data` of an isochronous one: what came, without gaps."""

    number: int
    status: int
    actual: int
    data: bytes = b""
    start_frame: int = 0
    errors: int = 0
    packets: tuple[Packet, ...] = ()

    def emit(self) -> bytes:
        """With its data and packets behind it."""
        head = _HEAD.pack(Code.submitted, self.number, 0, 0, 0)
        body = _RETURN.pack(self.status, self.actual, self.start_frame, len(self.packets), self.errors)
        return head + body + self.data + _packets(self.packets)


@dataclass(frozen=True, slots=True)
class Short:
    """What has no data: an unlink and its answer, and what is local. `value`: a number, an interface, or a status."""

    code: int
    number: int
    value: int
    device: int = 0

    def emit(self) -> bytes:
        """The 48 bytes."""
        body = _UNLINKED if self.code == Code.unlinked else _UNLINK
        return _HEAD.pack(self.code, self.number, self.device, 0, 0) + body.pack(self.value)


def _packets(packets: Sequence[Packet]) -> bytes:
    return b"".join(_PACKET.pack(one.offset, one.length, one.actual, one.status) for one in packets)


def _parse_packets(data: bytes) -> tuple[Packet, ...]:
    return tuple(Packet(*one) for one in _PACKET.iter_unpack(data))


@dataclass(slots=True)
class Asked:
    """Out of the bytes of whoever uses a device, what it asks for."""

    _bytes: bytearray = field(default_factory=bytearray)

    def feed(self, data: bytes) -> list[Submit | Short]:
        """Everything that is complete now. Raises Malformed."""
        self._bytes += data
        found: list[Submit | Short] = []
        while (one := self._next()) is not None:
            found.append(one)
        return found

    def _next(self) -> Submit | Short | None:
        have = self._bytes
        if len(have) < HEAD_SIZE:
            return None
        code, number, device, inward, endpoint = _HEAD.unpack_from(have)
        if code == Code.unlink or code in LOCAL:
            (value,) = _UNLINK.unpack_from(have, _HEAD.size)
            del have[:HEAD_SIZE]
            return Short(code, number, value, device)
        if code != Code.submit or inward > 1 or endpoint > 15:
            raise Malformed(f"command 0x{code:x}, direction {inward}, endpoint {endpoint}")
        flags, size, start, count, interval, setup = _SUBMIT.unpack_from(have, _HEAD.size)
        isoc = count > 0
        if size > MOST_DATA or not -1 <= count <= MOST_PACKETS:
            raise Malformed(f"a transfer of {size} bytes and {count} packets")
        data_size = 0 if inward else size
        total = HEAD_SIZE + data_size + (count * _PACKET.size if isoc else 0)
        if len(have) < total:
            return None
        data = bytes(have[HEAD_SIZE : HEAD_SIZE + data_size])
        packets = _parse_packets(bytes(have[HEAD_SIZE + data_size : total])) if isoc else None
        del have[:total]
        return Submit(
            number, device, bool(inward), endpoint, size, flags, start, interval, setup, data, packets
        )  # fmt: skip


@dataclass(slots=True)
class Answers:
    """Out of the bytes of whoever has a device, what it answers. `inward` are the transfers that bring data."""

    inward: dict[int, bool] = field(default_factory=dict)
    _bytes: bytearray = field(default_factory=bytearray)

    def feed(self, data: bytes) -> list[Submitted | Short]:
        """Everything that is complete now. Raises Malformed."""
        self._bytes += data
        found: list[Submitted | Short] = []
        while (one := self._next()) is not None:
            found.append(one)
        return found

    def _next(self) -> Submitted | Short | None:
        have = self._bytes
        if len(have) < HEAD_SIZE:
            return None
        code, number, _, _, _ = _HEAD.unpack_from(have)
        if code == Code.unlinked or code in LOCAL:
            (value,) = _UNLINKED.unpack_from(have, _HEAD.size)
            del have[:HEAD_SIZE]
            return Short(code, number, value)
        if code != Code.submitted or number not in self.inward:
            raise Malformed(f"answer 0x{code:x} to transfer {number}, which was not asked for")
        status, actual, start, count, errors = _RETURN.unpack_from(have, _HEAD.size)
        count = 0 if count == NO_PACKETS else count
        if actual > MOST_DATA or count > MOST_PACKETS:
            raise Malformed(f"an answer of {actual} bytes and {count} packets")
        data_size = actual if self.inward[number] else 0
        total = HEAD_SIZE + data_size + count * _PACKET.size
        if len(have) < total:
            return None
        data = bytes(have[HEAD_SIZE : HEAD_SIZE + data_size])
        packets = _parse_packets(bytes(have[HEAD_SIZE + data_size : total]))
        del have[:total]
        del self.inward[number]
        return Submitted(number, status, actual, data, start, errors, packets)
