"""The in-process machine and its domains."""

from __future__ import annotations

import errno
import threading
from collections.abc import Callable
from typing import TypeVar

from xenfs.abi.wire import FieldError, Wire
from xenfs.abi.xenfs_op import DEFAULT_FRAMES, CloseHandle, CreateDomain, DestroyDomain, OpenHandle
from xenfs.domain.errors import Refused
from xenfs.domain.inprocess.arena import Arena
from xenfs.domain.inprocess.events import InProcessEvents
from xenfs.domain.inprocess.lines import EventFdLines
from xenfs.domain.inprocess.memory import InProcessMemory
from xenfs.domain.inprocess.store import InProcessStore, StoreModel
from xenfs.hypervisor import Config, Machine
from xenfs.hypervisor.errors import HypercallError, Invalid
from xenfs.hypervisor.table import BY_REQUEST

R = TypeVar("R", bound=Wire)


class InProcessXen:
    """A machine with domain 0, its memory, its event lines and its store. Threads may use it side by side."""

    def __init__(self, config: Config | None = None, *, clock: Callable[[], int] | None = None) -> None:
        """Make the machine; `clock` (nanoseconds) times the records of its trace."""
        self.arena, self.lines, self.xenstore = Arena(), EventFdLines(), StoreModel()
        self.machine = Machine(config, contents=self.arena, lines=self.lines, clock=clock)
        self.lock = threading.RLock()
        self.entered: set[InProcessDomain] = set()

    def call(self, request: R, domid: int = 0, handle: int = 0, *, world: bool = False) -> R:
        """Make a hypercall and finish what it leaves to the reaper. Raises Refused."""
        try:
            try:
                request.check()
            except FieldError as error:
                raise Invalid(error.where, error.problem) from None
            with self.lock:
                answer = self.machine.call(request, domid, handle, world=world)
                self.machine.settle()
                return answer
        except HypercallError as error:
            status = error.status if BY_REQUEST[type(request)].has_status else None
            raise Refused(error.errno, str(error), status) from error

    def create_domain(self, name: str = "", *, frames: int = DEFAULT_FRAMES, max_frames: int = 0) -> int:
        """Make a domain; its number. EEXIST for a name that is taken, ENOMEM."""
        request = CreateDomain(name=name, frames=frames, max_frames=max_frames)
        domid = self.call(request).domid
        self.xenstore.do(lambda: self.xenstore.homes.came(domid, self.machine.state.domains[domid].name))
        return domid

    def destroy_domain(self, domid: int) -> None:
        """End a domain with all it has. ESRCH."""
        self.call(DestroyDomain(dom=domid))
        self.xenstore.do(lambda: self.xenstore.homes.gone(domid))

    def domain(self, domid: int) -> InProcessDomain:
        """Enter a domain: a new handle of it. ESRCH, EMFILE."""
        return InProcessDomain(self, domid)

    def leaks(self) -> list[str]:
        """What is in use anywhere, a line each; nothing when every handle is closed and everything was given back."""
        state = self.machine.state
        living = [*state.domains.values(), *state.dying]
        held = [repr(frame) for frame in state.busy.values()]
        held += [repr(h) for d in living for h in d.handles.values()]
        for domain in living:
            held += [repr(r) for table in (domain.ports, domain.grants, domain.maps) for r in table.values()]
            held += [repr(r) for r in domain.rings.values()]
        return held + [repr(d) + " is dying" for d in state.dying] + self.xenstore.leaks()

    def close(self) -> None:
        """End the machine, and with it every domain that is still open."""
        for domain in list(self.entered):
            domain.close()
        self.lines.close()
        self.arena.close()

    def __enter__(self) -> InProcessXen:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class InProcessDomain:
    """A domain through a handle of its own."""

    def __init__(self, xen: InProcessXen, domid: int) -> None:
        """Open the handle."""
        self._xen = xen
        self.domid = domid
        self.handle = xen.call(OpenHandle(dom=domid), world=True).handle
        self.memory = InProcessMemory(self)
        self.events = InProcessEvents(self)
        self.store = InProcessStore(xen.xenstore, domid)
        xen.entered.add(self)

    @property
    def xen(self) -> InProcessXen:
        """The machine."""
        return self._xen

    @property
    def alive(self) -> bool:
        """Whether the handle is open: not closed, and its domain not destroyed."""
        return self.handle in self._xen.machine.state.handles

    def call(self, request: R, *, world: bool = False) -> R:
        """Make a hypercall as this domain, through this handle. EBADF once it is closed."""
        if not self.alive:
            raise Refused(errno.EBADF, f"domain {self.domid}: this handle is closed")
        return self._xen.call(request, self.domid, self.handle, world=world)

    def close(self) -> None:
        """Release everything that this object allocated; twice is fine, and so is a domain that has died."""
        self.memory.close()
        self.events.close()
        self.store.close()
        if self.alive:
            self._xen.call(CloseHandle(handle=self.handle), self.domid, world=True)
        self._xen.entered.discard(self)

    def __enter__(self) -> InProcessDomain:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
