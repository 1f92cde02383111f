"""Pages of several files mapped one behind the other, by mmap over a reserved range.

The range is an anonymous mapping that Python's mmap object owns, so a memoryview of it keeps it alive and can never
point at nothing. Closing puts anonymous memory back over the pages: the files' pages are unmapped at that moment, and
a view that somebody still holds reads zeros instead of faulting.
"""

from __future__ import annotations

import ctypes
import mmap
import os
from collections.abc import Sequence

from xenfs.abi.xen import PAGE_SIZE

_MAP_FIXED = 0x10
_MADV_POPULATE_READ, _MADV_POPULATE_WRITE = 22, 23
_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
_FAILED = ctypes.c_void_p(-1).value


def _map_over(address: int, length: int, prot: int, flags: int, fd: int, offset: int) -> None:
    if _libc.mmap(address, length, prot, flags | _MAP_FIXED, fd, offset) == _FAILED:
        code = ctypes.get_errno()
        raise OSError(code, f"mmap of {length // PAGE_SIZE} pages: {os.strerror(code)}")


class Mapped:
    """A region: page i is at `places[i]`, a file descriptor (which may be closed afterwards) and an offset in bytes."""

    def __init__(self, places: Sequence[tuple[int, int]], *, readonly: bool = False) -> None:
        """Map and touch all pages; raises OSError and maps none when one cannot be mapped."""
        size = len(places) * PAGE_SIZE
        if not size:
            raise ValueError("a region needs at least one page")
        self._range = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        anchor = ctypes.c_char.from_buffer(self._range)
        self._address, self._size = ctypes.addressof(anchor), size
        del anchor
        prot = mmap.PROT_READ if readonly else mmap.PROT_READ | mmap.PROT_WRITE
        try:
            for at, (fd, offset) in zip(range(self._address, self._address + size, PAGE_SIZE), places, strict=True):
                _map_over(at, PAGE_SIZE, prot, mmap.MAP_SHARED, fd, offset)
            self._range.madvise(mmap.MADV_DONTFORK)
            self._range.madvise(_MADV_POPULATE_READ if readonly else _MADV_POPULATE_WRITE)
        except OSError:
            self._range.close()
            raise
        whole = memoryview(self._range)
        self._view = whole.toreadonly() if readonly else whole

    @property
    def view(self) -> memoryview:
        """The bytes."""
        return self._view

    @property
    def closed(self) -> bool:
        """Whether the pages are unmapped."""
        return not self._size

    def close(self) -> None:
        """Unmap the pages; twice is fine."""
        if self._size:
            prot, flags = mmap.PROT_READ | mmap.PROT_WRITE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
            _map_over(self._address, self._size, prot, flags, -1, 0)
            self._size = 0
            self._view = memoryview(b"")

    def __enter__(self) -> memoryview:
        return self._view

    def __exit__(self, *_: object) -> None:
        self.close()
