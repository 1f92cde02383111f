"""One look at a machine: what is needed for all that is shown, read in as few calls as possible.

The pages of rings and of statistics are opened once and read by pread, which the kernel answers from its page cache
without the daemon; the store is mirrored by one watch; of everything else there is one table for the whole machine.
"""

from __future__ import annotations

import os
import resource
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Generic, TypeVar

from xl import findings, rings
from xl.findings import Finding, GrantFacts, PortFacts
from xl.kinds import device_class, why_unknown
from xl.listing import Times, processes

from xenfs.abi.ring import u32
from xenfs.abi.stats import MAGIC, Stats
from xenfs.abi.xenbus import XenbusState
from xenfs.commands.machine import Frames
from xenfs.commands.running import RunDirectory
from xenfs.domain.mounted import MountedDomain
from xenfs.xenbus import Device
from xenfs.xenbus.end import read_state
from xentop import tables
from xentop.mirror import Mirror
from xentop.tables import Grants, Named, PortLine, Run

_PAGE = 4096
DAEMON = -1
"""The hypervisor itself, among those that use a processor."""
_SLOW_SECONDS = 1.0
"""How often what costs more, processes and findings, is looked at."""
_INDICES = struct.Struct("<4I")
_SPARING = 25
"""Findings are looked for again after so many times the time that they took."""
_STATS = "-stats"
_RESERVED = 64
"""Descriptors that are for all else than pages."""
Key = tuple[int, str]
"""Whose page, and its name."""
T = TypeVar("T")


class _Table(Generic[T]):
    """A file of hypervisor/, kept open: to read it is one request, and the text is parsed only when it is another."""

    def __init__(self, point: str, name: str, parse: Callable[[str], T], empty: T) -> None:
        self._fd = os.open(f"{point}/hypervisor/{name}", os.O_RDONLY | os.O_CLOEXEC)
        self._parse, self._room = parse, _PAGE
        self._said, self.found = b"", empty

    def read(self) -> T:
        """What it says now. Raises OSError."""
        said = os.pread(self._fd, self._room, 0)
        while len(said) >= self._room:  # the rest of the same text
            self._room *= 4
            said += os.pread(self._fd, self._room - len(said), len(said))
        if said != self._said:
            self._said, self.found = said, self._parse(said.decode())
        return self.found

    def close(self) -> None:
        """Read no more."""
        with suppress(OSError):
            os.close(self._fd)


