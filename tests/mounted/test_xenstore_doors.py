"""The store's rows through the doors of a mount, and what each door alone does."""

from __future__ import annotations

import errno
import os
import select
import struct
import threading
from collections.abc import Iterator

import pytest

from tests.hostile.files import refused
from tests.mounted.doors import Door
from tests.mounted.mount import Xen, until
from tests.unit.xenstore_rows import CASES, OK, Case, play
from xenfs.abi.xs_wire import XsType as T
from xenfs.xenstore.connection import EVENTS
from xenfs.xenstore.wire import Message


@pytest.fixture
def two(mnt: Xen) -> Iterator[Xen]:
    """A mount with domains 1 and 2, whose store is tidied up afterwards."""
    mnt.domain(1)
    mnt.domain(2)
    yield mnt
    tidy = Door.socket(mnt.root)
    for path in (b"/t", b"/tool/other", b"/tool/x"):
        tidy.ask(T.RM, path + b"\0")
    tidy.ask(T.CONTROL, b"quota\0set\0nodes\0001000\0")
    tidy.close()


@pytest.mark.parametrize("door", ["socket", "device"])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_rows(two: Xen, case: Case, door: str) -> None:
    if door == "device" and case.only_socket:
        pytest.skip("dev/xenbus answers these itself, as Linux does")
    doors: dict[str, Door] = {}

    def ask(who: str, kind: int, tx: int, payload: bytes) -> bytes:
        domid = int(who[0])
        if who not in doors:
            by_socket = door == "socket" and domid == 0
            doors[who] = Door.socket(two.root) if by_socket else Door.device(two.home(domid))
        return doors[who].ask(kind, payload, tx)

    play(case, ask)
    for one in doors.values():
        one.close()


def test_the_socket_is_its_owners_alone(two: Xen) -> None:
    path = two.root.parent / f"{two.root.name}.sock"
    assert (path.stat().st_mode & 0o777, path.stat().st_uid) == (0o600, os.getuid())


def test_an_event_comes_through_every_door(two: Xen) -> None:
    doors = [Door.socket(two.root), Door.device(two.home(0))]
    for door in doors:
        assert door.ask(T.WATCH, b"/t\0token\0") == OK
        assert door.heard() == [("WATCH_EVENT", b"/t\0token\0")]
    files = os.open(two.root / "xenstore" / "tool" / ".watch", os.O_RDONLY | os.O_NONBLOCK)
    refused(errno.EAGAIN, os.read, files, 100)
    (two.root / "xenstore" / "tool" / "other").write_text("1\n")
    writer = Door.device(two.home(0))
    assert writer.ask(T.WRITE, b"/t/x\0") == OK
    for door in doors:
        assert door.heard(1)[:1] == [("WATCH_EVENT", b"/t/x\0token\0")]
        door.close()
    assert select.select([files], [], [], 10)[0]
    assert os.read(files, 100) == b"/tool/other\n"
    os.close(files)
    writer.close()


def test_the_own_events_come_before_the_answer(two: Xen) -> None:
    for door in (Door.socket(two.root), Door.device(two.home(0))):
        assert door.ask(T.WATCH, b"/t\0tok\0") == OK
        door.heard()
        door.send(T.WRITE, b"/t/a\0")
        assert door.heard(0.5) == [("WATCH_EVENT", b"/t/a\0tok\0"), ("WRITE", OK)]
        door.close()


def test_dribbled_bytes(two: Xen) -> None:
    for door in (Door.socket(two.root), Door.device(two.home(0))):
        for byte in Message(T.WRITE, 7, 0, b"/t/slow\0value").emit():
            os.write(door.fd, bytes([byte]))
        assert door.heard(1)[-1] == ("WRITE", OK)
        assert door.ask(T.READ, b"/t/slow\0") == b"value"
        door.close()


def test_many_requests_at_once_by_the_socket(two: Xen) -> None:
    door = Door.socket(two.root)
    one = Message(T.READ, 7, 0, b"/tool\0").emit()
    sender = threading.Thread(target=lambda: [os.write(door.fd, one * 100) for _ in range(100)])
    sender.start()
    for _ in range(10_000):
        message = door.message()
        assert message is not None
        assert (message.type, message.payload) == (T.READ, b"")
    sender.join()
    door.close()


def test_garbage_ends_the_socket(two: Xen) -> None:
    for size in (4097, 1 << 31, 0xFFFF_FFFF):
        door = Door.socket(two.root)
        os.write(door.fd, struct.pack("<IIII", T.READ, 0, 0, size) + b"x" * 100)
        with pytest.raises((EOFError, ConnectionResetError)):
            door.message()
        door.close()
    other = Door.socket(two.root)
    assert other.ask(T.DIRECTORY, b"/tool\0") == b"xenstored\0"
    other.close()


