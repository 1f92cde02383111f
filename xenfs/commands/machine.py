"""A mounted machine as its files tell it. Nothing here waits for a daemon that is stopped: see child.py."""

from __future__ import annotations

import contextlib
import os
import pwd
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar
from uuid import uuid4

from xenfs.abi.wire import FieldError, Wire
from xenfs.abi.xenfs_op import DEFAULT_FRAMES, CreateDomain
from xenfs.commands.child import Silent, ask
from xenfs.commands.failure import Unable
from xenfs.hypervisor import text
from xenfs.hypervisor.trace import Failure

R = TypeVar("R")
W = TypeVar("W", bound=Wire)

HEAD = ("domid", "name", "state", "user", "owned", "max", "granted", "mapped", "in_flight", "ports")
_ANSWER = 1 << 16


@dataclass(frozen=True, slots=True)
class Domain:
    """A domain: its counts in frames, its ports and its user; None where the directory is closed to us or gone."""

    domid: int
    name: str
    state: str
    owned: int
    granted: int
    mapped: int
    in_flight: int
    user: str | None = None
    max: int | None = None
    ports: tuple[int, ...] | None = None

    @property
    def dying(self) -> bool:
        """Destroyed, but peers still map some of its frames."""
        return self.state == "dying"

    def __str__(self) -> str:
        return f"domain {self.domid} ({self.name})"

    def row(self) -> tuple[str, ...]:
        """The cells below HEAD."""
        ports = None if self.ports is None else len(self.ports)
        cells = (self.domid, self.name, self.state, self.user, self.owned, self.max)
        counts = (self.granted, self.mapped, self.in_flight, ports)
        return tuple("-" if cell is None else str(cell) for cell in (*cells, *counts))


@dataclass(frozen=True, slots=True)
class Frames:
    """hypervisor/frames: every domain with its counts, then the machine's total and what is free of it."""

    domains: tuple[Domain, ...]
    total: int
    free: int

    @classmethod
    def parse(cls, said: str) -> Frames:
        """Read the file. Raises ValueError when it is something else."""
        _, *lines, last = said.splitlines()
        match last.split():
            case ["total", total, "free", free]:
                return cls(tuple(map(_domain, lines)), int(total), int(free))
        message = f"hypervisor/frames ends with {last!r}"
        raise ValueError(message)


def _domain(line: str) -> Domain:
    domid, state, owned, granted, mapped, in_flight, *name = line.split(None, 6)
    return Domain(int(domid), "".join(name), state, int(owned), int(granted), int(mapped), int(in_flight))


@dataclass(frozen=True, slots=True)
class View:
    """A machine at one moment; `uptime` in seconds."""

    version: str
    uptime: float
    frames: Frames


def within(point: str, look: Callable[[], R]) -> R:
    """Look at a mount from a child process. Raises Unable when its daemon does not answer in time."""
    try:
        return ask(look)
    except Silent:
        raise Unable(f"the daemon of {point} does not answer") from None


def _detailed(point: str, domain: Domain) -> Domain:
    home = Path(point, "domains", str(domain.domid))
    with contextlib.suppress(OSError):
        uid = home.stat().st_uid
        try:
            user = pwd.getpwuid(uid).pw_name
        except KeyError:
            user = str(uid)
        most, ports = None, None
        with contextlib.suppress(PermissionError):
            most = int((home / "max_memory").read_text())
            ports = tuple(sorted(int(port.name) for port in (home / "evtchn").iterdir()))
        numbers = (domain.owned, domain.granted, domain.mapped, domain.in_flight)
        return Domain(domain.domid, domain.name, domain.state, *numbers, user, most, ports)
    return domain


def frames(point: str) -> Frames:
    """Every domain with all that we may see of it. Touches the mount: call it by `within`."""
    seen = Frames.parse(Path(point, "hypervisor/frames").read_text())
    domains = tuple(d if d.dying else _detailed(point, d) for d in seen.domains)
    return Frames(domains, seen.total, seen.free)


def _view(point: str) -> View:
    home = Path(point, "hypervisor")
    version = (home / "version").read_text().strip()
    return View(version, float((home / "uptime").read_text()), frames(point))


def view(point: str) -> View:
    """The machine of a mount."""
    return within(point, lambda: _view(point))


def _converse(point: str, line: str) -> str:
    fd = os.open(f"{point}/domains/0/ctl", os.O_RDWR | os.O_CLOEXEC)
    try:
        os.write(fd, f"{line}\n".encode())
        answer = b""
        while not answer.endswith(b"\n") and (piece := os.read(fd, _ANSWER)):
            answer += piece
        return answer.decode()
    finally:
        os.close(fd)


def hypercall(point: str, request: W) -> W:
    """Make a call as domain 0, through its ctl. Raises Unable with the hypervisor's words when it is refused."""
    line = text.emit(request)
    answer = text.parse_answer(request, within(point, lambda: _converse(point, line)))
    if isinstance(answer, Failure):
        raise Unable(answer.text)
    assert isinstance(answer, type(request))
    return answer


def create_domain(point: str, name: str = "", size: int = DEFAULT_FRAMES, most: int | None = None) -> int:
    """Make a domain of `size` frames that may grow to `most`, and give its number."""
    request = CreateDomain(name=name, frames=size, max_frames=size if most is None else most, uuid=str(uuid4()))
    try:
        request.check()
    except FieldError as error:
        raise Unable(error.problem) from error
    return hypercall(point, request).domid
