"""What blkback reads from and writes to: a file or a block device of the host."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import stat
import struct
from collections.abc import Sequence
from typing import Protocol

from xenfs.abi.blkif import SECTOR_SIZE
from xenfs.locks import lock

_BLKGETSIZE64, _BLKSSZGET, _BLKPBSZGET, _BLKDISCARD = 0x80081272, 0x1268, 0x127B, 0x1277
_KEEP_SIZE, _PUNCH_HOLE = 1, 2
_NO_LOCKS = (errno.ENOLCK, errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS)
"""Answers of filesystems that have none."""
_NOT_OFFERED = (errno.EOPNOTSUPP, errno.ENOSYS, errno.ENOTTY)
_libc = ctypes.CDLL(None, use_errno=True)
_libc.fallocate64.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]
Views = Sequence[memoryview]


class Disk(Protocol):
    """Bytes that stay. Offsets and sizes are in bytes; what cannot be done raises OSError."""

    path: str
    sector_size: int
    physical_sector_size: int
    readonly: bool
    direct: bool
    """Whether reading and writing waits for the device, so that it is better done elsewhere."""
    discards: bool

    @property
    def number(self) -> int | None:
        """The device number, if it is a device."""

    def size(self) -> int:
        """As it is now."""

    def read_now(self, views: Views, offset: int) -> bool:
        """Fill the views, if that takes no waiting; whether it was done."""

    def read(self, views: Views, offset: int) -> None:
        """Fill the views."""

    def write(self, views: Views, offset: int) -> None:
        """Write the views."""

    def flush(self) -> None:
        """Return when all that was written before will outlive a loss of power."""

    def discard(self, offset: int, size: int) -> None:
        """Give up what is there; it reads as zeros from now on."""

    def close(self) -> None:
        """Let go of it."""


class FileDisk:
    """A regular file, or a block device. Implements Disk."""

    def __init__(self, path: str, *, readonly: bool = False, direct: bool = False) -> None:
        """Open it. Raises OSError, with the path, also for what is neither."""
        self.path, self.readonly, self.direct = path, readonly, direct
        flags = (os.O_RDONLY if readonly else os.O_RDWR) | (os.O_DIRECT if direct else 0)
        self._fd = os.open(path, flags | os.O_CLOEXEC)
        try:
            found = os.fstat(self._fd)
            if not (stat.S_ISREG(found.st_mode) or stat.S_ISBLK(found.st_mode)):
                raise OSError(errno.ENOTBLK, "neither a file nor a block device", path)
            self._claim()
            self.number = found.st_rdev if stat.S_ISBLK(found.st_mode) else None
            self.sector_size = self.physical_sector_size = SECTOR_SIZE
            if self.number is not None:
                self.sector_size, self.physical_sector_size = self._ask(_BLKSSZGET), self._ask(_BLKPBSZGET)
            self.discards = not readonly
            self._at_once = True
        except BaseException:
            os.close(self._fd)
            raise

    def _claim(self) -> None:
        """Two may have it only to read: what one writes the other does not know of. The lock goes with the file; QEMU's
        programs heed it too.
        """
        try:
            free = lock(self._fd, shared=self.readonly)
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
            return
        if not free:
            text = f"another device has it{', and writes' if self.readonly else ''}"
            raise OSError(errno.EBUSY, text, self.path)

    def _ask(self, what: int) -> int:
        return int(struct.unpack("I", fcntl.ioctl(self._fd, what, bytes(4)))[0])

    def size(self) -> int:
        """See Disk."""
        if self.number is None:
            return os.fstat(self._fd).st_size
        return int(struct.unpack("Q", fcntl.ioctl(self._fd, _BLKGETSIZE64, bytes(8)))[0])

    def read_now(self, views: Views, offset: int) -> bool:
        """See Disk: what lies in the page cache."""
        if not self._at_once or self.direct:
            return False
        try:
            return os.preadv(self._fd, views, offset, os.RWF_NOWAIT) == _size(views)
        except BlockingIOError:
            return False
        except OSError as error:
            if error.errno not in _NOT_OFFERED:
                raise
            self._at_once = False  # a filesystem that cannot tell
            return False

    def read(self, views: Views, offset: int) -> None:
        """See Disk."""
        while views:
            done = os.preadv(self._fd, views, offset)
            if not done:
                raise OSError(errno.EIO, f"it ends at byte {offset}", self.path)
            views, offset = _rest(views, done), offset + done

    def write(self, views: Views, offset: int) -> None:
        """See Disk."""
        while views:
            done = os.pwritev(self._fd, views, offset)
            views, offset = _rest(views, done), offset + done

    def flush(self) -> None:
        """See Disk."""
        if not self.readonly:
            os.fdatasync(self._fd)

    def discard(self, offset: int, size: int) -> None:
        """See Disk."""
        if _libc.fallocate64(self._fd, _PUNCH_HOLE | _KEEP_SIZE, offset, size):
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code), self.path)

    def close(self) -> None:
        """See Disk."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def _size(views: Views) -> int:
    return sum(len(view) for view in views)


def _rest(views: Views, done: int) -> Views:
    """What is left when so many bytes have been moved."""
    for number, view in enumerate(views):
        if done < len(view):
            return [view[done:], *views[number + 1 :]]
        done -= len(view)
    return []
