"""A datagram a millisecond: `python -m tests.bench.beat send HOST` until killed, `hear N` prints the longest silences.

`hear` answers each line on stdin with the longest silence since the last line, in milliseconds, as soon as datagrams
come again after a silence, or at once when there was none of 5 ms and more for a second.
"""

from __future__ import annotations

import select
import socket
import sys
import time
from contextlib import suppress

PORT = 7300
_EVERY = 0.001
_SILENCE, _PATIENCE = 0.005, 1.0


def send(host: str) -> None:
    """Send until killed."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as out:
        out.setblocking(False)
        due = time.monotonic()
        while True:
            with suppress(OSError):  # no carrier
                out.sendto(b"beat", (host, PORT))
            due = max(due + _EVERY, time.monotonic() - _EVERY)
            time.sleep(max(0.0, due - time.monotonic()))


def hear() -> None:
    """Listen until stdin ends."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as ours:
        ours.bind(("", PORT))
        ours.recv(16)
        print("heard", flush=True)
        while sys.stdin.readline():
            began = last = time.perf_counter()
            longest = 0.0
            while time.perf_counter() - began < _PATIENCE or not longest:
                if select.select([ours], [], [], 10)[0]:
                    ours.recv(16)
                now = time.perf_counter()
                longest, last = max(longest, now - last), now
                if longest > _SILENCE and now - began > 0.3:
                    break
            print(longest * 1e3, flush=True)


if __name__ == "__main__":
    send(sys.argv[2]) if sys.argv[1] == "send" else hear()
