"""The least that fusepy can serve, one file, nothing cached: `python -m tests.bench.bare MOUNTPOINT`."""

from __future__ import annotations

import stat
import sys
from typing import Any

import fuse  # type: ignore[import-untyped]


class OneFile(fuse.Operations):  # type: ignore[misc]
    """A directory with one short file."""

    def getattr(self, path: str, fh: int | None = None) -> dict[str, Any]:
        del fh
        if path == "/":
            return {"st_mode": stat.S_IFDIR | 0o755, "st_nlink": 2}
        return {"st_mode": stat.S_IFREG | 0o644, "st_nlink": 1, "st_size": 6}

    def read(self, path: str, size: int, offset: int, fh: int) -> bytes:
        del path, fh
        return b"hello\n"[offset : offset + size]


if __name__ == "__main__":
    fuse.FUSE(OneFile(), sys.argv[1], foreground=True, nothreads=True, attr_timeout=0, entry_timeout=0, direct_io=True)
