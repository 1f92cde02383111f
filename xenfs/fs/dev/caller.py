"""The memory of whoever called us, for ioctls whose struct is at the caller's address.

Reading another process's memory may wait: for a page of this very mount, or for whoever serves the caller's page
faults. So it is never done on the loop, and each domain has a thread of its own for it: whoever sets a trap with its
memory catches its own domain only.
"""

from __future__ import annotations

import ctypes as C  # noqa: N812 - the customary short name for a module of C declarations
import errno
import os
import queue
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

_LIBC = C.CDLL(None, use_errno=True)


class _Iovec(C.Structure):
    _fields_ = (("base", C.c_void_p), ("length", C.c_size_t))


def _declare(name: str) -> Any:
    function = _LIBC[name]
    function.restype = C.c_ssize_t
    function.argtypes = (C.c_int, C.POINTER(_Iovec), C.c_ulong, C.POINTER(_Iovec), C.c_ulong, C.c_ulong)
    return function


_readv, _writev = _declare("process_vm_readv"), _declare("process_vm_writev")


def _transfer(call: Any, tid: int, address: int, buffer: Any, size: int) -> None:
    ours, theirs = _Iovec(C.addressof(buffer), size), _Iovec(address, size)
    moved = call(tid, C.byref(ours), 1, C.byref(theirs), 1, 0)
    if moved != size:
        code = C.get_errno() if moved < 0 else errno.EFAULT
        raise OSError(code, f"thread {tid} at {address:#x}: {os.strerror(code)}")


def fetch(tid: int, address: int, size: int) -> bytes:
    """Read a thread's memory. Raises OSError: EFAULT, EPERM without the right to trace it, ESRCH."""
    buffer = C.create_string_buffer(size)
    _transfer(_readv, tid, address, buffer, size)
    return buffer.raw


def store(tid: int, address: int, data: bytes) -> None:
    """Write a thread's memory. Raises OSError as `fetch`, EFAULT also for memory that it may not write itself."""
    _transfer(_writev, tid, address, C.create_string_buffer(data, len(data)), len(data))


def is_dying(tid: int) -> bool:
    """Whether a thread has been killed and only waits to be let go."""
    try:
        status = Path(f"/proc/{tid}/status").read_bytes()  # its name is of any bytes
    except OSError:
        return True
    pending = next((line.split()[1] for line in status.splitlines() if line.startswith(b"SigPnd:")), b"0")
    return bool(int(pending, 16) >> (signal.SIGKILL - 1) & 1)


class CallerMemory:
    """A thread that reads and writes the memory of a domain's processes, in order; it starts when first needed."""

    def __init__(self) -> None:
        """No thread yet."""
        self._jobs: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    def put(self, job: Callable[[], None]) -> None:
        """Have something done that may wait. It must not raise."""
        if self._thread is None:
            # as a daemon thread: one that waits for ever must not keep the machine from ending
            self._thread = threading.Thread(target=self._run, name="xenfs-caller", daemon=True)
            self._thread.start()
        self._jobs.put(job)

    def _run(self) -> None:
        while (job := self._jobs.get()) is not None:
            job()

    def close(self) -> None:
        """End the thread once what it was given is done."""
        self._jobs.put(None)
