"""The guest's devices as usbip lists them, and what whoever imports one needs besides."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from xenfs.xenbus import Frontend
from xenusb import usbip
from xenusb.hub import Attached, Hub
from xenusb.urbs import Urbs
from xenusb.usbip import Exported


@dataclass(frozen=True, slots=True)
class Exports:
    """The devices of one controller."""

    end: Frontend
    hub: Hub
    urbs: Urbs
    release: Callable[[Attached], None]
    """Is told of a device that nobody has to himself any more."""

    def listed(self) -> list[Attached]:
        """The devices that say what they are."""
        return [device for _, device in sorted(self.hub.devices.items()) if device.device is not None]

    def find(self, bus_id: str) -> Attached | None:
        """The device that usbip calls so."""
        return next((one for one in self.listed() if self.bus_id(one) == bus_id), None)

    def bus_id(self, device: Attached) -> str:
        """What usbip calls a device."""
        return f"{self.end.device.id + 1}-{device.port}"

    def exported(self, device: Attached) -> Exported:
        """As it is listed."""
        about, found = device.device, device.configuration
        assert about is not None
        interfaces = [one for one in found.interfaces if not one.alternate] if found else []
        return Exported(
            f"/xen/vusb-{self.end.device.id}/{self.bus_id(device)}", self.bus_id(device), self.end.device.id + 1,
            device.address, int(device.speed), about.vendor, about.product, about.release,
            (about.klass, about.subclass, about.protocol), device.value, len(device.parsed),
            tuple((one.klass, one.subclass, one.protocol) for one in interfaces[:255]),
        )  # fmt: skip

    def listing(self) -> bytes:
        """The answer to a list request."""
        return usbip.listing([self.exported(one) for one in self.listed()])
