"""The rings of a paravirtual USB host (xen/io/usbif.h): transfers, and plugging.

    urb request    id, buffer segments, pipe, flags, length, 8 bytes by type, 16 segments
    urb response   id, start frame, status, actual length, error count
    conn request   id                                     response   id, port, speed

Both are plain tuples of the ring codecs; `Urb` takes the first apart. The eight bytes are the setup packet of a control
transfer, and else ISOC, INTERVAL or UNLINK.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum, IntFlag

from xenfs.abi.ring import RingFormat
from xenfs.abi.wire import FieldError

HEADER = "xen/io/usbif.h"
URB = RingFormat("usbif_urb", request=struct.Struct("<HHIHH8s128s"), response=struct.Struct("<HHiii"))
CONN = RingFormat("usbif_conn", request=struct.Struct("<H"), response=struct.Struct("<HBB"))
SEGMENT = struct.Struct("<IHH")
"""gref, offset, length."""
ISOC = struct.Struct("<HHHH")
"""interval, start frame, number of packets, segments with descriptors."""
INTERVAL = struct.Struct("<H6x")
UNLINK = struct.Struct("<H6x")
FRAME = struct.Struct("<IIIi")
"""A descriptor of one isochronous packet: offset, length, actual length, status (Linux's usb_iso_packet_descriptor)."""
MAX_SEGMENTS = 16
"""USBIF_MAX_SEGMENTS_PER_REQUEST."""
MAX_PORT = 31
"""USBIF_MAX_PORTNR."""

assert (URB.request.size, URB.response.size, URB.slots(4096)) == (148, 16, 16)
assert (CONN.entry_size, CONN.slots(4096)) == (4, 512)
assert (SEGMENT.size * MAX_SEGMENTS, FRAME.size) == (128, 16)
assert {codec.size for codec in (SEGMENT, ISOC, INTERVAL, UNLINK)} == {8}

Request = tuple[int, int, int, int, int, bytes, bytes]
Segments = tuple[tuple[int, int, int], ...]

PIPE_PORT_MASK = 0x1F
PIPE_UNLINK = 0x20
PIPE_DIR = 0x80
PIPE_DEV_MASK, PIPE_DEV_SHIFT = 0x7F, 8
PIPE_EP_MASK, PIPE_EP_SHIFT = 0x0F, 15
PIPE_TYPE_MASK, PIPE_TYPE_SHIFT = 0x03, 30


class PipeType(IntEnum):
    """USBIF_PIPE_TYPE_*. Not the numbers of Linux."""

    isoc = 0
    interrupt = 1
    control = 2
    bulk = 3


class Flag(IntFlag):
    """USBIF_*, transfer flags: a transfer shorter than asked for is an error."""

    short_not_ok = 1


class Status(IntEnum):
    """USBIF_STATUS_*. Linux takes any other for a shutdown."""

    ok = 0
    nodev = -19
    inval = -22
    stall = -32
    ioerror = -71
    babble = -75
    shutdown = -108


class Speed(IntEnum):
    """USBIF_SPEED_*: `none` says that a device was unplugged."""

    none = 0
    low = 1
    full = 2
    high = 3


class Version(IntEnum):
    """USB_VER_*: the backend's `usb-ver`."""

    unknown = 0
    usb11 = 1
    usb20 = 2
    usb30 = 3


@dataclass(frozen=True, slots=True)
class Pipe:
    """Where a transfer goes: `inward` is from the device to the host, `port` counts from 1."""

    port: int
    type: PipeType
    inward: bool = False
    address: int = 0
    endpoint: int = 0
    unlink: bool = False

    @classmethod
    def parse(cls, word: int) -> Pipe:
        """Any 32 bits are a pipe, to port 0 perhaps; the bits that mean nothing are passed over."""
        return cls(
            port=word & PIPE_PORT_MASK,
            type=PipeType(word >> PIPE_TYPE_SHIFT & PIPE_TYPE_MASK),
            inward=bool(word & PIPE_DIR),
            address=word >> PIPE_DEV_SHIFT & PIPE_DEV_MASK,
            endpoint=word >> PIPE_EP_SHIFT & PIPE_EP_MASK,
            unlink=bool(word & PIPE_UNLINK),
        )

    def emit(self) -> int:
        """The word. Raises FieldError for what does not fit its bits."""
        limits = {"port": PIPE_PORT_MASK, "address": PIPE_DEV_MASK, "endpoint": PIPE_EP_MASK}
        for name, most in limits.items():
            if not 0 <= getattr(self, name) <= most:
                raise FieldError("pipe", name, getattr(self, name), f"a number from 0 to {most}")
        word = self.port | self.address << PIPE_DEV_SHIFT | self.endpoint << PIPE_EP_SHIFT
        bits = (PIPE_DIR if self.inward else 0) | (PIPE_UNLINK if self.unlink else 0)
        return word | bits | self.type << PIPE_TYPE_SHIFT


@dataclass(frozen=True, slots=True)
class Urb:
    """One request: `data` are the segments of the buffer, `frames` those of the descriptors of an isochronous one.

    `special` is the eight bytes by type. Nothing but the number of segments is checked.
    """

    id: int
    pipe: Pipe
    flags: int = 0
    length: int = 0
    special: bytes = bytes(8)
    data: Segments = ()
    frames: Segments = ()

    @classmethod
    def parse(cls, entry: Request) -> Urb:
        """Out of a ring codec's tuple. Raises FieldError for more than 16 segments."""
        number, count, word, flags, length, special, rest = entry
        pipe = Pipe.parse(word)
        isoc = pipe.type is PipeType.isoc and not pipe.unlink
        more = ISOC.unpack(special)[3] if isoc else 0
        _fit(count + more)
        found: Segments = tuple(SEGMENT.iter_unpack(rest[: (count + more) * SEGMENT.size]))
        return cls(number, pipe, flags, length, special, found[:count], found[count:])

    def emit(self) -> Request:
        """For a ring codec; `special` of an isochronous one must have the number of `frames`.

        Raises FieldError for more than 16 segments, or fields that disagree.
        """
        _fit(len(self.data) + len(self.frames))
        isoc = self.pipe.type is PipeType.isoc and not self.pipe.unlink
        if len(self.special) != 8:
            raise FieldError("urb", "special", self.special, "eight bytes")
        if len(self.frames) != (ISOC.unpack(self.special)[3] if isoc else 0):
            raise FieldError("urb", "frames", len(self.frames), "what `special` says")
        rest = b"".join(SEGMENT.pack(*part) for part in self.data + self.frames)
        return self.id, len(self.data), self.pipe.emit(), self.flags, self.length, self.special, rest


def _fit(count: int) -> None:
    if count > MAX_SEGMENTS:
        raise FieldError("urb", "segments", count, f"a number from 0 to {MAX_SEGMENTS}")
