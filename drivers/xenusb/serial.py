"""A serial port (CDC-ACM) whose other end is a pty of the host's: `serial:/path/of/a/link`.

xenfs usbdev-attach guest device=serial:/tmp/line; picocom /tmp/line
"""

from __future__ import annotations

import errno
import os
import select
import struct
import tty
from contextlib import suppress
from pathlib import Path

from xenfs.abi.usbif import PipeType, Speed
from xenfs.xenbus.loop import Gate
from xenusb.descriptors import CLASS, TO_INTERFACE, Endpoint, Interface, Kind, Setup
from xenusb.device import Host, Transfer
from xenusb.gadget import About, Gadget, Stall

NOTES, IN, OUT = 1, 2, 3
_CONTROL, _DATA = 0, 1
SET_LINE_CODING, GET_LINE_CODING, SET_CONTROL_LINE_STATE, SEND_BREAK = 0x20, 0x21, 0x22, 0x23
_CODING = struct.Struct("<IBBB")
_ROOM = 1 << 16


def _functions() -> bytes:
    """Header, call management, abstract control, union (CDC 1.2, PSTN 1.2)."""
    parts = (b"\x00\x10\x01", b"\x01\x00" + bytes((_DATA,)), b"\x02\x06", b"\x06" + bytes((_CONTROL, _DATA)))
    return b"".join(bytes((len(part) + 2, Kind.class_interface)) + part for part in parts)


class Serial(Gadget):
    """The port. What the guest writes while nobody reads the pty waits there, and then in the guest."""

    speed = Speed.full
    about = About(0x1209, 0x5856, "xenfs", "Serial port", klass=2)
    interfaces = (
        Interface(
            _CONTROL, 2, 2, 1, (Endpoint(NOTES, True, PipeType.interrupt, 8, 16),), extra=_functions()
        ),
        Interface(
            _DATA, 10, endpoints=(Endpoint(IN, True, PipeType.bulk, 64), Endpoint(OUT, False, PipeType.bulk, 64))
        ),
    )  # fmt: skip

    def __init__(self, argument: str, host: Host) -> None:
        """Make the pty, and the link to it. Raises OSError."""
        if not argument:
            raise OSError(errno.EINVAL, "a serial port needs the path of a link to its pty", "serial:")
        self._link = Path(argument)
        self._writable = select.epoll()  # readable itself when the pty is writable
        try:
            self._master, self._slave = os.openpty()
        except BaseException:
            self._writable.close()
            raise
        self._writable.register(self._master, select.EPOLLOUT)
        try:
            tty.setraw(self._slave)
            os.set_blocking(self._master, False)
            if self._link.is_symlink() and str(self._link.readlink()).startswith("/dev/pts/"):
                self._link.unlink()  # what one before us has left
            self._point(os.ttyname(self._slave))
        except BaseException:
            self._close_pty()
            raise
        super().__init__(argument, host)
        self.coding, self.lines = _CODING.pack(115200, 0, 0, 8), 0
        self._read = b""
        self._writing: Transfer | None = None
        self._written = 0
        self._listening = Gate(host.loop, self._master, lambda: host.attempt(self._came))
        self._stuck = Gate(host.loop, self._writable.fileno(), lambda: host.attempt(self._room))

    def _point(self, pty: str) -> None:
        try:
            self._link.symlink_to(pty)
        except OSError as error:  # which names the pty first, though it is the link that cannot be made
            raise OSError(error.errno, error.strerror, str(self._link)) from None

    def _came(self) -> None:
        """Listened for only while the guest waits, so that what nobody wants stays in the pty."""
        self._listening.shut()
        with suppress(BlockingIOError):
            self._read += os.read(self._master, _ROOM)
        self.ready(IN, inward=True)

    def give(self, endpoint: int, size: int) -> bytes | None:
        """See Gadget."""
        if endpoint != IN:
            return None
        if not self._read:
            with suppress(BlockingIOError):
                self._read = os.read(self._master, _ROOM)
        if not self._read:
            self._listening.open()
            return None
        self._listening.shut()
        part, self._read = self._read[:size], self._read[size:]
        return part

    def take(self, endpoint: int, data: bytes) -> bool:
        """See Gadget."""
        try:
            while self._written < len(data):
                self._written += os.write(self._master, data[self._written :])
        except BlockingIOError:  # nobody reads the pty
            self._stuck.open()
            return False
        return True

    def transfer(self, transfer: Transfer) -> bool:
        """See Gadget: what is written in pieces is one transfer's."""
        if not transfer.inward and transfer is not self._writing:
            self._writing, self._written = transfer, 0
        return super().transfer(transfer)

    def progress(self, transfer: Transfer) -> int:
        """See Gadget."""
        return self._written if transfer is self._writing else 0

    def _room(self) -> None:
        self._stuck.shut()
        self.ready(OUT, inward=False)

    def control(self, setup: Setup, data: bytes) -> bytes:
        """See Gadget."""
        if (setup.kind, setup.recipient) != (CLASS, TO_INTERFACE):
            raise Stall
        if setup.request == SET_LINE_CODING and len(data) == _CODING.size:
            self.coding = data
        elif setup.request == SET_CONTROL_LINE_STATE:
            self.lines = setup.value
        elif setup.request == GET_LINE_CODING:
            return self.coding
        elif setup.request != SEND_BREAK:
            raise Stall
        return b""

    def closed(self) -> None:
        """See Gadget."""
        self._listening.shut()
        self._stuck.shut()
        with suppress(OSError):
            self._link.unlink()
        self._close_pty()

    def _close_pty(self) -> None:
        self._writable.close()
        os.close(self._master)
        os.close(self._slave)
