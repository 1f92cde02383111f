"""Inodes: what a name of the tree leads to.

A `Directory` answers `child` and `entries`; everything else can be opened and gives an `OpenFile`, which does the
reading and writing. A node that has several names in several domains is `shared`: which of them was used decides the
right, so `child` gives, beside the node, the *way* in which that name opens it.
"""

from __future__ import annotations

import errno
import stat
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Protocol

from xenfs import libfuse

if TYPE_CHECKING:
    from xenfs.fs.filesystem import Filesystem
    from xenfs.fs.request import Request


def number(name: str) -> int:
    """The number that a name says in the one way that we list it; -1 for any other name."""
    digits = name.isascii() and name.isdigit() and len(name) <= 10
    return int(name) if digits and (name == "0" or name[0] != "0") else -1


class Owner(Protocol):
    """Who an inode belongs to."""

    uid: int
    gid: int


class OpenFile:
    """An open file: the right to read and write it in one particular way. `flags` are FOPEN_*."""

    flags: ClassVar[int] = libfuse.FOPEN_DIRECT_IO | libfuse.FOPEN_NOFLUSH

    def read(self, request: Request, size: int, offset: int, nonblocking: bool) -> None:
        """Answer a read."""
        del size, offset, nonblocking
        request.error(errno.EINVAL)

    def write(self, request: Request, data: bytes, offset: int) -> None:
        """Answer a write."""
        del data, offset
        request.error(errno.EINVAL)

    def writeback(self, request: Request, data: bytes, offset: int) -> None:
        """Answer the kernel, which writes out of its page cache."""
        self.write(request, data, offset)

    def events(self) -> int:
        """What poll would find now."""
        return 0x145  # POLLIN | POLLOUT | POLLRDNORM | POLLWRNORM: as for any file without a poll of its own

    def ioctl(self, request: Request, command: int, address: int, data: bytes) -> None:
        """Answer an ioctl: `data` are the bytes that its number said, `address` is where the caller has the rest."""
        del command, address, data
        request.error(errno.ENOTTY)

    def release(self) -> None:
        """The last reference is gone."""


Way = Callable[[int], OpenFile]
"""Open with these O_* flags, or raise OSError."""


@dataclass(frozen=True, slots=True)
class Child:
    """What a name leads to, and for a shared node how that name opens it."""

    node: Node
    way: Way | None = None


