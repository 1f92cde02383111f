"""Echo requests, and as long a wait for every reply as it takes: `pinger.py ADDRESS SIZE COUNT [whole]`.

ping(8) waits for the last replies no longer than twice the longest round trip that it has seen, which on a machine with
much else to do is not long enough. It prints how many came back whole.
"""

from __future__ import annotations

import os
import select
import socket
import struct
import sys
import time

_ECHO = struct.Struct(">BBHHH")
_KINDS = {socket.AF_INET: (8, 0), socket.AF_INET6: (128, 129)}
_INTERVAL, _PATIENCE = 0.01, 10.0
_WHOLE = 10, 2  # IP_MTU_DISCOVER, IP_PMTUDISC_DO: nothing is sent in fragments


def _checksum(data: bytes) -> int:
    total: int = sum(struct.unpack(f">{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return 0xFFFF - total


class Pinger:
    """Requests to one address. `size` is of their data, and even."""

    def __init__(self, address: str, size: int, *, whole: bool = False) -> None:
        self.family = socket.AF_INET6 if ":" in address else socket.AF_INET
        self.ask, self.reply = _KINDS[self.family]
        protocol = socket.IPPROTO_ICMPV6 if self.family == socket.AF_INET6 else socket.IPPROTO_ICMP
        self.socket = socket.socket(self.family, socket.SOCK_RAW, protocol)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 << 20)
        if whole:
            self.socket.setsockopt(socket.IPPROTO_IP, *_WHOLE)
        self.socket.connect((address, 0))
        self.id, self.data = os.getpid() & 0xFFFF, os.urandom(size)
        self.back: set[int] = set()

    def send(self, number: int) -> None:
        """One request."""
        head = _ECHO.pack(self.ask, 0, 0, self.id, number)
        if self.family == socket.AF_INET:  # for ICMPv6 the kernel makes it
            head = _ECHO.pack(self.ask, 0, _checksum(head + self.data), self.id, number)
        self.socket.send(head + self.data)

    def hear(self, seconds: float) -> bool:
        """Take one packet; whether there was one."""
        if not select.select([self.socket], [], [], max(0.0, seconds))[0]:
            return False
        said = self.socket.recv(65536)
        if self.family == socket.AF_INET:
            said = said[(said[0] & 15) * 4 :]
        kind, _, _, sender, number = _ECHO.unpack_from(said)
        if (kind, sender) == (self.reply, self.id) and said[_ECHO.size :] == self.data:
            self.back.add(number)
        return True

    def run(self, count: int) -> int:
        """How many of so many come back."""
        for number in range(count):
            self.send(number)
            until = time.monotonic() + _INTERVAL
            while time.monotonic() < until:
                self.hear(until - time.monotonic())
        until = time.monotonic() + _PATIENCE
        while len(self.back) < count and time.monotonic() < until:
            self.hear(until - time.monotonic())
        return len(self.back)


if __name__ == "__main__":
    print(Pinger(sys.argv[1], int(sys.argv[2]), whole="whole" in sys.argv).run(int(sys.argv[3])))
