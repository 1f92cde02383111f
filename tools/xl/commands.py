"""The `xenfs` subcommands with xl's words, flags and output."""

from __future__ import annotations

import os
import select
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, TypeVar

import typer

from xenfs.abi.xenfs_op import CurrentReservation, MaximumReservation, SetMaxMemory, SetMemory
from xenfs.commands.child import Silent, ask
from xenfs.commands.domain import one_of
from xenfs.commands.failure import Unable, command, tell
from xenfs.commands.machine import frames, within
from xenfs.commands.place import served
from xenfs.commands.running import RunDirectory
from xenfs.domain import Refused
from xenfs.domain.mounted import MountedDomain
from xenfs.xenbus import DeviceError
from xl import config as configuration
from xl import listing, toolstack
from xl.toolstack import PAGES_PER_MIB

R = TypeVar("R")
PATIENCE = 90.0
"""Seconds for everything together: libxl's time-outs have passed before."""
Wait = Annotated[bool, typer.Option("-w", "--wait", help="Until it has ended.")]
Which = Annotated[str, typer.Argument(metavar="DOMID|NAME", help="Which domain.")]


def as_dom0(work: Callable[[MountedDomain, str], R]) -> R:
    """Do something as domain 0, in a process that can be given up when the machine hangs. Raises Unable."""
    point = served().point

    def inside() -> R:
        try:
            with MountedDomain(0, point) as root:
                return work(root, point)
        except Refused as refused:
            raise Unable(str(refused.strerror)) from None
        except DeviceError as error:  # the other end has nodes of its own, and may have anything in them
            raise Unable(str(error)) from None

    try:
        return ask(inside, PATIENCE)
    except Silent:
        raise Unable(f"the daemon of {point} does not answer") from None


def on_domain(which: str, work: Callable[[MountedDomain, str, int], R]) -> R:
    """The same, to a domain by its number or name."""
    return as_dom0(lambda root, point: work(root, point, toolstack.find(root, point, which)))


def domid_of(which: str) -> int:
    """The number of a domain. Raises Unable."""
    return on_domain(which, lambda root, point, domid: domid)


@command("create")
def create(
    file: Annotated[Path, typer.Argument(metavar="CONFIG", help="The configuration, as xl.cfg has it.")],
    settings: Annotated[
        list[str] | None, typer.Argument(metavar="key=value", help="Further lines of the configuration.")
    ] = None,
    paused: Annotated[bool, typer.Option("-p", help="Do not start it: xenfs unpause does.")] = False,
    quiet: Annotated[bool, typer.Option("-q", "--quiet", help="Say nothing.")] = False,
    console: Annotated[bool, typer.Option("-c", help="Follow its output.")] = False,
) -> None:
    """Make a guest out of a configuration file, with its devices, and start its command.

    Exit status: 0 made; 1 not, and the reason is on stderr; 2 wrong usage.
    """
    if not quiet:
        typer.echo(f"Parsing config from {file}")
    try:
        text = file.read_text()
    except UnicodeDecodeError:
        raise Unable(f"{file}: not text") from None
    config, unknown = configuration.parse("\n".join([text, *(settings or [])]), str(file))
    for name in unknown:
        tell("create", f"{file}: {name}: unknown, ignored")
    domid = as_dom0(lambda root, point: toolstack.create(root, point, config))
    if not paused:
        _start(domid)
    if console:
        follow(served().point, domid)


def _start(domid: int) -> None:
    point = served().point
    try:
        toolstack.start(point, domid)
    except Unable:
        as_dom0(lambda root, point: toolstack.destroy(root, point, domid))
        raise


@command("unpause")
def unpause(which: Which) -> None:
    """Start a guest that was made with `xenfs create -p`."""
    point = served().point
    toolstack.start(point, domid_of(which))


@command("destroy")
def destroy(which: Which, force: Annotated[bool, typer.Option("-f", hidden=True)] = False) -> None:
    """End a guest at once, and remove all of it.

    Exit status: 0 ended; 1 not, and the reason is on stderr; 2 wrong usage.
    """
    del force
    on_domain(which, lambda root, point, domid: toolstack.destroy(root, point, domid))


def _shutdown(which: str, wish: str, wait: bool, everyone: bool) -> None:
    def work(root: MountedDomain, point: str) -> tuple[dict[int, int | None], list[str]]:
        if everyone:
            asked = sorted(int(path.name) for path in Path(point, "domains").iterdir() if path.name != "0")
        else:
            asked = [toolstack.find(root, point, which)]
        keepers, refused = dict[int, int | None](), list[str]()
        for domid in asked:
            try:
                keepers[domid] = toolstack.shutdown(root, point, domid, wish)
            except Unable as error:  # the others are asked all the same
                refused.append(str(error))
        return keepers, refused

    point = served().point
    keepers, refused = as_dom0(work)
    for domid, keeper in keepers.items():
        typer.echo(f"{'Shutting down' if wish == 'poweroff' else 'Rebooting'} domain {domid}")
        if wait and not toolstack.wait_end(point, domid, keeper, PATIENCE):
            raise Unable(f"domain {domid} is still there after {PATIENCE:.0f} s; xenfs destroy ends it")
    if refused:
        raise Unable("\n".join(refused))


