"""The smallest device there is: what the frontend sends comes back. The example of how a driver is written."""

import struct

from xenfs.abi.ring import RingFormat
from xenfs.xenbus import GREF, PORT, DeviceClass, Key, Writer

LAYOUT = RingFormat("echo", request=struct.Struct("<II"), response=struct.Struct("<II"))
"""Request and response: an id, and a number that is sent back as it is."""

ECHO = DeviceClass(
    "echo",
    keys=(
        Key("ring-ref", Writer.frontend, GREF, about="the grant of the ring's page"),
        Key("event-channel", Writer.frontend, PORT, about="the port that the backend binds to"),
    ),
)
