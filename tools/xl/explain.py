"""xenfs explain, lint and ring: why a device is stuck."""

from __future__ import annotations

import re
import select
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from xenfs.abi.xenbus import XenbusState
from xenfs.commands.columns import aligned
from xenfs.commands.escapes import plain
from xenfs.commands.failure import Unable, command
from xenfs.commands.machine import within
from xenfs.commands.place import served
from xenfs.domain.mounted import MountedDomain
from xenfs.xenbus import Device, DeviceClass
from xenfs.xenbus.end import read_state
from xenfs.xenbus.keys import Flag, Key, Number
from xenfs.xenbus.states import PEERS, BackStep, FrontStep
from xl import findings, rings, toolstack
from xl.commands import as_dom0
from xl.facts import MountedFacts
from xl.kinds import FRONTENDS, device_class, known, why_unknown

S = XenbusState
LOOK_SECONDS = 0.2
KINDS = "vif, vbd, vusb, echo, evtchn, grant"
_PORTS = """\
An event channel is a pair of ports, one in each domain.
  unbound      allocated by alloc_unbound, and waits for the domain it names; a notify goes nowhere
  interdomain  bound to the other's port: a notify raises that one, and the other way round
  virq, ipi    raised by the machine, or by the domain itself
Closing one end leaves the other unbound, and tells it nothing. Binding raises an event at the end that binds.
"""
_GRANTS = """\
A grant is an entry of a domain's table that lets another domain have one page of it.
  permit_access    the other may map and copy it (readonly: only read); it is in use while maps is not 0
  accept_transfer  the other may give this domain a page of its own (page flipping)
  ending           revoked, and gone with its last mapping
"""


def _kind(key: Key) -> str:
    match key.kind:
        case Number(low, high):
            return f"number {low}-{high}" if high < 1 << 32 else f"number from {low}"
        case Flag():
            return "0 or 1"
    return "text"


def _default(key: Key) -> str:
    if key.default is None:
        return "required"
    if key.default in ("", -1):
        return "absent"
    return str(int(key.default) if isinstance(key.default, bool) else key.default)


def of_class(kind: DeviceClass) -> Iterator[str]:
    """The tables of a class: the states of both ends, and the keys."""
    peers = [state.name if state is not None else "other" for state in PEERS]
    for role, table, other in (("frontend", kind.front, "backend"), ("backend", kind.back, "frontend")):
        yield f"The {role} of {kind.kind}: what it does in its own state (rows) by the {other}'s (columns)"
        rows = [[own.name, *(table[own, peer].name for peer in PEERS)] for own in S if own in _OWN[role]]
        yield from aligned(["", *peers], rows)
        yield ""
    for steps in (FrontStep, BackStep):
        yield f"{'Frontend' if steps is FrontStep else 'Backend'}:"
        yield from (f"  {step.name:<9} {step.value}" for step in steps)
        yield ""
    if kind.hotplug:
        yield "The backend connects only when hotplug-status is `connected`."
        yield ""
    yield "Keys"
    rows = [[key.by.value, key.name, _kind(key), _default(key), key.about] for key in kind.keys]
    yield from aligned(["written by", "key", "is", "when absent", ""], rows)


_OWN = {
    "frontend": (S.Initialising, S.Initialised, S.Connected, S.Closing, S.Closed),
    "backend": (S.Initialising, S.InitWait, S.Connected, S.Closing, S.Closed),
}


def of_device(root: MountedDomain, point: str, device: Device, kind: DeviceClass) -> Iterator[str]:
    """Where a device stands."""
    store = root.store
    own, other = read_state(store, device.frontend_path), read_state(store, device.backend_path)
    found = findings.of_device(store, MountedFacts(point), device)
    dead = [finding for finding in found if finding.code in findings.DEAD]
    yield from map(str, dead)
    steps: dict[str, FrontStep | BackStep] = {}
    if own is not None and own in _OWN["frontend"]:
        steps["frontend"] = kind.front[own, other]
    if other is not None and other in _OWN["backend"]:
        steps["backend"] = kind.back[other, own]
    for role, path, state in (("frontend", device.frontend_path, own), ("backend", device.backend_path, other)):
        yield f"{role:<9} {path}: {_state(state)}"
        if role in steps and (said := findings.step_said(steps[role], found)):
            yield f"  {said}"
    yield from (str(finding) for finding in found if finding not in dead)
    if not found:
        yield "nothing is wrong with it that can be seen from here"


