"""A mounted machine with a devd, guests and the commands, of which nothing is left afterwards."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from xl import spec, toolstack
from xl.config import GuestConfig
from xl.spec import DeviceSpec

from tests.mounted.mount import until
from xenfs.abi.xenbus import XenbusState as S
from xenfs.commands.namespace import join_net
from xenfs.commands.running import RunDirectory
from xenfs.domain.mounted import MountedDomain
from xenfs.testing.mount import Mount
from xenfs.xenbus import Device
from xenfs.xenbus.end import read_state

SECONDS = 60.0


class Stage:
    """One machine. Everything that a test starts through it ends with it."""

    def __init__(self, folder: Path) -> None:
        self.mount = Mount(folder / "xen", 1 << 16)
        self.mount.arm(100)
        self.folder, self.point = folder, str(folder / "xen")
        self.place = RunDirectory(self.point)
        self.root = MountedDomain(0, self.point)
        self.store = self.root.store
        self.environment = {**os.environ, "XEN": self.point, "COLUMNS": "200"}
        self.processes: list[subprocess.Popen[bytes]] = []

    def xenfs(self, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "xenfs", *words],
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
            stdin=subprocess.DEVNULL,
            env=self.environment,
        )

    def fine(self, *words: str) -> str:
        done = self.xenfs(*words)
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout

    def fails(self, *words: str) -> str:
        done = self.xenfs(*words)
        assert done.returncode == 1, done
        return done.stderr.strip()

    def spawn_in(self, pid: int, *words: str) -> subprocess.Popen[bytes]:
        """The same in the network namespace of a process."""
        return self.spawn(*words, preexec_fn=lambda: join_net(pid))

    def spawn(self, *words: str, **more: object) -> subprocess.Popen[bytes]:
        """A process that says `ok` on its --ready-fd when it is ready."""
        reader, writer = os.pipe()
        try:
            with (self.folder / "log").open("ab") as log:
                process: subprocess.Popen[bytes] = subprocess.Popen(
                    [sys.executable, *words, "--ready-fd", str(writer)],
                    env=self.environment,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    pass_fds=[writer],
                    start_new_session=True,
                    **more,  # type: ignore[call-overload]
                )
            self.processes.append(process)
            os.close(writer)
            writer = -1
            assert select.select([reader], [], [], SECONDS)[0]
            assert os.read(reader, 100) == b"ok", self.log()
        finally:
            os.close(reader)
            if writer >= 0:
                os.close(writer)
        return process

    def devd(self, domid: int = 0, **more: object) -> subprocess.Popen[bytes]:
        return self.spawn("-m", "xenfs", "devd", "-F", "--domain", str(domid), **more)

    def guest(self, name: str = "", *, memory: int = 4, **settings: object) -> int:
        """A running guest, made in this process; memory in MiB."""
        name = name or f"guest{len(self.domids())}"
        config = GuestConfig(name=name, memory=memory, **settings)  # type: ignore[arg-type]
        domid = toolstack.create(self.root, self.point, config)
        toolstack.start(self.point, domid)
        return domid

    def domids(self) -> list[int]:
        return sorted(int(path.name) for path in Path(self.point, "domains").iterdir())

    def attach(self, device: Device, **back: str) -> DeviceSpec:
        wanted = DeviceSpec(device, back=back)
        spec.add(self.store, wanted)
        spec.wait_ready(self.store, wanted)
        return wanted

    def states(self, device: Device) -> tuple[S | None, S | None]:
        return read_state(self.store, device.frontend_path), read_state(self.store, device.backend_path)

    def until_states(self, device: Device, front: S, back: S) -> None:
        until(lambda: self.states(device) == (front, back), SECONDS)

    def until_connected(self, device: Device) -> None:
        self.until_states(device, S.Connected, S.Connected)

    def until_echoes(self, device: Device, more: int = 3) -> None:
        """Until requests come back."""
        path = Path(self.point, "domains", str(device.domid), "rings", f"{device.kind}-{device.id}-ring")

        def answered() -> int:
            with suppress(OSError):
                return int.from_bytes(path.read_bytes()[8:12], "little")
            return 0

        seen = [answered()]

        def moved() -> bool:
            if (now := answered()) != seen[-1]:
                seen.append(now)
            if len(seen) > 1 and seen[-1] < seen[-2]:
                del seen[:-1]  # another ring
            return len(seen) > more

        until(moved, SECONDS)

    def pids(self, what: str) -> list[int]:
        """Processes of ours, by a module that they run or by how a driver's process is called; oldest first."""
        found = []
        for home in Path("/proc").iterdir():
            if home.name.isdigit():
                with suppress(OSError):
                    words = (home / "cmdline").read_bytes().split(b"\0")
                    environment = (home / "environ").read_bytes().split(b"\0")
                    name = (home / "comm").read_text(errors="replace").strip()
                    ours = f"XEN={self.point}".encode() in environment or self.point.encode() in words
                    driver = name.startswith(("device/", "backend/"))
                    if ours and (name.startswith(what) if driver else what.encode() in words):
                        found.append(int(home.name))
        return sorted(found)

    def one(self, module: str) -> int:
        """The one process that runs a module, as soon as it does."""
        until(lambda: len(self.pids(module)) == 1, SECONDS)
        return self.pids(module)[0]

    def kill(self, module: str) -> None:
        """kill -9 of all that run a module, and wait until they are gone."""
        for pid in self.pids(module):
            with suppress(ProcessLookupError):
                pidfd = os.pidfd_open(pid)
                os.kill(pid, signal.SIGKILL)
                assert select.select([pidfd], [], [], SECONDS)[0]
                os.close(pidfd)

    def log(self) -> str:
        path = self.folder / "log"
        return path.read_text() if path.exists() else ""

    def held(self) -> list[str]:
        """What is still in use anywhere, without domain 0's own handle."""
        lines = Path(self.point, "hypervisor/frames").read_text().splitlines()[1:-1]
        return [line for line in lines if line.split()[3:6] != ["0", "0", "0"] or line.split()[1] == "dying"]

    def until_clean(self, allowed: Callable[[], bool] = lambda: True) -> None:
        """Until nothing is granted, mapped, dying."""
        until(lambda: not self.held() and allowed(), SECONDS)

    def close(self) -> None:
        """End everything, and see that nothing is left."""
        try:
            for domid in self.domids():
                if domid:
                    toolstack.destroy(self.root, self.point, domid, log=lambda _line: None)
            for process in self.processes:
                process.terminate()
            for process in self.processes:
                process.wait(SECONDS)
            self.until_clean()
            ports = Path(self.point, "domains/0/evtchn")
            until(lambda: not list(ports.iterdir()), SECONDS)
            assert self.left() == []
            assert self.mount.rest(), "the daemon is dead"
        finally:
            for process in self.processes:
                with suppress(OSError):
                    process.kill()
            for module in ("xl.keeper", "xl.guest"):
                self.kill(module)
            self.root.close()
            self.mount.close()

    def left(self) -> list[int]:
        """Processes that still use this machine."""
        deadline = time.monotonic() + SECONDS
        modules = ("xl.keeper", "xl.guest", "device/", "backend/")
        while (found := [pid for module in modules for pid in self.pids(module)]) and time.monotonic() < deadline:
            select.select([], [], [], 0.02)
        return found
