"""Devices that a RealDevice may find, as a test has umockdev show them."""

from __future__ import annotations

from xenusb.descriptors import Configuration, DeviceDescriptor, Endpoint, Interface

from tests.usb.umock import Sample
from xenfs.abi.usbif import PipeType

BULK_IN, BULK_OUT, INTERRUPT, ISOC_IN, ISOC_OUT = 0x81, 0x02, 0x83, 0x84, 0x05
STORAGE, KEYS, SOUND, OTHER = 0, 1, 2, 4
FIRST = Configuration(
    (
        Interface(
            STORAGE, 8, 6, 80, (Endpoint(1, True, PipeType.bulk, 512), Endpoint(2, False, PipeType.bulk, 512))
        ),
        Interface(KEYS, 3, endpoints=(Endpoint(3, True, PipeType.interrupt, 8, 10),)),
        Interface(KEYS, 3, alternate=1, endpoints=(Endpoint(3, True, PipeType.interrupt, 16, 10),)),
        Interface(SOUND, 1),
        Interface(
            SOUND, 1, alternate=1,
            endpoints=(Endpoint(4, True, PipeType.isoc, 192, 1), Endpoint(5, False, PipeType.isoc, 192, 1)),
        ),
    )
)  # fmt: skip
SECOND = Configuration((Interface(STORAGE, 8, 6, 80), Interface(OTHER, 255)), value=2)
ONLY = Configuration((Interface(0, 9),))
DEVICE = Sample("1-2", 2, DeviceDescriptor(0x1209, 1, configurations=2), (FIRST, SECOND))
SAMPLES = (
    Sample("usb1", 1, DeviceDescriptor(0x1D6B, 2, klass=9), (ONLY,)),
    DEVICE,
    Sample("1-3", 3, DeviceDescriptor(0x1209, 3, klass=9), (ONLY,)),
    Sample("1-3.4", 4, DeviceDescriptor(0x1209, 4), (ONLY,), "12"),
    Sample("1-4", 5, DeviceDescriptor(0x1209, 5), (ONLY,), "1.5"),
    Sample("1-5", 6, DeviceDescriptor(0x1209, 6), (ONLY,), "5000"),
)
DRIVERS = {STORAGE: "usb-storage", OTHER: "cdc_acm"}
