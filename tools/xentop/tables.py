"""The tables of hypervisor/, read back (xenfs.hypervisor.tables writes them)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Run:
    """Frames one behind the other of which the same is true."""

    first: int
    count: int
    domid: int
    idle: bool
    granted: int
    mapped: int
    ring: str

    @property
    def mark(self) -> str:
        """One letter for what they are: not only its colour tells."""
        if self.ring:
            return "R"
        if self.mapped:
            return "M"
        if self.granted:
            return "g"
        return "\N{MIDDLE DOT}" if self.idle else "o"


@dataclass(frozen=True, slots=True)
class Grant:
    """A grant in force, or one that is ending."""

    domid: int
    ref: int
    to: int
    kind: str
    access: str
    frame: int | None
    maps: int
    ending: bool


@dataclass(frozen=True, slots=True)
class PortLine:
    """One end of an event channel."""

    domid: int
    port: int
    state: str
    remote_domid: int
    remote_port: int
    pending: bool


@dataclass(frozen=True, slots=True)
class Named:
    """A named page."""

    domid: int
    name: str
    frame: int


def _rows(text: str, columns: int) -> Iterator[list[str]]:
    for line in text.splitlines()[1:]:
        yield line.split(None, columns - 1)


def runs(text: str) -> tuple[Run, ...]:
    """hypervisor/pages."""
    return tuple(
        Run(int(first), int(count), int(domid), use == "idle", int(granted), int(mapped), "" if ring == "-" else ring)
        for first, count, domid, use, granted, mapped, ring in _rows(text, 7)
    )


class Grants:
    """hypervisor/grants. There may be as many as there are pages, so each is parsed only when somebody looks at it."""

    def __init__(self, text: str = "") -> None:
        """Of the file's text."""
        self._text = text

    def __iter__(self) -> Iterator[Grant]:
        for domid, ref, to, kind, access, frame, maps, state in _rows(self._text, 8):
            yield Grant(
                int(domid), int(ref), int(to), kind, access, None if frame == "-" else int(frame), int(maps),
                state == "ending",
            )  # fmt: skip

    def maps(self) -> Iterator[tuple[int, int, int, int]]:
        """Of each whose it is, its reference, to whom, and how often it is mapped."""
        for domid, ref, to, _, _, _, maps, _ in _rows(self._text, 8):
            yield int(domid), int(ref), int(to), int(maps)


def ports(text: str) -> tuple[PortLine, ...]:
    """hypervisor/ports."""
    return tuple(
        PortLine(int(domid), int(port), state, int(remote), int(other), event == "pending")
        for domid, port, state, remote, other, event in _rows(text, 6)
    )


def rings(text: str) -> tuple[Named, ...]:
    """hypervisor/rings."""
    return tuple(Named(int(domid), name, int(frame)) for domid, name, frame in _rows(text, 3))


def watches(text: str) -> tuple[tuple[int, str, str], ...]:
    """hypervisor/watches: whose, the path, the token. What a guest has put into its token may look like other lines."""
    return tuple(
        (int(row[0]), row[1], row[2] if len(row) > 2 else "")
        for row in _rows(text, 3)
        if len(row) > 1 and row[0].isdecimal()
    )
