"""What xenfs needs of the system, as a table. A row looks at one thing and knows the command that mends it."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from xenfs.commands.looks import (
    Look,
    capability,
    descriptors,
    device,
    library,
    line_in,
    number,
    package,
    program,
    version,
    writable,
)

CAP_SYS_ADMIN = 21
PACKAGES = Path(__file__).parents[1] / "debian-packages.txt"


@dataclass(frozen=True, slots=True)
class Check:
    """One row. `needed`: without it there is no mount, else something is slower or refused, as `why` says.

    `users`: a question for ordinary users only, `root`: for root only.
    """

    name: str
    look: Look
    mend: str
    needed: bool = False
    why: str = ""
    users: bool = True
    root: bool = True

    def applies(self, uid: int) -> bool:
        """Whether the question is one for this user."""
        return self.users if uid else self.root

    def problem(self) -> str | None:
        """What is wrong, and what that means."""
        wrong = self.look()
        return wrong and (f"{wrong}: {self.why}" if self.why else wrong)


def packages(path: Path = PACKAGES) -> Iterable[Check]:
    """A row for each package of the list, with what it is for."""
    for line in path.read_text().splitlines():
        if line and not line.startswith("#"):
            name, what = line.split(None, 1)
            yield Check(f"package {name}", package(name), f"apt-get install {name}", why=what)


MOUNT: tuple[Check, ...] = (
    Check("/dev/fuse", device("/dev/fuse"), "modprobe fuse; chmod 666 /dev/fuse", needed=True),
    Check(
        "CAP_SYS_ADMIN", capability(CAP_SYS_ADMIN), "docker run --cap-add SYS_ADMIN --device /dev/fuse",
        needed=True, users=False,
    ),
    Check("libfuse.so.2", library("libfuse.so.2"), "apt-get install libfuse2", needed=True),
    Check("fusermount", program("fusermount", "fusermount3"), "apt-get install fuse3", needed=True, root=False),
)  # fmt: skip
"""Without these there is no mount; `xenfs mount` asks them first."""

SYSTEM: tuple[Check, ...] = (
    Check("libatomic.so.1", library("libatomic.so.1"), "apt-get install libatomic1", needed=True),
    Check("python", version("python", platform.python_version(), (3, 10)), "apt-get install python3", needed=True),
    Check("kernel", version("kernel", platform.release(), (5, 4)), "boot a newer kernel", needed=True),
    Check(
        "/dev/net/tun", device("/dev/net/tun"), "modprobe tun", why="guests have no network cards", users=False,
    ),
    Check(
        "/dev/loop-control", device("/dev/loop-control"), "modprobe loop",
        why="a guest's disk is a file only", users=False,
    ),
    Check(
        "user_allow_other", line_in("/etc/fuse.conf", "user_allow_other"), "echo user_allow_other >> /etc/fuse.conf",
        why="only its owner can enter a mount", root=False,
    ),
    Check(
        "RLIMIT_NOFILE", descriptors(16384), "ulimit -Hn 65536",
        why="the daemon holds a descriptor for each port",
    ),
    Check(
        "vm.max_map_count", number("/proc/sys/vm/max_map_count", least=65530), "sysctl vm.max_map_count=262144",
        why="a process maps each page by itself",
    ),
    Check(
        "kernel.yama.ptrace_scope", number("/proc/sys/kernel/yama/ptrace_scope", most=0),
        "sysctl kernel.yama.ptrace_scope=0", why="ioctls by Xen's own numbers are refused", root=False,
    ),
    Check(
        "kernel.yama.ptrace_scope", number("/proc/sys/kernel/yama/ptrace_scope", most=2),
        "reboot: 3 cannot be undone", why="ioctls by Xen's own numbers are refused", users=False,
    ),
    Check(
        "fs.pipe-user-pages-soft", number("/proc/sys/fs/pipe-user-pages-soft", least=16384),
        "sysctl fs.pipe-user-pages-soft=16384", why="each port has a pipe", root=False,
    ),
    Check(
        "bdi strict_limit", writable("sys/class/bdi/*/strict_limit"), "use kernel 6.2 or newer, with /sys writable",
        why="stores to shared pages stall when very many are dirty", users=False,
    ),
    Check(
        "bdi max_ratio", writable("sys/class/bdi/*/max_ratio"), "mount -o remount,rw /sys",
        why="stores to shared pages stall when very many are dirty", users=False,
    ),
)  # fmt: skip


def table() -> list[Check]:
    """Every row."""
    return [*MOUNT, *SYSTEM, *packages()]


def obstacle(checks: Iterable[Check] = MOUNT) -> str | None:
    """The first thing without which nothing can be mounted, and how to mend it."""
    for check in checks:
        if check.applies(os.geteuid()) and (problem := check.problem()):
            return f"{check.name}: {problem}; to mend it: {check.mend}"
    return None
