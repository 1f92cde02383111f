"""The whole machine in tables: a line for each record, in stable order, blanks between the columns, and a head."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping

from xenfs.hypervisor.machine import Machine
from xenfs.hypervisor.state import Domain, Frame


def _text(head: str, lines: Iterable[str]) -> str:
    return "".join(f"{line}\n" for line in (head, *lines))


def _domains(machine: Machine) -> list[Domain]:
    """The living by their numbers, then the dying."""
    state = machine.state
    return [*(domain for _, domain in sorted(state.domains.items())), *state.dying]


def pages_table(machine: Machine) -> str:
    """Every frame that a domain owns, in runs of the same: first, how many, whose, how often granted and mapped, and
    the name of the ring that it is. A use of `idle` means that nobody holds it.
    """
    state = machine.state
    found: list[tuple[int, int, int, str, int, int, str]] = []
    for domain in _domains(machine):
        found += [(start, stop - start, domain.domid, "idle", 0, 0, "-") for start, stop in domain.idle.runs()]
    found += _busy(state.busy)
    found.sort()
    return _text("first count domid use granted mapped ring", (" ".join(map(str, one)) for one in found))


def _busy(frames: Mapping[int, Frame]) -> Iterator[tuple[int, int, int, str, int, int, str]]:
    """Those that are in use: neighbours of which the same is true as one, a ring always alone. There may be as many as
    there are pages of memory, and few runs of them."""
    first = after = -1
    last: Frame | None = None
    for number in sorted(frames):
        frame = frames[number]
        if (
            last is not None
            and number == after
            and frame.ring is None is last.ring
            and frame.grants == last.grants
            and frame.maps == last.maps
            and frame.owner is last.owner
        ):
            after += 1
            continue
        if last is not None:
            yield _run(first, after, last)
        first, after, last = number, number + 1, frame
    if last is not None:
        yield _run(first, after, last)


def _run(first: int, after: int, one: Frame) -> tuple[int, int, int, str, int, int, str]:
    ring = one.ring.name if one.ring else "-"
    return first, after - first, one.owner.domid, "busy", one.grants, one.maps, ring


def grants_table(machine: Machine) -> str:
    """Every grant: whose, its reference, to whom, of which kind and frame, how often mapped, and if it is ending."""
    lines = (
        f"{domain.domid} {ref} {grant.grantee} {grant.type.name} {'ro' if grant.readonly else 'rw'} "
        f"{'-' if grant.frame is None else grant.frame.number} {grant.readers + grant.writers} "
        f"{'ending' if grant.ending else '-'}"
        for domain in _domains(machine)
        for ref, grant in sorted(domain.grants.items())
    )
    return _text("domid ref to type access frame maps state", lines)


def rings_table(machine: Machine) -> str:
    """Every named page: whose, its name and its frame."""
    lines = (
        f"{domain.domid} {name} {ring.frame.number}"
        for domain in _domains(machine)
        for name, ring in sorted(domain.rings.items())
    )
    return _text("domid name frame", lines)


def ports_table(machine: Machine, pending: Callable[[int], bool]) -> str:
    """Every event channel's end: whose, its number and state, the other end, and whether an event is pending, by what
    `pending` says of its line.
    """
    lines = (
        f"{domain.domid} {number} {port.state.name} {port.remote_domid} {port.peer.number if port.peer else 0} "
        f"{'pending' if pending(port.line) else '-'}"
        for domain in _domains(machine)
        for number, port in sorted(domain.ports.items())
    )
    return _text("domid port state remote_domid remote_port event", lines)
