"""Network namespaces of a test: a process that does nothing but hold one, and sockets in it."""

from __future__ import annotations

import os
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.need import missing, need_tool
from xenfs.commands.namespace import join_net

ETH_P_ALL, SO_RCVBUFFORCE = 3, 33


def need_network() -> None:
    """Skip, or fail in CI, where no namespaces and TAPs can be had."""
    if os.geteuid() != 0:
        missing("network namespaces need root")
    if not Path("/dev/net/tun").exists():
        missing("there is no /dev/net/tun: modprobe tun")
    for tool, package in (("ip", "iproute2"), ("unshare", "util-linux"), ("nsenter", "util-linux")):
        need_tool(tool, package)


def inside(pid: int, *words: str) -> list[str]:
    """A command in a process's network namespace."""
    return ["nsenter", "-t", str(pid), "-n", *words]


def run(pid: int, *words: str) -> str:
    """Run it there; its output."""
    return subprocess.run(inside(pid, *words), check=True, capture_output=True, text=True, timeout=60).stdout


@contextmanager
def namespace() -> Iterator[int]:
    """A namespace with its loopback up: the pid of the process that holds it."""
    script = "ip link set lo up && echo ok && exec sleep infinity"
    with subprocess.Popen(["unshare", "-n", "sh", "-c", script], stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"ok\n"
            yield process.pid
        finally:
            process.kill()


@contextmanager
def listening(pid: int, interface: str) -> Iterator[socket.socket]:
    """Every frame that passes an interface of the namespace, both ways."""
    made: list[socket.socket] = []

    def make() -> None:  # in a thread, since a namespace is a thread's
        join_net(pid)
        made.append(socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL)))
        made[0].bind((interface, 0))

    thread = threading.Thread(target=make)
    thread.start()
    thread.join()
    with made[0] as found:
        found.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 1 << 24)
        found.settimeout(10)
        yield found
