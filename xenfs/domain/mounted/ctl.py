"""The conversation with a domain's `ctl`: lines go in, answers come back in the same order.

A batch is one write, or as many as it takes by 64 KiB each; all answers to one are read before the next, so that
neither side ever waits for the other to read. Threads take turns by the batch.
"""

from __future__ import annotations

import errno
import io
import threading
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import TypeVar

from xenfs.abi.wire import Wire
from xenfs.domain.errors import Refused
from xenfs.domain.mounted import text
from xenfs.domain.mounted.errors import refusal

MAX_WRITE = 1 << 16
_READ = 1 << 16
_NONSENSE = b" ?\n"
"""Ends a line that was cut off anywhere, and makes a line that no operation is."""
W = TypeVar("W", bound=Wire)


def _pieces(lines: Sequence[bytes]) -> Iterator[list[bytes]]:
    piece: list[bytes] = []
    size = 0
    for line in lines:
        if piece and size + len(line) > MAX_WRITE:
            yield piece
            piece, size = [], 0
        piece.append(line)
        size += len(line)
    if piece:
        yield piece


class Ctl:
    """The file, which is the domain's handle: all that is allocated through it is released when it closes."""

    def __init__(self, file: io.RawIOBase, where: str) -> None:
        """Take the file over; `where` is whose it is, for messages."""
        self._file, self._where = file, where
        self._lock = threading.Lock()
        self._astray = False

    def fileno(self) -> int:
        """The descriptor; it polls POLLERR once the hypervisor is gone."""
        return self._file.fileno()

    @property
    def closed(self) -> bool:
        """Whether the handle was closed here."""
        return self._file.closed

    def call(self, request: W) -> W:
        """Make one hypercall; the request with its results. Raises Refused."""
        (answer,) = self.batch([request])
        if isinstance(answer, Refused):
            raise answer
        return answer

    def batch(self, requests: Sequence[W]) -> list[W | Refused]:
        """Make hypercalls one behind the other: for each the request with its results, or its refusal.

        Raises Refused only when the conversation itself fails: EBADF once closed, HypervisorGone.
        """
        answers: list[W | Refused | None] = []
        lines: list[bytes] = []
        for request in requests:
            try:
                lines.append(text.emit(request).encode() + b"\n")
                answers.append(None)
            except Refused as error:
                answers.append(error)
        said = iter(self._converse(lines))
        return [
            text.parse_answer(request, next(said)) if answer is None else answer
            for request, answer in zip(requests, answers, strict=True)
        ]

    def _converse(self, lines: Sequence[bytes]) -> list[str]:
        answers: list[str] = []
        with self._lock:
            if self.closed:
                raise Refused(errno.EBADF, f"{self._where}: this handle is closed")
            try:
                if self._astray:
                    self._find_back()
                self._astray = True
                for piece in _pieces(lines):
                    self._write(b"".join(piece))
                    answers += self._read(len(piece))
                self._astray = False
            except OSError as error:
                raise refusal(error, self._where) from error
        return answers

    def _find_back(self) -> None:
        """After a call that an exception ended half-way (Ctrl-C): end its line, and read what it left unread."""
        self._write(_NONSENSE)
        while self._file.read(_READ):
            pass

    def _write(self, data: bytes) -> None:
        rest = memoryview(data)
        while rest:
            rest = rest[self._file.write(rest) :]

    def _read(self, count: int) -> list[str]:
        data = b""
        while data.count(b"\n") < count:
            more = self._file.read(_READ)
            if not more:
                raise Refused(errno.EPROTO, f"{self._where}: {data.count(10)} answers to {count} calls")
            data += more
        return data.decode("ascii", "replace").splitlines()

    def close(self) -> None:
        """Close the handle; twice is fine."""
        with self._lock, suppress(OSError):  # the kernel tells a daemon that may have gone; it is closed in any case
            self._file.close()
