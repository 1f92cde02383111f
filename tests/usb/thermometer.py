"""The README's example: a USB device in a few lines."""

from __future__ import annotations

from xenusb.descriptors import Endpoint, Interface
from xenusb.gadget import About, Gadget

from xenfs.abi.usbif import PipeType


class Thermometer(Gadget):
    """Tells the temperature to whoever reads its interrupt endpoint."""

    about = About(0x1209, 0x0001, "Example", "Thermometer")
    interfaces = (Interface(0, 0xFF, endpoints=(Endpoint(1, True, PipeType.interrupt, 8, 10),)),)

    def give(self, endpoint: int, size: int) -> bytes | None:
        """The answer to a read."""
        del endpoint  # there is one
        return f"{self.argument} C".encode()[:size]
