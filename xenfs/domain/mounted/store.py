"""The store as one domain, through its dev/xenbus."""

from __future__ import annotations

import errno
import os
import select
import struct
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence

from xenfs.abi.xs_wire import PAYLOAD_MAX, XsType, error_code
from xenfs.domain.errors import Refused
from xenfs.domain.mounted.errors import refusal

_HEADER = struct.Struct("<IIII")
Open = Callable[[], int]
Message = tuple[int, bytes]


class _Stream:
    """Messages to and from an open dev/xenbus. One thread at a time."""

    def __init__(self, fd: int, where: str, most: int = 0) -> None:
        """`most`: bytes to read at once, where no more than one message can be waiting."""
        self.fd, self._where, self._rest, self._most = fd, where, b"", most

    def send(self, kind: int, tx: int, payload: bytes) -> None:
        """Write one message; the device takes no two in one write."""
        try:
            os.write(self.fd, _HEADER.pack(kind, 0, tx, len(payload)) + payload)
        except OSError as error:
            raise refusal(error, self._where) from error

    def _missing(self) -> int:
        """How many bytes are still to come of the message that has begun, as far as that is known."""
        if len(self._rest) < _HEADER.size:
            return _HEADER.size - len(self._rest)
        *_, size = _HEADER.unpack_from(self._rest)
        return _HEADER.size + int(size) - len(self._rest)

    def next(self, timeout: float | None = None) -> Message | None:
        """The next message; None when none came in the time. Raises Refused.

        Reads no more than that message, so that the descriptor is readable as long as there is another; unless there
        can be no other, and then all of it at once.
        """
        while missing := self._missing():
            try:
                data = os.read(self.fd, max(missing, self._most))
            except BlockingIOError:  # a watch's, which looks first and waits then
                if self._wait(timeout):
                    continue
                return None
            except OSError as error:
                raise refusal(error, self._where) from error
            if not data:
                raise Refused(errno.ECONNRESET, f"{self._where}: the store has closed the connection")
            self._rest += data
        (kind, *_), payload = _HEADER.unpack_from(self._rest), self._rest[_HEADER.size :]
        self._rest = b""
        return int(kind), payload

    def _wait(self, timeout: float | None) -> bool:
        """Whether there is something to be read in time."""
        if timeout is not None and timeout <= 0:
            return False
        poller = select.poll()
        poller.register(self.fd, select.POLLIN)
        return bool(poller.poll(None if timeout is None else timeout * 1000))

    def close(self) -> None:
        os.close(self.fd)


class _Reader:
    """What the store and a transaction have in common."""

    def __init__(self, ask: Callable[[int, int, bytes, str], bytes], tx: int = 0) -> None:
        self._ask_store, self._tx = ask, tx

    def _ask(self, kind: XsType, path: str, rest: bytes = b"") -> bytes:
        return self._ask_store(kind, self._tx, _path(path) + rest, path)

    def read(self, path: str) -> bytes:
        """See Reader."""
        return self._ask(XsType.READ, path)

    def list(self, path: str) -> tuple[str, ...]:
        """See Reader."""
        try:
            names = self._ask(XsType.DIRECTORY, path)
        except Refused as refused:
            if refused.errno != errno.E2BIG:
                raise
            names = self._parts(path)
        return tuple(name.decode() for name in names.split(b"\0")[:-1])

    def _parts(self, path: str) -> bytes:
        """A long list of names, part by part; from the beginning again when it changes meanwhile."""
        seen, names = b"", b""
        while True:
            answer = self._ask(XsType.DIRECTORY_PART, path, b"%d\0" % len(names))
            generation, _, part = answer.partition(b"\0")
            if seen and generation != seen:
                seen, names = b"", b""
                continue
            seen = generation
            if part.endswith(b"\0\0") or part == b"\0":
                return names + part[:-1]
            names += part

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
        return tuple(perm.decode() for perm in self._ask(XsType.GET_PERMS, path).split(b"\0")[:-1])

    def write(self, path: str, value: bytes | str) -> None:
        """See Reader."""
        self._ask(XsType.WRITE, path, value.encode() if isinstance(value, str) else bytes(value))

    def mkdir(self, path: str) -> None:
        """See Reader."""
        self._ask(XsType.MKDIR, path)

    def rm(self, path: str) -> None:
        """See Reader."""
        self._ask(XsType.RM, path)

    def chmod(self, path: str, perms: Sequence[str]) -> None:
        """See Reader."""
        if not all(perm.isascii() for perm in perms):
            raise Refused(errno.EINVAL, f"{path}: not permissions: {' '.join(perms)}")
        self._ask(XsType.SET_PERMS, path, b"".join(perm.encode() + b"\0" for perm in perms))


