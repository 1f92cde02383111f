"""A guest's devices as lsusb lists them; with everything that they say of themselves, field by field."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import suppress
from types import MappingProxyType

from xenfs.abi.usbif import PipeType
from xenusb.client import Handle, Place, devices
from xenusb.descriptors import Configuration, Endpoint, Interface, split

_CLASSES = MappingProxyType({
    0: "(defined by the interfaces)", 1: "Audio", 2: "Communications", 3: "Human Interface Device", 5: "Physical",
    6: "Imaging", 7: "Printer", 8: "Mass Storage", 9: "Hub", 10: "CDC Data", 11: "Chip/SmartCard", 13: "Security",
    14: "Video", 15: "Healthcare", 0xDC: "Diagnostic", 0xE0: "Wireless", 0xEF: "Miscellaneous",
    0xFE: "Application Specific", 0xFF: "Vendor Specific",
})  # fmt: skip
_SPEEDS = MappingProxyType({1: "low, 1.5 Mbit/s", 2: "full, 12 Mbit/s", 3: "high, 480 Mbit/s"})


def lines(domid: int | None, *, verbose: bool) -> Iterator[str]:
    """The listing of a guest. Raises OSError."""
    for place in devices(domid):
        with suppress(OSError), place.open() as handle:  # one that was just unplugged is not there
            yield from _device(place, handle, verbose=verbose)


def _device(place: Place, handle: Handle, *, verbose: bool) -> Iterator[str]:
    exported, about = place.exported, handle.device()
    names = [handle.string(number) for number in about.strings]
    head = f"Bus {exported.bus:03d} Device {exported.number:03d}: ID {about.vendor:04x}:{about.product:04x}"
    yield f"{head} {' '.join(name for name in names[:2] if name)}".rstrip()
    if not verbose:
        return
    yield f"  speed {_SPEEDS.get(exported.speed, exported.speed)}; port {exported.bus_id}"
    yield "Device Descriptor:"
    yield from _fields(
        bcdUSB=_release(about.usb), bDeviceClass=_class(about.klass), bDeviceSubClass=about.subclass,
        bDeviceProtocol=about.protocol, bMaxPacketSize0=about.packet, idVendor=f"0x{about.vendor:04x}",
        idProduct=f"0x{about.product:04x}", bcdDevice=_release(about.release), iManufacturer=names[0],
        iProduct=names[1], iSerial=names[2], bNumConfigurations=about.configurations,
    )  # fmt: skip
    for raw, found in handle.configurations():
        yield from _configuration(raw, found, handle)
    yield ""


def _fields(indent: int = 2, **values: object) -> Iterator[str]:
    for name, value in values.items():
        yield f"{' ' * indent}{name:<20}{value}".rstrip()


def _release(number: int) -> str:
    return f"{number >> 8:x}.{number & 0xFF:02x}"


def _class(number: int) -> str:
    return f"{number} {_CLASSES.get(number, '')}".rstrip()


def _configuration(raw: bytes, found: Configuration, handle: Handle) -> Iterator[str]:
    yield "  Configuration Descriptor:"
    power = "self-powered" if found.attributes & 0x40 else "bus-powered"
    wakeup = ", remote wake-up" if found.attributes & 0x20 else ""
    yield from _fields(
        4, wTotalLength=len(raw), bNumInterfaces=len({one.number for one in found.interfaces}),
        bConfigurationValue=found.value, iConfiguration=handle.string(found.name),
        bmAttributes=f"0x{found.attributes:02x} {power}{wakeup}", MaxPower=f"{found.power} mA",
    )  # fmt: skip
    yield from _extra(4, found.extra)
    for interface in found.interfaces:
        yield from _interface(interface, handle)
    for what in found.odd:
        yield f"    odd: {what}"


def _interface(one: Interface, handle: Handle) -> Iterator[str]:
    yield "    Interface Descriptor:"
    yield from _fields(
        6, bInterfaceNumber=one.number, bAlternateSetting=one.alternate, bNumEndpoints=len(one.endpoints),
        bInterfaceClass=_class(one.klass), bInterfaceSubClass=one.subclass, bInterfaceProtocol=one.protocol,
        iInterface=handle.string(one.name),
    )  # fmt: skip
    yield from _extra(6, one.extra)
    for endpoint in one.endpoints:
        yield from _endpoint(endpoint)


def _endpoint(one: Endpoint) -> Iterator[str]:
    kind = {PipeType.isoc: "Isochronous"}.get(one.type, one.type.name.capitalize())
    yield "      Endpoint Descriptor:"
    yield from _fields(
        8, bEndpointAddress=f"0x{one.address:02x} EP {one.number} {'IN' if one.inward else 'OUT'}",
        bmAttributes=kind, wMaxPacketSize=f"0x{one.size:04x} {1 + (one.size >> 11 & 3)}x {one.packet} bytes",
        bInterval=one.interval,
    )  # fmt: skip
    yield from _extra(8, one.extra)


def _extra(indent: int, data: bytes) -> Iterator[str]:
    """Descriptors of a class, in hexadecimal."""
    for one in split(data, []):
        length, kind = struct.unpack_from("BB", one)
        yield f"{' ' * indent}descriptor 0x{kind:02x}, {length} bytes: {one[2:].hex(' ')}"
