"""What can be wrong with a device. It is written to the device's error node, and is never the end of a driver."""

from __future__ import annotations

import errno


class DeviceError(Exception):
    """A device cannot go on; `errno` stands in front of the text in the error node, as Linux writes it."""

    def __init__(self, text: str, code: int = errno.EINVAL) -> None:
        """Keep the errno."""
        super().__init__(text)
        self.errno = code


class LocalDeviceError(DeviceError):
    """This end lacks something: a bridge, a file, a permission."""


class PeerProtocolError(DeviceError):
    """The other end wrote what it must not: names the node, its value, and what may stand there."""
