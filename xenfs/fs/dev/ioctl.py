"""One ioctl on its way: what its handler asks for step by step, and its answer.

A handler is a generator. It yields a step whenever it needs something that may take time, such as bytes of the
caller's memory, goes on with the step's result when that is there, and returns what the ioctl returns. What it raises
becomes the errno. In Xen's own number the struct is at the caller's address; in the twin its bytes came with the call
and go back with the answer. `Asked.read` and `Asked.write` know the difference, a handler need not.
"""

from __future__ import annotations

import errno
import sys
import traceback
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from xenfs.abi.wire import FieldError
from xenfs.fs.dev import caller
from xenfs.hypervisor.errors import HypercallError

if TYPE_CHECKING:
    from xenfs.fs.dev.caller import CallerMemory
    from xenfs.fs.filesystem import Filesystem
    from xenfs.fs.request import Request

Result = OSError | bytes | None
Steps = Generator["Step", Any, int]


class Step(ABC):
    """Something that takes time. `then` is called on the loop, with the result or the error."""

    @abstractmethod
    def start(self, asked: Asked, then: Callable[[Result], None]) -> None:
        """Begin."""


@dataclass(frozen=True, slots=True)
class Remotely(Step):
    """Something with the caller's memory, on its domain's thread."""

    job: Callable[[int], bytes | None]

    def start(self, asked: Asked, then: Callable[[Result], None]) -> None:
        """See Step."""
        if not asked.tid:
            then(OSError(errno.EPERM, "the caller is outside our pid namespace"))
            return

        def run() -> None:
            result: Result = None
            if not asked.given_up:
                try:
                    result = self.job(asked.tid)
                except OSError as error:
                    result = error
                except MemoryError:
                    result = OSError(errno.ENOMEM, "no memory for it")
            asked.fs.work.back(lambda: then(result))

        asked.memory.put(run)


@dataclass(frozen=True, slots=True)
class OnThread(Step):
    """Something with pages, on the work thread behind everything that was to be done to them before."""

    job: Callable[[], bytes | None]

    def start(self, asked: Asked, then: Callable[[Result], None]) -> None:
        """See Step."""
        results: list[Result] = []

        def run() -> None:
            try:
                results.append(self.job())
            except OSError as error:
                results.append(error)

        asked.fs.work.put(run)
        asked.fs.work.then(lambda: then(results[0]))


class Asked:
    """An ioctl that a process waits for. Its thread is the kernel's captive until the answer, so `tid` stays right."""

    def __init__(
        self, fs: Filesystem, memory: CallerMemory, request: Request, *, address: int, data: bytes | None
    ) -> None:
        """Take the request over; `data` are the bytes that came with a twin."""
        self.fs, self.memory = fs, memory
        self.tid, _ = request.caller
        self.given_up = False
        self._request, self._address = request, address
        self._data = None if data is None else bytearray(data)
        self._steps: Steps | None = None

    @property
    def inline(self) -> int | None:
        """How many bytes came with the call; None when they are at the caller's address."""
        return None if self._data is None else len(self._data)

    def read(self, offset: int, size: int) -> Generator[Step, Any, bytes]:
        """Bytes of the struct."""
        if self._data is None:
            return bytes((yield from self.fetch(self._address + offset, size)))
        self._room(offset + size)
        return bytes(self._data[offset : offset + size])

    def write(self, offset: int, data: bytes) -> Generator[Step, Any, None]:
        """Put bytes into the struct."""
        if self._data is None:
            yield from self.store(self._address + offset, data)
        else:
            self._room(offset + len(data))
            self._data[offset : offset + len(data)] = data

    def _room(self, end: int) -> None:
        if self._data is not None and end > len(self._data):
            raise OSError(errno.EINVAL, f"the call carries {len(self._data)} bytes, it needs {end}")

    @staticmethod
    def fetch(address: int, size: int) -> Generator[Step, Any, bytes]:
        """Bytes of the caller's memory."""
        return bytes((yield Remotely(lambda tid: caller.fetch(tid, address, size)))) if size else b""

    @staticmethod
    def store(address: int, data: bytes) -> Generator[Step, Any, None]:
        """Change the caller's memory."""
        if data:
            yield Remotely(lambda tid: caller.store(tid, address, data))

    def run(self, steps: Steps) -> None:
        """Answer with what the steps return or raise, at the latest when they are through."""
        self._steps = steps
        self._go_on(None)
        if not self._request.answered:
            self._request.when_interrupted(self._interrupted)

    def _interrupted(self) -> None:
        """A signal has come. Only one that kills is heard: a driver's ioctl cannot be interrupted by others."""
        if caller.is_dying(self.tid):
            self.given_up = True
            self._request.error(errno.EINTR)

    def _go_on(self, result: Result) -> None:
        assert self._steps is not None
        if self.given_up:
            self._steps.close()
            return
        try:
            step = self._steps.throw(result) if isinstance(result, OSError) else self._steps.send(result)
        except StopIteration as end:
            self._answer(int(end.value))
        except HypercallError as error:
            self._refuse(error.errno)
        except FieldError:
            self._refuse(errno.EINVAL)
        except OSError as error:
            self._refuse(error.errno or errno.EIO)
        except Exception:
            traceback.print_exc(file=sys.stderr)
            self._refuse(errno.EIO)
        else:
            step.start(self, self._go_on)

    def _refuse(self, code: int) -> None:
        # the kernel would make ENOTTY of ENOSYS; nothing else that we raise is changed on the way
        self._request.error(code)

    def _answer(self, result: int) -> None:
        data = b"" if self._data is None else bytes(self._data)

        def answer() -> None:
            if not self._request.answered:
                self._request.controlled(result, data)

        self.fs.work.then(answer)  # when the call has caused what its answer says: pages moved, FIFOs open
