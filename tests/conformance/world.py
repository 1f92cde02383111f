"""A machine for a test to use through nothing but the Protocols and these few words, whichever kind it is."""

from __future__ import annotations

import os
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Protocol

import pytest

from tests.need import missing, need_tool
from xenfs.abi.event_channel import Reset
from xenfs.abi.xenfs_op import DEFAULT_FRAMES, CreateDomain, DestroyDomain, SetMemory
from xenfs.domain import Domain, Refused
from xenfs.domain.inprocess import InProcessXen
from xenfs.domain.mounted import MountedDomain
from xenfs.hypervisor import Config
from xenfs.hypervisor.snapshot import Counts, counts
from xenfs.testing import mount as testing

FRAMES = 16384
HANG_SECONDS = 40
"""Less than pytest's own timeout, so that a hung client is told ENOTCONN first."""


class World(Protocol):
    """A machine."""

    def create_domain(self, name: str = "", *, frames: int = DEFAULT_FRAMES) -> int: ...

    def destroy_domain(self, domid: int) -> None: ...

    def domain(self, domid: int) -> Domain:
        """Enter a domain: a handle of its own."""

    def reset(self, domid: int) -> None:
        """Close all ports of a domain, as domain 0 may."""

    def counts(self, domid: int) -> Counts: ...

    def dying(self) -> list[str]:
        """Names of dead domains whose frames peers still map."""

    def free(self) -> int:
        """Frames that belong to no domain."""

    def leaks(self) -> list[str]:
        """A line for everything that is in use anywhere."""


class InProcessWorld:
    """The model itself."""

    def __init__(self) -> None:
        self.xen = InProcessXen(Config(frames=FRAMES))

    def create_domain(self, name: str = "", *, frames: int = DEFAULT_FRAMES) -> int:
        return self.xen.create_domain(name, frames=frames)

    def destroy_domain(self, domid: int) -> None:
        self.xen.destroy_domain(domid)

    def domain(self, domid: int) -> Domain:
        return self.xen.domain(domid)

    def reset(self, domid: int) -> None:
        self.xen.call(Reset(dom=domid))

    def counts(self, domid: int) -> Counts:
        return counts(self.xen.machine.state.domains[domid])

    def dying(self) -> list[str]:
        return [domain.name for domain in self.xen.machine.state.dying]

    def free(self) -> int:
        return len(self.xen.machine.state.free)

    def leaks(self) -> list[str]:
        return self.xen.leaks()

    def close(self) -> None:
        self.xen.close()


class Mount(testing.Mount):
    """A mount for our own tests, with their time limit."""

    def __init__(self, root: Path, frames: int = FRAMES) -> None:
        need_mount()
        try:
            super().__init__(root, frames)
        except testing.MountFailed as error:
            pytest.fail(str(error), pytrace=False)

    def arm(self, seconds: float = HANG_SECONDS) -> None:
        super().arm(seconds)


class MountedWorld:
    """The machine of a mount, by its files alone, and domain 0's hypercalls."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._dom0 = MountedDomain(0, root)
        self._mine: list[int] = []

    def create_domain(self, name: str = "", *, frames: int = DEFAULT_FRAMES) -> int:
        domid = self._dom0.call(CreateDomain(name=name, frames=frames)).domid
        self._mine.append(domid)
        return domid

    def destroy_domain(self, domid: int) -> None:
        self._dom0.call(DestroyDomain(dom=domid))
        self._mine.remove(domid)

    def domain(self, domid: int) -> MountedDomain:
        return MountedDomain(domid, self.root)

    def reset(self, domid: int) -> None:
        self._dom0.call(Reset(dom=domid))

    def _table(self) -> tuple[list[list[str]], int]:
        """Lines of hypervisor/frames as words: domid, state, four counts, name; and the frames that are free."""
        _, *lines, last = (self.root / "hypervisor" / "frames").read_text().splitlines()
        return [line.split(None, 6) for line in lines], int(last.split()[3])

    def counts(self, domid: int) -> Counts:
        (found,) = (line for line in self._table()[0] if line[0] == str(domid) and line[1] != "dying")
        return Counts(*(int(word) for word in found[2:6]))

    def dying(self) -> list[str]:
        return [line[6] for line in self._table()[0] if line[1] == "dying"]

    def free(self) -> int:
        return self._table()[1]

    def leaks(self) -> list[str]:
        held = [f"{name} is dying" for name in self.dying()]
        for domid in sorted(int(line[0]) for line in self._table()[0] if line[1] != "dying"):
            home, now = self.root / "domains" / str(domid), self.counts(domid)
            held += [f"{path.parent.name} {path.name} of domain {domid}" for path in _things(home)]
            held += [f"domain {domid}: {now}"] if now.granted or now.mapped or now.in_flight else []
            held += self._used(domid, now.owned)
        return held

    def _used(self, domid: int, owned: int) -> list[str]:
        """Whether any frame is not idle: then the domain cannot be ballooned to nothing."""
        try:
            self._dom0.call(SetMemory(dom=domid, frames=0))
        except Refused as error:
            return [str(error)]
        self._dom0.call(SetMemory(dom=domid, frames=owned))
        return []

    def close(self) -> None:
        for domid in list(self._mine):
            with suppress(Refused):
                self.destroy_domain(domid)
        self._dom0.close()


def _things(home: Path) -> list[Path]:
    return [path for kind in ("evtchn", "grants", "rings") for path in sorted((home / kind).iterdir())]


def need_mount() -> None:
    """Skip, or fail where everything must be present, unless a mount can be made here."""
    if find_spec("xenfs.daemon") is None:
        missing("there is no xenfs.daemon yet")
    if find_spec("fuse") is None:
        missing("fusepy is not installed: pip install fusepy")
    if not Path("/dev/fuse").exists():
        missing("there is no /dev/fuse: modprobe fuse, or give it to the container")
    if os.geteuid():
        missing("mounting needs root here")
    need_tool("umount", "mount")
