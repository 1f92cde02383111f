"""The bytes of an in-process machine: one sparse memfd, a slot for each tenure of a frame that is touched.

A slot is never used again. When a frame changes hands empty its slot is punched out; when it is flipped the bytes go to
a fresh slot. So a mapping that outlived its frame reads zeros and sees nothing of the new owner's.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Sequence

from xenfs.abi.xen import PAGE_SIZE
from xenfs.domain.mapping import Mapped

_PUNCH_HOLE = 0x02 | 0x01  # FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, linux/falloc.h
_libc = ctypes.CDLL(None, use_errno=True)
_libc.fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_long, ctypes.c_long]


class Arena:
    """The world's `Contents` over a memfd."""

    def __init__(self) -> None:
        """Begin with no memory at all."""
        self.fd = os.memfd_create("xenfs-inprocess", os.MFD_CLOEXEC)
        self._slots: dict[int, int] = {}
        self._next = 0

    def close(self) -> None:
        """Give the memory up; mappings live on until they are closed."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def _slot(self, frame: int) -> int:
        slot = self._slots.get(frame)
        if slot is None:
            slot = self._slots[frame] = self._next
            self._next += PAGE_SIZE
            os.ftruncate(self.fd, self._next)
        return slot

    def _punch(self, slot: int) -> None:
        if _libc.fallocate(self.fd, _PUNCH_HOLE, slot, PAGE_SIZE):
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code))

    def map(self, frames: Sequence[int], *, readonly: bool) -> Mapped:
        """Map frames one behind the other."""
        return Mapped([(self.fd, self._slot(f)) for f in frames], readonly=readonly)

    def drop(self, start: int, stop: int) -> None:
        """Frames [start, stop) are empty again."""
        few = stop - start <= len(self._slots)
        for frame in list(range(start, stop) if few else self._slots):
            if start <= frame < stop and frame in self._slots:
                self._punch(self._slots.pop(frame))

    def move(self, frame: int) -> None:
        """The bytes go on in a fresh slot."""
        if frame in self._slots:
            old = self._slots.pop(frame)
            os.pwrite(self.fd, os.pread(self.fd, PAGE_SIZE, old), self._slot(frame))
            self._punch(old)

    def copy(self, source: int, source_offset: int, dest: int, dest_offset: int, length: int) -> None:
        """Copy bytes between frames."""
        data = os.pread(self.fd, length, self._slot(source) + source_offset)
        os.pwrite(self.fd, data, self._slot(dest) + dest_offset)
