"""dev/gntdev, as Linux's drivers/xen/gntdev.c behaves (xen-interfaces.md 1.3 and D.2), all but mmap.

A map only reserves a range of offsets; nothing can be mapped by them, pages are mapped by opening foreign/. So the
file's list has the only reference on a map: its notification is sent when it is taken off the list.
"""

from __future__ import annotations

import bisect
import errno
import struct
from typing import TYPE_CHECKING

from xenfs.abi import gntdev as abi
from xenfs.abi.xen import PAGE_SIZE
from xenfs.abi.xenfs_op import ReachGrant
from xenfs.fs.dev.device import Call, OpenDevice
from xenfs.fs.dev.grant_copy import grant_copy
from xenfs.fs.dev.notice import Notice, check
from xenfs.hypervisor.errors import HypercallError

if TYPE_CHECKING:
    from xenfs.fs.dev.directory import Dev
    from xenfs.fs.dev.ioctl import Asked, Steps
    from xenfs.fs.pages import Page

LIMIT = 65536
"""Grants of one map: the module parameter `limit`."""
_INDEX, _REFS = 8, 16
"""Where the result is in the struct of a map, and where its grants are."""
_REF = struct.Struct("<II")


class GrantMap:
    """A reserved range: `count` grants from page `index` on."""

    def __init__(self, index: int, grants: bytes) -> None:
        """Keep the grants as they lie in the ioctl."""
        self.index, self._grants = index, grants
        self.notice: Notice | None = None
        self._noticed = 0

    @property
    def count(self) -> int:
        """Pages."""
        return len(self._grants) // _REF.size

    def notify(self, notice: Notice | None, page: int) -> None:
        """What is to happen when it goes, with a page of it; instead of what was to before."""
        if self.notice is not None:
            self.notice.cancel()
        self.notice, self._noticed = notice, page

    def put(self, dev: Dev) -> None:
        """It is taken off the list."""
        dev.reserved -= self.count
        if self.notice is not None:
            self.notice.fire(dev, lambda: self._page(dev))

    def _page(self, dev: Dev) -> Page | None:
        """The page of the notification, if the grant still lets us write it."""
        dom, ref = _REF.unpack_from(self._grants, self._noticed * _REF.size)
        try:
            request = ReachGrant(dom=dom & 0xFFFF, ref=ref, flags=1)
            frame = dev.fs.machine.call(request, dev.fs.domid(dev.domain), world=True).frame
        except HypercallError:
            return None
        return dev.fs.pages.page(frame, dev.fs.frame_owner(frame))


class OpenGntdev(OpenDevice):
    """An open dev/gntdev: its maps, by index."""

    def __init__(self, dev: Dev, flags: int) -> None:
        """Begin without a map."""
        super().__init__(dev, flags)
        self._maps: list[GrantMap] = []

    def _map_grant_ref(self, asked: Asked, request: abi.MapGrantRef) -> Steps:
        if not 0 < request.count <= LIMIT:
            raise OSError(errno.EINVAL, f"{request.count} grants are not 1 to {LIMIT}")
        grants = yield from asked.read(_REFS, request.count * _REF.size)
        limit = self.domain.limits.maps
        if self.dev.reserved + request.count > limit:
            raise OSError(errno.ENOMEM, f"{request.count} grants more than the {self.dev.reserved} of {limit}")
        place, index = self._room(request.count)
        made = GrantMap(index, grants)
        self._maps.insert(place, made)
        self.dev.reserved += made.count
        try:
            yield from asked.write(_INDEX, struct.pack("<Q", index * PAGE_SIZE))
        except BaseException:
            if made in self._maps:
                self._maps.remove(made)
                made.put(self.dev)
            raise
        return 0

    def _room(self, count: int) -> tuple[int, int]:
        """Where Linux puts a new map: its place in the list, and its index. A hole must be larger than it."""
        index = 0
        for place, other in enumerate(self._maps):
            if index + count < other.index:
                return place, index
            index = other.index + other.count
        return len(self._maps), index

    def _unmap_grant_ref(self, _asked: Asked, request: abi.UnmapGrantRef) -> int:
        found = self._at(request.index // PAGE_SIZE)
        if found is None or found.index != request.index // PAGE_SIZE or request.count not in (0, found.count):
            raise OSError(errno.ENOENT, f"no map of {request.count} pages at index {request.index:#x}")
        self._maps.remove(found)
        found.put(self.dev)
        return 0

    def _at(self, page: int) -> GrantMap | None:
        """The map that covers a page."""
        place = bisect.bisect_right(self._maps, page, key=lambda m: m.index) - 1
        found = self._maps[place] if place >= 0 else None
        return found if found is not None and page < found.index + found.count else None

    def _get_offset_for_vaddr(self, _asked: Asked, request: abi.GetOffsetForVaddr) -> int:
        raise OSError(errno.EINVAL, f"{request.vaddr:#x} is no mapping of this device: it has none")

    def _set_unmap_notify(self, _asked: Asked, request: abi.UnmapNotify) -> int:
        check(self.dev, request.action, request.event_channel_port)
        page, offset = divmod(request.index, PAGE_SIZE)
        found = self._at(page)
        if found is None:
            raise OSError(errno.ENOENT, f"no map covers index {request.index:#x}")
        found.notify(Notice.of(self.dev, request.action, offset, request.event_channel_port), page - found.index)
        return 0

    def _grant_copy(self, asked: Asked, request: abi.GrantCopy) -> Steps:
        return grant_copy(self.dev, asked, request)

    calls = (
        Call(abi.MAP_GRANT_REF, abi.MapGrantRef, _map_grant_ref, tail=True),
        Call(abi.UNMAP_GRANT_REF, abi.UnmapGrantRef, _unmap_grant_ref),
        Call(abi.GET_OFFSET_FOR_VADDR, abi.GetOffsetForVaddr, _get_offset_for_vaddr),
        Call(abi.SET_UNMAP_NOTIFY, abi.UnmapNotify, _set_unmap_notify),
        Call(abi.GRANT_COPY, abi.GrantCopy, _grant_copy, tail=True),
    )

    def release(self) -> None:
        """See OpenFile."""
        while self._maps:
            self._maps.pop().put(self.dev)
        super().release()
