"""The packets of a device into a file: what its backend sends to a socket that it is told of in its own nodes."""

from __future__ import annotations

import os
import select
import signal
import socket
import sys
import tempfile
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import BinaryIO

from xenfs.commands.failure import Unable
from xenfs.commands.machine import frames, within
from xenfs.domain import Refused
from xenfs.domain.mounted import MountedDomain
from xenfs.sockets import short

ANSWER_SECONDS = 5.0
_LARGEST = 1 << 18
_BUFFER = 16 << 20


def backend_path(point: str, device: str, root: MountedDomain) -> str:
    """The backend's directory of `[KIND/]DOMID|NAME/N`, as the toolstack knows it. Raises Unable."""
    kind, *words = device.split("/") if device.count("/") == 2 else ["vif", *device.split("/")]
    if len(words) != 2 or not (words[1].isascii() and words[1].isdigit()):
        raise Unable(f"{device!r}: a device is called DOMID/N or KIND/DOMID/N, as vif/1/0")
    which, number = words
    domid = next((str(d.domid) for d in within(point, lambda: frames(point)).domains if d.name == which), which)
    try:
        return root.store.read(f"/libxl/{domid}/device/{kind}/{number}/backend").decode()
    except Refused:
        raise Unable(f"domain {which} has no {kind} {number}") from None


@contextmanager
def listening(root: MountedDomain, point: str, backend: str) -> Iterator[socket.socket]:
    """A socket that the backend sends to for as long as this lasts."""
    node = f"{backend}/capture"
    with (
        tempfile.TemporaryDirectory(prefix="xenfs-capture-") as home,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ours,
    ):
        path = f"{home}/socket"
        with short(path) as address:
            ours.bind(address)
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER)
        owner = Path(point, "domains", backend.split("/")[3]).stat()
        for place in (home, path):
            os.chown(place, owner.st_uid, owner.st_gid)  # a driver domain's user, of whom we have the right to be
        if root.store.exists(node):
            raise Unable(f"{node} is there: somebody else captures; if not, xenfs store rm {node}")
        root.store.write(node, path)
        try:
            yield ours
        finally:
            with suppress(Refused):
                root.store.rm(node)


def write(point: str, device: str, file: BinaryIO, *, until: int) -> None:
    """Write packets to a file until the descriptor `until` is readable. Raises Unable."""
    with MountedDomain(0, point) as root, listening(root, point, backend_path(point, device, root)) as ours:
        poller = select.poll()
        for fd in (ours.fileno(), until, root.gone_fd):
            poller.register(fd, select.POLLIN)
        patience: float | None = ANSWER_SECONDS * 1000
        while True:
            ready = {fd for fd, _ in poller.poll(patience)}
            if not ready:
                raise Unable(f"{device}: its backend does not answer: is it connected, and can it capture?")
            if ours.fileno() in ready:
                patience = None
                file.write(ours.recv(_LARGEST))
                file.flush()
            elif until in ready or root.gone_fd in ready:
                return


def _opened(target: str) -> AbstractContextManager[BinaryIO]:
    return nullcontext(sys.stdout.buffer) if target == "-" else Path(target).open("wb")


def capture(point: str, device: str, target: str) -> None:
    """Capture until Ctrl-C or SIGTERM, into a file, or stdout for `-`. Raises Unable, OSError."""
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    before = signal.set_wakeup_fd(theirs.fileno(), warn_on_full_buffer=False)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: None)
    try:
        with ours, theirs, _opened(target) as file, suppress(BrokenPipeError):  # whoever read it has seen enough
            write(point, device, file, until=ours.fileno())
    finally:
        signal.set_wakeup_fd(before)
