"""xenstore/: the store as files, for the mount's owner, with the rights of domain 0.

A node is a file while it has no children, else a directory; one made by mkdir is a directory. A directory stays one
until it is removed, and has its own value in `.value`. `.value`, `.perms` and `.watch` resolve but are not listed.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterable
from typing import TYPE_CHECKING
from weakref import WeakValueDictionary

from xenfs.fs.nodes import Child, Directory, Node, OpenFile
from xenfs.fs.stream import POLLIN, OpenStream
from xenfs.xenstore import paths
from xenfs.xenstore.client import Client

if TYPE_CHECKING:
    from xenfs.fs.filesystem import Filesystem
    from xenfs.fs.request import Request
    from xenfs.xenstore.node import Node as StoreNode
    from xenfs.xenstore.tree import Change

VALUE, PERMS, WATCH = ".value", ".perms", ".watch"
ATTRIBUTE = "user.xenstore.perms"
LARGEST = 4096


class StoreFiles:
    """What the kernel has been shown of the store.

    An inode lives as long as the kernel or an open file knows it; its number is the node's as long as that is there
    and of the same kind.
    """

    def __init__(self, fs: Filesystem) -> None:
        """Begin with nothing shown."""
        self.fs, self.store = fs, fs.store
        self.client = fs.store.connect(Client(0, lambda _path, _token: None))
        self._nodes: WeakValueDictionary[int, StoreInode] = WeakValueDictionary()
        self._numbers: dict[tuple[str, int], int] = {}
        self._directories: set[str] = set()
        fs.store.heard = self._changed

    def _changed(self, change: Change) -> None:
        """Forget what a removed node was; remember of one that lost its last child that it is a directory."""
        if self.store.tree.get(change.path) is not None:
            return
        self._directories.discard(change.path)
        for kind in (stat.S_IFREG, stat.S_IFDIR):
            self._numbers.pop((change.path, kind), None)
        above = paths.parent(change.path)
        parent = self.store.tree.get(above)
        if parent is not None and not parent.children:
            self._directories.add(above)

    def kind(self, path: str, node: StoreNode) -> int:
        """S_IFDIR or S_IFREG."""
        return stat.S_IFDIR if node.children or path in self._directories or path == "/" else stat.S_IFREG

    def number(self, path: str, kind: int) -> int:
        """The inode number of a node of that kind."""
        key = (path, kind)
        if key not in self._numbers:
            self._numbers[key] = self.fs.new_ino()
        return self._numbers[key]

    def at(self, path: str) -> StoreInode | None:
        """The inode of a node."""
        node = self.store.tree.get(path)
        if node is None:
            return None
        return self.directory(path) if self.kind(path, node) == stat.S_IFDIR else self.file(path)

    def file(self, path: str) -> ValueFile:
        """A node that is a file, or is going to be one."""
        ino = self.number(path, stat.S_IFREG)
        found = self._nodes.get(ino)
        if not isinstance(found, ValueFile):
            found = ValueFile(self, path, ino)
            self._nodes[ino] = found
        return found

    def directory(self, path: str) -> StoreDirectory:
        """A node that is a directory, and stays one."""
        ino = self.number(path, stat.S_IFDIR)
        found = self._nodes.get(ino)
        if not isinstance(found, StoreDirectory):
            found = StoreDirectory(self, path, ino)
            self._nodes[ino] = found
        return found

    def make_directory(self, path: str) -> StoreDirectory:
        """A new node that is one from the beginning."""
        self.store.mkdir(self.client, path)
        self._directories.add(path)
        return self.directory(path)

    def perms(self, path: str) -> bytes:
        """Permissions as text."""
        return " ".join(self.store.get_perms(self.client, path)).encode()

    def set_perms(self, path: str, text: bytes) -> None:
        """Set them from text."""
        self.store.set_perms(self.client, path, text.decode("latin-1").split())


class StoreInode(Node):
    """What files and directories of the store have in common."""

    def __init__(self, files: StoreFiles, path: str, ino: int, permissions: int) -> None:
        """Make the inode."""
        super().__init__(files.fs, ino, permissions, files.fs)
        self.files, self.path = files, path

    def attributes(self) -> dict[str, bytes]:
        """See Node."""
        return {ATTRIBUTE: self.files.perms(self.path)}

    def set_attribute(self, name: str, value: bytes) -> None:
        """See Node."""
        if name != ATTRIBUTE:
            super().set_attribute(name, value)
        self.files.set_perms(self.path, value)


class ValueFile(StoreInode):
    """A node's value, which shows with a newline."""

    def __init__(self, files: StoreFiles, path: str, ino: int) -> None:
        """Make the inode."""
        super().__init__(files, path, ino, 0o600)
        self.opened: OpenValue | None = None

    def text(self) -> bytes:
        """What reading it gives; nothing while the node does not exist yet."""
        node = self.files.store.tree.get(self.path)
        return b"" if node is None else node.value + b"\n"

    def store(self, text: bytes) -> None:
        """Write it, without its last newline."""
        self.files.store.write(self.files.client, self.path, text.removesuffix(b"\n"))

    @property
    def size(self) -> int:
        """Bytes as of now."""
        return len(self.text())

    def open(self, flags: int) -> OpenFile:
        """See Node."""
        opened = OpenValue(self)
        if flags & 3 != os.O_RDONLY:
            self.opened = opened
        return opened

    def truncate(self, size: int) -> None:
        """See Node: it stores nothing by itself, but the open that it came with stores the empty value if nothing."""
        if size == 0 and self.opened is not None:
            self.opened.truncated()


