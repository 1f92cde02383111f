"""What xl does to domains: make, start, end and remove them, with everything in the store that belongs to them."""

from __future__ import annotations

import os
import select
import signal
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack, closing, suppress
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
            spec.wait_ready(root.store, each, RunDirectory(point))
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


def shutdown(root: MountedDomain, point: str, domid: int, wish: str) -> int | None:
    """Ask a guest to end; its keeper's pid, None while it is paused. Raises Unable."""
    if domid == 0:
        raise Unable("domain 0 ends with the machine: xenfs umount")
    path = f"/local/domain/{domid}/control/shutdown"
    if not root.store.exists(path):
        raise Unable(f"domain {domid} has no {path}: it was not made by xenfs create; xenfs destroy ends it")
    if ended(point, domid):
        raise Unable(f"domain {domid} has ended already, and is kept to be looked at; xenfs destroy removes it")
    place = RunDirectory(point)
    keeper = place.holder(f"{domid}/keeper.pid")
    if keeper is None and place.died(f"{domid}/keeper.pid"):
        raise Unable(_unkept(domid))
    root.store.write(path, wish)
    return keeper


def _unkept(domid: int) -> str:
    return f"domain {domid}: nobody runs this guest: its keeper has died; xenfs destroy it, or xenfs unpause it"


def ended(point: str, domid: int) -> bool:
    """Whether a domain is gone, or has ended and is only kept."""
    try:
        return Path(point, "domains", str(domid), "state").read_text() != "running\n"
    except FileNotFoundError:
        return True


def wait_end(point: str, domid: int, keeper: int | None, seconds: float) -> bool:
    """Wait until a guest that `keeper` runs has ended; whether it has in time. Raises Unable when the keeper dies.

    One that starts again may have the same number: the end of a keeper that another has followed is the guest's too.
    """
    deadline = time.monotonic() + seconds
    with ExitStack() as stack:
        root = stack.enter_context(MountedDomain(0, point))
        watch = stack.enter_context(closing(root.store.watch("@releaseDomain", "end")))
        poller = select.poll()
        poller.register(watch.fileno(), select.POLLIN)
        pidfd = -1
        if keeper is not None:
            try:
                pidfd = os.pidfd_open(keeper)
            except ProcessLookupError:
                return _left(point, domid)
            stack.callback(os.close, pidfd)
            poller.register(pidfd, select.POLLIN)
        while not ended(point, domid):
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            if pidfd in {fd for fd, _ in poller.poll(left * 1000)}:
                return _left(point, domid)
            while watch.wait(0) is not None:
                pass
    return True


def _left(point: str, domid: int) -> bool:
    """A keeper has ended, and so has its guest. Raises Unable when it has not come to that."""
    if RunDirectory(point).died(f"{domid}/keeper.pid") and not ended(point, domid):
        raise Unable(_unkept(domid))
    return True


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
