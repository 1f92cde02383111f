"""The yardstick of xennet: one process that carries packets between two TAPs, with the same offloads and no Xen.

    python -m tests.bench.forwarder PID NAME PID NAME

Each PID says in whose network namespace the TAP of that NAME is made. Says `ok` when both are there.
"""

from __future__ import annotations

import os
import select
import sys
from contextlib import suppress

from xennet.headers import VNET_SIZE
from xennet.tap import Tap

from xenfs.commands.namespace import join_net

_BATCH = 64


def _carry(source: int, target: int, room: bytearray) -> None:
    view = memoryview(room)
    for _ in range(_BATCH):
        try:
            size = os.readv(source, [room])
        except BlockingIOError:
            return
        with suppress(OSError):  # the interface is down, or its queue is full
            os.write(target, view[:size])


def main(words: list[str]) -> None:
    """Carry packets until killed."""
    taps = []
    for pid, name in (words[:2], words[2:]):
        join_net(int(pid))
        tap = Tap(name)
        tap.offload(csum=True, tso4=True, tso6=True)
        taps.append(tap.fd)
    first, second = taps
    others = {first: second, second: first}
    room = bytearray(VNET_SIZE + (1 << 16))
    epoll = select.epoll()
    for fd in taps:
        epoll.register(fd, select.EPOLLIN)
    print("ok", flush=True)
    while True:
        for fd, _ in epoll.poll():
            _carry(fd, others[fd], room)


if __name__ == "__main__":
    main(sys.argv[1:])
