"""Names of nodes: which are allowed, and what a relative one is relative to (xen-interfaces.md 2.4)."""

from __future__ import annotations

import errno
import re
from functools import lru_cache

from xenfs.xenstore.errors import StoreError

_CHARACTERS = re.compile(r"[-A-Za-z0-9/_@]+\Z")
_HOME = re.compile(r"/local/domain/[0-9]{1,5}/")


def home(domid: int) -> str:
    """Where a domain's own nodes are."""
    return f"/local/domain/{domid}"


@lru_cache(maxsize=4096)
def absolute(path: str, domid: int, longest: int, *, special: bool = False) -> str:
    """The path as the tree has it. With `special` one that begins with @ is one too. Raises StoreError EINVAL."""
    full = path if path.startswith(("/", "@")) else f"{home(domid)}/{path}"
    known = _HOME.match(full)
    if (
        (full[0] == "@" and not special)
        or len(full) - (known.end() if known else 0) > longest
        or not _CHARACTERS.match(full)
        or "//" in full
        or (full.endswith("/") and full != "/")
    ):
        raise StoreError(errno.EINVAL, repr(path if len(path) < 80 else path[:77] + "..."), "not a path")
    return full


def parent(path: str) -> str:
    """The path above; the root is its own."""
    return path.rpartition("/")[0] or "/"


def name(path: str) -> str:
    """The last part."""
    return path.rpartition("/")[2]


def below(path: str, child: str) -> str:
    """The path of a child."""
    return f"/{child}" if path == "/" else f"{path}/{child}"


def upwards(path: str) -> list[str]:
    """The path and all above it, the root last."""
    found = [path]
    while path not in ("/", "") and path[0] == "/":
        path = parent(path)
        found.append(path)
    return found


def depth(path: str, top: str) -> int:
    """How far a path is below another that is above it, or the same."""
    return path.count("/", len(top) if top != "/" else 0) if path != top else 0