@command("shutdown")
def shutdown(
    which: Annotated[str, typer.Argument(metavar="DOMID|NAME", help="Which domain.")] = "",
    wait: Wait = False,
    everyone: Annotated[bool, typer.Option("-a", "--all", help="All guests.")] = False,
) -> None:
    """Ask a guest to power off."""
    if not which and not everyone:
        raise Unable("name a domain, or --all")
    _shutdown(which, "poweroff", wait, everyone)


@command("reboot")
def reboot(which: Which, wait: Wait = False) -> None:
    """Ask a guest to power off and start again."""
    _shutdown(which, "reboot", wait, False)


@command("list")
def list_domains(
    which: Annotated[list[str] | None, typer.Argument(metavar="DOMID|NAME", help="Only these.")] = None,
) -> None:
    """List the domains as xl does: memory in MiB, states r b p s c d, time in seconds of its processes."""
    point = served().point
    domains = within(point, lambda: frames(point)).domains
    chosen = [one_of(domains, name) for name in which] if which else list(domains)
    for line in listing.domains(RunDirectory(point), chosen):
        typer.echo(line)


@command("domid")
def domid(name: Annotated[str, typer.Argument(help="A domain's name.")]) -> None:
    """Print a domain's number."""
    point = served().point
    found = [d for d in within(point, lambda: frames(point)).domains if d.name == name and not d.dying]
    if not found:
        raise Unable(f"there is no domain called {name}")
    typer.echo(found[0].domid)


@command("domname")
def domname(number: Annotated[int, typer.Argument(metavar="DOMID", help="A domain's number.")]) -> None:
    """Print a domain's name."""
    point = served().point
    found = [d for d in within(point, lambda: frames(point)).domains if d.domid == number and not d.dying]
    if not found:
        raise Unable(f"there is no domain {number}")
    typer.echo(found[0].name)


def mebibytes(text: str) -> int:
    """xl's sizes: a number of MiB, or with b, k, m, g or t. Raises Unable."""
    scale = {"b": 1 / (1 << 20), "k": 1 / 1024, "m": 1, "g": 1024, "t": 1 << 20}
    digits, unit = (text[:-1], text[-1].lower()) if text[-1:].isalpha() else (text, "m")
    if not (digits.isascii() and digits.isdigit() and unit in scale):
        raise Unable(f"{text!r} is no size such as 64 or 1g")
    return int(int(digits) * scale[unit])


@command("mem-set")
def mem_set(which: Which, size: Annotated[str, typer.Argument(metavar="MEM", help="In MiB, or with k, m, g.")]) -> None:
    """Balloon a domain to a size, which must be within its maximum."""
    wanted = mebibytes(size)

    def work(root: MountedDomain, point: str, domid: int) -> None:
        del point
        most = root.call(MaximumReservation(dom=domid)).frames
        if wanted * PAGES_PER_MIB > most:
            raise Unable(
                f"domain {domid} may have {_in_mib(most)} at most, not {wanted} MiB; "
                f"xenfs mem-max {which} {wanted} lets it grow so far"
            )
        root.call(SetMemory(dom=domid, frames=wanted * PAGES_PER_MIB))
        if root.store.exists(f"/local/domain/{domid}/memory/target"):
            root.store.write(f"/local/domain/{domid}/memory/target", str(wanted * 1024))

    on_domain(which, work)


@command("mem-max")
def mem_max(which: Which, size: Annotated[str, typer.Argument(metavar="MEM", help="In MiB, or with k, m, g.")]) -> None:
    """Set what a domain may grow to, which is not less than it has."""
    wanted = mebibytes(size)

    def work(root: MountedDomain, point: str, domid: int) -> None:
        del point
        owned = root.call(CurrentReservation(dom=domid)).frames
        if wanted * PAGES_PER_MIB < owned:
            raise Unable(
                f"domain {domid} has {_in_mib(owned)}, and {wanted} MiB at most would be less; "
                f"xenfs mem-set {which} takes from it first"
            )
        root.call(SetMaxMemory(dom=domid, frames=wanted * PAGES_PER_MIB))

    on_domain(which, work)


def _in_mib(frames: int) -> str:
    return f"{frames / PAGES_PER_MIB:.15g} MiB"


@command("console")
def console(which: Which) -> None:
    """Follow what a guest's command prints, until the guest ends. Ctrl-C or Ctrl-] stops looking.

    Exit status: 0 the guest has ended; 1 there is no such guest; 130 interrupted.
    """
    point = served().point
    follow(point, domid_of(which))


def follow(point: str, domid: int) -> None:
    """Print a guest's console until the guest has ended. Raises Unable."""
    place = RunDirectory(point)
    path = place.guest(domid) / "console"
    keeper = place.holder(f"{domid}/keeper.pid")
    try:
        path.touch()
        source = path.open("rb")
    except OSError as error:
        raise Unable(f"domain {domid} has no console: it was not made by xenfs create") from error
    with source:
        pidfd = os.pidfd_open(keeper) if keeper is not None else None
        ended = pidfd is None
        while True:
            piece = source.read(1 << 16)
            if piece:
                sys.stdout.buffer.write(piece)
                sys.stdout.buffer.flush()
            elif ended:
                return
            else:
                assert pidfd is not None
                ended = bool(select.select([pidfd], [], [], 0.1)[0])
