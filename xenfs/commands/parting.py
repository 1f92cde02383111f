"""Taking a mount away: finding its daemon and its users, waiting for it to go, clearing what is left."""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import shutil
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

from xenfs.commands.escapes import sanitised
from xenfs.commands.failure import Unable
from xenfs.commands.place import MOUNTINFO, Mount, mounted_at, mounts

END_SECONDS = 10.0
_MNT_FORCE, _MNT_DETACH, _UMOUNT_NOFOLLOW = 1, 2, 8  # <sys/mount.h>


def _serves(pid: int, mount: Mount) -> bool:
    """Whether the process is a FUSE server of the mount's user: a file of someone's mount must not name our victim."""
    with contextlib.suppress(OSError):
        home = Path("/proc", str(pid))
        if mount.user is not None and home.stat().st_uid != mount.user:
            return False
        for fd in (home / "fd").iterdir():
            with contextlib.suppress(OSError):
                if str(fd.readlink()) == "/dev/fuse":
                    return True
    return False


def find_daemon(mount: Mount, pid: int | None) -> tuple[int, int] | None:
    """The pid of the mount's daemon, which is looked for when it is not known, and a pidfd; None when there is none."""
    for candidate in _served_by(mount.point) if pid is None else [pid]:
        with contextlib.suppress(ProcessLookupError):
            pidfd = os.pidfd_open(candidate)
            if _serves(candidate, mount):
                return candidate, pidfd
            os.close(pidfd)
    return None


def _served_by(point: str) -> list[int]:
    found = []
    for home in _processes():
        with contextlib.suppress(OSError):
            words = (home / "cmdline").read_bytes().split(b"\0")
            if b"xenfs.daemon" in words and os.fsencode(point) in words:
                found.append(int(home.name))
    return found


def _processes() -> list[Path]:
    return [home for home in Path("/proc").iterdir() if home.name.isdigit()]


def wait_gone(mount: Mount, pidfd: int, seconds: float = END_SECONDS) -> bool:
    """Wait until the mount is gone and its daemon has ended; False when that does not come about."""
    deadline = time.monotonic() + seconds
    with Path(MOUNTINFO).open("rb") as table:
        poller = select.poll()
        poller.register(table, select.POLLPRI)  # a change of the mounts is an error and an urgent event
        poller.register(pidfd, select.POLLIN)
        alive = True
        while True:
            there = any(m.id == mount.id for m in mounts())
            left = deadline - time.monotonic()
            if not alive or left <= 0:
                return not there and not alive
            alive = all(fd != pidfd for fd, _ in poller.poll(left * 1000))


def clear(mount: Mount, *, abort: bool = False) -> None:
    """Take a mount away though it may be in use; `abort` also ends what waits for its daemon.

    The store's socket, which a daemon that was killed leaves behind, goes too. Raises Unable, OSError.
    """
    with contextlib.suppress(OSError):
        if (socket := Path(f"{mount.point}.sock")).is_socket():
            socket.unlink()
    if os.geteuid() == 0:
        flags = _MNT_DETACH | _UMOUNT_NOFOLLOW | (_MNT_FORCE if abort else 0)
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.umount2(os.fsencode(mount.point), flags) != 0 and mounted_at(mount.point):
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), mount.point)
        return
    program = shutil.which("fusermount3") or shutil.which("fusermount")
    if program is None:
        raise Unable("fusermount is not installed: apt-get install fuse3")
    done = subprocess.run([program, "-u", "-z", mount.point], capture_output=True, text=True, check=False)
    if done.returncode != 0 and mounted_at(mount.point):
        raise Unable(done.stderr.strip().removeprefix("fusermount3: ").removeprefix("fusermount: "))


def users(mount: Mount, *, besides: Sequence[int] = ()) -> list[str]:
    """The processes that use a mount, as `pid (name)`: as far as we may look, and without touching the mount."""
    found = []
    for home in sorted(_processes(), key=lambda home: int(home.name)):
        if int(home.name) not in besides and any(below(path, mount.point) for path in _paths(home)):
            with contextlib.suppress(OSError):
                found.append(f"{home.name} ({sanitised((home / 'comm').read_bytes().strip()).decode()})")
    return found


def below(path: str, point: str) -> bool:
    """Whether a path is a mount's or in it."""
    return path == point or path.startswith(point + "/")


def _paths(home: Path) -> list[str]:
    paths = []
    with contextlib.suppress(OSError):
        for link in (home / "cwd", home / "root", *(home / "fd").iterdir()):
            with contextlib.suppress(OSError):
                paths.append(str(link.readlink()))
        for line in (home / "maps").read_text(errors="surrogateescape").splitlines():
            paths += line.split(None, 5)[5:]
    return paths
