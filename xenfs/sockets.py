"""Sockets in the file system, wherever they are, and whoever comes to them, however many."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def short(path: str) -> Iterator[str]:
    """Another name of a path for as long as this lasts, by its folder's descriptor: an address has 108 bytes, and a
    path may be longer. Raises OSError when there is no such folder.
    """
    place = Path(path)
    folder = os.open(place.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{folder}/{place.name}"
    finally:
        os.close(folder)


def _spare() -> int:
    return os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)


class Door:
    """Takes the connections of a socket that listens and does not block. Where there is no descriptor left, whoever
    comes is turned away, who would else be announced again and again; one is kept for that.
    """

    def __init__(self, listener: socket.socket) -> None:
        """For a socket, which stays the caller's. Raises OSError."""
        self._listener = listener
        self._spare = _spare()

    def accept(self) -> socket.socket | None:
        """Whoever has come; None when that one is gone again."""
        try:
            return self._listener.accept()[0]
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE):
                os.close(self._spare)
                with suppress(OSError):
                    self._listener.accept()[0].close()
                self._spare = _spare()
            return None

    def close(self) -> None:
        """Take no more."""
        os.close(self._spare)
