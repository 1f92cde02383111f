"""mem: a domain's frames as one file."""

from __future__ import annotations

import errno
import os

import pytest

from tests.hostile.files import refused
from tests.mounted.mount import Xen

# system calls are tested here, by their own names
# ruff: noqa: PTH208

PAGE = 4096


@pytest.fixture
def mem(mnt: Xen) -> tuple[Xen, int, int]:
    """Domain 1, its mem, and a frame that has a neighbour."""
    home = mnt.domain(1)
    return mnt, os.open(home / "mem", os.O_RDWR), int(min(os.listdir(home / "frames"), key=int))


def mnt_total(mnt: Xen) -> int:
    """Frames of the machine."""
    return int((mnt.root / "hypervisor/frames").read_text().split()[-3])


def test_it_is_there_and_not_listed(mem: tuple[Xen, int, int]) -> None:
    mnt, fd, _ = mem
    assert "mem" not in os.listdir(mnt.home(1))
    found = os.fstat(fd)
    assert (found.st_size, found.st_mode & 0o777) == (mnt_total(mnt) * PAGE, 0o600)
    os.close(fd)


def test_any_bytes_of_ones_own(mem: tuple[Xen, int, int]) -> None:
    mnt, fd, frame = mem
    at = frame * PAGE + PAGE - 3
    assert os.pwrite(fd, b"across", at) == 6
    assert os.pread(fd, 8, at - 1) == b"\0across\0"
    assert (mnt.home(1) / "frames" / str(frame)).read_bytes()[-3:] == b"acr"
    assert (mnt.home(1) / "frames" / str(frame + 1)).read_bytes()[:3] == b"oss"
    assert os.pwrite(fd, b"later", at) == 5, "now that both have inodes"
    assert os.pread(fd, 6, at) == b"laters"
    os.close(fd)


def test_what_is_not_ones_own_is_refused_to_the_last_byte(mem: tuple[Xen, int, int]) -> None:
    mnt, fd, frame = mem
    mnt.domain(2)
    theirs = int(min(os.listdir(mnt.home(2) / "frames"), key=int))
    for at in (theirs * PAGE, theirs * PAGE - 1, frame * PAGE - 1, (mnt_total(mnt) - 1) * PAGE):
        refused(errno.ENXIO, os.pread, fd, 2, at)
        refused(errno.ENXIO, os.pwrite, fd, b"no", at)
    assert os.pread(fd, 10, mnt_total(mnt) * PAGE) == b""
    os.close(fd)
