"""The supervisor of a guest's frontends: `python -m xl.guest`, in the guest's namespaces, as the guest."""

from __future__ import annotations

import os
import signal
import sys
import time

from xenfs.abi.xenbus import XenbusState
from xenfs.domain import Refused
from xenfs.domain.mounted import open_domain
from xenfs.xenbus import Loop
from xenfs.xenbus.end import read_state, to_stderr
from xenfs.xenbus.process import die_with_parent
from xl.kinds import FRONTENDS, modules
from xl.supervisor import Supervisor

PATIENCE = 10.0
"""Seconds that the guest's command waits for the devices that are there when the guest starts."""


def words(path: str) -> list[str] | None:
    """The command of the frontend at `device/<kind>/<number>`."""
    _, kind, number = path.split("/")
    module = modules(FRONTENDS).get(kind)
    return None if module is None or not number.isdigit() else ["-m", module, number]


def main() -> int:
    """Run until SIGTERM, or until the domain is gone. Says `ready` on stdout once the devices are connected."""
    die_with_parent()
    loop = Loop()
    try:
        with open_domain() as domain:
            supervisor = Supervisor(domain, "device", 2, words, os.environ, log=to_stderr, loop=loop)
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