def _path(path: str) -> bytes:
    """A path as bytes. What no path can have is refused here, before it could be taken for something else."""
    if "\0" in path or not path.isascii():
        raise Refused(errno.EINVAL, f"{path!r}: not a path")
    return path.encode() + b"\0"


class MountedTransaction(_Reader):
    """Implements domain.Transaction."""

    def __init__(self, ask: Callable[[int, int, bytes, str], bytes]) -> None:
        """Start it."""
        number = ask(XsType.TRANSACTION_START, 0, b"\0", "transaction")
        super().__init__(ask, int(number.rstrip(b"\0")))
        self.conflict = False

    def __enter__(self) -> MountedTransaction:
        return self

    def __exit__(self, *raised: object) -> None:
        try:
            self._ask_store(XsType.TRANSACTION_END, self._tx, b"F\0" if raised[0] else b"T\0", "transaction")
        except Refused as refused:
            if refused.errno != errno.EAGAIN:
                raise
            self.conflict = True


class MountedWatch:
    """Implements domain.Watch: a dev/xenbus of its own, with one watch."""

    def __init__(self, store: MountedStore, stream: _Stream, path: str, token: str) -> None:
        """Begin to watch."""
        self._store, self._stream = store, stream
        self._path, self._token = path, token
        self._events: deque[tuple[str, str]] = deque()
        self._closed = False
        if "\0" in token:
            raise Refused(errno.EINVAL, f"token {token!r} has a NUL")
        stream.send(XsType.WATCH, 0, _path(path) + token.encode("utf-8", "surrogateescape") + b"\0")
        while (message := stream.next()) is not None and message[0] == XsType.WATCH_EVENT:
            self._events.append(self._event(message[1]))
        os.set_blocking(stream.fd, False)

    def __repr__(self) -> str:
        return f"watch {self._path} {self._token!r}".rstrip()

    @staticmethod
    def _event(payload: bytes) -> tuple[str, str]:
        path, token, *_ = payload.split(b"\0")
        return path.decode(), token.decode("utf-8", "surrogateescape")

    def fileno(self) -> int:
        """See Watch."""
        return self._stream.fd

    def wait(self, timeout: float | None = None) -> tuple[str, str] | None:
        """See Watch."""
        if self._events:
            return self._events.popleft()
        message = self._stream.next(timeout)
        return None if message is None else self._event(message[1])

    def close(self) -> None:
        """See Watch."""
        if not self._closed:
            self._closed = True
            self._store.forget(self)
            self._stream.close()

    def __iter__(self) -> Iterator[tuple[str, str]]:
        while (event := self.wait()) is not None:
            yield event


class MountedStore(_Reader):
    """Implements domain.Store. Threads may use it side by side."""

    def __init__(self, open_device: Open, where: str) -> None:
        """Connect when first needed."""
        super().__init__(self._request)
        self._open, self._where = open_device, where
        self._lock = threading.Lock()
        self._stream: _Stream | None = None
        self._watches: dict[tuple[str, str], MountedWatch] = {}

    def _request(self, kind: int, tx: int, payload: bytes, what: str) -> bytes:
        if len(payload) > PAYLOAD_MAX - _HEADER.size:
            raise Refused(errno.E2BIG, f"{what}: {len(payload)} bytes, at most {PAYLOAD_MAX - _HEADER.size}")
        with self._lock:
            if self._stream is None:
                self._stream = _Stream(self._open(), self._where, _HEADER.size + PAYLOAD_MAX)
            self._stream.send(kind, tx, payload)
            answer = self._stream.next()
        assert answer is not None
        got, said = answer
        if got == XsType.ERROR:
            name = said.rstrip(b"\0").decode("ascii", "replace")
            code = error_code(name)
            raise Refused(code, f"{what}: {os.strerror(code)}")
        return said

    def transaction(self, attempts: int = 50) -> Iterator[MountedTransaction]:
        """See Store."""
        for _ in range(attempts):
            attempt = MountedTransaction(self._request)
            yield attempt
            if not attempt.conflict:
                return
        raise Refused(errno.EAGAIN, f"transaction: {attempts} conflicts one after another")

    def watch(self, path: str, token: str = "") -> MountedWatch:
        """See Store."""
        if (path, token) in self._watches:
            raise Refused(errno.EEXIST, f"{path}: watched already with token {token!r}")
        stream = _Stream(self._open(), self._where)
        try:
            watch = self._watches[path, token] = MountedWatch(self, stream, path, token)
        except Refused:
            stream.close()
            raise
        return watch

    def forget(self, watch: MountedWatch) -> None:
        """Take a watch off the list."""
        self._watches = {key: known for key, known in self._watches.items() if known is not watch}

    def close(self) -> None:
        """End every watch, and disconnect."""
        for watch in list(self._watches.values()):
            watch.close()
        with self._lock:
            if self._stream is not None:
                self._stream.close()
                self._stream = None
