"""Where the processes of guests and of devd leave their traces: `$XEN.run` beside the mount, of the mount's owner."""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from xenfs.commands.child import ready
from xenfs.commands.failure import Unable
from xenfs.locks import lock, locked

_HELD, _SAID = 0, 1
"""Bytes of a file that its process locks: at first, and when its pid is there."""


def _ends(pid: int, seconds: float) -> bool:
    """Wait for a process to end; False when it does not."""
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return ready(pidfd, max(0.0, seconds))
    finally:
        os.close(pidfd)


class RunDirectory:
    """Files of running processes. A pid counts only while its process holds the lock on its file."""

    def __init__(self, point: str) -> None:
        """Of the machine at `point`."""
        self.point, self.path = point, Path(f"{point}.run")

    def guest(self, domid: int) -> Path:
        """Where a guest's files are."""
        return self.path / str(domid)

    def make(self, domid: int) -> Path:
        """Make a guest's directory, empty."""
        self.forget(domid)
        self.top()
        self.guest(domid).mkdir(mode=0o700)
        return self.guest(domid)

    @property
    def owned(self) -> bool:
        """Whether the directory is ours, or may become so."""
        if self.path.exists():
            return self.path.stat().st_uid == os.geteuid()
        return os.access(self.path.parent, os.W_OK)

    def top(self) -> Path:
        """The directory, made when missing. Raises Unable when it is somebody else's."""
        self.path.mkdir(mode=0o755, exist_ok=True)
        found = self.path.lstat()
        if found.st_uid != os.geteuid() or self.path.is_symlink():
            raise Unable(f"{self.path}: it belongs to somebody else")
        return self.path

    def forget(self, domid: int) -> None:
        """Remove a guest's directory, and ours with the last. Its disks may still be mounted there, by the dead."""
        self.unmount(str(domid))
        shutil.rmtree(self.guest(domid), ignore_errors=True)
        with suppress(OSError):
            self.path.rmdir()

    def unmount(self, domid: str = "*") -> None:
        """Unmount the disks of a guest, or of all, that has ended without doing so."""
        for folder in self.path.glob(f"{domid}/disk-*"):
            subprocess.run(["fusermount", "-uzq", str(folder)], check=False, stderr=subprocess.DEVNULL)

    def clear(self, seconds: float = 0.0) -> None:
        """Remove everything, when there is no machine any more and its processes have ended, for which it waits so
        long; while there is one of them everything stays, and what is somebody else's in any case."""
        try:
            found = self.path.lstat()
        except OSError:
            return
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
            return
        deadline = time.monotonic() + seconds
        for file in self.path.glob("**/*.pid"):
            pid = self.holder(str(file.relative_to(self.path)))
            if pid is not None and not _ends(pid, deadline - time.monotonic()):
                return
        self.unmount()
        shutil.rmtree(self.path, ignore_errors=True)

    def hold(self, name: str) -> int | None:
        """Write our pid into a file and lock it for as long as this process lives; None when another process has it."""
        fd = self._locked(name)
        if fd is None:
            return None
        os.ftruncate(fd, 0)
        os.write(fd, b"%d\n" % os.getpid())
        lock(fd, start=_SAID, length=1)
        return fd

    def _locked(self, name: str) -> int | None:
        while True:
            self.top()
            fd = os.open(self.path / name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
            try:
                free, there = lock(fd, start=_HELD, length=1), os.fstat(fd).st_nlink > 0
            except BaseException:
                os.close(fd)
                raise
            if free and there:
                return fd
            os.close(fd)
            if not free:
                return None  # else whoever had it has taken it away, since we opened it

    def release(self, name: str) -> None:
        """Forget a process that ends: its pid, its log if nothing is in it, and the directory if it was the last."""
        with suppress(OSError):
            (self.path / f"{name}.pid").unlink()
            if (self.path / f"{name}.log").stat().st_size == 0:
                (self.path / f"{name}.log").unlink()
        with suppress(OSError):
            self.path.rmdir()

    def holder(self, name: str) -> int | None:
        """The process that holds a file; None when there is none any more. Looking is in nobody's way."""
        try:
            fd = os.open(self.path / name, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except OSError:
            return None
        try:
            said = os.read(fd, 32).strip() if locked(fd, _SAID, 1) else b""
            return int(said) if said.isdigit() else None
        finally:
            os.close(fd)

    def died(self, name: str) -> bool:
        """Whether there was a process that held a file, and there is none any more."""
        return (self.path / name).exists() and self.holder(name) is None

    def write(self, domid: int, name: str, value: Any) -> None:
        """Keep a value for a guest."""
        (self.guest(domid) / name).write_text(json.dumps(value))

    def read(self, domid: int, name: str) -> Any:
        """A value kept for a guest; None when there is none."""
        try:
            return json.loads((self.guest(domid) / name).read_text())
        except (OSError, ValueError):
            return None
