"""The store as one domain, straight on the model."""

from __future__ import annotations

import errno
import os
import select
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from xenfs.domain.errors import Refused
from xenfs.xenstore.client import Client
from xenfs.xenstore.errors import StoreError
from xenfs.xenstore.homes import Homes
from xenfs.xenstore.store import Store

R = TypeVar("R")


class StoreModel:
    """The one store of a machine, which threads may use side by side."""

    def __init__(self) -> None:
        """Begin with the home of domain 0."""
        self.store = Store()
        self.homes = Homes(self.store)
        self.lock = threading.RLock()
        self.watches: dict[InProcessWatch, None] = {}

    def do(self, action: Callable[[], R]) -> R:
        """Carry something out. Raises Refused."""
        try:
            with self.lock:
                return action()
        except StoreError as error:
            raise Refused(error.errno, str(error)) from error

    def leaks(self) -> list[str]:
        """Watches that nobody closed."""
        return [repr(watch) for watch in self.watches]


class _Reader:
    """What the store and a transaction have in common."""

    def __init__(self, model: StoreModel, client: Client, tx: int = 0) -> None:
        self._model, self._client, self._tx = model, client, tx
        self._store = model.store

    def read(self, path: str) -> bytes:
        """See Reader."""
        return self._model.do(lambda: self._store.read(self._client, path, self._tx))

    def list(self, path: str) -> tuple[str, ...]:
        """See Reader."""
        return tuple(self._model.do(lambda: self._store.look(self._client, path, self._tx).names()))

    def exists(self, path: str) -> bool:
        """See Reader."""
        try:
            self.read(path)
        except Refused as refused:
            if refused.errno not in (errno.ENOENT, errno.EACCES):
                raise
            return False
        return True

    def perms(self, path: str) -> tuple[str, ...]:
        """See Reader."""
        return tuple(self._model.do(lambda: self._store.get_perms(self._client, path, self._tx)))

    def write(self, path: str, value: bytes | str) -> None:
        """See Reader."""
        data = value.encode() if isinstance(value, str) else bytes(value)
        self._model.do(lambda: self._store.write(self._client, path, data, self._tx))

    def mkdir(self, path: str) -> None:
        """See Reader."""
        self._model.do(lambda: self._store.mkdir(self._client, path, self._tx))

    def rm(self, path: str) -> None:
        """See Reader."""
        self._model.do(lambda: self._store.rm(self._client, path, self._tx))

    def chmod(self, path: str, perms: Sequence[str]) -> None:
        """See Reader."""
        self._model.do(lambda: self._store.set_perms(self._client, path, perms, self._tx))


class InProcessTransaction(_Reader):
    """Implements domain.Transaction."""

    def __init__(self, model: StoreModel, client: Client) -> None:
        """Start it."""
        super().__init__(model, client, model.do(lambda: model.store.begin(client)))
        self.conflict = False

    def __enter__(self) -> InProcessTransaction:
        return self

    def __exit__(self, *raised: object) -> None:
        commit = raised[0] is None
        try:
            self._model.do(lambda: self._store.end(self._client, self._tx, commit))
        except Refused as refused:
            if refused.errno != errno.EAGAIN:
                raise
            self.conflict = True


class InProcessWatch:
    """Implements domain.Watch: a client of its own, with one watch."""

    def __init__(self, store: InProcessStore, path: str, token: str) -> None:
        """Begin to watch, with the event that says: look now."""
        self._store, self._path, self._token = store, path, token
        self._events: deque[tuple[str, str]] = deque()
        self._fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC | os.EFD_SEMAPHORE)
        model = store.model
        self._client = model.store.connect(Client(store.domid, self._event))
        try:
            model.do(lambda: model.store.watch(self._client, path, token))
        except Refused:
            self._end()
            raise
        self._event(path, token)

    def __repr__(self) -> str:
        return f"watch {self._path} {self._token!r}".rstrip()

    def _event(self, path: str, token: str) -> None:
        self._events.append((path, token))
        os.eventfd_write(self._fd, 1)

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

    def _end(self) -> None:
        with self._store.model.lock:
            self._store.model.store.disconnect(self._client)
        os.close(self._fd)

    def close(self) -> None:
        """See Watch."""
        if self._store.forget(self):
            self._end()

    def __iter__(self) -> Iterator[tuple[str, str]]:
        while (event := self.wait()) is not None:
            yield event


class InProcessStore(_Reader):
    """Implements domain.Store."""

    def __init__(self, model: StoreModel, domid: int) -> None:
        """Connect."""
        super().__init__(model, model.store.connect(Client(domid, lambda _path, _token: None)))
        self.model, self.domid = model, domid
        self._watches: dict[tuple[str, str], InProcessWatch] = {}

    def transaction(self, attempts: int = 50) -> Iterator[InProcessTransaction]:
        """See Store."""
        for _ in range(attempts):
            attempt = InProcessTransaction(self.model, self._client)
            yield attempt
            if not attempt.conflict:
                return
        raise Refused(errno.EAGAIN, f"transaction: {attempts} conflicts one after another")

    def watch(self, path: str, token: str = "") -> InProcessWatch:
        """See Store."""
        if (path, token) in self._watches:
            raise Refused(errno.EEXIST, f"{path}: watched already with token {token!r}")
        watch = self._watches[path, token] = InProcessWatch(self, path, token)
        self.model.watches[watch] = None
        return watch

    def forget(self, watch: InProcessWatch) -> bool:
        """Take a watch off the lists; False when it was not there."""
        for key, known in self._watches.items():
            if known is watch:
                del self._watches[key], self.model.watches[watch]
                return True
        return False

    def close(self) -> None:
        """End every watch, and disconnect."""
        for watch in list(self._watches.values()):
            watch.close()
        with self.model.lock:
            self.model.store.disconnect(self._client)
