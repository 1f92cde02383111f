"""The packets of a vif for whoever listens: pcapng blocks, each a datagram to a socket that the toolstack has named.

What does not fit is not waited for; the next packet says how many were lost before it.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Sequence
from typing import Any

from xenfs.sockets import short
from xennet.pcapng import Writer

_BUFFER = 4 << 20


class Capture:
    """One listener, until it goes away."""

    def __init__(self, path: str, name: str) -> None:
        """Tell the listener at `path` what comes through the interface `name`. Raises OSError when there is none."""
        self.path = path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        try:
            self._socket.setblocking(False)
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BUFFER)
            with short(path) as address:
                self._socket.connect(address)
            self._lost = 0
            self._writer = Writer(self, [name])
        except BaseException:
            self._socket.close()
            raise

    def packet(self, pieces: Sequence[bytes | memoryview], outbound: bool) -> None:
        """One packet, `outbound` when it goes to the guest. Raises OSError when nobody listens any more."""
        lost, self._lost = self._lost, 0
        try:
            self._writer.packet(0, time.time_ns(), pieces, 0, outbound, lost)
        except BlockingIOError:
            self._lost = lost + 1

    def write(self, data: bytes) -> Any:
        """See pcapng.Sink."""
        return self._socket.send(data)

    def flush(self) -> Any:
        """See pcapng.Sink."""

    def close(self) -> None:
        """Say no more."""
        self._socket.close()
