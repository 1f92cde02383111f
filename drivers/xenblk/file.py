"""The disk as a file: a mount with one file in it, whose reads and writes become wishes.

The file takes any offset and size, as files do. Where a write begins or ends within a sector, that sector is read
first, with nothing else under way meanwhile.
"""

from __future__ import annotations

import ctypes
import errno
import os
import stat
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

from xenblk.pool import Slot
from xenblk.shadow import Wish
from xenfs import libfuse
from xenfs.abi.blkif import SECTOR_SIZE, Op
from xenfs.abi.xen import PAGE_SIZE
from xenfs.fusemount import NOTHING, FuseMount

_ROOT, _FILE = 1, 2
_AT_ONCE = 16
_PUNCH_HOLE, _KEEP_SIZE = 2, 1
_SIZE_OF_BLOCKS = 4096
OPTIONS = ("fsname=xenblk", "subtype=xenblk", "default_permissions", "auto_unmount")
"""The last has the mount end with this process, also when that is killed."""


class Wishes(Protocol):
    """Who fulfils wishes: what a disk's file needs of a Shadow."""

    flush: Op | None
    discards: bool

    @property
    def idle(self) -> bool:
        """Whether nothing is wished for."""

    def add(self, wish: Wish) -> None:
        """Ask for something, with the next `push`."""

    def push(self) -> None:
        """Ask for as much as can be asked for now."""

    def kick(self) -> None:
        """Tell whoever is asked."""

    def linger(self) -> bool:
        """Stay awake for a moment for an answer; whether one has come."""

    def answered(self) -> None:
        """Take the answers."""


