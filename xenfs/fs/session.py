"""The mount: libfuse's session, whose requests are taken when the loop says that there are some."""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence

from xenfs import libfuse
from xenfs.fs.pages import is_page
from xenfs.fusemount import NOTHING, Buffer, FuseMount

SINGLE = 8
"""Requests taken one by one before looking again whether more are waiting."""
BATCH = 64
"""Requests taken before they are answered, so that writebacks among them can go first."""
_HEADER = struct.Struct("<4xIQQ")  # struct fuse_in_header: u32 len, u32 opcode, u64 unique, u64 nodeid, …
Taken = tuple[Buffer, int]


def _waits(taken: Taken) -> bool:
    """Whether a request can wait for those to pages.

    A store to a page under writeback waits for our answer. Nothing else may be overtaken: a call on ctl relies on the
    unmaps before it.
    """
    opcode, _, ino = _HEADER.unpack_from(taken[0])
    return opcode != libfuse.OPCODE_WRITE or not is_page(ino)


class Session(FuseMount):
    """The machine's mount."""

    def __init__(
        self, mountpoint: str, handlers: dict[str, Callable[..., None]], options: Sequence[str], *, debug: bool = False
    ) -> None:
        """See FuseMount."""
        super().__init__(mountpoint, handlers, options, debug=debug)
        self._limit, self._single = 2, 0
        self._buffers = [self.buffer() for _ in range(BATCH)]

    def serve(self) -> bool:
        """Answer a batch of what is waiting. False when the mount is gone.

        A batch is as large as what has been waiting lately. Looking for a second request costs a system call, so
        after a single one it is done every few times only.
        """
        if self._single:
            self._single -= 1
            length = self.receive(self._buffers[0])
            if length > 0:
                self.process(self._buffers[0], length)
            return length > 0 or length in NOTHING
        taken, alive = self._take()
        if len(taken) == self._limit:
            self._limit = min(2 * self._limit, BATCH)
        else:
            self._limit, self._single = 2, SINGLE if len(taken) == 1 else 0
        if len(taken) > 1:
            taken.sort(key=_waits)
        for buffer, length in taken:
            self.process(buffer, length)
        return alive

    def _take(self) -> tuple[list[Taken], bool]:
        taken: list[Taken] = []
        for buffer in self._buffers[: self._limit]:
            length = self.receive(buffer)
            if length > 0:
                taken.append((buffer, length))
            else:
                return taken, length in NOTHING
        return taken, True
