"""One request of the kernel's, answered exactly once."""

from __future__ import annotations

import ctypes
import errno
import struct
from collections.abc import Callable

from xenfs import libfuse

_OPEN_OUT = struct.Struct("<QIi")  # struct fuse_open_out of linux/fuse.h: fh, open_flags, padding


class Request:
    """A request with its answer still to come. Answering twice is a bug here and a crash in libfuse, so it raises."""

    __slots__ = ("_interrupted", "_raw", "answered")

    def __init__(self, raw: int) -> None:
        """Take the fuse_req_t over."""
        self._raw = raw
        self.answered = False
        self._interrupted: object = None

    @property
    def raw(self) -> int:
        """The fuse_req_t."""
        return self._raw

    @property
    def caller(self) -> tuple[int, int]:
        """The caller's thread id, 0 for one outside our pid namespace, and user: a thread's number may come again."""
        context = libfuse.req_ctx(self._raw).contents
        return int(context.pid), int(context.uid)

    def _once(self) -> int:
        if self.answered:
            raise RuntimeError("a request was answered twice")
        self.answered = True
        return self._raw

    def error(self, code: int) -> None:
        """Answer with an errno, or with 0 for a call that succeeds without data."""
        libfuse.reply_err(self._once(), code)

    def done(self) -> None:
        """Answer success."""
        self.error(0)

    def entry(self, stat: libfuse.Stat, attr_timeout: float) -> None:
        """Answer a lookup; the name itself is never cached, so that each open is preceded by its lookup."""
        entry = libfuse.Entry(ino=stat.st_ino, attr=stat, attr_timeout=attr_timeout, entry_timeout=0.0)
        libfuse.reply_entry(self._once(), ctypes.byref(entry))

    def created(self, stat: libfuse.Stat, fi: libfuse.FileInfo) -> None:
        """Answer a create: the entry as in `entry`, and the open file."""
        entry = libfuse.Entry(ino=stat.st_ino, attr=stat, attr_timeout=0.0, entry_timeout=0.0)
        libfuse.reply_create(self._once(), ctypes.byref(entry), fi)

    def attr(self, stat: libfuse.Stat, attr_timeout: float) -> None:
        """Answer a getattr or setattr."""
        libfuse.reply_attr(self._once(), ctypes.byref(stat), attr_timeout)

    def opened(self, fh: int, flags: int) -> None:
        """Answer an open; packed by hand, since libfuse 2.9 does not know FOPEN_STREAM."""
        libfuse.reply_buf(self._once(), _OPEN_OUT.pack(fh, flags, 0), _OPEN_OUT.size)

    def data(self, data: bytes) -> None:
        """Answer a read."""
        libfuse.reply_buf(self._once(), data, len(data))

    def written(self, count: int) -> None:
        """Answer a write."""
        libfuse.reply_write(self._once(), count)

    def polled(self, events: int) -> None:
        """Answer a poll with what is ready now."""
        libfuse.reply_poll(self._once(), events)

    def controlled(self, result: int, data: bytes = b"") -> None:
        """Answer an ioctl: what the system call returns, and the bytes that its number says come back."""
        libfuse.reply_ioctl(self._once(), result, data, len(data))

    def size(self, count: int) -> None:
        """Answer an xattr call that asks how large."""
        libfuse.reply_xattr(self._once(), count)

    def statfs(self, stat: libfuse.StatVfs) -> None:
        """Answer a statfs."""
        libfuse.reply_statfs(self._once(), ctypes.byref(stat))

    def forgotten(self) -> None:
        """End a forget, which has no answer."""
        libfuse.reply_none(self._once())

    def park(self, on_interrupt: Callable[[], None]) -> None:
        """Keep the request for later; when its caller is interrupted, EINTR is answered after `on_interrupt`.

        The kernel waits for that answer before the signal is delivered, so it must come at once.
        """

        def give_up() -> None:
            on_interrupt()
            self.error(errno.EINTR)

        self.when_interrupted(give_up)

    def when_interrupted(self, then: Callable[[], None]) -> None:
        """Have something done when the caller is interrupted before the answer; the caller goes on waiting."""

        def interrupted(_raw: int, _data: object) -> None:
            if not self.answered:
                then()

        self._interrupted = libfuse.INTERRUPT(interrupted)
        libfuse.req_interrupt_func(self._raw, self._interrupted, None)