class DiskFile:
    """A mount at `folder`, with the file `name`."""

    def __init__(self, folder: str, name: str, wishes: Wishes, *, readonly: bool, others: bool) -> None:
        """Mount. `others`: whether other users may use it. Raises MountError."""
        self.path, self._name = f"{folder}/{name}", name.encode()
        self._wishes, self.readonly = wishes, readonly
        self.size, self.sector_size = 0, SECTOR_SIZE
        self._folder = folder
        self._waiting: deque[tuple[Callable[[], None], bool]] = deque()
        """What waits while a part of a sector is being written, or to write one, which nothing else may be beside."""
        self._alone = False
        names = ("lookup", "getattr", "setattr", "open", "read", "write", "flush", "release", "fsync", "fallocate")
        handlers = {name: self._guarded(getattr(self, f"_{name}")) for name in (*names, "readdir", "statfs")}
        self.mount = FuseMount(folder, handlers, [*OPTIONS, *(["allow_other"] if others else [])])
        self._buffer = self.mount.buffer()

    @staticmethod
    def _guarded(handle: Callable[..., None]) -> Callable[..., None]:
        def guarded(request: int, *arguments: Any) -> None:
            try:
                handle(request, *arguments)
            except OSError as error:
                libfuse.reply_err(request, error.errno or errno.EIO)

        return guarded

    def serve(self) -> bool:
        """Take what is asked. False when the mount is gone."""
        mount, buffer = self.mount, self._buffer
        alive = True
        for _ in range(_AT_ONCE):
            length = mount.receive(buffer)
            if length <= 0:
                alive = length in NOTHING
                break
            mount.process(buffer, length)
        self._wishes.kick()
        if self._wishes.linger():
            self._wishes.answered()
            self.go_on()
        return alive

    def _stat(self, ino: int) -> libfuse.Stat:
        uid, gid = os.geteuid(), os.getegid()
        if ino == _ROOT:
            return libfuse.Stat(st_ino=ino, st_mode=stat.S_IFDIR | 0o755, st_nlink=2, st_uid=uid, st_gid=gid)
        if ino != _FILE:
            raise OSError(errno.ENOENT, "no such inode")
        mode = stat.S_IFREG | (0o444 if self.readonly else 0o644)
        found = libfuse.Stat(st_ino=ino, st_mode=mode, st_nlink=1, st_uid=uid, st_gid=gid, st_size=self.size)
        found.st_blksize, found.st_blocks = _SIZE_OF_BLOCKS, self.size // SECTOR_SIZE
        return found

    def _lookup(self, request: int, parent: int, name: bytes) -> None:
        if parent != _ROOT or name != self._name:
            raise OSError(errno.ENOENT, "no such file")
        entry = libfuse.Entry(ino=_FILE, attr=self._stat(_FILE), attr_timeout=0.0, entry_timeout=60.0)
        libfuse.reply_entry(request, ctypes.byref(entry))

    def _getattr(self, request: int, ino: int, _fi: Any) -> None:
        libfuse.reply_attr(request, ctypes.byref(self._stat(ino)), 0.0)

    def _setattr(self, request: int, ino: int, _attr: Any, _what: int, _fi: Any) -> None:
        self._getattr(request, ino, None)  # a disk keeps its size, so that `dd of=` works without conv=notrunc

    def _readdir(self, request: int, ino: int, size: int, offset: int, _fi: Any) -> None:
        if ino != _ROOT:
            raise OSError(errno.ENOTDIR, "not a directory")
        room, used = ctypes.create_string_buffer(size), 0
        names = [(b".", _ROOT), (b"..", _ROOT), (self._name, _FILE)]
        for place, (name, number) in enumerate(names[offset:], offset + 1):
            at = ctypes.byref(room, used)
            took = libfuse.add_direntry(request, at, size - used, name, ctypes.byref(self._stat(number)), place)
            if took > size - used:
                break
            used += took
        libfuse.reply_buf(request, room.raw[:used], used)

    def _statfs(self, request: int, _ino: int) -> None:
        blocks = self.size // _SIZE_OF_BLOCKS
        found = libfuse.StatVfs(f_bsize=_SIZE_OF_BLOCKS, f_frsize=_SIZE_OF_BLOCKS, f_blocks=blocks, f_files=1)
        libfuse.reply_statfs(request, ctypes.byref(found))

    def _open(self, request: int, ino: int, fi: Any) -> None:
        if ino != _FILE:
            raise OSError(errno.EISDIR, "a directory")
        if fi.contents.flags & 3 and self.readonly:
            raise OSError(errno.EROFS, "the disk is read-only")
        fi.contents.keep_cache = 1  # nobody else changes the disk
        libfuse.reply_open(request, fi)

    def _flush(self, request: int, _ino: int, _fi: Any) -> None:
        libfuse.reply_err(request, 0)

    _release = _flush

    def _fsync(self, request: int, _ino: int, _data: int, _fi: Any) -> None:
        flush = self._wishes.flush
        if flush is None:
            libfuse.reply_err(request, 0)
            return
        self._when_allowed(lambda: self._add(Wish(int(flush), 0, 0, self._ended(request))))

    def _fallocate(self, request: int, _ino: int, mode: int, offset: int, size: int, _fi: Any) -> None:
        if mode != _PUNCH_HOLE | _KEEP_SIZE or not self._wishes.discards or self.readonly:
            raise OSError(errno.EOPNOTSUPP, "only holes are made here")
        end = min(offset + size, self.size) // self.sector_size * self.sector_size
        first = -(-offset // self.sector_size) * self.sector_size
        if end <= first:
            libfuse.reply_err(request, 0)
            return
        wish = Wish(int(Op.discard), first // SECTOR_SIZE, end - first, self._ended(request))
        self._when_allowed(lambda: self._add(wish))

    @staticmethod
    def _ended(request: int) -> Callable[[bool], None]:
        return lambda good: libfuse.reply_err(request, 0 if good else errno.EIO)

    def _add(self, wish: Wish) -> None:
        self._wishes.add(wish)
        self._wishes.push()

    def _when_allowed(self, call: Callable[[], None]) -> None:
        """Now, or when no sector is being put together any more."""
        if self._alone or self._waiting:
            self._waiting.append((call, False))
        else:
            call()

    def _read(self, request: int, _ino: int, size: int, offset: int, _fi: Any) -> None:
        size = max(0, min(size, self.size - offset))
        if not size:
            libfuse.reply_buf(request, b"", 0)
            return
        self._when_allowed(lambda: self._read_sectors(request, size, offset))

    def _whole(self, offset: int, size: int) -> tuple[int, int, int]:
        """The whole sectors around some bytes: the first, in units of 512 bytes, what is before the bytes, and how many
        bytes they are."""
        skip = offset % self.sector_size
        start = offset - skip
        return start // SECTOR_SIZE, skip, -(-(skip + size) // self.sector_size) * self.sector_size

    def _read_sectors(self, request: int, size: int, offset: int) -> None:
        sector, skip, whole = self._whole(offset, size)
        if size <= PAGE_SIZE and size == whole:
            self._read_one(request, sector, size)
            return
        data = ctypes.create_string_buffer(whole)

        def drain(slot: Slot, at: int, count: int) -> None:
            ctypes.memmove(ctypes.byref(data, at), slot.address, count)

        def done(good: bool) -> None:
            if good:
                libfuse.reply_memory(request, ctypes.byref(data, skip), size)
            else:
                libfuse.reply_err(request, errno.EIO)

        self._add(Wish(int(Op.read), sector, whole, done, drain=drain))

    def _read_one(self, request: int, sector: int, size: int) -> None:
        """A read that is a request: answered out of the page."""

        def done(good: bool) -> None:
            if not good:
                libfuse.reply_err(request, errno.EIO)

        def drain(slot: Slot, _at: int, count: int) -> None:
            libfuse.reply_memory(request, slot.address, count)

        self._add(Wish(int(Op.read), sector, size, done, drain=drain))

    def _write(self, request: int, _ino: int, address: int, size: int, offset: int, _fi: Any) -> None:
        if self.readonly:
            raise OSError(errno.EROFS, "the disk is read-only")
        if offset + size > self.size:
            size = self.size - offset
        if size <= 0:
            raise OSError(errno.ENOSPC, "behind the end of the disk")
        if offset % self.sector_size or size % self.sector_size:
            data = ctypes.string_at(address, size)
            self._waiting.append((lambda: self._write_parts(request, data, offset), True))
            self.go_on()
            return
        if self._alone or self._waiting:
            data = ctypes.string_at(address, size)
            self._waiting.append((lambda: self._write_sectors(request, data, size, offset), False))
            return
        self._write_sectors(request, address, size, offset)

    def _write_sectors(self, request: int, data: int | bytes, size: int, offset: int) -> None:
        """`data`: bytes, or the address where they are until this returns."""
        source: list[int] = [data if isinstance(data, int) else 0]
        kept = [b"" if isinstance(data, int) else data]

        def fill(slot: Slot, at: int, count: int) -> None:
            if source[0]:
                ctypes.memmove(slot.address, source[0] + at, count)
            else:
                ctypes.memmove(slot.address, kept[0][at : at + count], count)

        def done(good: bool) -> None:
            if good:
                libfuse.reply_write(request, size)
            else:
                libfuse.reply_err(request, errno.EIO)

        wish = Wish(int(Op.write), offset // SECTOR_SIZE, size, done, fill=fill)
        self._add(wish)
        if source[0] and wish.next < size:
            kept[0], source[0] = ctypes.string_at(source[0], size), 0

    def _write_parts(self, request: int, data: bytes, offset: int) -> None:
        """With parts of sectors at its ends: read, change, write, and nothing else meanwhile."""
        self._alone = True
        sector, skip, whole = self._whole(offset, len(data))
        old = ctypes.create_string_buffer(whole)

        def drain(slot: Slot, at: int, count: int) -> None:
            ctypes.memmove(ctypes.byref(old, at), slot.address, count)

        def fill(slot: Slot, at: int, count: int) -> None:
            ctypes.memmove(slot.address, ctypes.byref(old, at), count)

        def written(good: bool) -> None:
            self._alone = False
            if good:
                libfuse.reply_write(request, len(data))
            else:
                libfuse.reply_err(request, errno.EIO)

        def there(good: bool) -> None:
            if not good:
                written(False)
                return
            ctypes.memmove(ctypes.byref(old, skip), data, len(data))
            self._wishes.add(Wish(int(Op.write), sector, whole, written, fill=fill))

        self._add(Wish(int(Op.read), sector, whole, there, drain=drain))

    def go_on(self) -> None:
        """Do what has waited, as far as it may be done now."""
        while self._waiting and not self._alone and (self._wishes.idle or not self._waiting[0][1]):
            self._waiting.popleft()[0]()
        self._wishes.push()
        self._wishes.kick()

    def close(self) -> None:
        """Unmount, also when somebody has it open, and remove the directory."""
        self.mount.close()
        with suppress(OSError):
            Path(self._folder).rmdir()
