"""A machine with a devd and guests that have disks."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from xl import kinds, spec

from tests.mounted.mount import until
from tests.toolstack.stage import SECONDS, Stage
from xenfs.abi.stats import Stats
from xenfs.domain import Refused
from xenfs.xenbus import Device


class Yard:
    """The machine."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.held = ExitStack()
        self.stage = Stage(folder)
        self.held.callback(self.stage.close)
        self.stage.mount.arm(900)
        self.devd = self.stage.devd()
        self._guest = 0

    def image(self, size: int, name: str = "image") -> Path:
        """A sparse file."""
        path = self.folder / name
        with path.open("wb") as file:
            file.truncate(size)
        return path

    def guest(self) -> int:
        """The one guest, made when first asked for."""
        if not self._guest:
            self._guest = self.stage.guest(memory=16)
        return self._guest

    def attach(self, domid: int, line: str) -> Device:
        """A disk for a guest, connected."""
        wanted = kinds.parse("vbd", line, domid, 0, int)
        spec.add(self.stage.store, wanted)
        spec.wait_ready(self.stage.store, wanted)
        self.stage.until_connected(wanted.device)
        return wanted.device

    def said(self, device: Device, name: str) -> str:
        """A key of the frontend's."""
        with suppress(Refused):
            return self.stage.store.read(f"{device.frontend_path}/{name}").decode()
        return ""

    def file(self, device: Device) -> Path:
        """The disk as a file."""
        return Path(self.said(device, "xenfs-file"))

    def node(self, device: Device) -> str:
        """The disk as a block device."""
        found = self.said(device, "xenfs-device")
        assert found.startswith("/dev/loop"), found
        return found

    def back(self, device: Device) -> int:
        """The blkback of a disk, when there is one."""
        return self._one(f"backend/vbd/{device.domid}/{device.id}"[:15])

    def front(self) -> int:
        """The one blkfront, when there is one."""
        return self._one("device/vbd/")

    def _one(self, name: str) -> int:
        found: list[int] = []

        def there() -> bool:
            found[:] = self.stage.pids(name)
            return len(found) == 1

        until(there, SECONDS)
        return found[0]

    def kill_back(self, device: Device) -> None:
        """kill -9, and until another is connected."""
        pid = self.back(device)
        os.kill(pid, signal.SIGKILL)
        until(lambda: self.back(device) != pid, SECONDS)
        self.stage.until_connected(device)

    def stats(self, domid: int, name: str) -> Stats:
        return Stats.parse(Path(self.stage.point, "domains", str(domid), "rings", name).read_bytes())

    def back_stats(self, device: Device) -> Stats:
        return self.stats(0, f"vbd-{device.domid}-{device.id}-stats")

    def front_stats(self, device: Device) -> Stats:
        return self.stats(device.domid, f"vbd-{device.id}-stats")

    def detach(self, device: Device) -> None:
        """In order."""
        assert spec.detach(self.stage.store, [device]) == []

    def close(self) -> None:
        """End everything; no loop device or mount is left."""
        with self.held:
            for domid in self.stage.domids():
                spec.detach(self.stage.store, spec.attached(self.stage.store, domid, "vbd"))
            until(lambda: not self.leftover(), SECONDS)

    def leftover(self) -> list[str]:
        """Mounts and loop devices of this machine."""
        mounts = [
            line for line in Path("/proc/self/mounts").read_text().splitlines() if f"{self.stage.point}.run" in line
        ]
        loops = []
        for backing in Path("/sys/class/block").glob("loop*/loop/backing_file"):
            with suppress(OSError):
                if f"{self.stage.point}.run" in (said := backing.read_text()):
                    loops.append(said)
        return mounts + loops


def run(*words: str, seconds: float = 60, **more: object) -> str:
    """A command that works on the disk: in a process of its own, killed when it takes too long; its output."""
    line = ["timeout", "-s", "KILL", str(seconds), *words]
    done = subprocess.run(line, capture_output=True, text=True, check=False, **more)  # type: ignore[call-overload]
    assert done.returncode == 0, f"{' '.join(words)}: {done.returncode}: {done.stdout[-2000:]}{done.stderr[-2000:]}"
    return str(done.stdout)


def _alone(node: str, script: str, options: str) -> list[str]:
    """In mounts of its own: what is mounted where all can see it is copied into whatever namespace somebody makes
    meanwhile, and is then not unmounted by umount.
    """
    return ["unshare", "-m", "sh", "-e", "-c", f"mount {options} {node} /mnt; {script}; umount /mnt"]


def in_mount(node: str, script: str, options: str = "") -> str:
    """Have the filesystem of a disk at /mnt while a shell script runs, whose output this is."""
    return run(*_alone(node, script, options))


@contextmanager
def holding(node: str, script: str) -> Iterator[None]:
    """Have it there from before a shell script runs until this is over."""
    words = _alone(node, f"{script}; echo ok; read x", "")
    user = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert user.stdout is not None
        assert user.stdout.readline() == b"ok\n"
        yield
    finally:
        user.communicate(b"\n", timeout=20)
    assert user.returncode == 0


def python(code: str, *words: str, seconds: float = 60) -> str:
    """A program of Python that works on the disk."""
    return run(sys.executable, "-c", code, *words, seconds=seconds)
