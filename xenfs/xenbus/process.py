"""A driver as a process: `python -m xenecho.front 0`, as the domain that $XEN_DOMID says, of the mount at $XEN."""

from __future__ import annotations

import ctypes
import os
import signal
import sys

from xenfs.domain import Refused
from xenfs.domain.mounted import open_domain
from xenfs.xenbus.backend import Backend
from xenfs.xenbus.end import End
from xenfs.xenbus.frontend import Frontend

PARENT = "XENFS_SUPERVISOR"
"""The pid of the process that started this one, and without which it is not to go on."""
OWN_NETWORK = "XENFS_OWN_NETWORK"
"""Set for the processes of a guest that has a network namespace of its own, whose loopback is that guest's alone."""
_PR_SET_PDEATHSIG, _PR_SET_NAME = 1, 15


def die_with_parent(number: int = signal.SIGKILL) -> None:
    """End with the supervisor, if $XENFS_SUPERVISOR names one."""
    said = os.environ.get(PARENT, "")
    if said.isdigit():
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, number)
        if os.getppid() != int(said):
            sys.exit(1)


def name_process(name: str) -> None:
    """What `ps -o comm` and `top` show of this process; the first 15 bytes."""
    ctypes.CDLL(None).prctl(_PR_SET_NAME, name.encode()[:15], 0, 0, 0)


def _usage(driver: type[End]) -> str:
    words = "NUMBER" if issubclass(driver, Frontend) else "FRONTEND-DOMID NUMBER"
    return f"usage: python -m {driver.__module__} {words}   ({driver.role} of {driver.CLASS.kind}; see XEN, XEN_DOMID)"


def _make(driver: type[End], words: list[str], domid: int | None) -> End:
    wanted = 1 if issubclass(driver, Frontend) else 2
    if len(words) != wanted or not all(word.isascii() and word.isdigit() for word in words):
        sys.exit(_usage(driver))
    domain = open_domain(domid)
    numbers = [int(word) for word in words]
    if issubclass(driver, Frontend):
        return driver(domain, *numbers)
    assert issubclass(driver, Backend)
    return driver(domain, *numbers)


def main(driver: type[End], words: list[str] | None = None, domid: int | None = None) -> int:
    """Be this driver until the device is removed, or SIGTERM asks to leave in order. Gives the exit status.

    `words` are those of the command line, and the domain is $XEN_DOMID's, unless given.
    """
    die_with_parent()
    try:
        end = _make(driver, sys.argv[1:] if words is None else words, domid)
    except Refused as refused:
        print(f"{driver.__module__}: {refused.strerror}", file=sys.stderr)
        return 1
    end.loop.on_signals((signal.SIGTERM, signal.SIGINT), end.leave)
    try:
        end.run()
    except Refused as refused:
        print(f"{end!r}: {refused.strerror}", file=sys.stderr)
        return 1
    finally:
        end.domain.close()
    return 1 if end.problem and not end.leaving else 0
