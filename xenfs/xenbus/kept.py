"""Descriptors that outlive a driver: its supervisor keeps them, and whoever is the driver next has them again.

So what a file holds, such as an interface of the kernel, is not taken down and made anew when a driver is killed; and
it goes when the device goes, or the supervisor. A driver without a supervisor has nobody who keeps anything.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping

VARIABLE = "XENFS_KEPT"
"""The driver's end of the supervisor's socket, then `name=descriptor` for each that is kept."""
_NAME_MAX = 64


def describe(fd: int, kept: Mapping[str, int]) -> str:
    """The value of the variable."""
    return " ".join([str(fd), *(f"{name}={number}" for name, number in kept.items())])


def inherited(name: str) -> int | None:
    """The descriptor of that name that an earlier driver of the device left. It is the caller's now, and nobody else's:
    asked again there is none."""
    words = os.environ.get(VARIABLE, "").split()
    for word in words[1:]:
        said, _, number = word.partition("=")
        if said == name:
            os.environ[VARIABLE] = " ".join(other for other in words if other != word)
            return int(number)
    return None


def keep(name: str, fd: int) -> None:
    """Have the supervisor keep a descriptor for the next driver, from now on."""
    words = os.environ.get(VARIABLE, "").split()
    if words:
        with socket.socket(fileno=os.dup(int(words[0]))) as supervisor:
            socket.send_fds(supervisor, [name.encode()[:_NAME_MAX]], [fd])


def take(ours: socket.socket) -> tuple[str, int] | None:
    """What a driver wants kept: its name, and the descriptor, which is the caller's; None when it will send no more."""
    name, fds, _, _ = socket.recv_fds(ours, _NAME_MAX, 1)
    if not fds:
        return None
    os.set_inheritable(fds[0], False)
    return name.decode("ascii", "replace"), fds[0]
