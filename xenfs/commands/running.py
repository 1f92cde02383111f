"""Where the processes of guests and of devd leave their traces: `$XEN.run` beside the mount, of the mount's owner."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
import subprocess
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from xenfs.commands.child import ready
from xenfs.commands.failure import Unable


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
        if not self.path.is_dir() or not self.owned:
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
        self.top()
        path = self.path / name
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(fd)
            if error.errno not in (errno.EAGAIN, errno.EACCES):
                raise
            return None
        os.ftruncate(fd, 0)
        os.write(fd, b"%d\n" % os.getpid())
        return fd

    def release(self, name: str) -> None:
        """Forget a process that ends: its pid, its log if nothing is in it, and the directory if it was the last."""
        with suppress(OSError):
            (self.path / f"{name}.pid").unlink()
            if (self.path / f"{name}.log").stat().st_size == 0:
                (self.path / f"{name}.log").unlink()
        with suppress(OSError):
            self.path.rmdir()

    def holder(self, name: str) -> int | None:
        """The process that holds a file; None when there is none any more."""
        try:
            fd = os.open(self.path / name, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except OSError:
            return None
        try:
            fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            said = os.read(fd, 32).strip()
            return int(said) if said.isdigit() else None
        finally:
            os.close(fd)
        return None

    def write(self, domid: int, name: str, value: Any) -> None:
        """Keep a value for a guest."""
        (self.guest(domid) / name).write_text(json.dumps(value))

    def read(self, domid: int, name: str) -> Any:
        """A value kept for a guest; None when there is none."""
        try:
            return json.loads((self.guest(domid) / name).read_text())
        except (OSError, ValueError):
            return None
