"""Frames as inodes: the world's `Contents` in the kernel's page cache.

A page inode is one tenure of a frame; its number is never used again. The bytes are wherever they were last: stores of
a mapping lie in the page cache until written back to us, so what must be sure of them asks the kernel first
(retrieve), and what changes them tells it (store). When the frame changes hands the inode is dead from that moment on:
it can no longer be opened or read, and if somebody has it open its pages are invalidated, which writes back what is
dirty and leaves stale mappings to fault (SIGBUS). All that runs on the work thread, never on the loop.
"""

from __future__ import annotations

import ctypes
import errno
import os
import stat
import threading
from functools import partial
from typing import TYPE_CHECKING

from xenfs import libfuse
from xenfs.abi.xen import PAGE_SIZE
from xenfs.fs.nodes import Node, OpenFile, Owner

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from xenfs.fs.filesystem import Filesystem
    from xenfs.fs.request import Request

_FIRST_INO = 1 << 62
_TENURE = 1 << 32
_ZEROS = bytes(PAGE_SIZE)
_RETRIEVE_DEADLINE = 10.0


def is_page(ino: int) -> bool:
    """Whether an inode number is a page's."""
    return ino >= _FIRST_INO


class Page(Node):
    """One tenure of a frame. `data` is what has been written back to us; empty means zeros.

    While the bytes are on their way from the former owner, `waiting` has what is to be done when they are here.
    """

    type = stat.S_IFREG
    shared = True
    attr_timeout = 3600.0

    def __init__(self, fs: Filesystem, ino: int, frame: int, owner: Owner) -> None:
        """A page of zeros."""
        super().__init__(fs, ino, 0o666, owner)
        self.frame = frame
        self.data = bytearray()
        self.dead = False
        self.waiting: list[Callable[[], None]] | None = None

    @property
    def size(self) -> int:
        """Always a page."""
        return PAGE_SIZE

    def content(self) -> bytes:
        """What we hold of it."""
        return bytes(self.data) or _ZEROS

    def merge(self, data: bytes, offset: int) -> None:
        """Put bytes in."""
        if not self.data:
            self.data = bytearray(PAGE_SIZE)
        self.data[offset : offset + len(data)] = data

    def when_here(self, then: Callable[[], None]) -> None:
        """Do something that needs the bytes: now, or once they have come."""
        if self.waiting is None:
            then()
        else:
            self.waiting.append(then)


class OpenPage(OpenFile):
    """A page opened by one of its names; `gone` is what its release means to the machine."""

    flags = libfuse.FOPEN_KEEP_CACHE | libfuse.FOPEN_NOFLUSH

    def __init__(self, page: Page, gone: Callable[[], None] | None = None) -> None:
        """Count the open."""
        self._page, self._gone = page, gone

    def read(self, request: Request, size: int, offset: int, nonblocking: bool) -> None:
        """A fault or a read: an error on a dead page, which a mapping meets as SIGBUS."""
        del nonblocking
        page = self._page

        def answer() -> None:
            if page.dead:
                request.error(errno.EIO)
            else:
                request.data(page.content()[offset : offset + size])

        page.when_here(answer)

    def write(self, request: Request, data: bytes, offset: int) -> None:
        """A write by a system call, which a dead page refuses."""
        page = self._page

        def take() -> None:
            if page.dead:
                request.error(errno.EIO)
            else:
                self.writeback(request, data, offset)

        page.when_here(take)

    def writeback(self, request: Request, data: bytes, offset: int) -> None:
        """What was stored in the kernel's page. A dead page's is taken: it may be on its way to a new owner."""
        room = max(0, PAGE_SIZE - offset)
        if room:
            self._page.merge(data[:room], offset)
            request.written(min(len(data), room))
        else:
            request.error(errno.ENOSPC)

    def release(self) -> None:
        """See OpenFile."""
        if self._gone is not None:
            self._gone()


