"""xenfs exec: a program in a domain, with that domain's devices at /dev/xen."""

from __future__ import annotations

import errno
import os
import re
import signal
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import typer

from xenfs.commands.child import Silent, ask
from xenfs.commands.domain import one_of
from xenfs.commands.failure import Unable, command, tell
from xenfs.commands.machine import frames, within
from xenfs.commands.namespace import join_net, replace_dev, separate
from xenfs.commands.place import served
from xenfs.commands.run import CANNOT_RUN, NOT_FOUND, SETUP_FAILED
from xenfs.commands.running import RunDirectory

_DISK, _LOOP = re.compile(r"(xvd|sd|hd)[a-z]{1,3}\d{0,2}"), re.compile(r"/dev/loop\d{1,7}")


def environment(point: str, domid: int) -> dict[str, str]:
    """The environment of a program in a domain."""
    return {**os.environ, "XEN": point, "XEN_DOMID": str(domid), "XENSTORED_PATH": "/dev/xen/xenbus"}


def _entered(which: str) -> tuple[str, int]:
    """The mount, and the number of a domain that we may enter. Raises Unable."""
    try:
        point = served().point
        domid = one_of(within(point, lambda: frames(point)).domains, which).domid
        home = f"{point}/domains/{domid}"
        if not within(point, lambda: os.access(f"{home}/dev", os.R_OK | os.X_OK)):
            raise Unable(f"domain {domid} belongs to another user")
    except Unable as error:
        raise Unable(str(error), SETUP_FAILED) from error
    return point, domid


def disks(point: str, domid: int) -> dict[str, str]:
    """The block devices that are a guest's disks, by their names there: as blkfront says in its nodes, and only root's
    has any. The guest could have written there what it likes: what no blkfront says is passed over.
    """
    found: dict[str, str] = {}
    if os.geteuid() == 0:
        devices = Path(f"{point}/xenstore/local/domain/{domid}/device")
        for said in (*devices.glob("vbd/*/xenfs-device"), *devices.glob("vusb/*/disk/*/xenfs-device")):
            with suppress(OSError):
                file = said.with_name("xenfs-file").read_text().strip()
                name, device = Path(file).name, said.read_text().strip()
                if _DISK.fullmatch(name) and _LOOP.fullmatch(device):
                    found[name] = device
    return found


@command("exec")
def execute(
    which: Annotated[str, typer.Argument(metavar="DOMID|NAME", help="Which domain.")],
    words: Annotated[list[str], typer.Argument(metavar="CMD", help="After --: the program and its arguments.")],
) -> None:
    """Run a program in a domain: xenfs exec DOMID -- CMD ARGS.

    Its /dev/xen is the domain's dev/, in a mount namespace of its own; the rest of /dev is the host's, and the host
    sees nothing of it. XEN is the mount, XEN_DOMID the domain, XENSTORED_PATH its xenbus. Without root this needs user
    namespaces. For root, a guest's disks are there as /dev/xvda and so on, and the network of a guest that `xenfs
    create` made is that guest's.

    Exit status: the program's, since the command becomes it; 125 there was no machine, domain or namespace; 126 the
    program cannot be run; 127 it is not found.
    """
    point, domid = _entered(which)
    keeper = RunDirectory(point).holder(f"{domid}/keeper.pid")
    if keeper is not None and os.geteuid() == 0:
        join_net(keeper)
    separate()
    where = os.open(".", os.O_PATH | os.O_DIRECTORY)
    try:
        # the bind looks at the mount, so somebody must be there to give up when its daemon hangs
        ask(lambda: Path(f"{point}/domains/{domid}/dev").stat())
        replace_dev(f"{point}/domains/{domid}/dev", disks(point, domid))
        os.fchdir(where)
    except Silent:
        raise Unable(f"the daemon of {point} does not answer", SETUP_FAILED) from None
    except OSError as error:
        raise Unable(f"{error.filename}: {error.strerror}", SETUP_FAILED) from error
    os.close(where)
    for number in (signal.SIGPIPE, signal.SIGXFSZ):  # Python ignores these
        signal.signal(number, signal.SIG_DFL)
    try:
        os.execvpe(words[0], words, environment(point, domid))
    except OSError as error:
        tell("exec", f"{words[0]}: {error.strerror}")
        raise typer.Exit(NOT_FOUND if error.errno == errno.ENOENT else CANNOT_RUN) from error
