"""Locks of an open file, F_OFD_SETLK of fcntl(2): they go with the file, and can be asked about without being taken."""

from __future__ import annotations

import errno
import fcntl
import os
import struct

_FLOCK = struct.Struct("hhqqi4x")
"""struct flock."""


def _flock(kind: int, start: int, length: int) -> bytes:
    return _FLOCK.pack(kind, os.SEEK_SET, start, length, 0)


def lock(fd: int, *, shared: bool = False, start: int = 0, length: int = 0) -> bool:
    """Lock bytes of a file, all with length 0; whether nobody else has them. Raises OSError, also where none are."""
    try:
        fcntl.fcntl(fd, fcntl.F_OFD_SETLK, _flock(fcntl.F_RDLCK if shared else fcntl.F_WRLCK, start, length))
    except OSError as error:
        if error.errno in (errno.EAGAIN, errno.EACCES):
            return False
        raise
    return True


def locked(fd: int, start: int, length: int) -> bool:
    """Whether somebody else has locked any of these bytes. Raises OSError."""
    asked = fcntl.fcntl(fd, fcntl.F_OFD_GETLK, _flock(fcntl.F_WRLCK, start, length))
    return bool(_FLOCK.unpack(asked)[0] != fcntl.F_UNLCK)
