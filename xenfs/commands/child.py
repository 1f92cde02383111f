"""Looking at a mount from a child process.

Any system call on a mount whose daemon is stopped waits in the kernel, and only SIGKILL ends it. So whatever touches a
mount does it in a child, which is killed when it is late; the command itself never hangs.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import pickle
import select
import signal
import time
from collections.abc import Callable, Generator
from typing import NoReturn, TypeVar

R = TypeVar("R")

PATIENCE = 5.0
"""Seconds that a daemon has to answer; each answer takes it less than a millisecond."""
_PR_SET_PDEATHSIG = 1
_CHUNK = 1 << 16


class Silent(Exception):
    """No answer within the time."""


def die_with_parent(number: int = signal.SIGKILL) -> None:
    """Have this process get a signal when its parent ends, in whatever way."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, number, 0, 0, 0)


def ready(fd: int, seconds: float) -> bool:
    """Whether a descriptor is readable, or for a pidfd whether the process has ended, within the time."""
    poller = select.poll()
    poller.register(fd, select.POLLIN)
    return bool(poller.poll(max(0.0, seconds) * 1000))


def reap(pid: int) -> None:
    """Kill a child and collect it; one that not even SIGKILL ends is left to init."""
    pidfd = os.pidfd_open(pid)
    try:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        if ready(pidfd, 1):
            os.waitpid(pid, 0)
    finally:
        os.close(pidfd)


def _answer(function: Callable[[], object], writer: int) -> NoReturn:
    try:
        die_with_parent()
        outcome: tuple[bool, object]
        try:
            outcome = True, function()
        except Exception as error:
            outcome = False, error
        with os.fdopen(writer, "wb") as stream:
            pickle.dump(outcome, stream)
        os._exit(0)
    finally:
        os._exit(1)


def ask(function: Callable[[], R], seconds: float = PATIENCE) -> R:
    """Call `function` in a child and give its result or raise its exception; Silent when it takes too long."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        _answer(function, writer)
    os.close(writer)
    deadline, said = time.monotonic() + seconds, bytearray()
    try:
        while True:
            if not ready(reader, deadline - time.monotonic()):
                raise Silent
            chunk = os.read(reader, _CHUNK)
            if not chunk:
                break
            said += chunk
    finally:
        os.close(reader)
        reap(pid)
    if not said:
        raise Silent
    fine, outcome = pickle.loads(said)
    if not fine:
        raise outcome
    result: R = outcome
    return result


def _copy(path: str, writer: int) -> NoReturn:
    try:
        die_with_parent()
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        source = os.open(path, os.O_RDONLY)
        os.write(writer, b"\n")
        while chunk := os.read(source, _CHUNK):
            os.write(writer, chunk)
        os._exit(0)
    except OSError as error:
        os._exit(error.errno or 1)
    finally:
        os._exit(1)


def stream(path: str) -> Generator[bytes, None, None]:
    """A newline once a file is open, then what it gives, piece by piece, until it ends. Raises the OSError it met.

    For files that block for more: whoever stops reading kills the reader.
    """
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        _copy(path, writer)
    os.close(writer)
    ended = False
    try:
        while chunk := os.read(reader, _CHUNK):
            yield chunk
        ended = True
    finally:
        os.close(reader)
        if not ended:
            reap(pid)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if code > 0:
        raise OSError(code, os.strerror(code), path)
