"""What xl does to domains: make, start, end and remove them, with everything in the store that belongs to them."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from uuid import uuid4

from xenfs.abi.wire import FieldError
from xenfs.abi.xenfs_op import CreateDomain, DestroyDomain
from xenfs.commands import service
from xenfs.commands.child import ready
from xenfs.commands.failure import Unable, tell
from xenfs.commands.running import RunDirectory
from xenfs.domain import Refused
from xenfs.domain.mounted import MountedDomain
from xenfs.xenbus.keys import OtherEnd
from xl import kinds, spec, tree, usb
from xl.config import GuestConfig
from xl.spec import DeviceSpec

PAGES_PER_MIB = 256
KINDS = (("vif", "vif"), ("disk", "vbd"), ("usbctrl", "vusb"))
"""Words of the configuration, and what they are."""


def find(root: MountedDomain, point: str, which: str) -> int:
    """A domain by its number or name. Raises Unable."""
    if which.isascii() and which.isdigit() and Path(point, "domains", which).is_dir():
        return int(which)
    for line in Path(point, "hypervisor/frames").read_text().splitlines()[1:-1]:
        domid, state, *_, name = line.split(None, 6)
        if name == which and state != "dying":
            return int(domid)
    del root
    raise Unable(f"there is no domain {which}")


def specs(root: MountedDomain, point: str, config: GuestConfig, domid: int) -> list[DeviceSpec]:
    """The devices of a configuration. Raises Unable."""

    def lookup(which: str) -> int:
        return find(root, point, which)

    found = []
    for word, kind in KINDS:
        for number, text in enumerate(getattr(config, word)):
            found.append(kinds.parse(kind, text, domid, number, lookup))
    seen = set()
    for each in found:
        if each.device.frontend_path in seen:
            raise Unable(f"{each.device}: twice in the configuration")
        seen.add(each.device.frontend_path)
    plugged = usb.fill([each for each in found if each.device.kind == "vusb"], config.usbdev, domid)
    return [each for each in found if each.device.kind != "vusb"] + plugged


def create(root: MountedDomain, point: str, config: GuestConfig) -> int:
    """Make a guest with its devices, not yet started. Raises Unable, and then there is nothing of it."""
    specs(root, point, config, 0)  # what is wrong with it shows before there is a domain
    config = replace(config, uuid=config.uuid or str(uuid4()))
    request = CreateDomain(
        name=config.name,
        frames=config.memory * PAGES_PER_MIB,
        max_frames=(config.maxmem or config.memory) * PAGES_PER_MIB,
        uuid=config.uuid,
    )
    try:
        request.check()
        domid = root.call(request).domid
    except FieldError as error:
        raise Unable(error.problem) from error
    except Refused as refused:
        raise Unable(f"{config.name}: {refused.strerror}") from refused
    try:
        spec.detach(root.store, spec.attached(root.store, domid), destroy=True)  # of one that was only removed
        tree.write(root.store, domid, config)
        devices = specs(root, point, config, domid)
        for each in devices:
            spec.add(root.store, each)
        for each in devices:
            spec.wait_ready(root.store, each)
            if each.device.kind == "vusb":
                usb.wait_plugged(root.store, each.device, usb.ports(root.store, each.device))
        place = RunDirectory(point)
        place.make(domid)
        place.write(domid, "config", asdict(config))
    except BaseException:
        destroy(root, point, domid)
        raise
    return domid


def start(point: str, domid: int) -> None:
    """Start the guest's processes. Raises Unable."""
    place = RunDirectory(point)
    if place.read(domid, "config") is None:
        raise Unable(f"domain {domid} was not made by xenfs create")
    if place.holder(f"{domid}/keeper.pid") is not None:
        raise Unable(f"domain {domid} is running")
    with (place.guest(domid) / "log").open("a+b") as log:
        service.detach(service.start([sys.executable, "-m", "xl.keeper", point, str(domid)], log))


def start_again(point: str, config: GuestConfig) -> int:
    """Make a guest anew, and start it."""
    with MountedDomain(0, point) as root:
        domid = create(root, point, config)
    start(point, domid)
    return domid


def shutdown(root: MountedDomain, domid: int, wish: str) -> None:
    """Ask a guest to end. Raises Unable."""
    if domid == 0:
        raise Unable("domain 0 ends with the machine: xenfs umount")
    path = f"/local/domain/{domid}/control/shutdown"
    if not root.store.exists(path):
        raise Unable(f"domain {domid} has no {path}: it was not made by xenfs create; xenfs destroy ends it")
    root.store.write(path, wish)


def wait_end(point: str, domid: int, seconds: float) -> bool:
    """Wait until a domain is gone; whether it is."""
    with MountedDomain(0, point) as root:
        waiting = spec.Waiting(root.store, "@releaseDomain")
        return waiting.until(lambda: not Path(point, "domains", str(domid)).is_dir(), seconds)


def destroy(
    root: MountedDomain,
    point: str,
    domid: int,
    *,
    keep_files: bool = False,
    log: Callable[[str], None] = lambda line: tell("destroy", line),
) -> None:
    """End a domain, whatever its guest says, with its processes, devices and nodes. Raises Unable.

    `keep_files` is for the keeper, which is not to end itself.
    """
    if domid == 0:
        raise Unable("domain 0 ends with the machine: xenfs umount")
    place = RunDirectory(point)
    if not keep_files:
        _end_keeper(place, domid)
    tree.begin_to_end(root.store, domid)
    for late in spec.detach(root.store, spec.attached(root.store, domid), destroy=True):
        log(f"{late}: its backend did not close within {spec.DESTROY_SECONDS:.0f} s; its nodes are removed")
    uuid = OtherEnd(root.store, f"/local/domain/{domid}").raw("vm") or ""
    tree.remove(root.store, domid, uuid)
    place.forget(domid)
    try:
        root.call(DestroyDomain(dom=domid))  # and from now on another may have its number
    except Refused as refused:
        raise Unable(str(refused.strerror)) from refused
    finally:
        tree.end(root.store, domid)


def _end_keeper(place: RunDirectory, domid: int) -> None:
    pid = place.holder(f"{domid}/keeper.pid")
    if pid is None:
        return
    with suppress(ProcessLookupError):
        pidfd = os.pidfd_open(pid)
        try:
            signal.pidfd_send_signal(pidfd, signal.SIGTERM)
            if not ready(pidfd, 20.0):
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)
                ready(pidfd, 5.0)
        finally:
            os.close(pidfd)
