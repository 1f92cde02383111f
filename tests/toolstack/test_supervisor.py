"""A supervisor's processes at moments that are hard to meet."""

from __future__ import annotations

import os
import select
import subprocess
import sys
from pathlib import Path

from tests.toolstack.stage import SECONDS

_EARLY = """
import os, signal, sys
from xenfs.domain.inprocess import InProcessXen
from xenfs.xenbus import Loop
from xenfs.xenbus.process import die_with_parent
from xl.supervisor import Supervisor

def driver():
    die_with_parent()
    os.close(os.open(sys.argv[1], os.O_WRONLY))  # there is a process
    os.close(os.open(sys.argv[2], os.O_RDONLY))  # it has been asked to leave
    own = Loop()
    own.on_signals((signal.SIGTERM,), own.stop)
    own.later(1.0, lambda: os._exit(3))
    own.run()
    return 0

loop = Loop()
with InProcessXen() as xen:
    root = xen.domain(0)
    root.store.write("backend/vif/1/0/state", "6")  # so that what has ended in order stays so
    supervisor = Supervisor(root, "backend", 3, lambda path: driver, log=print, loop=loop)
    loop.on_signals((signal.SIGTERM,), loop.stop)
    supervisor.start()
    (child,) = supervisor.children.values()
    os.close(os.open(sys.argv[1], os.O_RDONLY))
    os.kill(child.pid, signal.SIGTERM)
    os.close(os.open(sys.argv[2], os.O_WRONLY))
    while child.running and not child.pause:
        loop.turn()
    print("ended in order" if child.ended else "not", flush=True)
    supervisor.kill()
    root.close()
"""


def test_a_driver_that_is_asked_to_leave_before_it_listens_leaves(tmp_path: Path) -> None:
    pipes = [tmp_path / "there", tmp_path / "asked"]
    for pipe in pipes:
        os.mkfifo(pipe)
    process = subprocess.Popen([sys.executable, "-c", _EARLY, *map(str, pipes)], stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        assert select.select([process.stdout], [], [], SECONDS)[0]
        assert process.stdout.read() == b"ended in order\n"
    finally:
        process.kill()
        process.communicate()
