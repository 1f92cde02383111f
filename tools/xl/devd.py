"""xenfs devd: the backends of a domain, one process per device."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Annotated

import typer

from xenfs.commands import service
from xenfs.commands.domain import one_of
from xenfs.commands.failure import Unable, command
from xenfs.commands.machine import frames, within
from xenfs.commands.place import served
from xenfs.commands.running import RunDirectory
from xenfs.domain.mounted import MountedDomain
from xenfs.xenbus import Loop
from xenfs.xenbus.end import to_stderr
from xl import kinds
from xl.supervisor import Driver, Find, Supervisor


def finder(domid: int) -> Find:
    """Finds the backend at `backend/<kind>/<frontend's domain>/<number>`."""

    def find(path: str) -> Driver | None:
        _, kind, frontend, number = path.split("/")
        if not (frontend.isdigit() and number.isdigit()):
            return None
        return kinds.driver(kinds.BACKENDS, kind, [frontend, number], domid)

    return find


def _serve(point: str, domid: int, ready: int) -> None:
    loop = Loop()
    with MountedDomain(domid, point) as domain:
        os.environ["XEN"] = point
        supervisor = Supervisor(domain, "backend", 3, finder(domid), log=to_stderr, loop=loop)
        loop.on_signals((signal.SIGTERM, signal.SIGINT), loop.stop)
        loop.watch(domain.gone_fd, loop.stop)
        supervisor.start()
        if ready >= 0:
            os.write(ready, b"ok")
            os.close(ready)
        loop.run()
        supervisor.leave()
        if supervisor.gone or domain.gone:
            raise Unable("the hypervisor is gone")


def _alone(place: RunDirectory, domid: int) -> None:
    """Be the one devd of the domain. Raises Unable."""
    name = f"devd-{domid}.pid"
    if place.owned and place.hold(name) is None:
        raise Unable(f"domain {domid} has a devd, with pid {place.holder(name)}")


@command("devd")
def devd(
    which: Annotated[str, typer.Option("--domain", "-d", metavar="DOMID|NAME", help="In which domain.")] = "0",
    foreground: Annotated[bool, typer.Option("-F", "--foreground", help="Serve from this process.")] = False,
    ready: Annotated[int, typer.Option("--ready-fd", hidden=True)] = -1,
) -> None:
    """Run the backends of a domain: a process for each device that the toolstack attaches, as long as it lives.

    A backend that dies is started again, at growing intervals, and the reason is told; in the background that goes to
    $XEN.run/devd-DOMID.log. SIGTERM closes every device in order.

    Exit status: 0 ended in order, or started; 1 not, and the reason is on stderr; 2 wrong usage.
    """
    point = served().point
    domid = one_of(within(point, lambda: frames(point)).domains, which).domid
    place = RunDirectory(point)
    name = f"devd-{domid}"
    if foreground:
        _alone(place, domid)
        try:
            _serve(point, domid, ready)
        finally:
            place.release(name)
        return
    if (pid := place.holder(f"{name}.pid")) is not None:
        raise Unable(f"domain {domid} has a devd, with pid {pid}")
    line = [sys.executable, "-m", "xenfs", "devd", "-F", "--domain", str(domid)]
    with Path(place.top(), f"{name}.log").open("a+b") as log:
        service.detach(service.start(line, log))
