"""What the device nodes have in common: an inode, and an open file that is controlled by a table of ioctls."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from xenfs.abi.ioctl import NONE, READ, WRITE, Ioctl, decode
from xenfs.abi.wire import Wire
from xenfs.fs.dev.ioctl import Asked, Steps
from xenfs.fs.nodes import Node, OpenFile, Owner
from xenfs.fs.stream import OpenStream

if TYPE_CHECKING:
    from xenfs.fs.dev.caller import CallerMemory
    from xenfs.fs.dev.directory import Dev
    from xenfs.fs.filesystem import Filesystem
    from xenfs.fs.request import Request
    from xenfs.hypervisor.state import Domain

Handler = Callable[[Any, Asked, Any], int | Steps]


@dataclass(frozen=True, slots=True)
class Call:
    """A row of a device's table: the ioctl, its struct, and what carries it out. `tail` when bytes follow the struct.

    A handler gets the open file, the call, and the struct; without a struct, None.
    """

    ioctl: Ioctl
    struct: type[Wire] | None
    handler: Handler
    tail: bool = False

    def fits(self, direction: int, size: int) -> bool:
        """Whether a number is this call's own, or its twin."""
        if direction == NONE:
            return size == self.ioctl.size
        return direction == READ | WRITE and (size >= self.ioctl.size if self.tail else size == self.ioctl.size)


class Device(Node):
    """A device node. Each kind of open file is its own device."""

    def __init__(self, dev: Dev, owner: Owner, kind: type[OpenDevice]) -> None:
        """Make the inode."""
        super().__init__(dev.fs, dev.fs.new_ino(), 0o600, owner)
        self.dev, self._kind = dev, kind

    def open(self, flags: int) -> OpenFile:
        """See Node."""
        return self._kind(self.dev, flags)


class OpenDevice(OpenStream):
    """An open device, which owns what is made through it."""

    calls: ClassVar[Sequence[Call]] = ()
    has_handle: ClassVar[bool] = True

    def __init__(self, dev: Dev, flags: int) -> None:
        """Open it. The domain's handle for it is opened with it, or when first needed by one that only reads."""
        super().__init__()
        self.dev = dev
        self.readonly = flags & 3 == os.O_RDONLY
        self._number = self.fs.open_handle(self.domain) if self.has_handle and not self.readonly else 0
        dev.opened.add(self)

    @property
    def fs(self) -> Filesystem:
        """The filesystem."""
        return self.dev.fs

    @property
    def domain(self) -> Domain:
        """Whose device it is."""
        return self.dev.domain

    @property
    def memory(self) -> CallerMemory:
        """How to get at the memory of the domain's processes."""
        return self.dev.memory

    @property
    def handle(self) -> int:
        """The domain's handle of this file. Raises TooManyHandles, NoSuchDomain."""
        if not self._number:
            self._number = self.fs.open_handle(self.domain)
        return self._number

    def take(self, size: int) -> bytes | None:
        """See OpenStream: nothing to read here, but to one that only reads it is just empty."""
        del size
        if not self.readonly:
            raise OSError(errno.EINVAL, "there is nothing to read")
        return b""

    def ioctl(self, request: Request, command: int, address: int, data: bytes) -> None:
        """See OpenFile."""
        number = decode(command)
        call = next((c for c in self.calls if (c.ioctl.letter, c.ioctl.nr) == (number.letter, number.nr)), None)
        if call is None or not call.fits(number.direction, number.size):
            request.error(errno.ENOTTY)
            return
        inline = None if number.direction == NONE else data
        asked = Asked(self.fs, self.memory, request, address=address, data=inline)
        asked.run(self._steps(call, asked))

    def _steps(self, call: Call, asked: Asked) -> Steps:
        struct = None
        if call.struct is not None:
            struct = call.struct.parse((yield from asked.read(0, call.struct.layout.size)))
        result = call.handler(self, asked, struct)
        return (yield from result) if isinstance(result, Generator) else result

    def bury(self) -> None:
        """The domain has been destroyed: whoever waits is told."""
        self.wake()

    def release(self) -> None:
        """See OpenFile."""
        super().release()
        self.dev.opened.discard(self)
        if self._number:
            self.fs.close_handle(self.domain, self._number)
