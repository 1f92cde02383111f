"""Unmap notifications of gntalloc and gntdev: what is to happen when a page goes."""

from __future__ import annotations

import errno
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from xenfs.abi.gntalloc import UNMAP_NOTIFY_CLEAR_BYTE, UNMAP_NOTIFY_SEND_EVENT

if TYPE_CHECKING:
    from xenfs.fs.dev.directory import Dev
    from xenfs.fs.dev.ports import BoundPort
    from xenfs.fs.pages import Page

KNOWN = UNMAP_NOTIFY_CLEAR_BYTE | UNMAP_NOTIFY_SEND_EVENT


@dataclass(frozen=True, slots=True)
class Notice:
    """Clear the byte at `offset` (None: none), then send an event through `port` (None: none)."""

    offset: int | None
    port: BoundPort | None

    @classmethod
    def of(cls, dev: Dev, action: int, offset: int, port: int) -> Notice | None:
        """As an ioctl asks for it, None for nothing; it holds a reference on the port. Raises OSError EINVAL."""
        check(dev, action, port)
        bound = dev.ports[port] if action & UNMAP_NOTIFY_SEND_EVENT else None
        if bound is not None:
            bound.get()
        return cls(offset if action & UNMAP_NOTIFY_CLEAR_BYTE else None, bound) if action else None

    def cancel(self) -> None:
        """It is replaced, or taken back."""
        if self.port is not None:
            self.port.put()

    def fire(self, dev: Dev, page: Callable[[], Page | None]) -> None:
        """The page goes. `page` finds it, if it can still be written; it is asked only when it is to be."""
        target = page() if self.offset is not None else None
        if target is not None and self.offset is not None:
            offset = self.offset
            dev.fs.work.put(lambda: dev.fs.pages.put(target, offset, b"\0"))
        port = self.port
        if port is not None:
            dev.fs.work.then(port.notify)
            dev.fs.work.then(port.put)


def check(dev: Dev, action: int, port: int) -> None:
    """Raise EINVAL for an action that is not known, and for a port that was not bound through a dev/evtchn."""
    if action & ~KNOWN:
        raise OSError(errno.EINVAL, f"action {action:#x}: only 1 (clear byte) and 2 (send event) are known")
    bound = dev.ports.get(port)
    if action & UNMAP_NOTIFY_SEND_EVENT and (bound is None or not bound.alive):
        raise OSError(errno.EINVAL, f"port {port} was not bound through dev/evtchn")