class _Page:
    """A named page, open. Once it is given back, another may have its name and its frame: then it is opened anew."""

    def __init__(self, point: str, named: Named) -> None:
        """Open it. Raises OSError."""
        self.named, self.slots = named, rings.slots(named.name)
        self._path = f"{point}/domains/{named.domid}/rings/{named.name}"
        self._fd = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
        self._said = b""
        self._stats: Stats | None = None

    def read(self, size: int) -> bytes:
        """Its first bytes; none when it is not there any more."""
        with suppress(OSError):
            return os.pread(self._fd, size, 0)
        with suppress(OSError):
            self.close()
            self._fd = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
            return os.pread(self._fd, size, 0)
        return b""

    def close(self) -> None:
        """Read no more."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def stats(self) -> Stats | None:
        """What it says as a page of statistics, if it is one."""
        said = self.read(Stats.layout.size)
        if said != self._said:
            self._said, self._stats = said, None
            with suppress(ValueError):
                if int.from_bytes(said[:4], "little") == MAGIC:
                    self._stats = Stats.parse(said)
        return self._stats


def _is_looked_at(named: Named) -> bool:
    """Whether it is a ring, or a page of statistics."""
    return rings.slots(named.name) is not None or named.name.endswith(_STATS)


@dataclass(frozen=True, slots=True)
class Ring:
    """The indices of a ring."""

    domid: int
    name: str
    frame: int
    req_prod: int
    req_event: int
    rsp_prod: int
    rsp_event: int
    slots: int

    @property
    def fill(self) -> int:
        """Requests in flight; more than there are slots when the ring is broken."""
        return u32(self.req_prod - self.rsp_prod)


@dataclass(frozen=True, slots=True)
class DeviceState:
    """Where a device stands. Ages in seconds; None when it has been so since before we looked."""

    device: Device
    front: XenbusState | None
    back: XenbusState | None
    front_age: float | None
    back_age: float | None
    findings: tuple[Finding, ...] = ()


@dataclass(frozen=True, slots=True)
class Sample:
    """The machine at one moment. What was not asked for is empty."""

    time: float
    frames: Frames
    named: tuple[Named, ...] = ()
    rings: tuple[Ring, ...] = ()
    stats: dict[Key, Stats] = field(default_factory=dict)
    devices: tuple[DeviceState, ...] = ()
    ports: tuple[PortLine, ...] = ()
    grants: Grants = field(default_factory=Grants)
    """As they were when findings were looked for, unless they were asked for."""
    runs: tuple[Run, ...] = ()
    watches: tuple[tuple[int, str, str], ...] = ()
    cpu: dict[int, float] = field(default_factory=dict)
    """What the processes of a domain use, in percent of a processor; the hypervisor itself as DAEMON."""
    nodes: tuple[tuple[str, int, bytes], ...] = ()
    ages: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Known:
    """A device as the store has it."""

    device: Device
    front: XenbusState | None
    back: XenbusState | None
    front_node: str
    back_node: str


class _Facts:
    """Implements findings.Facts out of a sample."""

    def __init__(self, look: Look, sample: Sample) -> None:
        self._look = look
        self._domids = {domain.domid for domain in sample.frames.domains if not domain.dying}
        self._ports: dict[int, dict[int, PortFacts]] = {}
        for one in sample.ports:
            facts = PortFacts(one.state, one.remote_domid, one.remote_port)
            self._ports.setdefault(one.domid, {})[one.port] = facts
        self._grants: dict[int, dict[int, GrantFacts]] = {}
        known: dict[tuple[int, int], GrantFacts] = {}  # most say the same
        for domid, ref, to, maps in sample.grants.maps():
            if (to, maps) not in known:
                known[to, maps] = GrantFacts(to, maps)
            self._grants.setdefault(domid, {})[ref] = known[to, maps]
        self._rings: dict[int, list[str]] = {}
        for ring in sample.named:
            self._rings.setdefault(ring.domid, []).append(ring.name)

    def domids(self) -> set[int]:
        return self._domids

    def ports(self, domid: int) -> dict[int, PortFacts]:
        return self._ports.get(domid, {})

    def grants(self, domid: int) -> dict[int, GrantFacts]:
        return self._grants.get(domid, {})

    def rings(self, domid: int) -> list[str]:
        return self._rings.get(domid, [])

    def ring(self, domid: int, name: str) -> bytes | None:
        return self._look.page(domid, name)


class Look:
    """Looks at the machine that is mounted at `point`, as domain 0. One thread at a time."""

    def __init__(self, point: str) -> None:
        """Begin. Raises Refused or OSError when there is no machine, or not one's own."""
        self.point = point
        with ExitStack() as opened:
            self._root = opened.enter_context(MountedDomain(0, point))
            self._frames = self._table(opened, "frames", Frames.parse, Frames((), 0, 0))
            self._named: _Table[tuple[Named, ...]] = self._table(opened, "rings", tables.rings, ())
            self._ports: _Table[tuple[PortLine, ...]] = self._table(opened, "ports", tables.ports, ())
            self._grants = self._table(opened, "grants", Grants, Grants())
            self._runs: _Table[tuple[Run, ...]] = self._table(opened, "pages", tables.runs, ())
            self._watches: _Table[tuple[tuple[int, str, str], ...]] = self._table(opened, "watches", tables.watches, ())
            self._daemon = int(Path(point, "hypervisor", "pid").read_text())
            self.mirror = Mirror(self._root.store)
            self._opened = opened.pop_all()
        self._place = RunDirectory(point)
        self._pages: dict[Key, _Page] = {}
        self._pages_of: tuple[Named, ...] = ()
        self._slow = self._next = 0.0
        self._cpu: dict[int, float] = {}
        self._used: dict[int, float] = {}
        self._findings: dict[Device, tuple[Finding, ...]] = {}
        self._devices: list[_Known] = []
        self._turn = -1

    def _table(self, opened: ExitStack, name: str, parse: Callable[[str], T], empty: T) -> _Table[T]:
        made = _Table(self.point, name, parse, empty)
        opened.callback(made.close)
        return made

    def keep_up(self) -> None:
        """Take what has come, as one has to, without looking. Raises OSError when the machine is gone."""
        self.mirror.update()
        self._frames.read()

    def sample(self, *wanted: str) -> Sample:
        """Look. `wanted`: which of ports, grants, pages, watches and store there are to be besides. Raises OSError."""
        self.mirror.update()
        frames, named = self._frames.read(), self._named.read()
        self._keep_open(named)
        now = time.monotonic()
        finding = now >= self._next
        sample = Sample(
            now, frames, named, tuple(self._rings()), self._stats(),
            ports=self._ports.read() if finding or "ports" in wanted else (),
            grants=self._grants.read() if finding or "grants" in wanted else self._grants.found,
            runs=self._runs.read() if "pages" in wanted else (),
            watches=self._watches.read() if "watches" in wanted else (),
            nodes=tuple(self.mirror.walk()) if "store" in wanted else (),
            ages=self.mirror.ages() if "store" in wanted else {},
        )  # fmt: skip
        if finding:
            facts = _Facts(self, sample)
            self._findings = {
                known.device: tuple(findings.of_device(self.mirror, facts, known.device)) for known in self._known()
            }
            took = time.monotonic() - now
            self._next = now + max(_SLOW_SECONDS * 0.9, took * _SPARING)
        if now - self._slow >= _SLOW_SECONDS * 0.9:
            self._look_at_processes(frames, now - self._slow)
            self._slow = now
        devices = tuple(self._device(known) for known in self._known())
        values = {name: getattr(sample, name) for name in Sample.__slots__}
        return Sample(**{**values, "devices": devices, "cpu": dict(self._cpu)})

    def _look_at_processes(self, frames: Frames, passed: float) -> None:
        known, before, self._used = processes(), self._used, {}
        times = Times(known)
        for domain in frames.domains:
            holder = "devd-0.pid" if domain.domid == 0 else f"{domain.domid}/keeper.pid"
            self._used[domain.domid] = times.of(self._place.holder(holder))
        self._used[DAEMON] = known[self._daemon][1] if self._daemon in known else 0.0
        self._cpu = {
            domid: max(0.0, now - before[domid]) / passed * 100 for domid, now in self._used.items() if domid in before
        }

    def _known(self) -> list[_Known]:
        """The devices, which are gathered only when something of one has changed."""
        mirror = self.mirror
        if self._turn != mirror.turn:
            self._turn = mirror.turn
            self._devices = [
                _Known(
                    device, read_state(mirror, front), read_state(mirror, back), f"{front}/state", f"{back}/state"
                )
                for device in findings.devices(mirror)
                for front, back in [(device.frontend_path, device.backend_path)]
            ]  # fmt: skip
        return self._devices

    def _device(self, known: _Known) -> DeviceState:
        front_age, back_age = self.mirror.age(known.front_node), self.mirror.age(known.back_node)
        found = self._findings.get(known.device, ())
        return DeviceState(known.device, known.front, known.back, front_age, back_age, found)

    def _keep_open(self, named: tuple[Named, ...]) -> None:
        """Have every ring and every page of statistics open, by the frame that it is, as far as there is room: rings
        first, for a guest may give its pages as many names as it has pages.
        """
        if named is self._pages_of:
            return
        self._pages_of = named
        room = resource.getrlimit(resource.RLIMIT_NOFILE)[0] - _RESERVED
        rings_first = sorted(filter(_is_looked_at, named), key=lambda one: one.name.endswith(_STATS))
        wanted = {(one.domid, one.name): one for one in rings_first[:room]}
        for key, page in [*self._pages.items()]:
            if wanted.get(key) != page.named:
                self._pages.pop(key).close()
        for key, one in wanted.items():
            if key not in self._pages:
                with suppress(OSError):  # it has just gone
                    self._pages[key] = _Page(self.point, one)

    def page(self, domid: int, name: str) -> bytes | None:
        """A named page, as it is now."""
        found = self._pages.get((domid, name))
        return found.read(_PAGE) or None if found is not None else None

    def frame(self, domid: int, number: int) -> bytes:
        """A frame, as it is now. Raises OSError."""
        return Path(self.point, "domains", str(domid), "frames", str(number)).read_bytes()

    def _rings(self) -> Iterator[Ring]:
        for page in self._pages.values():
            raw = page.read(_INDICES.size) if page.slots is not None else b""
            if page.slots is not None and len(raw) == _INDICES.size:
                one, (req_prod, req_event, rsp_prod, rsp_event) = page.named, _INDICES.unpack(raw)
                yield Ring(one.domid, one.name, one.frame, req_prod, req_event, rsp_prod, rsp_event, page.slots)

    def _stats(self) -> dict[Key, Stats]:
        found = {}
        for key, page in self._pages.items():
            if page.named.name.endswith(_STATS):
                stats = page.stats()
                if stats is not None:
                    found[key] = stats
        return found

    def close(self) -> None:
        """Look no more."""
        for page in self._pages.values():
            page.close()
        self._pages.clear()
        with suppress(OSError):
            self.mirror.close()
        self._opened.close()


def waits(state: DeviceState) -> tuple[str, str]:
    """In words what each end is to do next, by the tables of its class; "" where there is nothing to be said of it."""
    kind = device_class(state.device.kind)
    if kind is None:
        return why_unknown(state.device.kind), ""
    front = findings.step_said(kind.front[state.front, state.back], state.findings) if state.front is not None else ""
    back = findings.step_said(kind.back[state.back, state.front], state.findings) if state.back is not None else ""
    return front, back
