"""A mounted machine for a test, which no fault of the test's outlives.

A client of a daemon that hangs, hangs in the kernel with it; so a warden, a process of its own, kills the daemon when
the test is not over in time.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

from xenfs.abi.xenfs_op import DEFAULT_FRAMES, CreateDomain, DestroyDomain
from xenfs.domain.errors import Refused
from xenfs.domain.mounted import MountedDomain

FRAMES = 16384
CLOSE_SECONDS = 40
SETTLE_SECONDS = 1.0
"""How long the daemon may take to release, slice by slice, what a dead process held."""
_KINDS = ("evtchn", "grants", "rings")


class MountFailed(Exception):
    """There is no mount; the text is what the daemon said."""


class Mount:
    """A mount with its daemon and the warden of both. Whatever happens, neither outlives this object's `close`."""

    def __init__(self, root: Path, frames: int = FRAMES) -> None:
        """Mount at `root`, which is made. Raises MountFailed."""
        self.root = root
        root.mkdir()
        self._log = root.parent / f"{root.name}.log"
        command = [sys.executable, "-m", "xenfs.testing.warden", str(root), str(frames)]
        with self._log.open("wb") as log:
            self._warden = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, start_new_session=True
            )
        answer = self._listen()
        if answer[:1] != ["ready"]:
            self.close()
            raise MountFailed("the daemon did not start:\n" + self.log())
        self.pid = int(answer[1])

    def _listen(self) -> list[str]:
        assert self._warden.stdout is not None
        return self._warden.stdout.readline().decode().split()

    def _say(self, words: str) -> None:
        assert self._warden.stdin is not None
        self._warden.stdin.write(words.encode() + b"\n")
        self._warden.stdin.flush()

    def log(self) -> str:
        """What the daemon has said on stderr."""
        return self._log.read_text()

    def arm(self, seconds: float) -> None:
        """From now on the daemon is killed when `rest` does not come in time."""
        self._say(f"arm {seconds}")

    def rest(self) -> bool:
        """Nothing is under way any more; whether the daemon lives."""
        self._say("rest")
        return self._listen() == ["resting"]

    def kill(self) -> None:
        """kill -9, and wait until the daemon is dead."""
        fd = os.pidfd_open(self.pid)
        try:
            signal.pidfd_send_signal(fd, signal.SIGKILL)
            select.select([fd], [], [], CLOSE_SECONDS)
        finally:
            os.close(fd)

    def stop(self) -> None:
        """kill -STOP: from now on who asks the daemon anything hangs."""
        os.kill(self.pid, signal.SIGSTOP)

    def go_on(self) -> None:
        """kill -CONT."""
        os.kill(self.pid, signal.SIGCONT)

    def close(self) -> None:
        """End the daemon and remove the mount."""
        self._warden.communicate(timeout=CLOSE_SECONDS)


class MountedXen:
    """What a test has of a mounted machine."""

    def __init__(self, mount: Mount) -> None:
        """Use a mount."""
        self._mount, self._entered = mount, list[MountedDomain]()

    @property
    def root(self) -> Path:
        """Where it is mounted."""
        return self._mount.root

    @property
    def pid(self) -> int:
        """The daemon's."""
        return self._mount.pid

    def environment(self, domid: int | None = None) -> dict[str, str]:
        """The environment for a process that is to use this machine, as that domain."""
        own = {} if domid is None else {"XEN_DOMID": str(domid)}
        return {**os.environ, "XEN": str(self.root), **own}

    def create_domain(self, name: str = "", *, frames: int = DEFAULT_FRAMES) -> int:
        """Make a domain; its number. EEXIST for a name that is taken, ENOMEM."""
        with MountedDomain(0, self.root) as dom0:
            return dom0.call(CreateDomain(name=name, frames=frames)).domid

    def destroy_domain(self, domid: int) -> None:
        """End a domain with all it has. ESRCH."""
        with MountedDomain(0, self.root) as dom0:
            dom0.call(DestroyDomain(dom=domid))

    def domain(self, domid: int) -> MountedDomain:
        """Enter a domain: a new handle of it, closed with the machine at the latest. ESRCH, EMFILE."""
        domain = MountedDomain(domid, self.root)
        self._entered.append(domain)
        return domain

    def _held(self) -> list[str]:
        held = []
        for line in (self.root / "hypervisor" / "frames").read_text().splitlines()[1:-1]:
            domid, state, _, granted, mapped, in_flight, name = line.split(None, 6)
            where = f"domain {domid} ({name})"
            if state == "dying":
                held.append(f"{where} is dying: a process still has its pages, or pages of others")
                continue
            counts = {"frames granted": granted, "frames mapped": mapped, "transfers in flight": in_flight}
            held += [f"{where}: {count} {what}" for what, count in counts.items() if count != "0"]
            home = self.root / "domains" / domid
            with suppress(FileNotFoundError):  # it has gone meanwhile
                held += [f"{where}: {kind} {p.name}" for kind in _KINDS for p in sorted((home / kind).iterdir())]
        return held

    def leaks(self) -> list[str]:
        """What is still held in any domain, a line each. Waits a moment for what a dead process held."""
        deadline = time.monotonic() + SETTLE_SECONDS
        with (self.root / "hypervisor" / "trace_pipe").open("rb", buffering=0) as changes:
            while (held := self._held()) and (left := deadline - time.monotonic()) > 0:
                if select.select([changes], [], [], left)[0]:
                    changes.read(1 << 16)
        return held

    def close(self) -> None:
        """Close what was entered."""
        for domain in self._entered:
            with suppress(Refused):
                domain.close()
