"""A file as a block device of the kernel's (linux/loop.h). All of it may wait for the file, so it is for a thread."""

from __future__ import annotations

import errno
import fcntl
import os
import struct
from pathlib import Path

CONTROL = "/dev/loop-control"
_GET_FREE, _CONFIGURE, _CLR_FD, _SET_CAPACITY = 0x4C82, 0x4C0A, 0x4C01, 0x4C07
_BLKFLSBUF = 0x1261
_READ_ONLY, _AUTOCLEAR, _PARTSCAN = 1, 4, 8
_CONFIG = struct.Struct("<II5Q4I64s64s32s2Q8Q")
"""struct loop_config: fd, block_size, struct loop_info64, reserved."""
_TRIES = 32
assert _CONFIG.size == 304


class LoopDevice:
    """A loop device on a file. It goes with the last who has it open."""

    def __init__(self, path: str, *, sector_size: int, readonly: bool) -> None:
        """Attach a free one. Raises OSError."""
        back = os.open(path, (os.O_RDONLY if readonly else os.O_RDWR) | os.O_CLOEXEC)
        try:
            self.fd, self.path = self._attach(back, path, sector_size, readonly=readonly)
        finally:
            os.close(back)

    def _attach(self, back: int, path: str, sector_size: int, *, readonly: bool) -> tuple[int, str]:
        flags = _AUTOCLEAR | _PARTSCAN | (_READ_ONLY if readonly else 0)
        name = os.fsencode(path)[:63]
        config = _CONFIG.pack(back, sector_size, 0, 0, 0, 0, 0, 0, 0, 0, flags, name, b"", b"", *[0] * 10)
        control = os.open(CONTROL, os.O_RDWR | os.O_CLOEXEC)
        try:
            for _ in range(_TRIES):
                found = f"/dev/loop{fcntl.ioctl(control, _GET_FREE)}"
                fd = os.open(found, (os.O_RDONLY if readonly else os.O_RDWR) | os.O_CLOEXEC)
                try:
                    fcntl.ioctl(fd, _CONFIGURE, config)
                except OSError as error:
                    os.close(fd)
                    if error.errno == errno.EBUSY:
                        continue  # somebody else was faster
                    raise
                return fd, found
        finally:
            os.close(control)
        raise OSError(errno.EBUSY, "no free loop device")

    @property
    def in_use(self) -> bool:
        """Whether it is mounted, or held otherwise by the kernel."""
        try:
            os.close(os.open(self.path, os.O_RDONLY | os.O_EXCL | os.O_CLOEXEC))
        except OSError as error:
            return error.errno == errno.EBUSY
        return any(_held(part) for part in self.partitions())

    def partitions(self) -> list[str]:
        """The device nodes of its partitions."""
        name = Path(self.path).name
        return sorted(f"/dev/{part.name}" for part in Path("/sys/class/block", name).glob(f"{name}p*"))

    def resize(self) -> None:
        """The file has another size."""
        fcntl.ioctl(self.fd, _SET_CAPACITY)

    def flush(self) -> None:
        """Write what the kernel has of it in memory."""
        os.fsync(self.fd)
        fcntl.ioctl(self.fd, _BLKFLSBUF)

    def close(self) -> None:
        """Detach it; twice is fine."""
        if self.fd >= 0:
            fd, self.fd = self.fd, -1
            try:
                fcntl.ioctl(fd, _CLR_FD)
            finally:
                os.close(fd)


def _held(path: str) -> bool:
    try:
        os.close(os.open(path, os.O_RDONLY | os.O_EXCL | os.O_CLOEXEC))
    except OSError as error:
        return error.errno == errno.EBUSY
    return False
