"""PyUSB's way to the guest's devices: a backend, and `python -m xenusb.pyusb PROGRAM`, which runs a program of PyUSB's
that knows nothing of it.

    xenfs exec guest -- python -m xenusb.pyusb program.py

In a program of one's own: usb.core.find(backend=xenusb.pyusb.get_backend(), …).
"""

from __future__ import annotations

import array
import errno
import runpy
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeVar

import usb.backend
import usb.backend.libusb1
import usb.core

from xenusb.client import Handle, Place, devices
from xenusb.descriptors import (
    TO_ENDPOINT,
    TO_INTERFACE,
    Ask,
    Configuration,
    DeviceDescriptor,
    Endpoint,
    Interface,
    Setup,
)
from xenusb.device import Packet
from xenusb.remote import RESET_PORT
from xenusb.usbip import Code

R = TypeVar("R")
_PIECE = 61440
"""Bytes of one transfer, a whole number of packets; more is several, so that what a time-out leaves is known."""
_LIBUSB = {errno.EBUSY: -6, errno.ENODEV: -4, errno.ENOENT: -5, errno.EPIPE: -9, errno.EOVERFLOW: -8, errno.EIO: -1,
           errno.EPROTO: -1, errno.EINVAL: -2, errno.EACCES: -3}  # fmt: skip
"""LIBUSB_ERROR_* by errno, which some programs look at."""


def _guarded(call: Callable[[], R]) -> R:
    """What PyUSB's programs expect to be raised."""
    try:
        return call()
    except OSError as error:
        if error.errno == errno.ETIMEDOUT:
            raise usb.core.USBTimeoutError("Operation timed out", -7, errno.ETIMEDOUT) from None
        code = _LIBUSB.get(error.errno or 0, -99)
        raise usb.core.USBError(str(error.strerror), code, error.errno) from None


class Device:
    """A device that was found, with its descriptors, asked for when they are wanted."""

    def __init__(self, place: Place) -> None:
        """At a place."""
        self.place = place
        self._device: DeviceDescriptor | None = None
        self._configurations: list[tuple[bytes, Configuration]] = []

    def _ask(self) -> None:
        if self._device is None:
            with _guarded(self.place.open) as handle:
                self._configurations = _guarded(handle.configurations)
                self._device = _guarded(handle.device)

    @property
    def about(self) -> DeviceDescriptor:
        """The device descriptor."""
        self._ask()
        assert self._device is not None
        return self._device

    def configuration(self, number: int) -> tuple[bytes, Configuration]:
        """By its place among them. Raises IndexError."""
        self._ask()
        return self._configurations[number]

    def interface(self, config: int, number: int, alternate: int) -> Interface:
        """By their places among them. Raises IndexError."""
        _, found = self.configuration(config)
        numbers = list(dict.fromkeys(one.number for one in found.interfaces))
        return [one for one in found.interfaces if one.number == numbers[number]][alternate]

    def endpoint(self, address: int) -> Endpoint | None:
        """Any that has this address, of whichever setting."""
        self._ask()
        for _, found in self._configurations:
            for interface in found.interfaces:
                for endpoint in interface.endpoints:
                    if endpoint.address == address:
                        return endpoint
        return None


class Opened:
    """An open device."""

    def __init__(self, device: Device) -> None:
        """Open it."""
        self.device = device
        self.handle: Handle = _guarded(device.place.open)
        self.devid = device


