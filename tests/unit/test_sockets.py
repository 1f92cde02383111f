"""Sockets in the file system: paths longer than an address, and more connections than descriptors."""

from __future__ import annotations

import os
import resource
import select
import socket
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from xenfs.sockets import Door, short


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A path that no address has room for."""
    folder = tmp_path / ("long" * 30)
    folder.mkdir()
    return folder / "socket"


@contextmanager
def listening(place: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX) as listener:
        with short(str(place)) as address:
            listener.bind(address)
        listener.setblocking(False)
        listener.listen(4)
        yield listener


@contextmanager
def client(place: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX) as made:
        with short(str(place)) as address:
            made.connect(address)
        made.settimeout(10)
        yield made


@contextmanager
def no_descriptor_left() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest = os.dup(0)
    os.close(lowest)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_path_that_is_too_long_for_an_address(place: Path) -> None:
    with socket.socket(socket.AF_UNIX) as plain, pytest.raises(OSError, match="too long"):
        plain.bind(str(place))
    with listening(place) as listener, closing(Door(listener)) as door, client(place) as ours:
        theirs = door.accept()
        assert theirs is not None
        with theirs:
            theirs.sendall(b"here")
        assert ours.recv(4) == b"here"


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), short(f"{tmp_path}/nowhere/socket"):
        pass


def test_whoever_comes_when_there_is_no_descriptor_left_is_turned_away(place: Path) -> None:
    with listening(place) as listener, closing(Door(listener)) as door, client(place) as one:
        with no_descriptor_left():
            assert door.accept() is None
        assert one.recv(1) == b""
        assert not select.select([listener], [], [], 0)[0], "it is announced no more"
        with client(place) as two:
            theirs = door.accept()
            assert theirs is not None
            with theirs:
                theirs.sendall(b"here")
            assert two.recv(4) == b"here"
        assert door.accept() is None
