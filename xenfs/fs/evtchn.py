"""The subtree of a domain that shows event channels: evtchn/<port>/ with pending, notify and info."""

from __future__ import annotations

import stat
from collections.abc import Iterable
from typing import TYPE_CHECKING

from xenfs.abi.event_channel import PortState
from xenfs.abi.xen import Virq
from xenfs.fs.nodes import Child, Directory, Owner, TextFile, number

if TYPE_CHECKING:
    from xenfs.fs.fifos import Fifo
    from xenfs.fs.filesystem import Filesystem
    from xenfs.hypervisor.state import Domain, Port


class Evtchn(Directory):
    """evtchn/: a directory for each allocated port."""

    def __init__(self, fs: Filesystem, domain: Domain, owner: Owner) -> None:
        """Make the inode."""
        super().__init__(fs, fs.new_ino(), 0o755, owner)
        self.domain = domain
        self._nodes: dict[int, PortDirectory] = {}

    def _node(self, port: Port) -> PortDirectory:
        node = self._nodes.get(port.number)
        if node is None or node.port is not port:
            node = self._nodes[port.number] = PortDirectory(self.fs, port, self.owner)
        return node

    def child(self, name: str) -> Child | None:
        """See Directory."""
        port = self.domain.ports.get(number(name))
        return None if port is None else Child(self._node(port))

    def entries(self) -> Iterable[tuple[str, int, int]]:
        """See Directory."""
        for gone in [n for n in self._nodes if n not in self.domain.ports]:
            del self._nodes[gone]
        return [(str(n), self._node(p).ino, stat.S_IFDIR) for n, p in sorted(self.domain.ports.items())]

    @property
    def links(self) -> int:
        """See Directory."""
        return 2 + len(self.domain.ports)


class PortDirectory(Directory):
    """evtchn/<port>/."""

    def __init__(self, fs: Filesystem, port: Port, owner: Owner) -> None:
        """Make the inodes."""
        super().__init__(fs, fs.new_ino(), 0o755, owner)
        self.port = port
        self._info = TextFile(fs, owner, self._text)

    def _text(self) -> str:
        port = self.port
        words = [f"state={port.state.name}"]
        if port.state in (PortState.unbound, PortState.interdomain):
            words += [f"remote_domid={port.remote_domid}", f"remote_port={port.peer.number if port.peer else 0}"]
        elif port.state is PortState.virq:
            known = port.virq in list(Virq)
            words += [f"virq={Virq(port.virq).name.lower() if known else port.virq}", f"vcpu={port.vcpu}"]
        elif port.state is PortState.ipi:
            words += [f"vcpu={port.vcpu}"]
        return " ".join(words) + "\n"

    def _fifo(self, name: str) -> Fifo | None:
        port, fifos = self.port, self.fs.fifos
        if port.state is PortState.closed:
            return None
        if name == "pending":
            return fifos.pending(port.line)
        if port.state is PortState.ipi:
            return fifos.pending(port.line)
        if port.state in (PortState.unbound, PortState.interdomain):
            return fifos.notify(port.line, port.peer.line if port.peer else 0)
        return None  # what the machine raises, nobody else can

    def child(self, name: str) -> Child | None:
        """See Directory."""
        if name == "info":
            return Child(self._info)
        fifo = self._fifo(name) if name in ("pending", "notify") else None
        if fifo is None:
            return None
        self.fs.fifos.look_up(fifo)
        return Child(fifo)

    def entries(self) -> Iterable[tuple[str, int, int]]:
        """See Directory."""
        yield "info", self._info.ino, stat.S_IFREG
        for name in ("notify", "pending"):
            fifo = self._fifo(name)
            if fifo is not None:
                yield name, fifo.ino, stat.S_IFIFO
