"""One look at a machine: what is needed for all that is shown, read in as few calls as possible.

The pages of rings and of statistics are opened once and read by pread, which the kernel answers from its page cache
without the daemon; the store is mirrored by one watch; of everything else there is one table for the whole machine.
"""

from __future__ import annotations

import os
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from xl import findings, rings
from xl.findings import Finding, GrantFacts, PortFacts
from xl.kinds import device_class
from xl.listing import cpu_seconds, processes

from xenfs.abi.ring import HEADER, u32
from xenfs.abi.stats import MAGIC, Stats
from xenfs.abi.xenbus import XenbusState
from xenfs.commands.machine import Frames
from xenfs.commands.running import RunDirectory
from xenfs.domain.mounted import MountedDomain
from xenfs.xenbus import Device
from xenfs.xenbus.end import read_state
from xentop import tables
from xentop.mirror import Change, Mirror
from xentop.tables import Grant, Named, PortLine, Run

_PAGE = 4096
DAEMON = -1
"""The hypervisor itself, among those that use a processor."""
_SLOW_SECONDS = 1.0
"""How often what costs more, processes and findings, is looked at."""
Key = tuple[int, str]
"""Whose page, and its name."""


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
    grants: tuple[Grant, ...] = ()
    runs: tuple[Run, ...] = ()
    watches: tuple[tuple[int, str, str], ...] = ()
    cpu: dict[int, float] = field(default_factory=dict)
    """What the processes of a domain use, in percent of a processor; the hypervisor itself as DAEMON."""
    changes: tuple[Change, ...] = ()
    nodes: tuple[tuple[str, int, bytes], ...] = ()
    ages: dict[str, float] = field(default_factory=dict)


class _Facts:
    """Implements findings.Facts out of a sample."""

    def __init__(self, look: Look, sample: Sample) -> None:
        self._look, self._sample = look, sample

    def domids(self) -> set[int]:
        return {domain.domid for domain in self._sample.frames.domains if not domain.dying}

    def ports(self, domid: int) -> dict[int, PortFacts]:
        return {
            one.port: PortFacts(one.state, one.remote_domid, one.remote_port)
            for one in self._sample.ports
            if one.domid == domid
        }

    def grants(self, domid: int) -> dict[int, GrantFacts]:
        return {one.ref: GrantFacts(one.to, one.maps) for one in self._sample.grants if one.domid == domid}

    def rings(self, domid: int) -> list[str]:
        return [one.name for one in self._sample.named if one.domid == domid]

    def ring(self, domid: int, name: str) -> bytes | None:
        return self._look.page(domid, name)


