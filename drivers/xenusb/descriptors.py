"""What a USB device says of itself, both ways (USB 2.0, chapter 9): bytes for a device, and values for a host.

A host reads what a device that lies has sent: parsing never fails, leaves out what makes no sense, and says in `odd`
what that was.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from enum import IntEnum

from xenfs.abi.usbif import PipeType

SETUP = struct.Struct("<BBHHH")
_DEVICE = struct.Struct("<BBHBBBBHHHBBBB")
_CONFIGURATION = struct.Struct("<BBHBBBBB")
_INTERFACE = struct.Struct("<BBBBBBBBB")
_ENDPOINT = struct.Struct("<BBBBHB")
_TYPES = (PipeType.control, PipeType.isoc, PipeType.bulk, PipeType.interrupt)
"""By the bits of bmAttributes, which are not usbif's."""
ENGLISH = 0x0409
MOST_STRING = 126
"""Characters in a string descriptor."""


class Kind(IntEnum):
    """Descriptor types."""

    device = 1
    configuration = 2
    string = 3
    interface = 4
    endpoint = 5
    qualifier = 6
    association = 11
    hid = 0x21
    report = 0x22
    class_interface = 0x24


class Ask(IntEnum):
    """Standard requests."""

    get_status = 0
    clear_feature = 1
    set_feature = 3
    set_address = 5
    get_descriptor = 6
    set_descriptor = 7
    get_configuration = 8
    set_configuration = 9
    get_interface = 10
    set_interface = 11
    synch_frame = 12


STANDARD, CLASS, VENDOR = 0, 1, 2
TO_DEVICE, TO_INTERFACE, TO_ENDPOINT = 0, 1, 2


