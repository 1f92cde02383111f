"""A disk behind an NBD server (the protocol's own document: doc/proto.md of the nbd project), over a Unix socket."""

from __future__ import annotations

import errno
import itertools
import os
import socket
import struct
import threading
from collections.abc import Sequence
from contextlib import suppress

from xenfs.abi.blkif import SECTOR_SIZE
from xenfs.sockets import short

_MAGIC, _OPTION, _REPLY = 0x4E42444D41474943, 0x49484156454F5054, 0x3E889045565A9
_FIXED, _NO_ZEROES = 1, 2
_OPT_GO, _REP_ACK, _REP_INFO, _REP_ERROR = 7, 1, 3, 1 << 31
_INFO_EXPORT = 0
_HAS_FLAGS, _READ_ONLY, _SEND_FLUSH, _SEND_TRIM, _SEND_ZEROES = 1, 2, 4, 32, 64
_READ, _WRITE, _DISC, _FLUSH, _TRIM, _ZEROES = 0, 1, 2, 3, 4, 6
_REQUEST, _ANSWER = struct.Struct(">IHHQQI"), struct.Struct(">IIQ")
_REQUEST_MAGIC, _ANSWER_MAGIC = 0x25609513, 0x67446698
_MOST = 32 << 20
"""Bytes that a server must take in one request."""
SECONDS = 30.0


class NbdDisk:
    """An export of a server. Implements Disk; one request at a time is under way."""

    sector_size = physical_sector_size = SECTOR_SIZE
    direct = True
    number = None

    def __init__(self, path: str, *, name: str = "", readonly: bool = False) -> None:
        """Connect to the server whose socket is at `path`. Raises OSError."""
        self.path = path
        self._socket = socket.socket(socket.AF_UNIX)
        self._lock = threading.Lock()
        self._numbers = itertools.count(1)
        try:
            self._socket.settimeout(SECONDS)
            with short(path) as address:
                self._socket.connect(address)
            self._size, self._flags = self._agree(name)
            self._socket.settimeout(None)
        except BaseException:
            self._socket.close()
            raise
        self.readonly = readonly or bool(self._flags & _READ_ONLY)
        self.discards = bool(self._flags & _SEND_TRIM) and not self.readonly

    def _agree(self, name: str) -> tuple[int, int]:
        """The handshake; size and flags of the export."""
        magic, option, flags = struct.unpack(">QQH", self._take(18))
        if (magic, option) != (_MAGIC, _OPTION) or not flags & _FIXED:
            raise OSError(errno.EPROTO, "no NBD server of today", self.path)
        self._socket.sendall(struct.pack(">I", flags & (_FIXED | _NO_ZEROES)))
        wish = struct.pack(">I", len(name)) + name.encode() + struct.pack(">H", 0)
        self._socket.sendall(struct.pack(">QII", _OPTION, _OPT_GO, len(wish)) + wish)
        found = (0, 0)
        while True:
            magic, _, kind, length = struct.unpack(">QIII", self._take(20))
            data = self._take(length)
            if magic != _REPLY or kind & _REP_ERROR:
                raise OSError(errno.EPROTO, f"the server refused: {data[:200]!r}", self.path)
            if kind == _REP_ACK:
                return found
            if kind == _REP_INFO and data[:2] == struct.pack(">H", _INFO_EXPORT):
                _, size, flags = struct.unpack(">HQH", data[:12])
                found = size, flags

    def _take(self, size: int) -> bytes:
        data = bytearray(size)
        self._into(memoryview(data))
        return bytes(data)

    def _into(self, view: memoryview) -> None:
        while view:
            done = self._socket.recv_into(view)
            if not done:
                raise OSError(errno.EPIPE, "the server has gone", self.path)
            view = view[done:]

    def _ask(
        self, command: int, offset: int, size: int, out: Sequence[memoryview] = (), into: Sequence[memoryview] = ()
    ) -> None:
        with self._lock:
            number = next(self._numbers)
            self._socket.sendall(_REQUEST.pack(_REQUEST_MAGIC, 0, command, number, offset, size))
            for view in out:
                self._socket.sendall(view)
            magic, code, same = _ANSWER.unpack(self._take(_ANSWER.size))
            if (magic, same) != (_ANSWER_MAGIC, number):
                raise OSError(errno.EPROTO, "an answer to nothing", self.path)
            if code:
                raise OSError(code, os.strerror(code), self.path)
            for view in into:
                self._into(view)

    def size(self) -> int:
        """See Disk."""
        return self._size

    def read_now(self, views: Sequence[memoryview], offset: int) -> bool:
        """See Disk."""
        return False

    def read(self, views: Sequence[memoryview], offset: int) -> None:
        """See Disk."""
        self._ask(_READ, offset, sum(len(view) for view in views), into=views)

    def write(self, views: Sequence[memoryview], offset: int) -> None:
        """See Disk."""
        self._ask(_WRITE, offset, sum(len(view) for view in views), out=views)

    def flush(self) -> None:
        """See Disk."""
        if self._flags & _SEND_FLUSH:
            self._ask(_FLUSH, 0, 0)

    def discard(self, offset: int, size: int) -> None:
        """See Disk: as zeros where the server knows how to, since a trim may leave what was there."""
        command = _ZEROES if self._flags & _SEND_ZEROES else _TRIM
        for start in range(offset, offset + size, _MOST):
            self._ask(command, start, min(_MOST, offset + size - start))

    def close(self) -> None:
        """See Disk."""
        with suppress(OSError):  # it may have gone before us
            self._socket.sendall(_REQUEST.pack(_REQUEST_MAGIC, 0, _DISC, 0, 0, 0))
        self._socket.close()
