"""The store as one domain, on the in-process tree."""

from __future__ import annotations

import errno
import os
import select
from collections import deque
from collections.abc import Callable, Iterator, Sequence

from xenfs.domain.inprocess.tree import Tree, allows, refuse


class _Reader:
    """What the store and a transaction have in common: the operations on some tree."""

    def __init__(self, tree: Tree, domid: int) -> None:
        self._tree, self._domid = tree, domid

    def _path(self, path: str) -> str:
        return path if path.startswith("/") or not path else f"/local/domain/{self._domid}/{path}"

    def read(self, path: str) -> bytes:
        """See Reader."""
        return self._tree.get(self._path(path), self._domid, "r").value

    def list(self, path: str) -> tuple[str, ...]:
        """See Reader."""
        return tuple(self._tree.get(self._path(path), self._domid, "r").children)

    def exists(self, path: str) -> bool:
        """See Reader."""
        node = self._tree.find(self._path(path))
        return node is not None and allows(node, self._domid, "r")

    def perms(self, path: str) -> tuple[str, ...]:
        """See Reader."""
        return tuple(f"{letter}{domid}" for letter, domid in self._tree.get(self._path(path), self._domid, "r").perms)

    def write(self, path: str, value: bytes | str) -> None:
        """See Reader."""
        data = value.encode() if isinstance(value, str) else bytes(value)
        self._do(lambda tree: tree.write(self._path(path), data, self._domid))

    def mkdir(self, path: str) -> None:
        """See Reader."""
        self._do(lambda tree: tree.mkdir(self._path(path), self._domid))

    def rm(self, path: str) -> None:
        """See Reader."""
        self._do(lambda tree: tree.rm(self._path(path), self._domid))

    def chmod(self, path: str, perms: Sequence[str]) -> None:
        """See Reader."""
        self._do(lambda tree: tree.chmod(self._path(path), perms, self._domid))

    def _do(self, change: Callable[[Tree], None]) -> None:
        with self._tree.lock:
            change(self._tree)


class InProcessTransaction(_Reader):
    """Works on a copy, remembers the nodes it touched, and does its changes again on the tree at the end."""

    def __init__(self, tree: Tree, domid: int) -> None:
        """Take the copy."""
        super().__init__(tree.snapshot(), domid)
        self._base, self._start = tree, self._tree.generation
        self._touched: dict[str, int | None] = {}
        self._changes: list[Callable[[Tree], None]] = []
        self._tree.touched = lambda path, generation: self._touch(path, generation)
        self.conflict = False

    def _touch(self, path: str, generation: int | None) -> None:
        if path not in self._touched and (generation is None or generation <= self._start):
            self._touched[path] = generation

    def _do(self, change: Callable[[Tree], None]) -> None:
        change(self._tree)
        self._changes.append(change)

    def __enter__(self) -> InProcessTransaction:
        return self

    def __exit__(self, *raised: object) -> None:
        if raised[0] is None:
            with self._base.lock:
                self._commit()

    def _commit(self) -> None:
        for path, generation in self._touched.items():
            node = self._base.find(path)
            if (None if node is None else node.generation) != generation:
                self.conflict = True
                return
        for change in self._changes:
            change(self._base)


class InProcessWatch:
    """Events for one path, each a changed path and the token."""

    def __init__(self, store: InProcessStore, path: str, shown: str, token: str) -> None:
        """Begin with the event that says: look now."""
        self._store, self._path, self._shown, self._token = store, path, shown, token
        self._events: deque[tuple[str, str]] = deque()
        self._fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC | os.EFD_SEMAPHORE)
        self._put(path)

    def __repr__(self) -> str:
        return f"watch {self._shown} {self._token!r}".rstrip()

    def _put(self, path: str) -> None:
        self._events.append((self._shown + path[len(self._path) :], self._token))
        os.eventfd_write(self._fd, 1)

    def changed(self, path: str, exact: bool) -> None:
        """A node changed somewhere; `exact` only concerns who watches that very node."""
        same = path == self._path
        below = not exact and path.startswith("/" if self._path == "/" else self._path + "/")
        if (same or below) and self._store.sees(path):
            self._put(path)

    def fileno(self) -> int:
        """See Watch."""
        return self._fd

    def wait(self, timeout: float | None = None) -> tuple[str, str] | None:
        """See Watch."""
        poll = select.poll()
        poll.register(self._fd, select.POLLIN)
        if not poll.poll(None if timeout is None else max(0.0, timeout * 1000)):
            return None
        os.eventfd_read(self._fd)
        return self._events.popleft()

    def close(self) -> None:
        """See Watch."""
        if self._store.forget(self):
            os.close(self._fd)

    def __iter__(self) -> Iterator[tuple[str, str]]:
        while (event := self.wait()) is not None:
            yield event


class InProcessStore(_Reader):
    """Implements domain.Store."""

    def __init__(self, tree: Tree, domid: int) -> None:
        """Begin without watches."""
        super().__init__(tree, domid)
        self._watches: dict[tuple[str, str], InProcessWatch] = {}

    def transaction(self, attempts: int = 50) -> Iterator[InProcessTransaction]:
        """See Store."""
        for _ in range(attempts):
            attempt = InProcessTransaction(self._tree, self._domid)
            yield attempt
            if not attempt.conflict:
                return
        raise refuse(errno.EAGAIN, "transaction", f"{attempts} conflicts one after another")

    def watch(self, path: str, token: str = "") -> InProcessWatch:
        """See Store."""
        key = (self._path(path), token)
        if key in self._watches:
            raise refuse(errno.EEXIST, path, f"watched already with token {token!r}")
        watch = self._watches[key] = InProcessWatch(self, key[0], path, token)
        self._tree.listeners[watch] = watch.changed
        return watch

    def sees(self, path: str) -> bool:
        """Whether the domain may read a node; one that is gone counts by its nearest ancestor."""
        return self._tree.visible(path, self._domid)

    def forget(self, watch: InProcessWatch) -> bool:
        """Take a watch off the lists; False when it was not there."""
        for key, known in self._watches.items():
            if known is watch:
                del self._watches[key], self._tree.listeners[watch]
                return True
        return False

    def close(self) -> None:
        """End every watch."""
        for watch in list(self._watches.values()):
            watch.close()
