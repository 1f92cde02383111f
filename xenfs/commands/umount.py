"""xenfs umount: end a machine."""

from __future__ import annotations

import os
import signal
from typing import Annotated

import typer

from xenfs.commands import parting
from xenfs.commands.child import ready
from xenfs.commands.failure import Unable, command
from xenfs.commands.mount import drop_log
from xenfs.commands.place import Condition, Mount, Place, examine
from xenfs.commands.running import RunDirectory


@command("umount")
def umount(
    place: Annotated[str | None, typer.Argument(metavar="MNT", help="Which; the default place of mount.")] = None,
    lazy: Annotated[bool, typer.Option("-l", "--lazy", help="Also when it is in use: its users see it end.")] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Kill the daemon, whatever it does, and clear the mount.")
    ] = False,
) -> None:
    """End the machine at a place and unmount it. A stale mount is cleared.

    A mount that processes use is left alone, except with --lazy or --force.

    Exit status: 0 unmounted; 1 not mounted, in use, or the daemon does not answer; 2 wrong usage.
    """
    found = examine(place)
    if found.mount is None:
        raise Unable(str(found))
    if found.condition is Condition.STALE:
        parting.clear(found.mount)
    elif force:
        _kill(found, found.mount)
    elif found.condition is Condition.SILENT:
        raise Unable(f"{found}; xenfs umount --force {found.point} kills it")
    else:
        _end(found, found.mount, lazy)
    drop_log(found.point)
    RunDirectory(found.point).unmount()


def _end(found: Place, mount: Mount, lazy: bool) -> None:
    daemon = parting.find_daemon(mount, found.pid)
    if daemon is None and found.condition is Condition.CLOSED:
        raise Unable(str(found))
    if daemon is None:
        raise Unable(f"pid {found.pid}, which {mount.point}/hypervisor/pid names, is not its daemon")
    pid, pidfd = daemon
    try:
        if not lazy and (users := parting.users(mount, besides=[pid, os.getpid()])):
            raise Unable(f"{mount.point}: in use by {', '.join(users)}; end them, or use --lazy")
        signal.pidfd_send_signal(pidfd, signal.SIGTERM)
        if not parting.wait_gone(mount, pidfd):
            if not ready(pidfd, 0):
                raise Unable(f"the daemon (pid {pid}) does not end; xenfs umount --force {mount.point} kills it")
            parting.clear(mount)
    finally:
        os.close(pidfd)


def _kill(found: Place, mount: Mount) -> None:
    daemon = parting.find_daemon(mount, found.pid)
    if daemon is None:
        parting.clear(mount, abort=True)
        return
    _, pidfd = daemon
    try:
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        parting.clear(mount, abort=True)
        parting.wait_gone(mount, pidfd)
    finally:
        os.close(pidfd)
