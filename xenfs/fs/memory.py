"""The subtrees of a domain that show memory: frames/, grants/, foreign/ and rings/.

Under frames/, grants/ and rings/ the owner looks at its own pages. Opening a name under foreign/ *is* mapping the
grant, and the release of that open file is unmapping it.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from xenfs.abi.grant_table import GntMap, Gtf, MapGrantRef, UnmapGrantRef
from xenfs.abi.xen import DOMID_SELF, PAGE_SIZE
from xenfs.abi.xenfs_op import ReleaseMapping
from xenfs.fs.nodes import Child, Directory, Node, OpenFile, Owner, TextFile, Way, number
from xenfs.fs.pages import OpenPage, Page

if TYPE_CHECKING:
    from xenfs.fs.filesystem import Filesystem
    from xenfs.fs.request import Request
    from xenfs.hypervisor.state import Domain, Grant


def view(page: Page) -> Way:
    """Open a page of one's own: looking is no mapping."""
    return lambda _flags: OpenPage(page)


class MemoryDirectory(Directory):
    """A directory of one domain's, as of now."""

    def __init__(self, fs: Filesystem, domain: Domain, owner: Owner) -> None:
        """Make the inode."""
        super().__init__(fs, fs.new_ino(), 0o755, owner)
        self.domain = domain

    def own_page(self, frame: int) -> Child:
        """A page of the domain's own."""
        page = self.fs.pages.page(frame, self.owner)
        return Child(page, view(page))


class Frames(MemoryDirectory):
    """frames/: every frame that the domain owns, by its machine frame number."""

    def child(self, name: str) -> Child | None:
        """See Directory."""
        frame = number(name)
        return self.own_page(frame) if frame in self.domain.frames else None

    def entries(self) -> Iterator[tuple[str, int, int]]:
        """See Directory."""
        for frame in self.domain.frames:
            yield str(frame), self.fs.pages.ino(frame), stat.S_IFREG


class Mem(Node):
    """mem: the domain's frames as one file, each at its number times 4096, for many at a time without opening any."""

    def __init__(self, fs: Filesystem, domain: Domain, owner: Owner) -> None:
        """Make the inode."""
        super().__init__(fs, fs.new_ino(), 0o600, owner)
        self.domain = domain

    @property
    def size(self) -> int:
        """As far as the machine's memory goes."""
        return self.fs.machine.config.frames * PAGE_SIZE

    def open(self, flags: int) -> OpenFile:
        """See Node."""
        del flags
        return OpenMem(self)


