"""domains/: a directory for each domain. mkdir makes one, rmdir ends one, chown gives it to a user."""

from __future__ import annotations

import errno
import os
import stat
import uuid
from collections.abc import Iterable
from typing import TYPE_CHECKING

from xenfs.abi.wire import Wire
from xenfs.abi.xen import DOMID_SELF, NO_DOMID
from xenfs.abi.xenfs_op import (
    CreateDomain,
    DestroyDomain,
    RenameDomain,
    SetMaxMemory,
    SetMemory,
    ShutdownDomain,
)
from xenfs.fs.ctl import Ctl
from xenfs.fs.dev.directory import Dev
from xenfs.fs.evtchn import Evtchn
from xenfs.fs.memory import Foreign, Frames, Grants, Mem, Rings
from xenfs.fs.nodes import Child, Directory, FixedDirectory, Node, TextFile, number
from xenfs.fs.turns import Turns

if TYPE_CHECKING:
    from xenfs.fs.filesystem import Filesystem
    from xenfs.fs.request import Request
    from xenfs.hypervisor.state import Domain


def _frames(value: str) -> int:
    if not (value.isascii() and value.isdigit() and len(value) <= 10):
        raise OSError(errno.EINVAL, "a number of frames")
    return min(int(value), 0xFFFF_FFFF)


class DomainDirectory(FixedDirectory):
    """domains/N/: whoever may enter it is that domain."""

    def __init__(self, fs: Filesystem, domain: Domain) -> None:
        """Make the inodes that every domain has; they belong to whoever this directory belongs to."""
        self.uid, self.gid = fs.uid, fs.gid
        self.domain = domain
        super().__init__(fs, fs.new_ino(), self, 0o700)
        turns = Turns()
        self.dev = Dev(fs, domain, self, turns)
        call = fs.machine.call

        def rename(value: str) -> None:
            request = RenameDomain(name=value)
            request.check()
            fs.domains.tell(call(request, fs.domid(domain)), domain)

        def set_memory(value: str) -> None:
            call(SetMemory(frames=_frames(value)), fs.domid(domain))

        def set_max_memory(value: str) -> None:
            call(SetMaxMemory(dom=fs.domid(domain), frames=_frames(value)), world=True)

        self.nodes = {
            "ctl": Ctl(fs, domain, self, turns),
            "dev": self.dev,
            "evtchn": Evtchn(fs, domain, self),
            "foreign": Foreign(fs, domain, self),
            "frames": Frames(fs, domain, self),
            "grants": Grants(fs, domain, self),
            "max_memory": TextFile(fs, fs, lambda: f"{domain.max_frames}\n", set_max_memory),
            "mem": Mem(fs, domain, self),
            "memory": TextFile(fs, self, lambda: f"{len(domain.frames)}\n", set_memory),
            "name": TextFile(fs, self, lambda: f"{domain.name}\n", rename),
            "rings": Rings(fs, domain, self),
            "state": TextFile(fs, self, lambda: f"{domain.state}\n"),
            "uuid": TextFile(fs, self, lambda: f"{domain.uuid}\n"),
        }

        self.hidden = {"mem"}  # sparse, and huge

    def chown(self, uid: int | None, gid: int | None) -> None:
        """Make a user the domain's own. The kernel has checked that it was root who asked."""
        self.uid = self.uid if uid is None else uid
        self.gid = self.gid if gid is None else gid


class Domains(Directory):
    """domains/: only the mount's owner and root may make and end domains."""

    def __init__(self, fs: Filesystem) -> None:
        """Make the inode."""
        super().__init__(fs, fs.new_ino(), 0o755, fs)
        self._nodes: dict[int, DomainDirectory] = {}

    def node(self, domain: Domain) -> DomainDirectory:
        """The directory of a domain, made when first needed."""
        node = self._nodes.get(domain.domid)
        if node is None or node.domain is not domain:
            node = self._nodes[domain.domid] = DomainDirectory(self.fs, domain)
        return node

    def tell(self, answer: Wire, caller: Domain) -> None:
        """A domain has come, changed or gone by a hypercall of `caller`: tell the store, and who has its devices."""
        homes, state = self.fs.homes, self.fs.machine.state
        if isinstance(answer, CreateDomain):
            homes.came(answer.domid, state.domains[answer.domid].name)
        elif isinstance(answer, DestroyDomain):
            node = self._nodes.pop(answer.dom, None)
            if node is not None:
                node.dev.bury()
            homes.gone(answer.dom)
        elif isinstance(answer, (RenameDomain, ShutdownDomain)):
            domid = caller.domid if answer.dom == DOMID_SELF else answer.dom
            if isinstance(answer, RenameDomain):
                homes.renamed(domid, answer.name)
            else:
                self.fs.store.domain_stopped(domid)

    def child(self, name: str) -> Child | None:
        """See Directory."""
        domain = self.fs.machine.state.domains.get(number(name))
        return None if domain is None else Child(self.node(domain))

    def entries(self) -> Iterable[tuple[str, int, int]]:
        """See Directory."""
        return [(str(n), self.node(d).ino, stat.S_IFDIR) for n, d in sorted(self.fs.machine.state.domains.items())]

    @property
    def links(self) -> int:
        """See Directory."""
        return 2 + len(self.fs.machine.state.domains)

    def _call(self, request: Wire) -> None:
        machine = self.fs.machine
        self.tell(machine.call(request, world=True), machine.state.domains[0])

    def mkdir(self, name: str, request: Request) -> Node:
        """Make the domain of that number, owned by the mount's owner."""
        del request
        domid = number(name)
        if not 0 <= domid < NO_DOMID:
            raise OSError(errno.EINVAL, "the name of a domain's directory is its number")
        identity = str(uuid.UUID(bytes=os.urandom(16), version=4))
        self._call(CreateDomain(dom=domid, uuid=identity))
        self.changed = self.fs.now()
        return self.node(self.fs.machine.state.domains[domid])

    def rmdir(self, name: str, request: Request) -> None:
        """End a domain, with everything in it; the answer waits until its pages and FIFOs are gone."""
        domid = number(name)
        if domid not in self.fs.machine.state.domains:
            raise OSError(errno.ENOENT, "no such domain")
        self._call(DestroyDomain(dom=domid))
        self.changed = self.fs.now()
        self.fs.work.then(request.done)