@dataclass(frozen=True, slots=True)
class Setup:
    """The eight bytes that begin a control transfer."""

    request_type: int
    request: int
    value: int = 0
    index: int = 0
    length: int = 0

    @classmethod
    def parse(cls, data: bytes) -> Setup:
        """Any eight bytes."""
        return cls(*SETUP.unpack(data))

    def emit(self) -> bytes:
        """The eight bytes. Raises struct.error for what does not fit."""
        return SETUP.pack(self.request_type, self.request, self.value, self.index, self.length)

    @property
    def inward(self) -> bool:
        """Whether the data, if there is some, comes from the device."""
        return bool(self.request_type & 0x80)

    @property
    def kind(self) -> int:
        """STANDARD, CLASS or VENDOR."""
        return self.request_type >> 5 & 3

    @property
    def recipient(self) -> int:
        """TO_DEVICE, TO_INTERFACE, TO_ENDPOINT, or another."""
        return self.request_type & 0x1F

    def is_standard(self, ask: Ask, recipient: int = TO_DEVICE) -> bool:
        """Whether it is this standard request."""
        return (self.kind, self.request, self.recipient) == (STANDARD, ask, recipient)


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One endpoint. `interval` as in bInterval; `extra` are descriptors that follow it. `usage` are the bits of
    bmAttributes that say more than the type, and `audio` the bytes that endpoints of audio devices have behind it.
    """

    number: int
    inward: bool
    type: PipeType
    size: int
    interval: int = 0
    extra: bytes = b""
    usage: int = 0
    audio: bytes = b""

    @property
    def address(self) -> int:
        """bEndpointAddress."""
        return self.number | (0x80 if self.inward else 0)

    @property
    def attributes(self) -> int:
        """bmAttributes."""
        return self.usage | _TYPES.index(self.type)

    @property
    def packet(self) -> int:
        """Bytes of a packet: wMaxPacketSize without the bits that say how many a microframe has."""
        return self.size & 0x7FF

    def emit(self) -> bytes:
        """The descriptor."""
        length = _ENDPOINT.size + len(self.audio)
        own = _ENDPOINT.pack(length, Kind.endpoint, self.address, self.attributes, self.size, self.interval)
        return own + self.audio + self.extra


@dataclass(frozen=True, slots=True)
class Interface:
    """One setting of an interface. `extra` are class descriptors, which stand before the endpoints."""

    number: int
    klass: int
    subclass: int = 0
    protocol: int = 0
    endpoints: tuple[Endpoint, ...] = ()
    alternate: int = 0
    extra: bytes = b""
    name: int = 0

    def emit(self) -> bytes:
        """The descriptor and those of its endpoints."""
        own = _INTERFACE.pack(
            _INTERFACE.size, Kind.interface, self.number, self.alternate, len(self.endpoints), self.klass,
            self.subclass, self.protocol, self.name,
        )  # fmt: skip
        return own + self.extra + b"".join(endpoint.emit() for endpoint in self.endpoints)


@dataclass(frozen=True, slots=True)
class Configuration:
    """One configuration; `power` in mA. `odd`: what a host found wrong in it."""

    interfaces: tuple[Interface, ...]
    value: int = 1
    attributes: int = 0x80
    power: int = 100
    extra: bytes = b""
    name: int = 0
    odd: tuple[str, ...] = ()

    def emit(self) -> bytes:
        """The descriptor with all that belongs to it."""
        rest = self.extra + b"".join(interface.emit() for interface in self.interfaces)
        count = len({interface.number for interface in self.interfaces})
        total = _CONFIGURATION.size + len(rest)
        own = (_CONFIGURATION.size, Kind.configuration, total, count, self.value, self.name, self.attributes)
        return _CONFIGURATION.pack(*own, self.power // 2) + rest

    @classmethod
    def parse(cls, data: bytes) -> Configuration | None:
        """Out of what a device sent; None when there is not even the head of one."""
        if len(data) < _CONFIGURATION.size or data[1] != Kind.configuration:
            return None
        length, _, total, count, value, name, attributes, power = _CONFIGURATION.unpack_from(data)
        odd: list[str] = []
        if not _CONFIGURATION.size <= length <= len(data):
            odd.append(f"its head says that it has {length} bytes")
            length = _CONFIGURATION.size
        if total != len(data):
            odd.append(f"wTotalLength is {total}, and there are {len(data)} bytes")
        interfaces, extra = _interfaces(data[length:total], odd)
        if (there := len({one.number for one in interfaces})) != count:
            odd.append(f"bNumInterfaces is {count}, and there are {there}")
        return cls(interfaces, value, attributes, power * 2, extra, name, tuple(odd))

    def interface(self, number: int, alternate: int = 0) -> Interface | None:
        """One setting of an interface."""
        for one in self.interfaces:
            if (one.number, one.alternate) == (number, alternate):
                return one
        return None


def split(data: bytes, odd: list[str]) -> Iterator[bytes]:
    """Descriptors one behind the other; what does not add up ends them, and is added to `odd`."""
    at = 0
    while at < len(data):
        length = data[at]
        if length < 2 or at + length > len(data):
            odd.append(f"a descriptor says that it has {length} bytes, {len(data) - at} before the end")
            return
        yield data[at : at + length]
        at += length


@dataclass(slots=True)
class _Setting:
    """An interface descriptor, and those behind it."""

    head: bytes
    extra: bytearray = field(default_factory=bytearray)
    ends: list[tuple[bytes, bytearray]] = field(default_factory=list)


def _interfaces(data: bytes, odd: list[str]) -> tuple[tuple[Interface, ...], bytes]:
    """The settings in a configuration, and what stands before the first."""
    before = bytearray()
    found: list[_Setting] = []
    current: _Setting | None = None
    sizes = {int(Kind.interface): _INTERFACE.size, int(Kind.endpoint): _ENDPOINT.size}
    for one in split(data, odd):
        if len(one) < sizes.get(one[1], 0):
            odd.append(f"a descriptor of type {one[1]} has {len(one)} bytes")
            current = current if one[1] == Kind.endpoint else None
        elif one[1] == Kind.interface:
            current = _Setting(one)
            found.append(current)
        elif one[1] == Kind.endpoint:
            if current is None:
                odd.append("an endpoint belongs to no interface")
            else:
                current.ends.append((one, bytearray()))
        elif current is None:
            before += one
        else:
            (current.ends[-1][1] if current.ends else current.extra).extend(one)
    interfaces: list[Interface] = []
    for setting in found:
        own = _interface(setting, interfaces, odd)
        if any((one.number, one.alternate) == (own.number, own.alternate) for one in interfaces):
            odd.append(f"interface {own.number}, setting {own.alternate}, is there twice")
        else:
            interfaces.append(own)
    return tuple(interfaces), bytes(before)


def _interface(setting: _Setting, others: Sequence[Interface], odd: list[str]) -> Interface:
    """A setting with the endpoints that can be."""
    _, _, number, alternate, claimed, klass, subclass, protocol, name = _INTERFACE.unpack_from(setting.head)
    taken = {end.address for other in others if other.number != number for end in other.endpoints}
    endpoints: dict[int, Endpoint] = {}
    for raw, more in setting.ends:
        end = _endpoint(raw, bytes(more))
        if not end.number or raw[2] & 0x70 or end.address in endpoints or end.address in taken:
            odd.append(f"interface {number} has endpoint 0x{raw[2]:02x}, which cannot be")
        else:
            endpoints[end.address] = end
    if len(endpoints) != claimed:
        odd.append(f"interface {number} says that it has {claimed} endpoints, and has {len(endpoints)}")
    return Interface(
        number, klass, subclass, protocol, tuple(endpoints.values()), alternate, bytes(setting.extra), name
    )  # fmt: skip


def _endpoint(raw: bytes, extra: bytes) -> Endpoint:
    _, _, address, attributes, size, interval = _ENDPOINT.unpack_from(raw)
    kind, inward = _TYPES[attributes & 3], bool(address & 0x80)
    return Endpoint(
        address & 0x0F, inward, kind, size, interval, extra, attributes & 0xFC, raw[_ENDPOINT.size :]
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class DeviceDescriptor:
    """The device as a whole. `strings`: the numbers of the maker's name, the product's, and the serial number."""

    vendor: int
    product: int
    release: int = 0x0100
    usb: int = 0x0200
    klass: int = 0
    subclass: int = 0
    protocol: int = 0
    packet: int = 64
    strings: tuple[int, int, int] = (0, 0, 0)
    configurations: int = 1

    def emit(self) -> bytes:
        """The descriptor."""
        return _DEVICE.pack(
            _DEVICE.size, Kind.device, self.usb, self.klass, self.subclass, self.protocol, self.packet, self.vendor,
            self.product, self.release, *self.strings, self.configurations,
        )  # fmt: skip

    def qualifier(self) -> bytes:
        """The descriptor of what it would be at the other speed: the same."""
        return struct.pack("<BBHBBBBBB", 10, Kind.qualifier, self.usb, self.klass, self.subclass, self.protocol,
                           self.packet, self.configurations, 0)  # fmt: skip

    @classmethod
    def parse(cls, data: bytes) -> DeviceDescriptor | None:
        """Out of what a device sent; None when that is none."""
        if len(data) < _DEVICE.size or data[:2] != bytes((_DEVICE.size, Kind.device)):
            return None
        _, _, usb, klass, subclass, protocol, packet, vendor, product, release, *rest = _DEVICE.unpack_from(data)
        return cls(vendor, product, release, usb, klass, subclass, protocol, packet, (*rest[:3],), rest[3])


def string(text: str) -> bytes:
    """A string descriptor; what is longer than one can be is cut."""
    data = text.encode("utf-16-le", "replace")[: 2 * MOST_STRING]
    data = data.decode("utf-16-le", "ignore").encode("utf-16-le")  # not half a character
    return bytes((2 + len(data), Kind.string)) + data


def languages(codes: Sequence[int] = (ENGLISH,)) -> bytes:
    """String descriptor 0."""
    return bytes((2 + 2 * len(codes), Kind.string)) + struct.pack(f"<{len(codes)}H", *codes)


def text(data: bytes) -> str:
    """What a string descriptor that a device sent says: printable characters, "" for what is none."""
    if len(data) < 2 or data[1] != Kind.string:
        return ""
    said = data[2 : min(len(data), data[0])].decode("utf-16-le", "replace")
    return "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in said)