class OpenMem(OpenFile):
    """An open mem. What is read and written must be the domain's own, to the last byte: else ENXIO, and nothing is
    done."""

    def __init__(self, mem: Mem) -> None:
        """Nothing is held."""
        self._mem = mem

    def _frames(self, offset: int, size: int) -> range:
        """The frames that bytes lie in."""
        found = range(offset // PAGE_SIZE, -(-(offset + size) // PAGE_SIZE))
        domain = self._mem.domain
        if domain.state == "dying" or (found and not domain.frames.covers(found.start, found.stop)):
            raise OSError(errno.ENXIO, "a frame of another")
        return found

    def read(self, request: Request, size: int, offset: int, nonblocking: bool) -> None:
        """See OpenFile."""
        del nonblocking
        size = max(0, min(size, self._mem.size - offset))
        start = offset % PAGE_SIZE

        def answer(data: bytes) -> None:
            request.data(data[start : start + size] if start or size < len(data) else data)

        self._mem.fs.pages.read(self._frames(offset, size), answer)

    def write(self, request: Request, data: bytes, offset: int) -> None:
        """See OpenFile."""
        fs, at, start = self._mem.fs, 0, offset % PAGE_SIZE
        for frame in self._frames(offset, len(data)):
            piece = data[at : at + PAGE_SIZE - start]
            fs.pages.write(frame, start, piece)
            at, start = at + len(piece), 0
        fs.work.then(lambda: request.written(len(data)))


class Rings(MemoryDirectory):
    """rings/: the frames that drivers have named."""

    def child(self, name: str) -> Child | None:
        """See Directory."""
        ring = self.domain.rings.get(name)
        return None if ring is None else self.own_page(ring.frame.number)

    def entries(self) -> Iterable[tuple[str, int, int]]:
        """See Directory."""
        return [(n, self.fs.pages.ino(r.frame.number), stat.S_IFREG) for n, r in sorted(self.domain.rings.items())]


class Grants(MemoryDirectory):
    """grants/: a directory for each grant that the domain has given."""

    def __init__(self, fs: Filesystem, domain: Domain, owner: Owner) -> None:
        """Make the inode."""
        super().__init__(fs, domain, owner)
        self._nodes: dict[int, GrantDirectory] = {}

    def _node(self, grant: Grant) -> GrantDirectory:
        node = self._nodes.get(grant.ref)
        if node is None or node.grant is not grant:
            node = self._nodes[grant.ref] = GrantDirectory(self.fs, grant, self.owner)
        return node

    def child(self, name: str) -> Child | None:
        """See Directory."""
        grant = self.domain.grants.get(number(name))
        return None if grant is None else Child(self._node(grant))

    def entries(self) -> Iterable[tuple[str, int, int]]:
        """See Directory."""
        for ref in [r for r in self._nodes if r not in self.domain.grants]:
            del self._nodes[ref]
        return [(str(ref), self._node(g).ino, stat.S_IFDIR) for ref, g in sorted(self.domain.grants.items())]

    @property
    def links(self) -> int:
        """See Directory."""
        return 2 + len(self.domain.grants)


class GrantDirectory(Directory):
    """grants/<gref>/: page and info."""

    def __init__(self, fs: Filesystem, grant: Grant, owner: Owner) -> None:
        """Make the inodes."""
        super().__init__(fs, fs.new_ino(), 0o755, owner)
        self.grant = grant
        self._info = TextFile(fs, owner, self._text)

    def _text(self) -> str:
        grant = self.grant
        flags = ["permit_access" if grant.type is Gtf.permit_access else "accept_transfer"]
        flags += ["readonly"] if grant.readonly else []
        flags += ["ending"] if grant.ending else []
        frame = "none" if grant.frame is None else grant.frame.number
        words = f"domid={grant.grantee} flags={'|'.join(flags)} frame={frame}"
        return f"{words} readers={grant.readers} writers={grant.writers} maps={grant.maps}\n"

    def _frame(self) -> int | None:
        """The frame, as long as it is the domain's: the entry may be gone, and the frame may have gone on."""
        frame = self.grant.frame
        return frame.number if frame is not None and frame.number in self.grant.domain.frames else None

    def child(self, name: str) -> Child | None:
        """See Directory."""
        if name == "info":
            return Child(self._info)
        frame = self._frame()
        if name != "page" or frame is None:
            return None
        page = self.fs.pages.page(frame, self.owner)
        return Child(page, lambda _flags: self._open(page))

    def _open(self, page: Page) -> OpenFile:
        """A view; of a page of dev/gntalloc also what a mapping of that device is in Xen, and keeps it."""
        shared = self.fs.domains.node(self.grant.domain).dev.granted.get(self.grant)
        if shared is None:
            return OpenPage(page)
        shared.get()
        return OpenPage(page, shared.put)

    def entries(self) -> Iterable[tuple[str, int, int]]:
        """See Directory."""
        yield "info", self._info.ino, stat.S_IFREG
        frame = self._frame()
        if frame is not None:
            yield "page", self.fs.pages.ino(frame), stat.S_IFREG


class Foreign(MemoryDirectory):
    """foreign/: a directory for each domain that has granted something to this one."""

    def __init__(self, fs: Filesystem, domain: Domain, owner: Owner) -> None:
        """Make the inode."""
        super().__init__(fs, domain, owner)
        self._nodes: dict[int, ForeignDomain] = {}

    def _node(self, granter: Domain) -> ForeignDomain:
        node = self._nodes.get(granter.domid)
        if node is None or node.granter is not granter:
            node = self._nodes[granter.domid] = ForeignDomain(self.fs, self.domain, granter, self.owner)
        return node

    def child(self, name: str) -> Child | None:
        """See Directory: any domain can be looked into, so that a missing grant is told from a missing domain."""
        granter = self.fs.machine.state.domains.get(number(name))
        return None if granter is None else Child(self._node(granter))

    def entries(self) -> Iterable[tuple[str, int, int]]:
        """See Directory."""
        mine = self.domain.domid
        for domid, granter in sorted(self.fs.machine.state.domains.items()):
            if any(g.grantee == mine and g.type is Gtf.permit_access for g in granter.grants.values()):
                yield str(domid), self._node(granter).ino, stat.S_IFDIR

    @property
    def links(self) -> int:
        """Not known: counting would look at every grant of the machine."""
        return 1


class ForeignDomain(Directory):
    """foreign/<domid>/: the grants of one domain to this one."""

    def __init__(self, fs: Filesystem, domain: Domain, granter: Domain, owner: Owner) -> None:
        """Make the inode."""
        super().__init__(fs, fs.new_ino(), 0o755, owner)
        self.domain, self.granter = domain, granter

    def _alive(self) -> bool:
        """Whether both are there: the number of a dead one may be another's."""
        return "dying" not in (self.granter.state, self.domain.state)

    def _grants(self) -> Iterator[Grant]:
        for _, grant in sorted(self.granter.grants.items()) if self._alive() else ():
            ours = grant.grantee == self.domain.domid and not grant.ending
            if ours and grant.type is Gtf.permit_access:
                yield grant

    def child(self, name: str) -> Child | None:
        """See Directory."""
        grant = self.granter.grants.get(number(name))
        if grant is None or grant.frame is None or not self._alive():
            return None
        if grant.grantee != self.domain.domid or grant.type is not Gtf.permit_access or grant.ending:
            raise OSError(errno.EACCES, "not granted to this domain")
        page = self.fs.pages.page(grant.frame.number, self.fs.frame_owner(grant.frame.number))
        return Child(page, lambda flags: self._map(grant, page, flags))

    def _map(self, grant: Grant, page: Page, flags: int) -> OpenFile:
        if self.granter.grants.get(grant.ref) is not grant:
            raise OSError(errno.ENOENT, "the grant is gone")
        readonly = flags & 3 == os.O_RDONLY
        how = int(GntMap.host_map | (GntMap.readonly if readonly else GntMap(0)))
        domid, machine = self.fs.domid(self.domain), self.fs.machine
        dom = DOMID_SELF if self.granter is self.domain else self.fs.domid(self.granter)
        handle = machine.call(MapGrantRef(dom=dom, ref=grant.ref, flags=how), domid, world=True).handle
        mapping = self.domain.maps[handle]

        def unmap() -> None:
            if self.domain.state == "dying":  # its number may be another's
                machine.call(ReleaseMapping(mapping=mapping.serial), world=True)
            else:
                machine.call(UnmapGrantRef(handle=handle), self.fs.domid(self.domain), world=True)

        return OpenPage(page, unmap)

    def entries(self) -> Iterable[tuple[str, int, int]]:
        """See Directory."""
        for grant in self._grants():
            if grant.frame is not None:
                yield str(grant.ref), self.fs.pages.ino(grant.frame.number), stat.S_IFREG
