"""A copy of the store, kept by one watch on its root: to look at it costs nothing, and it knows what has changed."""

from __future__ import annotations

import errno
import time
from collections.abc import Callable, Iterable, Iterator, Sequence

from xenfs.domain import Refused, Store, Watch

_REMEMBERED = 2000
"""Nodes that are gone, at most, of which it is known since when."""
_AT_ONCE = 1 << 14
"""Events of one look, at most: while others come as fast as they are taken, there is to be a look all the same."""
_FIRST_SECONDS = 1.0


class Mirror:
    """Implements store.Reader over the copy."""

    def __init__(self, store: Store, clock: Callable[[], float] = time.time) -> None:
        """Copy everything. Raises Refused."""
        self._store, self._clock = store, clock
        self._values: dict[str, bytes] = {}
        self._children: dict[str, dict[str, None]] = {}
        self.since: dict[str, float] = {}
        """When a node was last seen to change; what has not since we look is absent."""
        self.turn = 0
        """Another number whenever something of a device has changed."""
        self.began = clock()
        self._watch = self._begin()
        self.since.clear()

    def _begin(self) -> Watch:
        """Watch, and copy everything."""
        watch = self._store.watch("/", "monitor")
        watch.wait(_FIRST_SECONDS)  # each begins with one
        self._copy("/")
        return watch

    def update(self) -> int:
        """Take what has changed; how much that was. Raises Refused when the machine is gone."""
        count, told = 0, dict[str, None]()
        try:
            while count < _AT_ONCE and (event := self._watch.wait(0)) is not None:
                if event[0].startswith("/"):
                    count += 1
                    told[event[0]] = None
        except Refused as refused:
            if refused.errno != errno.ECONNRESET:
                raise
            self._watch.close()  # so much has changed since the last look that the store could not keep it for us
            self._watch = self._begin()
            return count
        for path in told:
            if not any(above in told for above in _upwards(path)):
                self._look(path)
        return count

    def _look(self, path: str) -> None:
        for above in _upwards(path):
            if above in self._values:
                break
            path = above  # made along with it, of which no event tells
        self._copy(path)

    def _copy(self, top: str) -> None:
        """A node with all below it: of what was removed and made again, no event tells what is not there any more."""
        rest = [top]
        while rest:
            path = rest.pop()
            try:
                value, names = self._store.read(path), self._store.list(path)
            except Refused as refused:
                if refused.errno not in (errno.ENOENT, errno.EACCES):
                    raise
                self._forget(path)
                continue
            if self._values.get(path) != value:
                self._put(path, value)
                self.since[path] = self._clock()
            for name in self._children.get(path, {}).keys() - set(names):
                self._forget(_below(path, name))
            rest += [_below(path, name) for name in reversed(names)]

    def _put(self, path: str, value: bytes) -> None:
        self._values[path] = value
        self.turn += _of_device(path)
        above, _, name = path.rpartition("/")
        if name:
            self._children.setdefault(above or "/", {})[name] = None

    def _forget(self, top: str) -> None:
        """A node is gone, with all below it."""
        if top not in self._values:
            return
        now, rest = self._clock(), [top]
        while rest:
            path = rest.pop()
            rest += [_below(path, name) for name in self._children.pop(path, ())]
            del self._values[path]
            self.turn += _of_device(path)
            self.since[path] = now
        above, _, name = top.rpartition("/")
        self._children[above or "/"].pop(name, None)
        if len(self.since) > len(self._values) + _REMEMBERED:
            self.since = {path: when for path, when in self.since.items() if path in self._values}

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
        rest = _downwards(path, self._children.get(path, ()))
        while rest:
            node = rest.pop()
            yield node, node.count("/"), self._values[node]
            rest += _downwards(node, self._children.get(node, ()))

    def ages(self) -> dict[str, float]:
        """Seconds since each node has changed, of those that have since we look."""
        now = self._clock()
        return {path: max(0.0, now - when) for path, when in self.since.items()}

    def age(self, path: str) -> float | None:
        """Seconds since a node has changed; None when that was before we looked."""
        when = self.since.get(path)
        return None if when is None else max(0.0, self._clock() - when)

    def close(self) -> None:
        """Look no more."""
        self._watch.close()


def _below(path: str, name: str) -> str:
    return f"/{name}" if path == "/" else f"{path}/{name}"


def _of_device(path: str) -> bool:
    return "/device/" in path or "/backend/" in path


def _upwards(path: str) -> Iterator[str]:
    """The nodes above one, the nearest first."""
    while path != "/":
        path = path.rpartition("/")[0] or "/"
        yield path


def _downwards(path: str, names: Iterable[str]) -> list[str]:
    """The nodes below one, the first as the last."""
    return [_below(path, name) for name in sorted(names, reverse=True)]