def _state(state: S | None) -> str:
    return "no state" if state is None else f"{int(state)} ({state.name})"


def _device(root: MountedDomain, point: str, kind: str, said: str) -> Device:
    found = re.fullmatch(r"([^/]+)/(\d{1,10})", said)
    if found is None:
        raise Unable(f"{said!r} is not DOMID/NUMBER, such as 1/0")
    domid = toolstack.find(root, point, found[1])
    for device in findings.devices(root.store):
        if (device.kind, device.domid, device.id) == (kind, domid, int(found[2])):
            return device
    raise Unable(f"domain {domid} has no {kind} {found[2]}")


def _number(root: MountedDomain, point: str, what: str, said: str) -> Iterator[str]:
    found = re.fullmatch(r"([^/]+)/(\d{1,10})", said)
    if found is None:
        raise Unable(f"{said!r} is not DOMID/NUMBER, such as 1/8")
    domid = toolstack.find(root, point, found[1])
    path = Path(point, "domains", str(domid), "evtchn" if what == "evtchn" else "grants", found[2], "info")
    try:
        yield path.read_text().strip()
    except OSError:
        raise Unable(f"domain {domid} has no {'port' if what == 'evtchn' else 'grant'} {found[2]}") from None


@command("explain")
def explain(
    what: Annotated[str, typer.Argument(metavar="KIND", help=f"One of {KINDS}.")],
    which: Annotated[str, typer.Argument(metavar="[DOMID/NUMBER]", help="A device, port or grant.")] = "",
) -> None:
    """Show a kind's states and keys; or where a device of it stands, what each end waits for, and what is wrong.

    Exit status: 0 shown; 1 there is no such thing.
    """
    kind = device_class(what)
    if what not in ("evtchn", "grant") and kind is None:
        if what in known(FRONTENDS):
            raise Unable(f"{what}: {why_unknown(what)}")
        raise Unable(f"{what}: not one of {KINDS}")
    if not which:
        text = {"evtchn": _PORTS, "grant": _GRANTS}.get(what)
        for line in text.splitlines() if text else of_class(kind) if kind else ():
            typer.echo(line)
        return

    def work(root: MountedDomain, point: str) -> list[str]:
        if kind is None:
            return list(_number(root, point, what, which))
        return list(of_device(root, point, _device(root, point, what, which), kind))

    for line in as_dom0(work):
        typer.echo(plain(line))


@command("lint")
def lint() -> None:
    """Look for what is wrong with any device, grant or port of the machine at $XEN.

    Exit status: 0 nothing, or warnings only; 1 something, or there is no machine.
    """
    found = as_dom0(lambda root, point: findings.everything(root.store, MountedFacts(point)))
    for finding in found:
        typer.echo(plain(str(finding)))
    if any(finding.severity == findings.ERROR for finding in found):
        raise typer.Exit(1)


@command("ring")
def ring(
    which: Annotated[str, typer.Argument(metavar="DOMID|NAME", help="Whose.")],
    name: Annotated[str, typer.Argument(help="Its name, such as vif-0-tx.")],
    follow: Annotated[bool, typer.Option("-f", "--follow", help="Show it again whenever it has changed.")] = False,
) -> None:
    """Show a named ring: its indices, and the entries in flight field by field.

    Exit status: 0 shown; 1 there is no such ring; 130 after Ctrl-C.
    """
    point = served().point
    domid = as_dom0(lambda root, point: toolstack.find(root, point, which))
    path = Path(point, "domains", str(domid), "rings", name)

    def look() -> bytes:
        try:
            return path.read_bytes()
        except FileNotFoundError:
            others = ", ".join(sorted(p.name for p in path.parent.iterdir())) or "none"
            raise Unable(f"domain {domid} has no ring {name}; it has: {others}") from None

    seen = b""
    while True:
        page = within(point, look)
        if page != seen:
            seen = page
            for line in rings.words(name, page):
                typer.echo(line)
        if not follow:
            return
        select.select([], [], [], LOOK_SECONDS)