class Backend(usb.backend.IBackend):  # type: ignore[misc]
    """See usb.backend.IBackend."""

    def enumerate_devices(self) -> Iterator[Device]:
        """See IBackend."""
        return iter([Device(place) for place in _guarded(lambda: list(devices()))])

    def get_parent(self, dev: Device) -> None:
        """See IBackend: every device is in a port of the controller."""

    def get_device_descriptor(self, dev: Device) -> SimpleNamespace:
        """See IBackend."""
        about, exported = dev.about, dev.place.exported
        port = int(exported.bus_id.rpartition("-")[2])
        return SimpleNamespace(
            bLength=18, bDescriptorType=1, bcdUSB=about.usb, bDeviceClass=about.klass, bDeviceSubClass=about.subclass,
            bDeviceProtocol=about.protocol, bMaxPacketSize0=about.packet, idVendor=about.vendor,
            idProduct=about.product, bcdDevice=about.release, iManufacturer=about.strings[0],
            iProduct=about.strings[1], iSerialNumber=about.strings[2], bNumConfigurations=about.configurations,
            bus=exported.bus, address=exported.number, port_number=port, port_numbers=(port,), speed=exported.speed,
        )  # fmt: skip

    def get_configuration_descriptor(self, dev: Device, config: int) -> SimpleNamespace:
        """See IBackend."""
        raw, found = dev.configuration(config)
        return SimpleNamespace(
            bLength=9, bDescriptorType=2, wTotalLength=len(raw), bConfigurationValue=found.value,
            bNumInterfaces=len({one.number for one in found.interfaces}), iConfiguration=found.name,
            bmAttributes=found.attributes, bMaxPower=found.power // 2, extra_descriptors=list(found.extra),
        )  # fmt: skip

    def get_interface_descriptor(self, dev: Device, intf: int, alt: int, config: int) -> SimpleNamespace:
        """See IBackend."""
        found = dev.interface(config, intf, alt)
        return SimpleNamespace(
            bLength=9, bDescriptorType=4, bInterfaceNumber=found.number, bAlternateSetting=found.alternate,
            bNumEndpoints=len(found.endpoints), bInterfaceClass=found.klass, bInterfaceSubClass=found.subclass,
            bInterfaceProtocol=found.protocol, iInterface=found.name, extra_descriptors=list(found.extra),
        )  # fmt: skip

    def get_endpoint_descriptor(self, dev: Device, ep: int, intf: int, alt: int, config: int) -> SimpleNamespace:
        """See IBackend."""
        found = dev.interface(config, intf, alt).endpoints[ep]
        refresh = found.audio.ljust(2, b"\0")
        return SimpleNamespace(
            bLength=7, bDescriptorType=5, bEndpointAddress=found.address, bmAttributes=found.attributes,
            wMaxPacketSize=found.size, bInterval=found.interval, bRefresh=refresh[0], bSynchAddress=refresh[1],
            extra_descriptors=list(found.extra),
        )  # fmt: skip

    def open_device(self, dev: Device) -> Opened:
        """See IBackend."""
        return Opened(dev)

    def close_device(self, dev_handle: Opened) -> None:
        """See IBackend."""
        dev_handle.handle.close()

    def set_configuration(self, dev_handle: Opened, config_value: int) -> None:
        """See IBackend."""
        _guarded(lambda: dev_handle.handle.control(Setup(0, Ask.set_configuration, max(config_value, 0))))

    def get_configuration(self, dev_handle: Opened) -> int:
        """See IBackend."""
        return _guarded(lambda: dev_handle.handle.control(Setup(0x80, Ask.get_configuration, length=1)))[0]

    def set_interface_altsetting(self, dev_handle: Opened, intf: int, altsetting: int) -> None:
        """See IBackend."""
        _guarded(lambda: dev_handle.handle.control(Setup(TO_INTERFACE, Ask.set_interface, altsetting, intf)))

    def claim_interface(self, dev_handle: Opened, intf: int) -> None:
        """See IBackend."""
        _guarded(lambda: dev_handle.handle.own(Code.claim, intf))

    def release_interface(self, dev_handle: Opened, intf: int) -> None:
        """See IBackend."""
        _guarded(lambda: dev_handle.handle.own(Code.release, intf))

    def _write(self, dev_handle: Opened, ep: int, intf: int, data: array.array[int], timeout: int) -> int:
        raw, done = data.tobytes(), 0
        while True:
            part = raw[done : done + _PIECE]
            try:
                answer = _guarded(partial(dev_handle.handle.transfer, ep & 0x7F, part, seconds=timeout / 1000 or None))
            except usb.core.USBTimeoutError:
                if done:
                    return done
                raise
            done += answer.actual
            if answer.actual < len(part) or done >= len(raw):
                return done

    def _read(self, dev_handle: Opened, ep: int, intf: int, buff: array.array[int], timeout: int) -> int:
        room, done = memoryview(buff).cast("B"), 0
        while True:
            size = min(_PIECE, len(room) - done)
            try:
                answer = _guarded(
                    partial(dev_handle.handle.transfer, ep | 0x80, size=size, seconds=timeout / 1000 or None)
                )
            except usb.core.USBTimeoutError:
                if done:
                    return done
                raise
            data = answer.data
            room[done : done + len(data)] = data
            done += len(data)
            if len(data) < size or done >= len(room):
                return done

    bulk_write = intr_write = _write
    bulk_read = intr_read = _read

    def _packets(self, dev_handle: Opened, address: int, size: int) -> list[Packet]:
        endpoint = dev_handle.device.endpoint(address)
        each = (endpoint.packet if endpoint else 0) or size or 1
        return [Packet(at, min(each, size - at)) for at in range(0, size, each)]

    def iso_write(self, dev_handle: Opened, ep: int, intf: int, data: array.array[int], timeout: int) -> int:
        """See IBackend: in packets as large as the endpoint has them."""
        raw = data.tobytes()
        packets = self._packets(dev_handle, ep, len(raw))
        return _guarded(
            lambda: dev_handle.handle.transfer(ep, raw, seconds=timeout / 1000 or None, packets=packets).actual
        )

    def iso_read(self, dev_handle: Opened, ep: int, intf: int, buff: array.array[int], timeout: int) -> int:
        """See IBackend. What came stands one behind the other, also where packets were short."""
        room = memoryview(buff).cast("B")
        packets = self._packets(dev_handle, ep, len(room))
        answer = _guarded(
            lambda: dev_handle.handle.transfer(ep, size=len(room), seconds=timeout / 1000 or None, packets=packets)
        )
        room[: len(answer.data)] = answer.data
        return len(answer.data)

    def ctrl_transfer(
        self, dev_handle: Opened, bmRequestType: int, bRequest: int, wValue: int, wIndex: int,  # noqa: N803 - IBackend's
        data: array.array[int], timeout: int,
    ) -> int:  # fmt: skip
        """See IBackend."""
        room = memoryview(data).cast("B")
        setup = Setup(bmRequestType, bRequest, wValue, wIndex, len(room))
        sent = b"" if setup.inward else bytes(room)
        address = 0x80 if setup.inward else 0
        answer = _guarded(
            lambda: dev_handle.handle.transfer(address, sent, len(room), seconds=timeout / 1000 or None, setup=setup)
        )
        if setup.inward:
            room[: len(answer.data)] = answer.data
            return len(answer.data)
        return answer.actual

    def clear_halt(self, dev_handle: Opened, ep: int) -> None:
        """See IBackend."""
        _guarded(lambda: dev_handle.handle.control(Setup(TO_ENDPOINT, Ask.clear_feature, 0, ep)))

    def reset_device(self, dev_handle: Opened) -> None:
        """See IBackend."""
        _guarded(lambda: dev_handle.handle.control(Setup(*RESET_PORT)))

    def is_kernel_driver_active(self, dev_handle: Opened, intf: int) -> bool:
        """See IBackend: the driver is usbfront's own, which makes a disk of a stick."""
        return bool(_guarded(lambda: dev_handle.handle.own(Code.driver_active, intf)))

    def detach_kernel_driver(self, dev_handle: Opened, intf: int) -> None:
        """See IBackend."""
        _guarded(lambda: dev_handle.handle.own(Code.detach_driver, intf))

    def attach_kernel_driver(self, dev_handle: Opened, intf: int) -> None:
        """See IBackend."""
        _guarded(lambda: dev_handle.handle.own(Code.attach_driver, intf))


def get_backend(find_library: object = None) -> Any:
    """The backend, with the signature of those of PyUSB's own modules."""
    del find_library
    return Backend()


def main(words: list[str]) -> None:
    """Run a program with this backend for every device that it looks for."""
    if not words or words[0].startswith("-"):
        sys.exit("usage: python -m xenusb.pyusb PROGRAM [ARGUMENT…]   (in a guest: xenfs exec DOMID -- …)")
    try:
        if not Path(words[0]).is_dir():  # which is a program when it has a __main__.py
            Path(words[0]).open("rb").close()
    except OSError as error:
        print(f"{words[0]}: {error.strerror}", file=sys.stderr)
        sys.exit(2)
    usb.backend.libusb1.get_backend = get_backend
    sys.argv = words
    sys.path.insert(0, str(Path(words[0]).resolve().parent))
    runpy.run_path(words[0], run_name="__main__")


if __name__ == "__main__":
    main(sys.argv[1:])
