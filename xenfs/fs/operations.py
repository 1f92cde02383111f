"""What the kernel asks, answered from the tree.

A method is called for each request, named as in struct fuse_lowlevel_ops. It answers the request, now or later, or
raises; what it raises becomes the errno. A name is remembered from its lookup until the open that follows it from the
same thread, because the open says only which inode, and a shared inode has names with different rights.
"""

from __future__ import annotations

import ctypes
import errno
import os
import stat
import sys
import traceback
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

from xenfs import libfuse
from xenfs.abi.wire import FieldError
from xenfs.fs.fifos import Fifo
from xenfs.fs.filesystem import ROOT_INO, Filesystem
from xenfs.fs.listing import Listing
from xenfs.fs.nodes import Child, Directory, Node, OpenFile
from xenfs.fs.request import Request
from xenfs.fs.stream import OpenStream
from xenfs.hypervisor.errors import HypercallError
from xenfs.xenstore.errors import StoreError

MAX_NAME = 255
REMEMBERED = 4096
"""Lookups kept, one a thread: the oldest gives way."""


class Operations:
    """The handlers, with the tables of inodes that the kernel knows and of open files."""

    def __init__(self, fs: Filesystem) -> None:
        """Know the root."""
        self.fs = fs
        self.known: dict[int, Node] = {ROOT_INO: fs.root}
        self.files: dict[int, tuple[Node, OpenFile]] = {}
        self._listings: dict[int, Listing] = {}
        self._last_fh = 0
        self._looked_up: OrderedDict[tuple[int, int], Child] = OrderedDict()

    def _directory(self, ino: int) -> Directory:
        node = self.known[ino]
        if not isinstance(node, Directory):
            raise OSError(errno.ENOTDIR, "not a directory")
        return node

    def _file(self, fi: Any) -> OpenFile:
        return self.files[fi.contents.fh][1]

    def _enter(self, request: Request, child: Child) -> None:
        node = child.node
        node.lookups += 1
        self.known[node.ino] = node
        request.entry(node.stat(), node.attr_timeout)

    def lookup(self, request: Request, parent: int, name: bytes) -> None:
        """Find a name, and remember for this thread what it found."""
        caller = request.caller
        self.fs.caller, _ = caller
        if len(name) > MAX_NAME:
            raise OSError(errno.ENAMETOOLONG, "the name is too long")
        child = self._directory(parent).child(name.decode("utf-8", "replace"))
        if child is None:
            self._looked_up.pop(caller, None)
            raise OSError(errno.ENOENT, "no such name")
        self._looked_up[caller] = child
        self._looked_up.move_to_end(caller)
        if len(self._looked_up) > REMEMBERED:
            self._looked_up.popitem(last=False)
        if isinstance(child.node, Fifo) and self.fs.caller != self.fs.work.tid:
            fifo = child.node
            self.fs.work.then(lambda: self._enter(request, child) if fifo.held else request.error(errno.ENFILE))
        else:
            self._enter(request, child)

    def forget(self, request: Request, ino: int, count: int) -> None:
        """The kernel lets an inode go."""
        self._forget(ino, count)
        request.forgotten()

    def forget_multi(self, request: Request, count: int, forgets: Any) -> None:
        """The kernel lets several go."""
        for i in range(count):
            self._forget(forgets[i].ino, forgets[i].nlookup)
        request.forgotten()

    def _forget(self, ino: int, count: int) -> None:
        node = self.known.get(ino)
        if node is not None and ino != ROOT_INO:
            node.lookups = max(0, node.lookups - count)
            if not node.lookups:
                del self.known[ino]

    def getattr(self, request: Request, ino: int, _fi: Any) -> None:
        """Everything about an inode."""
        node = self.known[ino]
        request.attr(node.stat(), node.attr_timeout)

    def setattr(self, request: Request, ino: int, attr: Any, which: int, _fi: Any) -> None:
        """Change owner or size; mode and times stay what they are, a mode that would change is refused."""
        node, new = self.known[ino], attr.contents
        if which & libfuse.SET_MODE and stat.S_IMODE(new.st_mode) != node.permissions:
            raise OSError(errno.EPERM, "modes are fixed")
        if which & (libfuse.SET_UID | libfuse.SET_GID):
            uid = new.st_uid if which & libfuse.SET_UID else None
            gid = new.st_gid if which & libfuse.SET_GID else None
            node.chown(uid, gid)
        if which & libfuse.SET_SIZE:
            node.truncate(new.st_size)
        request.attr(node.stat(), node.attr_timeout)

    def mkdir(self, request: Request, parent: int, name: bytes, _mode: int) -> None:
        """Make a domain."""
        self._enter(request, Child(self._directory(parent).mkdir(name.decode("utf-8", "replace"), request)))

    def rmdir(self, request: Request, parent: int, name: bytes) -> None:
        """End a domain."""
        self._directory(parent).rmdir(name.decode("utf-8", "replace"), request)

    def _refuse(self, request: Request, *_: object) -> None:
        request.error(errno.EPERM)

    mknod = symlink = link = _refuse

    def rename(self, request: Request, parent: int, name: bytes, *_: object) -> None:
        """Refuse to move a file."""
        self._directory(parent).rename(name.decode("utf-8", "replace"))
        request.done()

    def unlink(self, request: Request, parent: int, name: bytes) -> None:
        """Remove a file."""
        self._directory(parent).unlink(name.decode("utf-8", "replace"))
        request.done()

    def create(self, request: Request, parent: int, name: bytes, _mode: int, fi: Any) -> None:
        """Make a file and open it."""
        node, opened = self._directory(parent).create(name.decode("utf-8", "replace"), fi.contents.flags)
        node.lookups += 1
        self.known[node.ino] = node
        fi.contents.fh, fi.contents.direct_io = self._opened(node, opened), 1
        request.created(node.stat(), fi)

    def _opened(self, node: Node, opened: OpenFile) -> int:
        self._last_fh += 1
        self.files[self._last_fh] = (node, opened)
        node.opens += 1
        return self._last_fh

    def open(self, request: Request, ino: int, fi: Any) -> None:
        """Open by the name that this thread has just looked up."""
        node, flags, caller = self.known[ino], fi.contents.flags, request.caller
        child = self._looked_up.pop(caller, None)
        if not node.shared:
            opened = node.open(flags)
        elif caller[0] == 0 or child is None or child.node is not node or child.way is None:
            raise OSError(errno.EACCES, "a shared page opens by its name only")
        elif getattr(node, "dead", False):
            raise OSError(errno.ENOENT, "the frame has gone")
        else:
            opened = child.way(flags)
        request.opened(self._opened(node, opened), opened.flags)

    def read(self, request: Request, _ino: int, size: int, offset: int, fi: Any) -> None:
        """Read."""
        self._file(fi).read(request, size, offset, bool(fi.contents.flags & os.O_NONBLOCK))

    def write(self, request: Request, _ino: int, data: int, size: int, offset: int, fi: Any) -> None:
        """Write; also how dirty pages come back."""
        opened = self._file(fi)
        take = opened.writeback if fi.contents.writepage & 1 else opened.write
        take(request, ctypes.string_at(data, size), offset)

    def poll(self, request: Request, _ino: int, fi: Any, handle: int | None) -> None:
        """What is ready."""
        opened = self._file(fi)
        if isinstance(opened, OpenStream):
            opened.poll(request, handle)
            return
        if handle:
            libfuse.pollhandle_destroy(handle)
        request.polled(opened.events())

    def ioctl(
        self,
        request: Request,
        _ino: int,
        command: int,
        address: int | None,
        fi: Any,
        flags: int,
        data: int | None,
        size: int,
        _out_size: int,
    ) -> None:
        """Control a device."""
        if flags & libfuse.IOCTL_COMPAT:
            raise OSError(errno.ENOTTY, "the structs of 32-bit programs differ, and Linux does not know them either")
        given = ctypes.string_at(data, size) if data and size else b""
        self._file(fi).ioctl(request, command & 0xFFFF_FFFF, address or 0, given)

    def release(self, request: Request, _ino: int, fi: Any) -> None:
        """The last reference to an open file, mappings included, is gone."""
        node, opened = self.files.pop(fi.contents.fh)
        node.opens -= 1
        try:
            opened.release()
        finally:
            request.done()

    def opendir(self, request: Request, ino: int, _fi: Any) -> None:
        """Open a directory: its listing is taken at the first read."""
        self._directory(ino)
        self._last_fh += 1
        request.opened(self._last_fh, 0)

    def readdir(self, request: Request, ino: int, size: int, offset: int, fi: Any) -> None:
        """List; from offset 0, anew."""
        fh = fi.contents.fh
        if offset == 0 or fh not in self._listings:
            self._listings[fh] = Listing(ino, self._directory(ino).entries())
        request.data(self._listings[fh].pack(offset, size))

    def releasedir(self, request: Request, _ino: int, fi: Any) -> None:
        """Close a directory."""
        self._listings.pop(fi.contents.fh, None)
        request.done()

    def statfs(self, request: Request, _ino: int) -> None:
        """The machine's memory, as df shows it."""
        state, st = self.fs.machine.state, libfuse.StatVfs()
        st.f_bsize = st.f_frsize = 4096
        st.f_blocks, st.f_bfree, st.f_bavail = state.config.frames, len(state.free), len(state.free)
        st.f_namemax = MAX_NAME
        request.statfs(st)

    def setxattr(self, request: Request, ino: int, name: bytes, value: int, size: int, _flags: int) -> None:
        """Set an attribute."""
        self.known[ino].set_attribute(name.decode("utf-8", "replace"), ctypes.string_at(value, size) if size else b"")
        request.done()

    def removexattr(self, request: Request, *_: object) -> None:
        """None can be removed."""
        request.error(errno.ENOTSUP)

    def getxattr(self, request: Request, ino: int, name: bytes, size: int) -> None:
        """An attribute."""
        value = self.known[ino].attributes().get(name.decode("utf-8", "replace"))
        if value is None:
            raise OSError(errno.ENODATA, "no such attribute")
        self._sized(request, value, size)

    def listxattr(self, request: Request, ino: int, size: int) -> None:
        """Names of the attributes."""
        self._sized(request, b"".join(name.encode() + b"\0" for name in self.known[ino].attributes()), size)

    @staticmethod
    def _sized(request: Request, data: bytes, size: int) -> None:
        if not size:
            request.size(len(data))
        elif len(data) > size:
            request.error(errno.ERANGE)
        else:
            request.data(data)

    def retrieve_reply(self, request: Request, cookie: int | None, _ino: int, _offset: int, buffers: Any) -> None:
        """Bytes of a page that we asked for."""
        self.fs.pages.retrieved(cookie or 0, buffers.contents)
        request.forgotten()

    def handlers(self) -> dict[str, Callable[..., None]]:
        """A function for each request that is answered, which lets nothing escape."""
        return {name: self._guarded(name) for name in libfuse.PROTOTYPES if hasattr(self, name)}

    def _guarded(self, name: str) -> Callable[..., None]:
        method = getattr(self, name)

        def handle(raw: int, *arguments: Any) -> None:
            request = Request(raw)
            try:
                method(request, *arguments)
            except (HypercallError, StoreError) as error:
                self._fail(request, error.errno)
            except FieldError:
                self._fail(request, errno.EINVAL)
            except OSError as error:
                self._fail(request, error.errno or errno.EIO)
            except KeyError:
                self._fail(request, errno.ESTALE)
            except Exception:
                traceback.print_exc(file=sys.stderr)
                self._fail(request, errno.EIO)

        return handle

    @staticmethod
    def _fail(request: Request, code: int) -> None:
        if not request.answered:
            request.error(code)
