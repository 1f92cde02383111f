"""Pages of several files mapped one behind the other, by mmap over a reserved range.

The range is an anonymous mapping that Python's mmap object owns, so a memoryview of it keeps it alive and can never
point at nothing. Closing puts anonymous memory back over the pages: the files' pages are unmapped at that moment, and
a view that somebody still holds reads zeros instead of faulting.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import resource
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from xenfs.abi.xen import PAGE_SIZE

_MAP_FIXED = 0x10
_MADV_POPULATE_READ, _MADV_POPULATE_WRITE = 22, 23
_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
_FAILED = ctypes.c_void_p(-1).value


class Places(Protocol):
    """Where pages are, gone through once: a file descriptor, which may be closed as soon as the next page is asked
    for, and an offset in bytes."""

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[tuple[int, int]]: ...


def _limit(code: int | None, mapped: int) -> str:
    """Which limit of a process made a mapping fail when it had `mapped` pages, since unmapped, and how to change it."""
    if code == errno.ENOMEM:
        have = len(Path("/proc/self/maps").read_bytes().splitlines()) + mapped
        most = int(Path("/proc/sys/vm/max_map_count").read_text())
        if have + 2 >= most:  # not all that the kernel counts is listed, and the other way round
            return f"; each page is a mapping, and of those a process may have {most} (sysctl vm.max_map_count)"
        size, _ = resource.getrlimit(resource.RLIMIT_AS)
        if size != resource.RLIM_INFINITY:
            return f"; this process may have {size} bytes of address space (RLIMIT_AS, ulimit -v)"
    return ""


def _failure(code: int, pages: int, limit: str = "") -> OSError:
    return OSError(code, f"mmap of {pages} pages: {os.strerror(code)}{limit}")


def _map_over(address: int, length: int, prot: int, flags: int, fd: int, offset: int) -> None:
    if _libc.mmap(address, length, prot, flags | _MAP_FIXED, fd, offset) == _FAILED:
        raise _failure(ctypes.get_errno(), length // PAGE_SIZE)


def _reserve(size: int) -> mmap.mmap:
    try:
        return mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    except OSError as error:
        code = error.errno or 0
        raise _failure(code, size // PAGE_SIZE, _limit(code, 0)) from None


class Mapped:
    """A region: its pages are at `places`, in that order, and stay mapped when the descriptors are closed."""

    def __init__(self, places: Places, *, readonly: bool = False) -> None:
        """Map and touch all pages. Raises OSError, which names the limit that was met, and then maps none."""
        size = len(places) * PAGE_SIZE
        if not size:
            raise ValueError("a region needs at least one page")
        self._range = _reserve(size)
        anchor = ctypes.c_char.from_buffer(self._range)
        self._address, self._size = ctypes.addressof(anchor), size
        del anchor
        prot = mmap.PROT_READ if readonly else mmap.PROT_READ | mmap.PROT_WRITE
        mapped = 0
        try:
            for at, (fd, offset) in zip(range(self._address, self._address + size, PAGE_SIZE), places, strict=True):
                _map_over(at, PAGE_SIZE, prot, mmap.MAP_SHARED, fd, offset)
                mapped += 1
            self._range.madvise(mmap.MADV_DONTFORK)
            self._range.madvise(_MADV_POPULATE_READ if readonly else _MADV_POPULATE_WRITE)
        except OSError as error:
            self._range.close()  # first, since to find out the limit takes memory too
            limit = _limit(error.errno, mapped)
            if limit:
                raise OSError(error.errno, f"{error.strerror}{limit}") from None
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
