"""Tables as xl prints them."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path

from xenfs.commands.machine import Domain
from xenfs.commands.running import RunDirectory
from xenfs.domain import Refused, Store
from xenfs.xenbus import Device
from xenfs.xenbus.keys import OtherEnd
from xl.toolstack import PAGES_PER_MIB

_TICKS = os.sysconf("SC_CLK_TCK")
_RINGS = ("ring-ref", "ring-ref0", "tx-ring-ref", "urb-ring-ref")
_PORTS = ("event-channel", "event-channel-tx")
"""Of a device with several of them the first; a kind that is not ours may have others."""


def processes() -> dict[int, tuple[int, float]]:
    """Of every process: its parent, and its time in seconds."""
    found = {}
    for home in Path("/proc").iterdir():
        if home.name.isdigit():
            with suppress(OSError):
                words = (home / "stat").read_bytes().rpartition(b")")[2].split()  # a name is of any bytes
                found[int(home.name)] = int(words[1]), (int(words[11]) + int(words[12])) / _TICKS
    return found


class Times:
    """The time that processes with all below them have used, by what `processes` has found.

    A guest's may be below each other as deep as it likes; and since they are not looked at all at once, a number that
    is taken again meanwhile may seem to be below itself.
    """

    def __init__(self, known: Mapping[int, tuple[int, float]]) -> None:
        """Of all of them."""
        self._known = known
        self._below: dict[int, list[int]] = {}
        for pid, (parent, _) in known.items():
            self._below.setdefault(parent, []).append(pid)

    def of(self, pid: int | None) -> float:
        """Seconds; none of a process that is not there."""
        rest, seen = [pid], set[int]()
        while rest:
            one = rest.pop()
            if one is not None and one in self._known and one not in seen:
                seen.add(one)
                rest += self._below.get(one, ())
        return sum(self._known[one][1] for one in seen)


def _letters(domain: Domain, running: bool) -> str:
    """r b p s c d, as xl has them. A guest without processes is paused."""
    if domain.dying:
        return "-----d"
    if domain.state == "crash":
        return "----c-"
    if domain.state != "running":
        return "---s--"
    return "r-----" if running or domain.domid == 0 else "--p---"


def domains(place: RunDirectory, found: Iterable[Domain]) -> Iterator[str]:
    """xl list."""
    yield "Name                                        ID   Mem VCPUs\tState\tTime(s)"
    times = Times(processes())
    for domain in found:
        keeper = place.holder(f"{domain.domid}/keeper.pid")
        running = keeper is not None or not place.guest(domain.domid).exists()
        seconds = times.of(keeper)
        row = f"{domain.name:<40} {domain.domid:5d} {domain.owned // PAGES_PER_MIB:5d} {1:5d}"
        yield f"{row}     {_letters(domain, running)}  {seconds:8.1f}"


def _number(end: OtherEnd, *names: str) -> int:
    for name in names:
        said = end.raw(name) or ""
        if said.isdigit():
            return int(said)
    return -1


def networks(store: Store, devices: Iterable[Device]) -> Iterator[str]:
    """xl network-list."""
    yield (
        f"{'Idx':<3} {'BE':<2} {'Mac Addr.':<17} {'handle':<6} {'state':<5} {'evt-ch':<6} "
        f"{'tx-':>5}/{'rx-ring-ref':<5} {'BE-path':<30}"
    )
    for device in devices:
        end = OtherEnd(store, device.frontend_path)
        port = _number(end, "event-channel", "event-channel-tx")
        rings = f"{_number(end, 'tx-ring-ref'):5d}/{_number(end, 'rx-ring-ref'):<11d}"
        numbers = f"{_number(end, 'handle'):6d} {_number(end, 'state'):5d} {port:6d}"
        address = end.raw("mac") or "?"
        yield f"{device.id:<3d} {device.backend_domid:<2d} {address} {numbers} {rings} {device.backend_path:<30}"


def disks(store: Store, devices: Iterable[Device]) -> Iterator[str]:
    """xl block-list."""
    yield f"{'Vdev':<5} {'BE':<3} {'handle':<6} {'state':<5} {'evt-ch':<6} {'ring-ref':<8} {'BE-path':<30}"
    for device in devices:
        yield f"{device.id:<5d} {_common(store, device)}"


def others(store: Store, devices: Iterable[Device]) -> Iterator[str]:
    """The same columns for devices that xl does not know."""
    yield f"{'Idx':<5} {'BE':<3} {'handle':<6} {'state':<5} {'evt-ch':<6} {'ring-ref':<8} {'BE-path':<30}"
    for device in devices:
        yield f"{device.id:<5d} {_common(store, device)}"


def _common(store: Store, device: Device) -> str:
    end = OtherEnd(store, device.frontend_path)
    numbers = f"{device.backend_domid:<3d} {device.domid:<6d} {_number(end, 'state'):<5d}"
    names: tuple[str, ...] = ()
    with suppress(Refused):  # the guest may have taken its own nodes away
        names = store.list(device.frontend_path)
    ring = _number(end, *_RINGS, *(name for name in names if "ring-ref" in name))
    port = _number(end, *_PORTS, *(name for name in names if name.startswith("event-channel")))
    return f"{numbers} {port:<6d} {ring:<8d} {device.backend_path:<30}"