class PermsFile(ValueFile):
    """A node's permissions, as `n0 r3`."""

    def text(self) -> bytes:
        """See ValueFile."""
        return self.files.perms(self.path) + b"\n"

    def store(self, text: bytes) -> None:
        """See ValueFile."""
        self.files.set_perms(self.path, text)

    def truncate(self, size: int) -> None:
        """See Node: there are no empty permissions."""


class OpenValue(OpenFile):
    """An open value. What is written through one open is stored as a whole, each time.

    At its end, with its last descriptor, the empty value is stored if the open was to begin anew and nothing came.
    """

    def __init__(self, file: ValueFile, *, owed: bool = False) -> None:
        """Nothing read or written yet; `owed` when the file is new, so that the empty value is to be stored."""
        self._file, self._owed = file, owed
        self._text: bytes | None = None
        self._written: bytes | None = None

    def truncated(self) -> None:
        """It was opened to be written anew."""
        if self._written is None:
            self._owed, self._written = True, b""

    def read(self, request: Request, size: int, offset: int, nonblocking: bool) -> None:
        """See OpenFile."""
        del nonblocking
        if self._text is None or offset == 0:
            self._text = self._file.text()
        request.data(self._text[offset : offset + size])

    def write(self, request: Request, data: bytes, offset: int) -> None:
        """See OpenFile."""
        before = self._written
        if before is None:
            before = self._file.text() if offset else b""
        if offset > len(before) or offset + len(data) > LARGEST:
            raise OSError(errno.EFBIG, "a value is short, and without holes")
        written = before[:offset] + data
        self._file.store(written)
        self._written, self._owed, self._text = written, False, None
        request.written(len(data))

    def release(self) -> None:
        """See OpenFile."""
        if self._file.opened is self:
            self._file.opened = None
        if self._owed:
            self._file.store(b"")


