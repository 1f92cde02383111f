"""dev/hypercall: any row of the table, in binary, in batches (abi/hypercall.py), by ioctl or by write and read.

Either takes several batches one behind the other, which is Xen's multicall.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Any

from xenfs.abi.hypercall import BATCH, BatchAt
from xenfs.fs.dev.device import Call, OpenDevice
from xenfs.fs.dev.ioctl import OnThread, Step
from xenfs.fs.stream import POLLIN, POLLOUT
from xenfs.hypervisor import binary
from xenfs.hypervisor.errors import HypercallError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from xenfs.abi.wire import Wire
    from xenfs.fs.dev.directory import Dev
    from xenfs.fs.dev.ioctl import Asked, Result, Steps
    from xenfs.fs.request import Request
    from xenfs.fs.turns import Turns

MAX_UNREAD = 1 << 20
"""Bytes of answers that wait to be read before no more batches are taken."""


class Turn(Step):
    """Wait until no calls of the domain are under way."""

    def __init__(self, turns: Turns) -> None:
        """Whose."""
        self._turns = turns

    def start(self, asked: Asked, then: Callable[[Result], None]) -> None:
        """See Step."""
        del asked
        self._turns.wait(lambda: then(None))


class OpenHypercall(OpenDevice):
    """An open dev/hypercall: what has been written of the batch to come, and answers that wait to be read."""

    def __init__(self, dev: Dev, flags: int) -> None:
        """Begin with nothing asked."""
        super().__init__(dev, flags)
        self._batch, self._answers = b"", bytearray()
        self._owed = 0

    def _call(self, request: Wire) -> Wire:
        return self.fs.call(request, self.domain, self.handle)

    def _call_rows(self, kind: type[Wire], rows: Sequence[Any]) -> Sequence[Any | HypercallError]:
        return self.fs.call_rows(kind, rows, self.domain, self.handle)

    def _ioctl(self, asked: Asked, _request: None) -> Steps:
        at, size = 0, asked.inline
        if size is None:
            where = BatchAt.parse((yield from asked.read(0, BatchAt.layout.size)))
            at, size = where.address, where.size
            if size > binary.MAX_SIZE:
                raise OSError(errno.E2BIG, f"a batch of {size} bytes: at most {binary.MAX_SIZE}")
            batch = yield from asked.fetch(at, size)
        else:
            batch = yield from asked.read(0, size)
        yield Turn(self.dev.turns)
        answer = b"".join(self._answer(one) for one in binary.split(batch))
        if asked.inline is None:
            yield OnThread(lambda: None)  # behind what the calls have caused
            yield from asked.store(at, answer)
        else:
            yield from asked.write(0, answer)
        return 0

    def _answer(self, batch: bytes) -> bytes:
        if self.fs.plain(binary.kind(batch)):
            answer = binary.run_rows(batch, self._call_rows)
        else:
            answer = binary.run(batch, self._call)
        self.dev.turns.owe()
        self.fs.work.then(self.dev.turns.paid)
        return answer

    def take(self, size: int) -> bytes | None:
        """See OpenStream: the end of file when nothing is unanswered."""
        if not self._answers:
            return None if self._owed else b""
        data = bytes(self._answers[:size])
        del self._answers[:size]
        return data

    def events(self) -> int:
        """See OpenFile."""
        return POLLOUT | (POLLIN if self._answers else 0)

    def write(self, request: Request, data: bytes, offset: int) -> None:
        """Take a piece of a stream of batches."""
        del offset
        if len(self._answers) > MAX_UNREAD:
            request.error(errno.EAGAIN)
            return
        self._owed += 1
        waiter = self.dev.turns.wait(lambda: self._accept(request, data))
        if not request.answered:
            request.park(lambda: self._interrupted(waiter))

    def _interrupted(self, waiter: Callable[[], None]) -> None:
        self.dev.turns.cancel(waiter)
        self._owed -= 1
        self.wake()

    def _accept(self, request: Request, data: bytes) -> None:
        self._batch += data
        try:
            while (size := binary.size(self._batch)) and len(self._batch) >= size:
                batch, self._batch = self._batch[:size], self._batch[size:]
                answer = self._answer(batch)
                self._owed += 1
                self.fs.work.then(lambda answer=answer: self._answered(answer))  # type: ignore[misc]
        except HypercallError as error:
            self._batch = b""
            request.error(error.errno)
        else:
            request.written(len(data))
        self._answered(b"")

    def _answered(self, answer: bytes) -> None:
        self._owed -= 1
        self._answers += answer
        self.wake()

    calls = (Call(BATCH, None, _ioctl, tail=True),)
