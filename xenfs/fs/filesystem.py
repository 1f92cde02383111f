"""The filesystem: a machine, the world that it lives in, and the tree that shows it.

This is what the session's operations work on. Everything runs on the loop's thread.
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from xenfs.abi.event_channel import AllocUnbound, BindInterdomain, BindIpi, BindVirq
from xenfs.abi.wire import Wire
from xenfs.abi.xenfs_op import CloseHandle, CreateDomain, DestroyDomain, OpenHandle, RenameDomain, ShutdownDomain
from xenfs.fs.domains import Domains
from xenfs.fs.fifos import HIDDEN, Fifos, HiddenLines
from xenfs.fs.loop import Loop
from xenfs.fs.nodes import Directory, FixedDirectory, Owner, TextFile
from xenfs.fs.pages import Pages
from xenfs.fs.stream import OpenOperations, OpenStream, OpenTrace, Pipe
from xenfs.fs.work import Work
from xenfs.fs.xenstore import StoreFiles
from xenfs.hypervisor import Config, Machine
from xenfs.hypervisor.errors import HypercallError, NoSuchDomain
from xenfs.hypervisor.snapshot import frames_table
from xenfs.hypervisor.tables import grants_table, pages_table, ports_table, rings_table
from xenfs.xenstore.homes import Homes
from xenfs.xenstore.operation import Operation
from xenfs.xenstore.store import Store

if TYPE_CHECKING:
    from xenfs.hypervisor.state import Domain

ROOT_INO = 1
_LIVES = (CreateDomain, DestroyDomain, RenameDomain, ShutdownDomain)
_MAKE_PORT = (AllocUnbound, BindInterdomain, BindIpi, BindVirq)
R = TypeVar("R", bound=Wire)


class Filesystem:
    """The mounted machine. It is the owner of everything that is no domain's."""

    def __init__(self, mountpoint: str, config: Config, version: str) -> None:
        """Make the machine and the tree; `channel` is set once the session is there."""
        self.mountpoint, self.uid, self.gid = mountpoint, os.getuid(), os.getgid()
        self.channel = 0
        self.caller = 0
        self.followers: list[OpenStream] = []
        self.store_followers: list[OpenOperations] = []
        self._operations = False
        self._last_ino = ROOT_INO
        self._told = self._shown = 0
        self._trace_lines: deque[str] = deque(maxlen=config.trace)
        self._born = time.monotonic()
        self.loop, self.work = Loop(), Work()
        self.pages, self.fifos = Pages(self), Fifos(self)
        self.store = Store()
        self.homes = Homes(self.store)
        self.machine = Machine(config, contents=self.pages, lines=self.fifos, clock=time.time_ns)
        self.domains = Domains(self)
        self.root = FixedDirectory(self, ROOT_INO, self)
        self.root.nodes = {
            "domains": self.domains,
            "hypervisor": self._hypervisor(version),
            "xenstore": StoreFiles(self).directory("/"),
            HIDDEN: HiddenLines(self, self),
        }
        self.root.hidden = {HIDDEN}

    def _hypervisor(self, version: str) -> Directory:
        directory = FixedDirectory(self, self.new_ino(), self)
        directory.nodes = {
            "frames": TextFile(self, self, self._kept(frames_table)),
            "grants": TextFile(self, self, self._kept(grants_table)),
            "pages": TextFile(self, self, self._kept(pages_table)),
            "pid": TextFile(self, self, lambda: f"{os.getpid()}\n"),
            "ports": TextFile(self, self, lambda: ports_table(self.machine, self.fifos.has_event)),
            "rings": TextFile(self, self, self._kept(rings_table)),
            "store_pipe": Pipe(self, self, OpenOperations),
            "trace": TextFile(self, self, self._trace),
            "trace_pipe": Pipe(self, self, OpenTrace),
            "uptime": TextFile(self, self, lambda: f"{time.monotonic() - self._born:.2f}\n"),
            "version": TextFile(self, self, lambda: f"xenfs {version}\n"),
            "watches": TextFile(self, self, self.store.watches.table),
        }
        for name in ("grants", "pages", "ports", "rings", "trace", "watches"):
            directory.nodes[name].permissions = 0o400  # they tell of every domain
        directory.hidden = {"store_pipe", "trace_pipe"}
        return directory

    def _kept(self, table: Callable[[Machine], str]) -> Callable[[], str]:
        """A table that is kept until the next hypercall, since each lookup asks how long it is."""
        counted, text = -1, ""

        def now() -> str:
            nonlocal counted, text
            if counted != self.machine.trace.last:
                counted, text = self.machine.trace.last, table(self.machine)
            return text

        return now

    def _trace(self) -> str:
        # kept, since each stat asks how long it is
        self._trace_lines += (f"{record.line()}\n" for record in self.machine.trace.since(self._shown)[1])
        self._shown = self.machine.trace.last
        return "".join(self._trace_lines)

    def new_ino(self) -> int:
        """An inode number that nothing has had."""
        self._last_ino += 1
        return self._last_ino

    def now(self) -> int:
        """Nanoseconds of the system's clock."""
        return time.time_ns()

    def domid(self, domain: Domain) -> int:
        """The domain's number, while it lives. Raises NoSuchDomain."""
        if self.machine.state.domains.get(domain.domid) is not domain:
            raise NoSuchDomain(f"domain {domain.domid}", "it has been destroyed")
        return domain.domid

    def frame_owner(self, frame: int) -> Owner:
        """Whose directory a frame belongs to; the mount's owner has the frames of the dead."""
        busy = self.machine.state.busy.get(frame)
        if busy is not None:
            return self.domains.node(busy.owner) if busy.owner.state != "dying" else self
        for domain in self.machine.state.domains.values():
            if frame in domain.frames:
                return self.domains.node(domain)
        return self

    def call(self, request: R, domain: Domain, handle: int) -> R:
        """A hypercall of a domain's. Raises HypercallError, also NoFreePort for a port that could not be held open."""
        if isinstance(request, _MAKE_PORT):
            self.fifos.check_room()
        answer = self.machine.call(request, self.domid(domain), handle)
        if isinstance(answer, _LIVES):
            self.domains.tell(answer, domain)
        return answer

    def call_rows(
        self, kind: type[Wire], rows: Sequence[Any], domain: Domain, handle: int
    ) -> Sequence[Any | HypercallError]:
        """The same for rows, of a kind that `plain` says yes to: for each the answer, or what it was refused with."""
        try:
            return self.machine.call_rows(kind, rows, self.domid(domain), handle)
        except NoSuchDomain as error:
            return [error] * len(rows)

    @staticmethod
    def plain(kind: type[Wire]) -> bool:
        """Whether calls of this kind may be made as rows: they concern the machine alone, and carry no text."""
        return not (kind.layout.has_text or issubclass(kind, (*_MAKE_PORT, *_LIVES)))

    def open_handle(self, domain: Domain) -> int:
        """A handle of a domain. Raises TooManyHandles, NoSuchDomain."""
        return self.machine.call(OpenHandle(), self.domid(domain), world=True).handle

    def close_handle(self, domain: Domain, handle: int) -> None:
        """End a handle, unless the domain's death did."""
        if handle in domain.handles:
            self.machine.call(CloseHandle(handle=handle), self.domid(domain), world=True)

    def tend(self) -> bool:
        """What comes between requests: release a slice of what was left, tell those who follow.

        True while there is more to release.
        """
        more = self.machine.reap()
        if self.followers and self._told != self.machine.trace.last:
            for follower in list(self.followers):
                follower.wake()
        self._told = self.machine.trace.last
        if self._operations:
            self._operations = False
            for follower in list(self.store_followers):
                follower.wake()
        return more

    def operated(self, operation: Operation) -> None:
        """Something was done with the store, which some follow."""
        line = operation.line(self.now())
        for follower in self.store_followers:
            follower.add(line)
        self._operations = True
