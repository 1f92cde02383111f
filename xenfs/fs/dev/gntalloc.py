"""dev/gntalloc, as Linux's drivers/xen/gntalloc.c behaves (xen-interfaces.md 1.4 and D.2), all but mmap.

What mmap of the device would be is here opening grants/<gref>/page: a page allocated through this device stays, with
its grant, until neither a file lists it nor anybody has it open by that name. Then the notification is sent and the
grant revoked; a peer that still maps it keeps it, as any other.
"""

from __future__ import annotations

import contextlib
import errno
import struct
from typing import TYPE_CHECKING

from xenfs.abi import gntalloc as abi
from xenfs.abi.grant_table import Gtf
from xenfs.abi.xen import PAGE_SIZE
from xenfs.abi.xenfs_op import AllocFrame, EndAccess, FreeFrame, GrantAccess
from xenfs.fs.dev.device import Call, OpenDevice
from xenfs.fs.dev.notice import Notice
from xenfs.hypervisor.errors import HypercallError

if TYPE_CHECKING:
    from xenfs.fs.dev.directory import Dev
    from xenfs.fs.dev.ioctl import Asked, Steps
    from xenfs.fs.pages import Page
    from xenfs.hypervisor.state import Grant

LIMIT = 1024
"""Pages of all open files of a domain together: the module parameter `limit`."""
_INDEX, _REFS = 8, 16
"""Where the results are in the struct."""


class SharedPage:
    """A page and its grant, with the references that keep them: a file's list, and each open of grants/<gref>/page."""

    def __init__(self, dev: Dev, domid: int, *, writable: bool) -> None:
        """Allocate and grant. Raises HypercallError and leaves nothing behind."""
        self._dev = dev
        self._references = 1
        self._notice: Notice | None = None
        frame = dev.fs.call(AllocFrame(), dev.domain, 0).frame
        flags = 0 if writable else int(Gtf.readonly)
        try:
            ref = dev.fs.call(GrantAccess(frame=frame, dom=domid, flags=flags), dev.domain, 0).ref
        except HypercallError:
            dev.fs.call(FreeFrame(frame=frame), dev.domain, 0)
            raise
        self.grant: Grant = dev.domain.grants[ref]
        dev.granted[self.grant] = self

    @property
    def _alive(self) -> bool:
        """Whether the grant is still in use: a hypercall may have ended it."""
        return self._dev.domain.grants.get(self.grant.ref) is self.grant

    def notify(self, notice: Notice | None) -> None:
        """What is to happen when it goes, instead of what was to before."""
        if self._notice is not None:
            self._notice.cancel()
        self._notice = notice

    def get(self) -> None:
        """One reference more."""
        self._references += 1

    def put(self) -> None:
        """One less; with the last the page goes."""
        self._references -= 1
        if self._references:
            return
        del self._dev.granted[self.grant]
        if self._notice is not None:
            self._notice.fire(self._dev, self._page)
        if self._dev.domain.state != "dying":
            self._free()

    def _page(self) -> Page | None:
        frame = self.grant.frame
        fs = self._dev.fs
        return fs.pages.page(frame.number, fs.frame_owner(frame.number)) if frame is not None and self._alive else None

    def _free(self) -> None:
        dev, frame = self._dev, self.grant.frame
        assert frame is not None
        if self._alive:
            dev.fs.call(EndAccess(ref=self.grant.ref, flags=1), dev.domain, 0)
        if dev.fs.machine.state.busy.get(frame.number) is frame and frame.holder is dev.domain.root:
            with contextlib.suppress(HypercallError):
                dev.fs.call(FreeFrame(frame=frame.number, flags=1), dev.domain, 0)


class OpenGntalloc(OpenDevice):
    """An open dev/gntalloc: its pages by their index, the byte offset at which mmap would find them."""

    def __init__(self, dev: Dev, flags: int) -> None:
        """Begin without a page."""
        super().__init__(dev, flags)
        self._pages: dict[int, SharedPage] = {}
        self._next = 0

    def _alloc_gref(self, asked: Asked, request: abi.AllocGref) -> Steps:
        if len(self.dev.granted) + request.count > LIMIT:
            raise OSError(errno.ENOSPC, f"{request.count} pages more than the {len(self.dev.granted)} of {LIMIT}")
        index, made, listed = self._next, dict[int, SharedPage](), False
        try:
            for page in range(index, index + request.count * PAGE_SIZE, PAGE_SIZE):
                made[page] = SharedPage(self.dev, request.domid, writable=bool(request.flags & abi.FLAG_WRITABLE))
            # before the caller is told: another of its threads may come in between
            self._next += request.count * PAGE_SIZE
            self._pages.update(made)
            listed = True
            yield from asked.write(_INDEX, struct.pack("<Q", index))
            yield from asked.write(_REFS, struct.pack(f"<{len(made)}I", *(page.grant.ref for page in made.values())))
        except BaseException:
            for page, shared in made.items():
                if self._pages.pop(page, None) is shared or not listed:
                    shared.put()
            raise
        return 0

    def _dealloc_gref(self, _asked: Asked, request: abi.DeallocGref) -> int:
        run = range(request.index, request.index + request.count * PAGE_SIZE, PAGE_SIZE)
        if not run or len(run) > len(self._pages) or any(index not in self._pages for index in run):
            raise OSError(errno.EINVAL, f"{request.count} pages from index {request.index:#x} are not all listed")
        for index in run:
            self._pages.pop(index).put()
        return 0

    def _set_unmap_notify(self, _asked: Asked, request: abi.UnmapNotify) -> int:
        offset = request.index % PAGE_SIZE
        page = self._pages.get(request.index - offset)
        if page is None:
            raise OSError(errno.ENOENT, f"no page at index {request.index:#x}")
        page.notify(Notice.of(self.dev, request.action, offset, request.event_channel_port))
        return 0

    calls = (
        Call(abi.ALLOC_GREF, abi.AllocGref, _alloc_gref, tail=True),
        Call(abi.DEALLOC_GREF, abi.DeallocGref, _dealloc_gref),
        Call(abi.SET_UNMAP_NOTIFY, abi.UnmapNotify, _set_unmap_notify),
    )

    def release(self) -> None:
        """See OpenFile."""
        while self._pages:
            self._pages.popitem()[1].put()
        super().release()
