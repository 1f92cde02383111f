"""The mount: libfuse's session, whose requests are taken when the loop says that there are some."""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from collections.abc import Callable, Sequence

from xenfs.fs import libfuse
from xenfs.fs.pages import is_page

SINGLE = 8
"""Requests taken one by one before looking again whether more are waiting."""
BATCH = 64
"""Requests taken before they are answered, so that writebacks among them can go first."""
_HEADER = struct.Struct("<4xIQQ")  # struct fuse_in_header: u32 len, u32 opcode, u64 unique, u64 nodeid, …
_NOTHING = (-errno.EAGAIN, -errno.EINTR)
"""What receiving gives when there is no request; anything else but a length means that the mount is gone."""
Taken = tuple["ctypes.Array[ctypes.c_char]", int]


def _waits(taken: Taken) -> bool:
    """Whether a request can wait for those to pages.

    A store to a page under writeback waits for our answer. Nothing else may be overtaken: a call on ctl relies on the
    unmaps before it.
    """
    opcode, _, ino = _HEADER.unpack_from(taken[0])
    return opcode != libfuse.OPCODE_WRITE or not is_page(ino)


class MountError(OSError):
    """The mount could not be made; libfuse has said more on stderr."""


class Session:
    """A mounted filesystem that `handlers` answer for."""

    def __init__(
        self, mountpoint: str, handlers: dict[str, Callable[..., None]], options: Sequence[str], *, debug: bool = False
    ) -> None:
        """Mount; with `debug` libfuse tells each request on stderr. Raises MountError."""
        self.mountpoint = mountpoint
        self._operations = libfuse.Operations(**{n: libfuse.PROTOTYPES[n](f) for n, f in handlers.items()})
        mount_args = libfuse.args("xenfs", "-o" + ",".join(options))
        channel = libfuse.mount(os.fsencode(mountpoint), ctypes.byref(mount_args))
        if not channel:
            raise MountError(errno.EPERM, f"cannot mount on {mountpoint}")
        self.channel: int = channel
        # with the default of 12 requests in the background, an unmap overtakes the call that relies on it
        session_args = libfuse.args("xenfs", "-omax_background=65535", *(["-d"] if debug else []))
        size = ctypes.sizeof(self._operations)
        self._session = libfuse.lowlevel_new(ctypes.byref(session_args), ctypes.byref(self._operations), size, None)
        if not self._session:
            libfuse.unmount(os.fsencode(mountpoint), channel)
            raise MountError(errno.EINVAL, f"libfuse refused the session for {mountpoint}")
        libfuse.session_add_chan(self._session, channel)
        self.fd: int = libfuse.chan_fd(channel)
        os.set_blocking(self.fd, False)
        self._size = libfuse.chan_bufsize(channel)
        self._channel = ctypes.pointer(ctypes.c_void_p(channel))
        self._limit, self._single = 2, 0
        self._buffers = [ctypes.create_string_buffer(self._size) for _ in range(BATCH)]

    def serve(self) -> bool:
        """Answer a batch of what is waiting. False when the mount is gone.

        A batch is as large as what has been waiting lately. Looking for a second request costs a system call, so
        after a single one it is done every few times only.
        """
        if self._single:
            self._single -= 1
            length = libfuse.chan_recv(self._channel, self._buffers[0], self._size)
            if length > 0:
                libfuse.session_process(self._session, self._buffers[0], length, self.channel)
            return length > 0 or length in _NOTHING
        taken, alive = self._take()
        if len(taken) == self._limit:
            self._limit = min(2 * self._limit, BATCH)
        else:
            self._limit, self._single = 2, SINGLE if len(taken) == 1 else 0
        if len(taken) > 1:
            taken.sort(key=_waits)
        for buffer, length in taken:
            libfuse.session_process(self._session, buffer, length, self.channel)
        return alive

    def _take(self) -> tuple[list[Taken], bool]:
        taken: list[Taken] = []
        for buffer in self._buffers[: self._limit]:
            length = libfuse.chan_recv(self._channel, buffer, self._size)
            if length > 0:
                taken.append((buffer, length))
            else:
                return taken, length in _NOTHING
        return taken, True

    def close(self) -> None:
        """Unmount and end the session; a mount that is gone already is fine."""
        if self.channel:
            libfuse.session_remove_chan(self.channel)
            libfuse.unmount(os.fsencode(self.mountpoint), self.channel)
            libfuse.session_destroy(self._session)
            self.channel = 0
