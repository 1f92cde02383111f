"""A mount by libfuse's low-level session: how it is made, how its requests are taken, how it ends."""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Callable, Mapping, Sequence

from xenfs import libfuse

NOTHING = (-errno.EAGAIN, -errno.EINTR)
"""What receiving gives when there is no request; anything else but a length means that the mount is gone."""
Buffer = ctypes.Array[ctypes.c_char]


class MountError(OSError):
    """The mount could not be made; libfuse has said more on stderr."""


class FuseMount:
    """A mounted filesystem that `handlers` answer for. `fd` is readable when there is a request."""

    def __init__(
        self,
        mountpoint: str,
        handlers: Mapping[str, Callable[..., None]],
        options: Sequence[str],
        *,
        debug: bool = False,
    ) -> None:
        """Mount; with `debug` libfuse tells each request on stderr. Raises MountError."""
        self.mountpoint = mountpoint
        self._operations = libfuse.Operations(**{n: libfuse.PROTOTYPES[n](f) for n, f in handlers.items()})
        mount_args = libfuse.args("xenfs", "-o" + ",".join(options))
        channel = libfuse.mount(os.fsencode(mountpoint), ctypes.byref(mount_args))
        if not channel:
            raise MountError(errno.EPERM, f"cannot mount on {mountpoint}")
        self.channel: int = channel
        # with the default of 12 requests in the background, a release overtakes the call that relies on it
        words = ["-omax_background=65535", "-obig_writes", *(["-d"] if debug else [])]
        session_args = libfuse.args("xenfs", *words)
        size = ctypes.sizeof(self._operations)
        self._session = libfuse.lowlevel_new(ctypes.byref(session_args), ctypes.byref(self._operations), size, None)
        if not self._session:
            libfuse.unmount(os.fsencode(mountpoint), channel)
            raise MountError(errno.EINVAL, f"libfuse refused the session for {mountpoint}")
        libfuse.session_add_chan(self._session, channel)
        self.fd: int = libfuse.chan_fd(channel)
        os.set_blocking(self.fd, False)
        self.size: int = libfuse.chan_bufsize(channel)
        self._channel = ctypes.pointer(ctypes.c_void_p(channel))

    def buffer(self) -> Buffer:
        """Room for a request."""
        return ctypes.create_string_buffer(self.size)

    def receive(self, buffer: Buffer) -> int:
        """Take a request; its length, or one of NOTHING, or something else when the mount is gone."""
        return int(libfuse.chan_recv(self._channel, buffer, self.size))

    def process(self, buffer: Buffer, length: int) -> None:
        """Have a request answered by its handler, now or later."""
        libfuse.session_process(self._session, buffer, length, self.channel)

    def close(self) -> None:
        """Unmount and end the session; a mount that is gone already is fine."""
        if self.channel:
            libfuse.session_remove_chan(self.channel)
            libfuse.unmount(os.fsencode(self.mountpoint), self.channel)
            libfuse.session_destroy(self._session)
            self.channel = 0
