"""Device negotiation: what a driver derives from, and the tables that tell it what to do next.

A driver is a class for each end. It names its DeviceClass, says what it shares or maps, and hears of its channel; when
to do so, and how to come back after either end has died, is in `states`, and nothing of it is the driver's business.
"""

from xenfs.abi.xenbus import XenbusState
from xenfs.xenbus.backend import Backend
from xenfs.xenbus.counters import Counters
from xenfs.xenbus.device import Device, DeviceClass
from xenfs.xenbus.errors import DeviceError, LocalDeviceError, PeerProtocolError
from xenfs.xenbus.frontend import Frontend
from xenfs.xenbus.keys import FLAG, GREF, MAC, PORT, Key, Number, OtherEnd, Text, Writer
from xenfs.xenbus.loop import Loop
from xenfs.xenbus.process import main

__all__ = [
    "FLAG",
    "GREF",
    "MAC",
    "PORT",
    "Backend",
    "Counters",
    "Device",
    "DeviceClass",
    "DeviceError",
    "Frontend",
    "Key",
    "LocalDeviceError",
    "Loop",
    "Number",
    "OtherEnd",
    "PeerProtocolError",
    "Text",
    "Writer",
    "XenbusState",
    "main",
]
