"""A hundred bad clients of the socket at once, and one that works as if they were not there."""

from __future__ import annotations

import contextlib
import os
import random
import resource
import select
import socket
import struct
from pathlib import Path

import pytest

from tests.hostile.files import descriptors
from tests.mounted.doors import Door, connect
from tests.mounted.mount import Xen, until
from xenfs.abi.xs_wire import XsType as T
from xenfs.xenstore.wire import Message

pytestmark = pytest.mark.timeout(110)
OK = b"OK\0"
CLIENTS = 100


def resident(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096


def quietly(client: socket.socket, data: bytes) -> None:
    """Send what the other end may not want any more."""
    with contextlib.suppress(BlockingIOError, BrokenPipeError, ConnectionResetError):
        client.send(data, socket.MSG_DONTWAIT)


def test_a_hundred_that_lie_dribble_hoard_and_die(mnt: Xen) -> None:
    rng = random.Random(7)
    worker = Door.socket(mnt.root)
    assert worker.ask(T.READ, b"/tool\0") == b""
    before = descriptors(mnt.pid)
    read = Message(T.READ, 0, 0, b"/tool\0").emit()
    begin = Message(T.TRANSACTION_START, 0, 0, b"\0").emit()
    write = Message(T.WRITE, 0, 1, b"/bad/x\0never").emit()
    bad = [connect(mnt.root) for _ in range(CLIENTS)]
    for turn in range(60):
        for number, client in enumerate(bad):
            match number % 5:
                case 0:  # asks and never reads
                    quietly(client, read * 50)
                case 1:  # dribbles
                    quietly(client, read[turn % len(read) : turn % len(read) + 1])
                case 2:  # garbage
                    quietly(client, rng.randbytes(64))
                case 3:  # begins and never ends
                    quietly(client, begin + write)
                case 4:  # watches and never reads
                    quietly(client, Message(T.WATCH, 0, 0, b"/good\0%d\0" % turn).emit())
        assert worker.ask(T.WRITE, b"/good/%d\0%d" % (turn, turn)) == OK
        assert worker.ask(T.READ, b"/good/%d\0" % turn) == b"%d" % turn
    assert worker.ask(T.READ, b"/bad/x\0") == b"ENOENT"
    for client in bad:
        client.close()
    until(lambda: descriptors(mnt.pid) == before)
    assert worker.ask(T.RM, b"/good\0") == OK
    worker.close()


def test_one_that_never_reads_its_events_is_cut_off_and_costs_no_more(mnt: Xen) -> None:
    idle, worker = connect(mnt.root), Door.socket(mnt.root)
    idle.send(Message(T.WATCH, 0, 0, b"/good\0t\0").emit())
    for number in range(3000):
        assert worker.ask(T.WRITE, b"/good/%0900d\0" % number) == OK
        if number == 500:
            before = resident(mnt.pid)
    poller = select.poll()
    poller.register(idle, select.POLLRDHUP)
    assert poller.poll(10000)
    assert worker.ask(T.RM, b"/good\0") == OK
    assert resident(mnt.pid) - before < 32 << 20
    idle.close()
    worker.close()


def test_without_descriptors_newcomers_are_turned_away_and_the_others_go_on(mnt: Xen) -> None:
    worker = Door.socket(mnt.root)
    assert worker.ask(T.READ, b"/tool\0") == b""
    _, hard = resource.prlimit(mnt.pid, resource.RLIMIT_NOFILE)
    resource.prlimit(mnt.pid, resource.RLIMIT_NOFILE, (descriptors(mnt.pid) + 4, hard))
    try:
        clients = [connect(mnt.root) for _ in range(20)]
        away = 0
        for client in clients:
            with contextlib.suppress(ConnectionResetError, BrokenPipeError):
                client.send(Message(T.READ, 0, 0, b"/tool\0").emit())
                away += client.recv(100) == b""
                continue
            away += 1
        assert 10 <= away <= 18
        assert worker.ask(T.READ, b"/tool\0") == b""
    finally:
        resource.prlimit(mnt.pid, resource.RLIMIT_NOFILE, (hard, hard))
    for client in clients:
        client.close()
    worker.close()


def test_a_large_request_that_never_comes_takes_no_memory(mnt: Xen) -> None:
    before = resident(mnt.pid)
    clients = [connect(mnt.root) for _ in range(CLIENTS)]
    for client in clients:
        client.send(struct.pack("<IIII", T.WRITE, 0, 0, 4096) + b"x")
    worker = Door.socket(mnt.root)
    assert worker.ask(T.READ, b"/tool\0") == b""
    assert resident(mnt.pid) - before < 8 << 20
    for client in clients:
        client.close()
    worker.close()


def test_the_socket_of_a_daemon_that_was_killed_is_taken_over(own_mnt: Xen) -> None:
    door = Door.socket(own_mnt.root)
    own_mnt.mount.kill()
    with pytest.raises((EOFError, ConnectionResetError, BrokenPipeError)):
        door.ask(T.READ, b"/tool\0")
    door.close()
    path = own_mnt.root.parent / f"{own_mnt.root.name}.sock"
    assert path.is_socket()
    own_mnt.mount.close()
    assert not path.exists()
    assert os.path.isdir(own_mnt.root)  # noqa: PTH112 - by name only: the mount has gone
