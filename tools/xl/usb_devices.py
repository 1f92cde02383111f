"""The `xenfs` subcommands for USB: controllers of guests, and what is plugged into them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Annotated

import typer
from xenusb import lsusb as listing

from xenfs.commands.escapes import plain
from xenfs.commands.failure import Unable, command
from xenfs.commands.running import RunDirectory
from xenfs.domain.mounted import MountedDomain
from xenfs.xenbus import Device
from xl import spec, usb
from xl.commands import Which, on_domain
from xl.devices import Force, Names, Words, attach_device, detach_device, list_devices

Controller = Annotated[str, typer.Argument(metavar="CONTROLLER", help="Its number, as usb-list shows it.")]
Port = Annotated[int, typer.Argument(metavar="PORT", help="From 1.")]


@command("usbctrl-attach")
def usbctrl_attach(which: Which, words: Words = None) -> None:
    """Give a guest a USB controller: version= ports= type= backend=."""
    attach_device("vusb", which, words or [])


@command("usbctrl-detach")
def usbctrl_detach(which: Which, number: Controller, force: Force = False) -> None:
    """Take a USB controller away, with all that is plugged into it."""
    detach_device("vusb", which, number, force=force)


@command("usb-list")
def usb_list(names: Names) -> None:
    """List the USB controllers of guests, and what is in their ports."""
    list_devices("vusb", names, usb.rows)


def _places(root: MountedDomain, domid: int) -> Iterator[tuple[Device, int]]:
    """The ports of a guest's controllers with nothing in them."""
    for device in usb.controllers(root.store, domid):
        for number, there in usb.ports(root.store, device).items():
            if not there:
                yield device, number


@contextmanager
def _controller(root: MountedDomain, point: str, domid: int, *, wanted: bool) -> Iterator[None]:
    """A guest that has none gets one if it is wanted, and loses it again when nothing comes of it."""
    made = usb.parse("", domid, 0, lambda _: 0)
    ours = False
    try:
        if wanted and not usb.controllers(root.store, domid):
            with suppress(spec.Taken):  # another command has made it
                spec.add(root.store, made)
                ours = True
            spec.wait_ready(root.store, made, RunDirectory(point))
        yield
    except BaseException:
        if ours and not any(usb.ports(root.store, made.device).values()):  # nor has another command filled it
            spec.detach(root.store, [made.device], destroy=True)
        raise


@command("usbdev-attach")
def usbdev_attach(which: Which, words: Words = None) -> None:
    """Plug a USB device into a guest: hostbus= hostaddr= for a real one, or device= for another; controller= port=.

    device= stands last: stick:IMAGE[,ro], keyboard:FIFO, serial:LINK, usbip:HOST[:PORT]/BUSID, loopback:, a bus path
    such as 1-2.3, or python:MODULE:CLASS:ARGUMENT. A guest without a controller gets one.
    """
    text = ",".join(words or [])

    def work(root: MountedDomain, point: str, domid: int) -> None:
        what, controller, port = usb.parse_device(text)
        if domid == 0:
            raise Unable("domain 0 has no frontends here")
        with _controller(root, point, domid, wanted=controller in (None, 0)):
            for device, number in _places(root, domid):
                if controller in (None, device.id) and port in (None, number):
                    with suppress(spec.Taken):  # by another command, since we looked
                        usb.plug(root.store, device, number, what)
                        return
            raise Unable(f"usbdev {text!r}: there is no such controller, or no such port of it that is free")

    on_domain(which, work)


@command("usbdev-detach")
def usbdev_detach(which: Which, number: Controller, port: Port) -> None:
    """Unplug what is in a port."""

    def work(root: MountedDomain, point: str, domid: int) -> None:
        del point
        for device in usb.controllers(root.store, domid):
            if str(device.id) == number:
                if not usb.ports(root.store, device).get(port):
                    raise Unable(f"{device}: there is nothing in port {port}")
                usb.plug(root.store, device, port, "")
                return
        raise Unable(f"domain {domid} has no USB controller {number}")

    on_domain(which, work)


@command("lsusb")
def lsusb(
    which: Which,
    verbose: Annotated[bool, typer.Option("-v", "--verbose", help="All that they say of themselves.")] = False,
) -> None:
    """List the USB devices of a guest, as the guest has them."""

    def work(root: MountedDomain, point: str, domid: int) -> list[str]:
        del root
        os.environ["XEN"] = point
        try:
            return list(listing.lines(domid, verbose=verbose))
        except OSError as error:
            raise Unable(f"{error.filename}: {error.strerror}" if error.filename else str(error.strerror)) from None

    for line in on_domain(which, work):
        typer.echo(plain(line))