def test_the_device_takes_one_message_a_write(two: Xen) -> None:
    door = Door.device(two.home(1))
    one = Message(T.WRITE, 7, 0, b"data/a\0001").emit()
    two_ = Message(T.WRITE, 7, 0, b"data/b\0002").emit()
    assert os.write(door.fd, one + two_) == len(one + two_)
    assert door.heard(0.2) == [("WRITE", OK)]
    assert door.ask(T.READ, b"data/b\0") == b"ENOENT"
    refused(errno.EINVAL, os.write, door.fd, struct.pack("<IIII", T.READ, 0, 0, 4000) + bytes(4090))
    refused(errno.E2BIG, os.write, door.fd, struct.pack("<IIII", T.READ, 0, 0, 0x7FFF_FFFF))
    refused(errno.E2BIG, os.write, door.fd, struct.pack("<IIII", T.READ, 0, 0, 4081))
    assert door.ask(T.READ, b"data/a\0") == b"1"
    assert door.ask(T.WRITE, b"data/a\0" + bytes(4080 - 7)) == b"ENOSPC"
    door.close()


def test_watches_of_the_device_are_the_drivers_own(two: Xen) -> None:
    door = Door.device(two.home(1))
    for _ in range(2):
        assert door.ask(T.WATCH, b"data\0t\0") == OK
    door.heard()
    other = Door.device(two.home(1))
    other.ask(T.WRITE, b"data/x\0")
    events = door.heard(0.2)
    assert events[0] == ("WATCH_EVENT", b"data/x\0t\0")
    assert door.ask(T.UNWATCH, b"nothing\0t\0") == OK
    refused(errno.EINVAL, door.send, T.WATCH, b"//\0t\0")
    assert door.ask(T.WATCH, b"no token") == b"EINVAL"
    assert door.ask(T.WATCH, b"data\0third\0string\0") == OK
    assert door.ask(T.TRANSACTION_END, b"T", 0) == b"EINVAL"
    assert door.ask(T.READ, b"data\0", 99) == b"ENOENT"
    other.close()
    door.close()


def test_how_the_device_is_polled_and_read(two: Xen) -> None:
    fd = os.open(two.home(1) / "dev" / "xenbus", os.O_RDWR | os.O_NONBLOCK)
    poller = select.poll()
    poller.register(fd, select.POLLIN | select.POLLOUT)
    assert poller.poll(0) == []
    refused(errno.EAGAIN, os.read, fd, 16)
    refused(errno.ESPIPE, os.lseek, fd, 0, os.SEEK_SET)
    os.write(fd, Message(T.READ, 7, 0, b"name\0").emit())
    assert poller.poll(10000) == [(fd, select.POLLIN)]
    said = b""
    while len(said) < 24:
        said += os.read(fd, 5)
    assert said[16:] == b"domain-1"
    os.close(fd)


def test_a_client_that_does_not_read_waits_in_its_write(two: Xen) -> None:
    user = two.client("""
        from tests.mounted.doors import *
        door = Door.device(home(1))
        for i in range(100):
            say(i)
            door.send(XsType.READ, b"name\\0")
    """)
    assert [int(user.line()) for _ in range(21)] == list(range(21))
    until(lambda: user.waits)
    assert not user.speaks(1)
    user.kill()
    other = Door.device(two.home(1))
    assert other.ask(T.READ, b"name\0") == b"domain-1"
    other.close()


def test_a_client_that_does_not_read_its_events_is_told_that_it_is_cut_off(two: Xen) -> None:
    """Else it would take what it has heard last for what is so."""
    deaf, root = Door.device(two.home(0)), Door.socket(two.root)
    assert deaf.ask(T.WATCH, b"/t\0t\0") == OK
    deaf.heard()
    paths = [b"/t/%01800d" % number for number in range(EVENTS // 1800 + 1)]
    for path in paths:
        assert root.ask(T.WRITE, path + b"\0") == OK
    with pytest.raises(ConnectionResetError):
        os.write(deaf.fd, Message(T.READ, 7, 0, b"/t\0").emit())
    poller, heard = select.poll(), 0
    poller.register(deaf.fd, select.POLLIN)
    while poller.poll(0) == [(deaf.fd, select.POLLIN)]:
        assert deaf.message() is not None
        heard += 1
    assert 0 < heard <= len(paths)
    assert poller.poll(0) == [(deaf.fd, select.POLLERR)]
    with pytest.raises(ConnectionResetError):
        os.read(deaf.fd, 1)
    deaf.close()
    root.close()


def test_what_a_killed_client_had_begun_is_undone(two: Xen) -> None:
    user = two.client("""
        from tests.mounted.doors import *
        door = Door.device(home(1))
        tx = int(door.ask(XsType.TRANSACTION_START, b"\\0").rstrip(b"\\0"))
        door.ask(XsType.WRITE, b"data/half\\0", tx)
        door.ask(XsType.WATCH, b"data\\0t\\0")
        say("begun")
        hear()
    """)
    assert user.line() == "begun"
    root = Door.socket(two.root)

    def use() -> dict[bytes, int]:
        lines = root.ask(T.CONTROL, b"quota\x001\0").splitlines()[1:]
        return {name.strip(): int(count) for name, _, count in (line.partition(b":") for line in lines if b":" in line)}

    assert (use()[b"watches"], use()[b"transactions"]) == (1, 1)
    user.kill()
    until(lambda: (use()[b"watches"], use()[b"transactions"]) == (0, 0))
    assert root.ask(T.READ, b"/local/domain/1/data/half\0") == b"ENOENT"
    root.close()
