"""The supervisor of a guest's frontends: `python -m xl.guest`, in the guest's namespaces, as the guest."""

from __future__ import annotations

import signal
import sys
import time

from xenfs.abi.xenbus import XenbusState
from xenfs.domain import Refused
from xenfs.domain.mounted import open_domain
from xenfs.xenbus import Loop
from xenfs.xenbus.end import read_state, to_stderr
from xenfs.xenbus.process import die_with_parent
from xl import kinds
from xl.supervisor import Driver, Find, Supervisor

PATIENCE = 10.0
"""Seconds that the guest's command waits for the devices that are there when the guest starts."""


def finder(domid: int) -> Find:
    """Finds the frontend at `device/<kind>/<number>`."""

    def find(path: str) -> Driver | None:
        _, kind, number = path.split("/")
        return kinds.driver(kinds.FRONTENDS, kind, [number], domid) if number.isdigit() else None

    return find


def main() -> int:
    """Run until SIGTERM, or until the domain is gone. Says `ready` on stdout once the devices are connected."""
    die_with_parent()
    loop = Loop()
    try:
        with open_domain() as domain:
            supervisor = Supervisor(domain, "device", 2, finder(domain.domid), log=to_stderr, loop=loop)
            loop.on_signals((signal.SIGTERM, signal.SIGINT), loop.stop)
            loop.watch(domain.gone_fd, loop.stop)
            supervisor.start()
            deadline = time.monotonic() + PATIENCE

            def pending() -> list[str]:
                """The devices that are to come."""
                store = domain.store
                there = [path for path, child in supervisor.children.items() if child.running]
                return [path for path in there if read_state(store, path) is not XenbusState.Connected]

            while (missing := pending()) and not loop.stopped and time.monotonic() < deadline:
                loop.turn(min(0.05, max(0.0, deadline - time.monotonic())))
            for path in missing:
                to_stderr(f"{path}: not connected within {PATIENCE:.0f} s; going on without it")
            print("ready", flush=True)
            loop.run()
            if supervisor.gone or domain.gone:
                supervisor.kill()
                return 1
            supervisor.leave()
    except Refused as refused:
        to_stderr(f"guest: {refused.strerror}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
