"""A copy of the store, kept by one watch on its root: to look at it costs nothing, and it knows what has changed."""

from __future__ import annotations

import errno
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass

from xenfs.domain import Refused, Store

_REMEMBERED = 2000
_AT_ONCE = 512


@dataclass(frozen=True, slots=True)
class Change:
    """A node was written, or with None removed; `time` in seconds of the system's clock."""

    time: float
    path: str
    value: bytes | None


class Mirror:
    """Implements store.Reader over the copy."""

    def __init__(self, store: Store, clock: Callable[[], float] = time.time) -> None:
        """Copy everything. Raises Refused."""
        self._store, self._clock = store, clock
        self._values: dict[str, bytes] = {}
        self._children: dict[str, dict[str, None]] = {}
        self.since: dict[str, float] = {}
        """When a node was last seen to change; what has not since we look is absent."""
        self.changes: deque[Change] = deque(maxlen=_REMEMBERED)
        self.began = clock()
        self._watch = store.watch("/", "monitor")
        self._copy("/")

    def update(self) -> int:
        """Take what has changed; how much that was. Raises Refused when the machine is gone."""
        count = 0
        while count < _AT_ONCE and (event := self._watch.wait(0)) is not None:
            path = event[0]
            if path.startswith("/"):
                count += 1
                self._look(path)
        return count

    def _look(self, path: str) -> None:
        try:
            value = self._store.read(path)
        except Refused as refused:
            if refused.errno not in (errno.ENOENT, errno.EACCES):
                raise
            if path in self._values:
                self._forget(path)
                self._note(path, None)
            return
        if self._values.get(path) != value:
            self._put(path, value)
            self._note(path, value)
        if path not in self._children or self._store.list(path) != self.list(path):
            self._copy(path)

    def _note(self, path: str, value: bytes | None) -> None:
        now = self._clock()
        self.since[path] = now
        self.changes.append(Change(now, path, value))

    def _copy(self, path: str) -> None:
        """A node with all below it."""
        with suppress(Refused):
            self._put(path, self._store.read(path))
            names = self._store.list(path)
            children = self._children.setdefault(path, {})
            for name in [name for name in children if name not in names]:
                self._forget(_below(path, name))
            for name in names:
                self._copy(_below(path, name))

    def _put(self, path: str, value: bytes) -> None:
        self._values[path] = value
        above, _, name = path.rpartition("/")
        if name:
            self._children.setdefault(above or "/", {})[name] = None

    def _forget(self, path: str) -> None:
        for name in list(self._children.pop(path, {})):
            self._forget(_below(path, name))
        self._values.pop(path, None)
        above, _, name = path.rpartition("/")
        self._children.get(above or "/", {}).pop(name, None)

    # Reader.

    def read(self, path: str) -> bytes:
        """See Reader."""
        value = self._values.get(path)
        if value is None:
            raise Refused(errno.ENOENT, f"{path}: there is no such node")
        return value

    def list(self, path: str) -> tuple[str, ...]:
        """See Reader."""
        if path not in self._values:
            raise Refused(errno.ENOENT, f"{path}: there is no such node")
        return tuple(sorted(self._children.get(path, ())))

    def exists(self, path: str) -> bool:
        """See Reader."""
        return path in self._values

    def perms(self, path: str) -> tuple[str, ...]:
        """See Reader. These are asked for: a change of permissions alone has no event that tells of it."""
        return self._store.perms(path)

    def write(self, path: str, value: bytes | str) -> None:
        """See Reader: nothing is changed here, nor by those below."""
        raise Refused(errno.EROFS, f"{path}: a mirror of {len(value)} bytes changes nothing")

    def mkdir(self, path: str) -> None:
        """See Reader."""
        self.write(path, "")

    def rm(self, path: str) -> None:
        """See Reader."""
        self.write(path, "")

    def chmod(self, path: str, perms: Sequence[str]) -> None:
        """See Reader."""
        self.write(path, " ".join(perms))

    def walk(self, path: str = "/") -> Iterator[tuple[str, int, bytes]]:
        """Every node below, with its depth and value, in order."""
        for name in sorted(self._children.get(path, ())):
            node = _below(path, name)
            yield node, node.count("/"), self._values.get(node, b"")
            yield from self.walk(node)

    def age(self, path: str) -> float | None:
        """Seconds since a node has changed; None when that was before we looked."""
        when = self.since.get(path)
        return None if when is None else self._clock() - when

    def close(self) -> None:
        """Look no more."""
        self._watch.close()


def _below(path: str, name: str) -> str:
    return f"/{name}" if path == "/" else f"{path}/{name}"
