"""Descriptors that outlive a driver: its supervisor keeps them, and whoever is the driver next has them again.

So what a file holds, such as an interface of the kernel, is not taken down and made anew when a driver is killed; and
it goes when the device goes, or the supervisor. A driver without a supervisor has nobody who keeps anything.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress

VARIABLE = "XENFS_KEPT"
"""The driver's end of the supervisor's socket, then `name=descriptor` for each that is kept."""
_NAME_MAX, _PATIENCE = 64, 5.0


def describe(fd: int, kept: Mapping[str, int]) -> str:
    """The value of the variable."""
    return " ".join([str(fd), *(f"{name}={number}" for name, number in kept.items())])


def inherited(name: str) -> int | None:
    """The descriptor of that name that an earlier driver of the device left. It is the caller's now, and nobody else's:
    asked again there is none."""
    words = os.environ.get(VARIABLE, "").split()
    for word in words[1:]:
        said, _, number = word.rpartition("=")
        if said == name:
            os.environ[VARIABLE] = " ".join(other for other in words if other != word)
            return int(number)
    return None


@contextmanager
def _supervisor() -> Iterator[socket.socket | None]:
    words = os.environ.get(VARIABLE, "").split()
    if not words:
        yield None
        return
    with socket.socket(fileno=os.dup(int(words[0]))) as supervisor:
        supervisor.settimeout(_PATIENCE)
        yield supervisor


def keep(name: str, fd: int) -> None:
    """Have the supervisor keep a descriptor for the next driver, from now on. Raises OSError."""
    with _supervisor() as supervisor:
        if supervisor is not None:
            socket.send_fds(supervisor, [name.encode()[:_NAME_MAX]], [fd])


def drop(name: str) -> None:
    """Have the supervisor let go of a descriptor, and wait until it has; one that is dead has."""
    with _supervisor() as supervisor, suppress(OSError):
        if supervisor is not None:
            supervisor.send(name.encode()[:_NAME_MAX])
            supervisor.recv(1)


def leave_none() -> None:
    """Let go of all that an earlier driver left and this one has not asked for, and have the supervisor do so too."""
    first, *words = os.environ.get(VARIABLE, "").split() or [""]
    for word in words:
        name, _, number = word.rpartition("=")
        os.close(int(number))
        drop(name)
    if words:
        os.environ[VARIABLE] = first


def take(ours: socket.socket, into: dict[str, int]) -> bool:
    """Do what a driver wants with the descriptors that are kept of it; False when it will want no more."""
    try:
        said, fds, _, _ = socket.recv_fds(ours, _NAME_MAX, 1)
    except ConnectionResetError:
        return True  # it has died without having read an answer; there may be more that it said
    name = said.decode("ascii", "replace")
    if (old := into.pop(name, None)) is not None:
        os.close(old)
    if fds:
        os.set_inheritable(fds[0], False)
        into[name] = fds[0]
    elif said:
        with suppress(OSError):
            ours.send(b"\0")
    return bool(said)
