"""Where the processes of guests and of devd leave their traces: `$XEN.run` beside the mount, of the mount's owner."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
import subprocess
from contextlib import suppress
from pathlib import Path
from typing import Any

from xenfs.commands.failure import Unable


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
        for folder in self.guest(domid).glob("disk-*"):
            subprocess.run(["fusermount", "-uzq", str(folder)], check=False, stderr=subprocess.DEVNULL)
        shutil.rmtree(self.guest(domid), ignore_errors=True)
        with suppress(OSError):
            self.path.rmdir()

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
