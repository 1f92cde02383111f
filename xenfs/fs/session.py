"""The mount: libfuse's session, whose requests are taken when the loop says that there are some."""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Callable, Sequence

from xenfs.fs import libfuse

BATCH = 64
"""Requests taken before they are answered, so that writebacks among them can go first."""
_OPCODE_AT = 4  # struct fuse_in_header: u32 len, u32 opcode


class MountError(OSError):
    """The mount could not be made; libfuse has said more on stderr."""


class Session:
    """A mounted filesystem that `handlers` answer for."""

    def __init__(self, mountpoint: str, handlers: dict[str, Callable[..., None]], options: Sequence[str]) -> None:
        """Mount. Raises MountError."""
        self.mountpoint = mountpoint
        self._operations = libfuse.Operations(**{n: libfuse.PROTOTYPES[n](f) for n, f in handlers.items()})
        mount_args = libfuse.args("xenfs", "-o" + ",".join(options))
        channel = libfuse.mount(os.fsencode(mountpoint), ctypes.byref(mount_args))
        if not channel:
            raise MountError(errno.EPERM, f"cannot mount on {mountpoint}")
        self.channel: int = channel
        # with the default of 12 requests in the background, an unmap overtakes the call that relies on it
        session_args = libfuse.args("xenfs", "-omax_background=65535")
        size = ctypes.sizeof(self._operations)
        self._session = libfuse.lowlevel_new(ctypes.byref(session_args), ctypes.byref(self._operations), size, None)
        if not self._session:
            libfuse.unmount(os.fsencode(mountpoint), channel)
            raise MountError(errno.EINVAL, f"libfuse refused the session for {mountpoint}")
        libfuse.session_add_chan(self._session, channel)
        self.fd: int = libfuse.chan_fd(channel)
        os.set_blocking(self.fd, False)
        self._size = libfuse.chan_bufsize(channel)
        self._buffers = [ctypes.create_string_buffer(self._size) for _ in range(BATCH)]

    def serve(self) -> bool:
        """Answer what is waiting. False when the mount is gone."""
        while True:
            taken, alive = self._take()
            # a store to a page under writeback waits for our answer, so writes come first
            taken.sort(key=lambda t: t[0].raw[_OPCODE_AT] != libfuse.OPCODE_WRITE if len(taken) > 1 else 0)
            for buffer, length in taken:
                libfuse.session_process(self._session, buffer, length, self.channel)
            if len(taken) < BATCH or not alive:
                return alive

    def _take(self) -> tuple[list[tuple[ctypes.Array[ctypes.c_char], int]], bool]:
        taken: list[tuple[ctypes.Array[ctypes.c_char], int]] = []
        channel = ctypes.c_void_p(self.channel)
        for buffer in self._buffers:
            length = libfuse.chan_recv(ctypes.byref(channel), buffer, self._size)
            if length > 0:
                taken.append((buffer, length))
            elif length in (-errno.EAGAIN, -errno.EINTR):
                return taken, True
            else:
                return taken, False  # 0 or ENODEV: unmounted
        return taken, True

    def close(self) -> None:
        """Unmount and end the session; a mount that is gone already is fine."""
        if self.channel:
            libfuse.session_remove_chan(self.channel)
            libfuse.unmount(os.fsencode(self.mountpoint), self.channel)
            libfuse.session_destroy(self._session)
            self.channel = 0