class Pages:
    """All page inodes of the machine, made when a name is first looked up.

    A frame that has none, because it was never looked up in this tenure, may still have bytes: those that came by
    `write`. They are in `_plain`, and change hands without anything to be done.
    """

    def __init__(self, fs: Filesystem) -> None:
        """Begin with none: every frame reads as zeros."""
        self._fs = fs
        self._pages: dict[int, Page] = {}
        self._plain: dict[int, bytes] = {}
        self._tenures: dict[int, int] = {}
        self._replies: dict[int, tuple[threading.Event, bytearray]] = {}
        self._last_reply = 0

    def ino(self, frame: int) -> int:
        """The inode number of a frame's tenure."""
        return _FIRST_INO + self._tenures.get(frame, 0) * _TENURE + frame

    def page(self, frame: int, owner: Owner) -> Page:
        """The inode of a frame as it is owned now."""
        page = self._pages.get(frame)
        if page is None:
            page = self._pages[frame] = Page(self._fs, self.ino(frame), frame, owner)
            page.data = bytearray(self._plain.pop(frame, b""))
        return page

    def _end_tenure(self, frame: int) -> Page | None:
        page = self._pages.pop(frame, None)
        if page is not None:
            self._tenures[frame] = self._tenures.get(frame, 0) + 1
            page.dead = True
        return page

    def drop(self, start: int, stop: int) -> None:
        """See Contents."""
        plain = self._plain
        for frame in range(start, stop) if stop - start <= len(plain) else [f for f in plain if start <= f < stop]:
            plain.pop(frame, None)
        few = stop - start <= len(self._pages)
        for frame in list(range(start, stop) if few else self._pages):
            if start <= frame < stop:
                page = self._end_tenure(frame)
                if page is not None and page.opens:
                    self._fs.work.put(partial(self._invalidate, page.ino))

    def move(self, frame: int) -> None:
        """See Contents. While the old inode is written back, readers and writers of the new one wait."""
        old = self._end_tenure(frame)
        if old is None:
            return
        work = self._fs.work
        if not old.opens and work.idle:
            self._plain[frame] = old.content()
            return
        new = self._pages[frame] = Page(self._fs, self.ino(frame), frame, self._fs.frame_owner(frame))
        new.waiting = []
        work.put(lambda: self._carry(old, new))
        work.then(lambda: self._arrived(new))

    def _carry(self, old: Page, new: Page) -> None:
        """On the work thread, behind everything that still puts bytes into the old page."""
        try:
            self._invalidate(old.ino)
        finally:
            new.data = bytearray(old.data)

    def _arrived(self, new: Page) -> None:
        waiting, new.waiting = new.waiting or [], None
        for then in waiting:
            then()

    def copy(self, source: int, source_offset: int, dest: int, dest_offset: int, length: int) -> None:
        """See Contents."""
        fs = self._fs
        here = self.page(source, fs.frame_owner(source))
        there = self.page(dest, fs.frame_owner(dest))
        fs.work.put(lambda: self._copy(here, source_offset, there, dest_offset, length))

    def _copy(self, here: Page, source_offset: int, there: Page, dest_offset: int, length: int) -> None:
        self.put(there, dest_offset, self.current(here)[source_offset : source_offset + length])

    def put(self, page: Page, offset: int, data: bytes) -> None:
        """Change a page, as its mappings see it at once. On the work thread only."""
        page.merge(data, offset)
        if page.lookups:
            buffers = libfuse.memory(data)
            libfuse.notify_store(self._fs.channel, page.ino, offset, ctypes.byref(buffers), 0)

    def current(self, page: Page) -> bytes:
        """The bytes of a page as its mappings see them. On the work thread only."""
        if not page.opens:
            return page.content()
        self._last_reply += 1
        cookie, arrived, data = self._last_reply, threading.Event(), bytearray()
        self._replies[cookie] = (arrived, data)
        code = libfuse.notify_retrieve(self._fs.channel, page.ino, PAGE_SIZE, 0, cookie)
        if code == 0:
            arrived.wait(_RETRIEVE_DEADLINE)
        del self._replies[cookie]
        return bytes(data) if len(data) == PAGE_SIZE else page.content()

    def retrieved(self, cookie: int, buffers: libfuse.Bufvec) -> None:
        """What the kernel answers to a retrieve, on the loop."""
        arrived, data = self._replies.get(cookie or 0, (None, None))
        if arrived is not None and data is not None:
            data += ctypes.string_at(buffers.mem, buffers.size) if buffers.size else b""
            arrived.set()

    def read(self, frames: Sequence[int], then: Callable[[bytes], None]) -> None:
        """Give the bytes of frames, one behind the other: at once where nobody has them open, else in a while."""
        pages, plain = self._pages, self._plain
        if not any(frame in pages for frame in frames):
            then(b"".join([plain.get(frame, _ZEROS) for frame in frames]))
            return
        found = [pages.get(frame) or plain.get(frame, _ZEROS) for frame in frames]
        here: list[bytes] = []
        work = self._fs.work
        work.put(lambda: here.extend(self.current(one) if isinstance(one, Page) else one for one in found))
        work.then(lambda: then(b"".join(here)))

    def write(self, frame: int, offset: int, data: bytes) -> None:
        """Change a frame, now or before the next answer."""
        page = self._pages.get(frame)
        if page is not None:
            self._fs.work.put(lambda: self.put(page, offset, data))
        elif len(data) == PAGE_SIZE:
            self._plain[frame] = data
        else:
            old = self._plain.get(frame, _ZEROS)
            self._plain[frame] = old[:offset] + data + old[offset + len(data) :]

    def _invalidate(self, ino: int) -> None:
        code = libfuse.notify_inval_inode(self._fs.channel, ino, 0, 0)
        if code not in (0, -errno.ENOENT):
            raise OSError(-code, f"inode {ino}: {os.strerror(-code)}")
