"""A machine with one of everything, and people's commands to look at it."""

from __future__ import annotations

import subprocess
from pathlib import Path

from tests.mounted.mount import Xen


class Tree:
    """Domain 1 has one of everything, domain 2 what it was granted."""

    def __init__(self, mnt: Xen) -> None:
        self.mnt, self.root = mnt, mnt.root
        self.one, self.two = mnt.domain(1), mnt.domain(2)
        (self.one / "name").write_text("guest\n")
        self.ctl = mnt.ctl(1)
        self.frame, self.ref = self.ctl.grant(2)
        self.ctl.do(f"name_ring frame={self.frame} name=vif-0-tx")
        self.port = self.ctl.do("alloc_unbound remote_dom=2")
        (self.one / "frames" / str(self.frame)).write_bytes(b"contents")


def run(*command: str | Path, code: int = 0) -> str:
    """What a command says; it must end in time and as expected."""
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == code, done.stderr
    return done.stdout + done.stderr