class Look:
    """Looks at the machine that is mounted at `point`, as domain 0. One thread at a time."""

    def __init__(self, point: str) -> None:
        """Begin. Raises Refused or OSError when there is no machine, or not one's own."""
        self.point = point
        self._root = MountedDomain(0, point)
        try:
            self.mirror = Mirror(self._root.store)
        except BaseException:
            self._root.close()
            raise
        self._place = RunDirectory(point)
        self._pages: dict[Key, tuple[int, int]] = {}
        self._slow = 0.0
        self._cpu: dict[int, float] = {}
        self._used: dict[int, float] = {}
        self._findings: dict[Device, tuple[Finding, ...]] = {}

    def _text(self, name: str) -> str:
        return Path(self.point, "hypervisor", name).read_text()

    def sample(self, *wanted: str) -> Sample:
        """Look. `wanted`: which of ports, grants, pages, watches and store there are to be besides. Raises OSError."""
        self.mirror.update()
        frames = Frames.parse(self._text("frames"))
        named = tables.rings(self._text("rings"))
        self._keep_open(named)
        now = time.monotonic()
        passed = now - self._slow
        slow = passed >= _SLOW_SECONDS * 0.9
        all_wanted = {*wanted, *(("ports", "grants") if slow else ())}
        sample = Sample(
            now, frames, named, tuple(self._rings(named)), self._stats(named),
            ports=tables.ports(self._text("ports")) if "ports" in all_wanted else (),
            grants=tables.grants(self._text("grants")) if "grants" in all_wanted else (),
            runs=tables.runs(self._text("pages")) if "pages" in wanted else (),
            watches=tables.watches(self._text("watches")) if "watches" in wanted else (),
            changes=tuple(self.mirror.changes),
            nodes=tuple(self.mirror.walk()) if "store" in wanted else (),
            ages=self.mirror.ages() if "store" in wanted else {},
        )  # fmt: skip
        if slow:
            self._slow = now
            self._look_slowly(sample, passed)
        devices = tuple(self._device(device) for device in findings.devices(self.mirror))
        values = {name: getattr(sample, name) for name in Sample.__slots__}
        return Sample(**{**values, "devices": devices, "cpu": dict(self._cpu)})

    def _look_slowly(self, sample: Sample, passed: float) -> None:
        facts = _Facts(self, sample)
        self._findings = {
            device: tuple(findings.of_device(self.mirror, facts, device)) for device in findings.devices(self.mirror)
        }
        known, before, self._used = processes(), self._used, {}
        for domain in sample.frames.domains:
            holder = "devd-0.pid" if domain.domid == 0 else f"{domain.domid}/keeper.pid"
            pid = self._place.holder(holder)
            self._used[domain.domid] = cpu_seconds(pid, known)
        daemon = int(self._text("pid"))
        self._used[DAEMON] = known[daemon][1] if daemon in known else 0.0
        self._cpu = {
            domid: max(0.0, used - before[domid]) / passed * 100
            for domid, used in self._used.items()
            if domid in before
        }

    def _device(self, device: Device) -> DeviceState:
        front, back = (f"{path}/state" for path in (device.frontend_path, device.backend_path))
        return DeviceState(
            device, read_state(self.mirror, device.frontend_path), read_state(self.mirror, device.backend_path),
            self.mirror.age(front), self.mirror.age(back), self._findings.get(device, ()),
        )  # fmt: skip

    def _keep_open(self, named: tuple[Named, ...]) -> None:
        """Have every named page open, by the frame that it is."""
        wanted = {(one.domid, one.name): one.frame for one in named}
        for key in [key for key, (frame, _) in self._pages.items() if wanted.get(key) != frame]:
            os.close(self._pages.pop(key)[1])
        for key, frame in wanted.items():
            if key not in self._pages:
                with suppress(OSError):  # it has just gone
                    path = f"{self.point}/domains/{key[0]}/rings/{key[1]}"
                    self._pages[key] = frame, os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def _read(self, key: Key, size: int) -> bytes:
        if key in self._pages:
            with suppress(OSError):
                return os.pread(self._pages[key][1], size, 0)
        return b""

    def page(self, domid: int, name: str) -> bytes | None:
        """A named page, as it is now."""
        return self._read((domid, name), _PAGE) or None

    def frame(self, domid: int, number: int) -> bytes:
        """A frame, as it is now. Raises OSError."""
        return Path(self.point, "domains", str(domid), "frames", str(number)).read_bytes()

    def _rings(self, named: tuple[Named, ...]) -> list[Ring]:
        found = []
        for one in named:
            slots = rings.slots(one.name)
            raw = self._read((one.domid, one.name), HEADER.size) if slots is not None else b""
            if slots is not None and len(raw) == HEADER.size:
                req_prod, req_event, rsp_prod, rsp_event = HEADER.unpack(raw)[:4]
                found.append(Ring(one.domid, one.name, one.frame, req_prod, req_event, rsp_prod, rsp_event, slots))
        return found

    def _stats(self, named: tuple[Named, ...]) -> dict[Key, Stats]:
        found = {}
        for one in named:
            if one.name.endswith("-stats"):
                raw = self._read((one.domid, one.name), _PAGE)
                with suppress(ValueError):
                    if int.from_bytes(raw[:4], "little") == MAGIC:
                        found[one.domid, one.name] = Stats.parse(raw)
        return found

    def close(self) -> None:
        """Look no more."""
        for _, fd in self._pages.values():
            os.close(fd)
        self._pages.clear()
        with suppress(OSError):
            self.mirror.close()
        self._root.close()


def waits(state: DeviceState) -> tuple[str, str]:
    """In words what each end is to do next, by the tables of its class."""
    kind = device_class(state.device.kind)
    if kind is None:
        return "a kind that is not known here", ""
    front = kind.front[state.front, state.back].value if state.front is not None else "no state"
    back = kind.back[state.back, state.front].value if state.back is not None else "no state"
    return front, back
