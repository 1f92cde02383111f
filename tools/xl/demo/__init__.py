"""xenfs demo: the main job, shown: two guests and their devices, on a machine that ends with the demonstration."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from xenfs.commands import checks, service
from xenfs.commands.failure import Unable, command
from xenfs.commands.namespace import unshare_net
from xenfs.commands.run import machine
from xl.demo import disk, network, stick
from xl.demo.show import Failed, Show

TOOLS = {"ip": "iproute2", "ping": "iputils-ping", "mkfs.ext4": "e2fsprogs"}
"""What the demonstration runs, and the Debian packages that have it."""


def _needs() -> list[str]:
    """What is missing."""
    found = [] if os.geteuid() == 0 else ["root, for network namespaces and TAPs; xenfs demo-ring needs neither"]
    if problem := checks.obstacle():
        found.append(problem)
    if not Path("/dev/loop-control").exists():
        found.append("/dev/loop-control; to mend it: modprobe loop")
    if not Path("/dev/net/tun").exists():
        found.append("/dev/net/tun; to mend it: modprobe tun")
    found += [f"{tool}; to mend it: apt-get install {name}" for tool, name in TOOLS.items() if not shutil.which(tool)]
    return found


@command("demo")
def demo(
    mebibytes: Annotated[int, typer.Option("--mib", min=1, help="How much to send through the network.")] = 512,
    keep: Annotated[bool, typer.Option("--wait", help="Wait for Enter before everything is taken down.")] = False,
) -> None:
    """Show two guests at work: ping and TCP through netfront, shared rings, netback and a bridge; a disk's filesystem
    through blkfront and blkback; a USB stick that is carried from one guest to the other.

    It takes place on a machine and in a network namespace of its own, and leaves nothing.

    Exit status: 0 shown; 1 something failed, or is missing, and the reason is on stderr.
    """
    if missing := _needs():
        raise Unable("it needs " + "\n  and ".join(missing))
    unshare_net()
    console = Console()
    with tempfile.TemporaryFile() as log, tempfile.TemporaryFile() as backends:
        try:
            with machine([], None, log, keep=False) as point:
                show = Show(console, point)
                try:
                    show.title("a machine, and the backends of domain 0")
                    show.typed(f"XEN={point} xenfs mount")
                    show.before = show.frames("before")
                    show.devd(backends)
                    network.perform(show, mebibytes)
                    disk.perform(show)
                    stick.perform(show)
                    if keep:
                        console.input(f"\n[bold]XEN={point}[/bold] is there until you press Enter ")
                finally:
                    show.end()
                network.afterwards(show)
        except Failed as failed:
            raise Unable(str(failed)) from failed
        finally:
            for line in service.said(log):
                typer.echo(f"the daemon said: {line}", err=True)
    sys.stdout.flush()
