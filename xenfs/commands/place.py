"""Where a machine is mounted, and in what condition the mount is."""

from __future__ import annotations

import errno
import os
import re
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from xenfs.commands.child import Silent, ask
from xenfs.commands.failure import Unable

FSTYPE = "fuse.xenfs"
MOUNTINFO = "/proc/self/mountinfo"
GONE = frozenset({errno.ENOTCONN, errno.ECONNABORTED, errno.ENODEV})
"""What the kernel answers for a connection whose daemon has ended."""


@dataclass(frozen=True, slots=True)
class Mount:
    """One line of mountinfo (proc(5)). `options` are those of the filesystem: user_id, allow_other, …"""

    id: int
    device: str
    point: str
    fstype: str
    source: str
    options: dict[str, str]

    @classmethod
    def parse(cls, line: bytes) -> Mount:
        """Read a line. Raises ValueError when it is not one."""
        before, dash, after = line.rstrip(b"\n").partition(b" - ")
        ours, theirs = before.split(b" "), after.split(b" ")
        if not dash or len(ours) < 6 or len(theirs) < 3:
            message = f"not a line of mountinfo: {line[:80]!r}"
            raise ValueError(message)
        options = (word.partition("=") for word in unescape(theirs[2]).split(","))
        return cls(
            int(ours[0]),
            ours[2].decode(),
            unescape(ours[4]),
            unescape(theirs[0]),
            unescape(theirs[1]),
            {key: value for key, _, value in options},
        )

    @property
    def user(self) -> int | None:
        """Who mounted it, when the filesystem says so."""
        said = self.options.get("user_id", "")
        return int(said) if said.isdigit() else None


def unescape(word: bytes) -> str:
    r"""A word of mountinfo as it was: the kernel writes space, tab, newline, # and backslash as \ooo."""
    return os.fsdecode(re.sub(rb"\\([0-7]{3})", lambda m: bytes([int(m[1], 8) & 0xFF]), word))


def mounts(source: str = MOUNTINFO) -> list[Mount]:
    """Every mount, lowest first: of several on one place the last is the one that is seen."""
    return [Mount.parse(line) for line in Path(source).read_bytes().splitlines()]


def mounted_at(point: str) -> Mount | None:
    """Our mount on a place, None when the place has none or another filesystem lies on top."""
    top = next((m for m in reversed(mounts()) if m.point == point), None)
    return top if top is not None and top.fstype == FSTYPE else None


def default_place() -> str:
    """$XEN; else /run/xenfs for root, $XDG_RUNTIME_DIR/xenfs for others."""
    if place := os.environ.get("XEN"):
        return place
    if os.geteuid() == 0:
        return "/run/xenfs"
    if runtime := os.environ.get("XDG_RUNTIME_DIR"):
        return f"{runtime}/xenfs"
    raise Unable("neither XEN nor XDG_RUNTIME_DIR is set: name the place to mount on")


def resolve(path: str) -> str:
    """The absolute path without symlinks, as mountinfo has it, without touching what may be a mount of ours."""
    wanted = Path(path).absolute()
    try:
        here = str(Path(ask(lambda: os.path.realpath(wanted.parent)), wanted.name))
        return here if mounted_at(here) else ask(lambda: os.path.realpath(here))
    except Silent:
        raise Unable(f"{path}: a mount on the way there does not answer") from None


class Condition(Enum):
    """What there is at a place."""

    ABSENT = "not mounted"
    SERVED = "mounted"
    STALE = "stale"
    SILENT = "not answering"
    CLOSED = "not permitted"


@dataclass(frozen=True, slots=True)
class Place:
    """A place, with its mount and its daemon as far as they are there; `pid` is known when the daemon answers."""

    point: str
    mount: Mount | None
    condition: Condition
    pid: int | None = None

    def __str__(self) -> str:
        return {
            Condition.ABSENT: f"{self.point}: not mounted",
            Condition.SERVED: f"{self.point}: already mounted, by the daemon with pid {self.pid}",
            Condition.STALE: f"{self.point}: stale: its daemon is dead; xenfs umount {self.point} clears it",
            Condition.SILENT: f"the daemon of {self.point} does not answer",
            Condition.CLOSED: f"{self.point}: mounted by {self._user}, for nobody else",
        }[self.condition]

    @property
    def _user(self) -> str:
        return "somebody" if self.mount is None or self.mount.user is None else f"user {self.mount.user}"


def _read_pid(point: str) -> int:
    pid = int(Path(point, "hypervisor/pid").read_text())
    if not 0 < pid < 1 << 31:
        message = f"{pid} is no process"
        raise ValueError(message)
    return pid


def examine(path: str | None) -> Place:
    """Find out what is at a place, the default one for None."""
    point = resolve(path or default_place())
    mount = mounted_at(point)
    if mount is None:
        return Place(point, None, Condition.ABSENT)
    try:
        return Place(point, mount, Condition.SERVED, ask(lambda: _read_pid(point)))
    except Silent:
        return Place(point, mount, Condition.SILENT)
    except ValueError as error:
        raise Unable(f"{point}/hypervisor/pid: {error}") from error
    except OSError as error:
        if error.errno in GONE:
            return Place(point, mount, Condition.STALE)
        if error.errno == errno.EACCES:
            return Place(point, mount, Condition.CLOSED)
        raise


EXITS = {
    Condition.SERVED: 0,
    Condition.CLOSED: 1,
    Condition.ABSENT: 3,
    Condition.STALE: 4,
    Condition.SILENT: 5,
}
"""Exit statuses of `xenfs status`; 3 and 4 as systemctl has them."""


def served(path: str | None = None) -> Place:
    """A place whose daemon answers. Raises Unable with the reason where there is none."""
    place = examine(path)
    if place.condition is not Condition.SERVED:
        raise Unable(str(place))
    return place
