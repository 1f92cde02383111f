"""A file of another file's bytes, by fusepy as anybody would write it: `… tests.bench.passthrough FOLDER FILE`."""

from __future__ import annotations

import errno
import os
import sys
from typing import Any

import fuse  # type: ignore[import-untyped]


class PassThrough(fuse.Operations):  # type: ignore[misc]
    """One file, `disk`."""

    def __init__(self, path: str) -> None:
        self._file = os.open(path, os.O_RDWR)

    def getattr(self, path: str, _fh: Any = None) -> dict[str, Any]:
        if path == "/":
            return {"st_mode": 0o40755, "st_nlink": 2}
        if path != "/disk":
            raise fuse.FuseOSError(errno.ENOENT)
        return {"st_mode": 0o100644, "st_nlink": 1, "st_size": os.fstat(self._file).st_size}

    def readdir(self, _path: str, _fh: Any) -> list[str]:
        return [".", "..", "disk"]

    def read(self, _path: str, size: int, offset: int, _fh: Any) -> bytes:
        return os.pread(self._file, size, offset)

    def write(self, _path: str, data: bytes, offset: int, _fh: Any) -> int:
        return os.pwrite(self._file, data, offset)

    def fsync(self, _path: str, _datasync: int, _fh: Any) -> int:
        os.fdatasync(self._file)
        return 0


if __name__ == "__main__":
    fuse.FUSE(PassThrough(sys.argv[2]), sys.argv[1], foreground=True, big_writes=True)