class StoreDirectory(StoreInode, Directory):
    """A node with children, or one that had some."""

    attr_timeout = 0.0

    def __init__(self, files: StoreFiles, path: str, ino: int) -> None:
        """Make the inodes."""
        super().__init__(files, path, ino, 0o700)
        kinds: dict[str, type[ValueFile] | type[WatchFile]] = {VALUE: ValueFile, PERMS: PermsFile, WATCH: WatchFile}
        self._hidden = {name: kind(files, path, files.fs.new_ino()) for name, kind in kinds.items()}

    def child(self, name: str) -> Child | None:
        """See Directory."""
        node = self._hidden.get(name) or self.files.at(paths.below(self.path, name))
        return None if node is None else Child(node)

    def entries(self) -> Iterable[tuple[str, int, int]]:
        """See Directory."""
        node = self.files.store.tree.get(self.path)
        for name in node.names() if node is not None else ():
            path = paths.below(self.path, name)
            child = self.files.store.tree.get(path)
            if child is not None:
                kind = self.files.kind(path, child)
                yield name, self.files.number(path, kind), kind

    @property
    def links(self) -> int:
        """Not known without looking at each child."""
        return 1

    def _new(self, name: str) -> str:
        path = paths.below(self.path, name)
        if self.files.store.tree.get(path) is not None:
            raise OSError(errno.EEXIST, "there is such a node")
        if name.startswith("."):
            raise OSError(errno.EINVAL, "not a name")
        return paths.absolute(path, 0, self.files.store.quotas["path-max"])

    def mkdir(self, name: str, request: Request) -> Node:
        """See Directory."""
        del request
        return self.files.make_directory(self._new(name))

    def create(self, name: str, flags: int) -> tuple[Node, OpenFile]:
        """See Directory. The node comes with the first write, or at the end: so `echo 4 > state` is one change."""
        file = self.files.file(self._new(name))
        opened = OpenValue(file, owed=True)
        if flags & 3 != os.O_RDONLY:
            file.opened = opened
        return file, opened

    def _remove(self, name: str, directory: bool) -> None:
        path = paths.below(self.path, name)
        node = self.files.store.tree.get(path)
        if node is None:
            raise OSError(errno.ENOENT, "no such node")
        if directory != (self.files.kind(path, node) == stat.S_IFDIR):
            raise OSError(errno.ENOTDIR if directory else errno.EISDIR, "of the other kind")
        if node.children:
            raise OSError(errno.ENOTEMPTY, "it has children")
        self.files.store.rm(self.files.client, path)

    def rmdir(self, name: str, request: Request) -> None:
        """See Directory."""
        self._remove(name, directory=True)
        request.done()

    def unlink(self, name: str) -> None:
        """See Directory."""
        self._remove(name, directory=False)

    def rename(self, name: str) -> None:
        """See Directory."""
        raise OSError(errno.EXDEV, "a node does not move; copy it", name)


class WatchFile(StoreInode):
    """.watch: the paths that change, as they do."""

    type = stat.S_IFREG

    def __init__(self, files: StoreFiles, path: str, ino: int) -> None:
        """Make the inode."""
        super().__init__(files, path, ino, 0o400)

    def open(self, flags: int) -> OpenFile:
        """See Node."""
        del flags
        return OpenWatch(self.files, self.path)


class OpenWatch(OpenStream):
    """A watch of its own, which ends with it; a line for each path that changed, but for the event of the start."""

    def __init__(self, files: StoreFiles, path: str) -> None:
        """Begin to watch."""
        super().__init__()
        self._files, self._text = files, b""
        self._lost = False
        self._client = files.store.connect(Client(0, self._event))
        files.store.watch(self._client, path, "")

    def _event(self, path: str, _token: str) -> None:
        line = path.encode("latin-1") + b"\n"
        if len(self._text) + len(line) > 1 << 20:
            self._lost = True  # whoever does not read is told once that it missed some
        else:
            self._text += line
        self.wake()

    def take(self, size: int) -> bytes | None:
        """See OpenStream."""
        if not self._text:
            return None
        data, self._text = self._text[:size], self._text[size:]
        if self._lost and not self._text:
            self._lost, self._text = False, b"...\n"
        return data

    def events(self) -> int:
        """See OpenFile."""
        return POLLIN if self._text else 0

    def release(self) -> None:
        """See OpenFile."""
        super().release()
        self._files.store.disconnect(self._client)
