"""The process that has the disk's file as a loop device, for the blkfront that serves the file.

Whatever is done with a loop device may wait for its file, and so for blkfront. A thread of blkfront's that waits so
would keep the file's mount alive after blkfront was killed, and wait for ever. So it is a process, which has nothing of
blkfront's but one socket: when that ends it lets go of the device.
"""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Callable

from xenblk.loopdev import LoopDevice
from xenfs.xenbus import Loop
from xenfs.xenbus.process import name_process

_ROOM = 4096
Said = Callable[[str], None]


class Attendant:
    """Begun before there is a mount. Each command is answered once, in order."""

    def __init__(self, loop: Loop) -> None:
        """Start the process."""
        self._loop = loop
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        if not os.fork():
            _attend(theirs)
        theirs.close()
        self._socket = ours
        self._asked: list[Said] = []
        loop.watch(ours.fileno(), self._heard)

    def ask(self, words: list[str], then: Said) -> None:
        """Have something done; `then` hears `ok …`, `busy`, or `error …`."""
        self._asked.append(then)
        try:
            self._socket.send("\0".join(words).encode())
        except OSError:
            self._gone()

    def _heard(self) -> None:
        try:
            said = self._socket.recv(_ROOM).decode()
        except OSError:
            said = ""
        if said:
            self._asked.pop(0)(said)
        else:
            self._gone()

    def _gone(self) -> None:
        asked, self._asked = self._asked, []
        self.close()
        for then in asked:
            then("error the process with the loop device is gone")

    def close(self) -> None:
        """Let it go, when it has let go of the device; twice is fine. It is not waited for: it may wait for us."""
        if self._socket.fileno() >= 0:
            self._loop.unwatch(self._socket.fileno())
            self._socket.close()


def _attend(command: socket.socket) -> None:
    """Be the process."""
    try:
        name_process("disk/attendant")
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN)  # it goes with blkfront
        kept = command.fileno()
        os.closerange(3, kept)
        os.closerange(kept + 1, os.sysconf("SC_OPEN_MAX"))
        device: LoopDevice | None = None
        while words := command.recv(_ROOM).decode().split("\0"):
            if words == [""]:
                break
            try:
                device, said = _obey(device, words)
            except OSError as error:
                said = f"error {error.filename or 'loop device'}: {error.strerror}"
            command.send(said.encode())
    finally:
        os._exit(0)  # which closes the device


def _obey(device: LoopDevice | None, words: list[str]) -> tuple[LoopDevice | None, str]:
    if words[0] == "attach":
        _, path, sector_size, readonly = words
        device = LoopDevice(path, sector_size=int(sector_size), readonly=readonly == "1")
        return device, f"ok {device.path}"
    if device is None:
        return None, "error there is no loop device"
    if words[0] == "resize":
        device.resize()
        return device, "ok"
    if device.in_use:
        return device, "busy"
    device.flush()
    device.close()
    return None, "ok"
