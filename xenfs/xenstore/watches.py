"""Watches: who wants to hear of which paths, and the events that they get (xen-interfaces.md 2.8)."""

from __future__ import annotations

import errno
from collections.abc import Callable
from dataclasses import dataclass
from operator import attrgetter
from typing import TYPE_CHECKING

from xenfs.xenstore import paths
from xenfs.xenstore.errors import StoreError

if TYPE_CHECKING:
    from xenfs.xenstore.client import Client

INTRODUCE, RELEASE = "@introduceDomain", "@releaseDomain"


@dataclass(frozen=True, slots=True, eq=False)
class Watch:
    """A watch. Paths of its events are relative to `prefix` when it was set on a relative path."""

    client: Client
    path: str
    token: str
    prefix: str
    depth: int | None
    serial: int

    def told(self, path: str) -> None:
        """Give the client an event."""
        self.client.event(path.removeprefix(self.prefix) if self.prefix else path, self.token)


_serial = attrgetter("serial")


class Watches:
    """All watches, by path."""

    def __init__(self) -> None:
        """Begin with none."""
        self._at: dict[str, list[Watch]] = {}
        self._last = 0

    def add(self, client: Client, path: str, token: str, *, relative: bool, depth: int | None) -> Watch:
        """Begin a watch; without its first event. Raises StoreError EEXIST."""
        if client.twice_is_fine is False and (path, token) in client.watches:
            raise StoreError(errno.EEXIST, path, f"watched with token {token!r} already")
        self._last += 1
        prefix = f"{paths.home(client.domid)}/" if relative else ""
        watch = Watch(client, path, token, prefix, depth, self._last)
        client.watches.setdefault((path, token), []).append(watch)
        self._at.setdefault(path, []).append(watch)
        return watch

    def remove(self, client: Client, path: str, token: str) -> None:
        """End a watch. Raises StoreError ENOENT."""
        for watch in client.watches.pop((path, token), None) or self._no(path, token):
            self._forget(watch)

    def table(self) -> str:
        """All of them: whose, on which path, and the token, which may have blanks; what is not printable is escaped, so
        that no token looks like another line.
        """
        found = sorted((watch.client.domid, watch.path, watch.token) for at in self._at.values() for watch in at)
        rows = (f"{domid} {path} {ascii(token)[1:-1]}" for domid, path, token in found)
        return "".join(f"{line}\n" for line in ("domid path token", *rows))

    @staticmethod
    def _no(path: str, token: str) -> list[Watch]:
        raise StoreError(errno.ENOENT, path, f"no watch with token {token!r}")

    def _forget(self, watch: Watch) -> None:
        there = self._at[watch.path]
        there.remove(watch)
        if not there:
            del self._at[watch.path]

    def clear(self, client: Client) -> None:
        """End all watches of a client."""
        for watch in [w for group in client.watches.values() for w in group]:
            self._forget(watch)
        client.watches.clear()

    def concerned(self, path: str, *, exact: bool) -> list[Watch]:
        """Those that a change of a path may concern, in order of registration."""
        if exact:
            return list(self._at.get(path, ()))
        found: list[Watch] = []
        for top in paths.upwards(path):
            there = self._at.get(top)
            if there is not None:
                found += (w for w in there if w.depth is None or paths.depth(path, top) <= w.depth)
        found.sort(key=_serial)
        return found

    def fire(self, path: str, may: Callable[[Client], bool], *, exact: bool = False) -> None:
        """Tell everybody concerned who may know of it."""
        allowed: dict[Client, bool] = {}
        for watch in self.concerned(path, exact=exact):
            client = watch.client
            if client not in allowed:
                allowed[client] = may(client)
            if allowed[client]:
                watch.told(path)

    def special(self, name: str, domid: int, may: Callable[[Client], bool]) -> None:
        """Tell of a domain that came or went. A watch of depth 1, or on the domain itself, is told which."""
        one = f"{name}/{domid}"
        for watch in sorted([*self._at.get(name, ()), *self._at.get(one, ())], key=_serial):
            if may(watch.client):
                watch.told(one if watch.path == one or watch.depth else name)
