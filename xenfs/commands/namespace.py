"""A private view of /dev, by a mount namespace (mount_namespaces(7), user_namespaces(7))."""

from __future__ import annotations

import ctypes as C  # noqa: N812 - the customary short name for a module of C declarations
import errno
import os
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from xenfs.commands.failure import Unable

CLONE_NEWNS, CLONE_NEWUSER, CLONE_NEWNET = 0x20000, 0x10000000, 0x40000000
MS_NOSUID, MS_NOEXEC, MS_BIND, MS_MOVE, MS_REC, MS_SLAVE = 0x2, 0x8, 0x1000, 0x2000, 0x4000, 0x80000
_HOST, _PARTITIONS = ".host", 15
"""Where the host's /dev is beside a guest's disks, which are links into it; and how many partitions a disk may have."""
_LIBC = C.CDLL(None, use_errno=True)
_LIBC.mount.argtypes = (C.c_char_p, C.c_char_p, C.c_char_p, C.c_ulong, C.c_char_p)


def _check(result: int, what: str) -> None:
    if result:
        code = C.get_errno()
        raise OSError(code, os.strerror(code), what)


def mount(source: str, target: str, kind: str = "", flags: int = 0, options: str = "") -> None:
    """mount(2). Raises OSError with the target."""
    words = (os.fsencode(word) if word else None for word in (source, target, kind))
    _check(_LIBC.mount(*words, flags, options.encode() or None), target)


def separate() -> None:
    """Give this process mounts of its own; without root in a user namespace in which its user is what it was.

    Raises Unable with the reason where the system does not allow that.
    """
    uid, gid = os.geteuid(), os.getegid()
    try:
        if uid == 0:
            _check(_LIBC.unshare(CLONE_NEWNS), "mount namespace")
        else:
            _check(_LIBC.unshare(CLONE_NEWUSER | CLONE_NEWNS), "user namespace")
            for name, text in (("setgroups", "deny"), ("uid_map", f"{uid} {uid} 1"), ("gid_map", f"{gid} {gid} 1")):
                Path("/proc/self", name).write_text(text)
        mount("", "/", flags=MS_REC | MS_SLAVE)  # what the host unmounts is not to stay in use here
    except OSError as error:
        raise Unable(f"no {error.filename or 'namespace'}: {error.strerror}{_why(error.errno, uid)}", 125) from error


def unshare_net() -> None:
    """Give this process a network namespace of its own. Raises OSError."""
    _check(_LIBC.unshare(CLONE_NEWNET), "network namespace")


def join_net(pid: int) -> None:
    """Be in the network namespace of a process. Raises Unable."""
    try:
        fd = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        try:
            _check(_LIBC.setns(fd, CLONE_NEWNET), "network namespace")
        finally:
            os.close(fd)
    except OSError as error:
        raise Unable(f"the guest's network namespace: {error.strerror}", 125) from error


def _why(code: int | None, uid: int) -> str:
    if uid == 0:
        return "; it needs CAP_SYS_ADMIN" if code == errno.EPERM else ""
    limits = {
        "/proc/sys/kernel/apparmor_restrict_unprivileged_userns": ("1", "=0"),
        "/proc/sys/kernel/unprivileged_userns_clone": ("0", "=1"),
        "/proc/sys/user/max_user_namespaces": ("0", "=65536"),
    }
    for path, (bad, mend) in limits.items():
        with suppress(OSError):
            if Path(path).read_text().strip() == bad:
                name = path.removeprefix("/proc/sys/").replace("/", ".")
                return f"; sysctl {name}{mend} allows it, or be root"
    return "; be root"


def _copy(source: os.DirEntry[str], place: str) -> None:
    """Show an entry of the host's /dev in another place."""
    target = f"{place}/{source.name}"
    if source.is_symlink():
        Path(target).symlink_to(Path(source.path).readlink())
    elif source.is_dir(follow_symlinks=False):
        Path(target).mkdir()
        mount(source.path, target, flags=MS_BIND | MS_REC)
    else:
        Path(target).touch()
        mount(source.path, target, flags=MS_BIND)


def _link_disks(place: str, disks: Mapping[str, str]) -> None:
    """Have disks under the names that they have in the guest, with the partitions that they have or will have."""
    Path(f"{place}/{_HOST}").mkdir()
    mount("/dev", f"{place}/{_HOST}", flags=MS_BIND | MS_REC)
    for name, target in _disk_links(disks).items():
        Path(f"{place}/{name}").symlink_to(f"{_HOST}/{target}")


def _disk_links(disks: Mapping[str, str]) -> dict[str, str]:
    """The names of disks and of their partitions, and of the host's devices behind them."""
    found: dict[str, str] = {}
    for name, device in disks.items():
        node = Path(device).name
        found |= {f"{name}{part}": f"{node}p{part}" for part in range(1, _PARTITIONS + 1)} | {name: node}
    return found


def replace_dev(devices: str, disks: Mapping[str, str]) -> None:
    """Put a directory of devices at /dev/xen, beside the host's own nodes: in this namespace only. `disks`: the host's
    block devices by the names that they are to have, also where the host has such a name. Raises OSError.
    """
    place, taken = tempfile.mkdtemp(prefix="xenfs-dev-"), {"xen", _HOST, *_disk_links(disks)}
    try:
        mount("xenfs-dev", place, "tmpfs", MS_NOSUID | MS_NOEXEC, "mode=755,size=64k")
        with os.scandir("/dev") as entries:
            for entry in sorted(entries, key=lambda e: e.name):
                if entry.name not in taken:
                    _copy(entry, place)
        target = f"{place}/xen"
        Path(target).mkdir()
        mount(devices, target, flags=MS_BIND)
        if disks:
            _link_disks(place, disks)
        mount(place, "/dev", flags=MS_MOVE)
    finally:
        with suppress(OSError):
            Path(place).rmdir()