class Node:
    """An inode. `lookups` is how often the kernel has been given it and not forgotten it yet."""

    type: ClassVar[int] = stat.S_IFREG
    shared: ClassVar[bool] = False
    attr_timeout: ClassVar[float] = 0.0

    def __init__(self, fs: Filesystem, ino: int, permissions: int, owner: Owner) -> None:
        """Make an inode that belongs to `owner`."""
        self.fs, self.ino, self.permissions, self.owner = fs, ino, permissions, owner
        self.lookups = 0
        self.opens = 0
        self.changed = fs.now()
        self._stat: libfuse.Stat | None = None
        self._stat_of = 0

    @property
    def size(self) -> int:
        """Bytes."""
        return 0

    @property
    def links(self) -> int:
        """Names."""
        return 1

    def stat(self) -> libfuse.Stat:
        """Everything that ls -l shows. The struct is this node's own, filled in anew where something can change."""
        st = self._stat
        if st is None or self._stat_of != self.changed:
            self._stat_of = self.changed
            st = self._stat = libfuse.Stat(st_ino=self.ino, st_mode=self.type | self.permissions, st_blksize=4096)
            for spec in (st.st_atimespec, st.st_mtimespec, st.st_ctimespec):
                spec.tv_sec, spec.tv_nsec = divmod(self.changed, 1_000_000_000)
        size = self.size
        st.st_nlink, st.st_size, st.st_blocks = self.links, size, -(-size // 512)
        st.st_uid, st.st_gid = self.owner.uid, self.owner.gid
        return st

    def open(self, flags: int) -> OpenFile:
        """Open by a name that says nothing about the right."""
        del flags
        raise OSError(errno.EACCES, "this needs a name")

    def truncate(self, size: int) -> None:
        """Set the size; text and pages keep theirs, so that `echo >` and dd work."""
        del size

    def attributes(self) -> dict[str, bytes]:
        """Extended attributes."""
        return {}

    def set_attribute(self, name: str, value: bytes) -> None:
        """Set one."""
        del name, value
        raise OSError(errno.ENOTSUP, "there is no such attribute")

    def chown(self, uid: int | None, gid: int | None) -> None:
        """Give to somebody."""
        del uid, gid
        raise OSError(errno.EPERM, "only a domain has an owner that can be changed")


class Directory(Node, ABC):
    """A directory. `child` may resolve names that `entries` does not list."""

    type = stat.S_IFDIR
    attr_timeout = 1.0

    @abstractmethod
    def child(self, name: str) -> Child | None:
        """What a name leads to, None when nothing."""

    @abstractmethod
    def entries(self) -> Iterable[tuple[str, int, int]]:
        """Name, inode number and type of everything that is listed, in stable order."""

    @property
    def links(self) -> int:
        """As for any directory: itself, its name, and the `..` of each directory in it. Asked at each lookup."""
        return 2

    def mkdir(self, name: str, request: Request) -> Node:
        """Make a directory."""
        del name, request
        raise OSError(errno.EPERM, "nothing can be made here")

    def create(self, name: str, flags: int) -> tuple[Node, OpenFile]:
        """Make a file and open it."""
        del name, flags
        raise OSError(errno.EPERM, "nothing can be made here")

    def unlink(self, name: str) -> None:
        """Remove a file."""
        del name
        raise OSError(errno.EPERM, "this cannot be removed")

    def rename(self, name: str) -> None:
        """Refuse to move a file: EPERM, or EXDEV where mv may copy and remove instead."""
        del name
        raise OSError(errno.EPERM, "nothing can be moved here")

    def rmdir(self, name: str, request: Request) -> None:
        """Remove a directory."""
        del name, request
        raise OSError(errno.EPERM, "this cannot be removed")


class FixedDirectory(Directory):
    """A directory whose entries do not change."""

    def __init__(self, fs: Filesystem, ino: int, owner: Owner, permissions: int = 0o755) -> None:
        """Begin empty."""
        super().__init__(fs, ino, permissions, owner)
        self.nodes: dict[str, Node] = {}
        self.hidden: set[str] = set()

    def child(self, name: str) -> Child | None:
        """See Directory."""
        node = self.nodes.get(name)
        return None if node is None else Child(node)

    def entries(self) -> Iterable[tuple[str, int, int]]:
        """See Directory."""
        return [(name, node.ino, node.type) for name, node in self.nodes.items() if name not in self.hidden]

    @property
    def links(self) -> int:
        """See Directory."""
        return 2 + sum(kind == stat.S_IFDIR for _, _, kind in self.entries())


class TextFile(Node):
    """A value or a report, written out anew at each open; a write changes what it is about."""

    def __init__(
        self, fs: Filesystem, owner: Owner, text: Callable[[], str], write: Callable[[str], None] | None = None
    ) -> None:
        """Read-only unless there is something to do with what is written."""
        super().__init__(fs, fs.new_ino(), 0o644 if write else 0o444, owner)
        self.text, self.store = text, write

    @property
    def size(self) -> int:
        """Bytes as of now."""
        return len(self.text().encode())

    def open(self, flags: int) -> OpenFile:
        """See Node."""
        if flags & 3 and self.store is None:
            raise OSError(errno.EACCES, "read-only")
        return OpenText(self)


class OpenText(OpenFile):
    """The text as it was at the first read; what is written through this open takes effect as a whole, each time."""

    def __init__(self, node: TextFile) -> None:
        """Nothing read or written yet."""
        self._node = node
        self._text: bytes | None = None
        self._written = b""

    def read(self, request: Request, size: int, offset: int, nonblocking: bool) -> None:
        """See OpenFile."""
        del nonblocking
        if self._text is None or offset == 0:
            self._text = self._node.text().encode()
        request.data(self._text[offset : offset + size])

    def write(self, request: Request, data: bytes, offset: int) -> None:
        """See OpenFile."""
        if offset > len(self._written) or offset + len(data) > 4096:
            raise OSError(errno.EFBIG, "a value is short")
        written = self._written[:offset] + data
        try:
            value = written.decode("ascii").removesuffix("\n")
        except UnicodeDecodeError:
            raise OSError(errno.EINVAL, "a value is printable ASCII") from None
        assert self._node.store is not None
        self._node.store(value)
        self._written = written
        self._text = None
        request.written(len(data))
