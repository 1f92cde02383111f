"""The `xenfs` subcommands that attach, list and detach devices, the same for every kind."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Annotated

import typer

from xenfs.commands.escapes import plain
from xenfs.commands.failure import Unable, command
from xenfs.commands.running import RunDirectory
from xenfs.domain import Store
from xenfs.domain.mounted import MountedDomain
from xenfs.xenbus import Device
from xenfs.xenbus.keys import OtherEnd
from xl import kinds, listing, spec, toolstack, vbd
from xl.commands import Which, on_domain

Words = Annotated[list[str] | None, typer.Argument(metavar="KEY=VALUE", help="As in a configuration file.")]
Print = Callable[[Store, Iterable[Device]], Iterator[str]]


def attach_device(kind: str, which: str, words: list[str]) -> None:
    """Attach a device and wait for its backend. Raises Unable, and then there is nothing of it."""

    def work(root: MountedDomain, point: str, domid: int) -> None:
        def lookup(name: str) -> int:
            return toolstack.find(root, point, name)

        if domid == 0:
            raise Unable("domain 0 has no frontends here")
        while True:
            taken = {device.id for device in spec.attached(root.store, domid, kind)}
            number = next(n for n in range(len(taken) + 1) if n not in taken)
            wanted = kinds.parse(kind, ",".join(words), domid, number, lookup)
            try:
                spec.add(root.store, wanted)
                break
            except spec.Taken:  # perhaps since we looked, and then another number is as good
                if wanted.device.id != number:
                    raise
        try:
            spec.wait_ready(root.store, wanted, RunDirectory(point))
        except BaseException:
            spec.detach(root.store, [wanted.device], destroy=True)
            raise

    on_domain(which, work)


def detach_device(kind: str, which: str, number: str, *, force: bool) -> None:
    """Detach a device in order, or with `force` without the guest. Raises Unable."""

    def work(root: MountedDomain, point: str, domid: int) -> None:
        found = [device for device in spec.attached(root.store, domid, kind) if _is(root.store, device, number)]
        if not found:
            raise Unable(f"domain {domid} has no {kind} {number}")
        if spec.detach(root.store, found, destroy=force) and not force:
            raise Unable(f"{found[0]}: not closed within {spec.DESTROY_SECONDS:.0f} s; its nodes are removed")

    on_domain(which, work)


def _is(store: Store, device: Device, said: str) -> bool:
    if said.isdigit():
        return device.id == int(said)
    if device.kind == "vbd":
        try:
            return device.id == vbd.virtual_device(said)
        except ValueError as error:
            raise Unable(str(error)) from None
    return said == OtherEnd(store, device.frontend_path).raw("mac")


def list_devices(kind: str, names: list[str], rows: Print) -> None:
    """Print the devices of a kind. Raises Unable."""
    for name in names:
        lines = on_domain(
            name, lambda root, point, domid: list(rows(root.store, spec.attached(root.store, domid, kind)))
        )
        for line in lines:
            typer.echo(plain(line))


Names = Annotated[list[str], typer.Argument(metavar="DOMID|NAME…", help="Which domains.")]
Number = Annotated[str, typer.Argument(metavar="DEVICE", help="Its number, or its MAC, or the disk's name.")]
Force = Annotated[bool, typer.Option("--force", help="Without asking the guest.")]
Kind = Annotated[str, typer.Argument(metavar="KIND", help="vif, vbd, or one that a package has added.")]


@command("network-attach")
def network_attach(which: Which, words: Words = None) -> None:
    """Give a guest a network interface: mac= bridge= ip= script= rate= backend= vifname= mtu= rx=."""
    attach_device("vif", which, words or [])


@command("network-list")
def network_list(names: Names) -> None:
    """List the network interfaces of guests."""
    list_devices("vif", names, listing.networks)


@command("network-detach")
def network_detach(which: Which, number: Number, force: Force = False) -> None:
    """Take a network interface away, by number or MAC."""
    detach_device("vif", which, number, force=force)


@command("block-attach")
def block_attach(which: Which, words: Words = None) -> None:
    """Give a guest a disk: format= vdev= access= target=."""
    attach_device("vbd", which, words or [])


@command("block-list")
def block_list(names: Names) -> None:
    """List the disks of guests."""
    list_devices("vbd", names, listing.disks)


@command("block-detach")
def block_detach(which: Which, number: Number, force: Force = False) -> None:
    """Take a disk away, by number or name."""
    detach_device("vbd", which, number, force=force)


def _bytes(text: str) -> int:
    """A size such as 512M. Raises Unable."""
    found = re.fullmatch(r"(\d+)([KMGT]?)(i?B)?", text)
    if found is None or not int(found[1]):
        raise Unable(f"{text!r} is no size such as 512M")
    return int(found[1]) << 10 * "_KMGT".index(found[2] or "_")


@command("block-resize")
def block_resize(
    which: Which, number: Number, size: Annotated[str, typer.Argument(metavar="SIZE", help="Such as 512M or 2G.")]
) -> None:
    """Give the file behind a disk another size, while the guest uses it; what lies behind a smaller one is lost."""

    def work(root: MountedDomain, point: str, domid: int) -> None:
        del point
        found = [device for device in spec.attached(root.store, domid, "vbd") if _is(root.store, device, number)]
        if not found:
            raise Unable(f"domain {domid} has no disk {number}")
        path, wanted = found[0].backend_path, _bytes(size)
        params = OtherEnd(root.store, path).raw("params") or ""
        if not Path(params).is_file():
            raise Unable(f"{params}: only a disk that is a raw file has another size because we say so")
        if wanted % 512:
            raise Unable(f"{size}: not a whole number of sectors of 512 bytes")
        os.truncate(params, wanted)
        with closing(root.store.watch(f"{path}/sectors", "resize")) as watch:
            deadline = time.monotonic() + spec.DESTROY_SECONDS
            while OtherEnd(root.store, path).raw("sectors") != str(wanted // 512):
                if time.monotonic() > deadline:
                    raise Unable(f"{found[0]}: its backend has not taken notice; {params} has the size")
                watch.wait(0.2)

    on_domain(which, work)


@command("device-attach")
def device_attach(kind: Kind, which: Which, words: Words = None) -> None:
    """Give a guest a device of any kind; backend= says in which domain its backend is."""
    attach_device(kind, which, words or [])


@command("device-list")
def device_list(kind: Kind, names: Names) -> None:
    """List the devices of a kind."""
    kinds.check(kind)
    list_devices(kind, names, listing.others)


@command("device-detach")
def device_detach(kind: Kind, which: Which, number: Number, force: Force = False) -> None:
    """Take a device of any kind away."""
    detach_device(kind, which, number, force=force)
