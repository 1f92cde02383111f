"""Group L of adversarial.md, L4: system calls that make no sense, on every kind of file."""

# system calls are tested here, by their own names
# ruff: noqa: PTH116, PTH121

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.hostile.files import answers, descriptors, refused
from tests.mounted.inside import PAGE, mapped
from tests.mounted.mount import Xen

MAX_OFFSET = 2**63 - 1
_LIBC = ctypes.CDLL(None, use_errno=True)


def far_read(fd: int, offset: int) -> bytes | int | None:
    """What is read, or the errno."""
    try:
        return os.pread(fd, 100, offset)
    except OSError as error:
        return error.errno


def test_l4_reads_and_writes_far_beyond_the_end(files: list[Path]) -> None:
    for path in files:
        fd = os.open(path, os.O_RDONLY)
        for offset in (PAGE, 10**9, MAX_OFFSET - PAGE, MAX_OFFSET):
            assert far_read(fd, offset) in (b"", errno.EINVAL, errno.EOVERFLOW, errno.ESPIPE), path
        os.close(fd)
        if not os.access(path, os.W_OK) or path.stat().st_mode & 0o222 == 0:
            continue
        fd = os.open(path, os.O_RDWR)
        for offset in (PAGE, 10**9, MAX_OFFSET - 10):
            if path.name != "ctl":
                with pytest.raises(OSError) as refusal:  # noqa: PT011 - checked below
                    os.pwrite(fd, b"x", offset)
                assert refusal.value.errno in (errno.ENOSPC, errno.EFBIG, errno.EINVAL), path
        os.close(fd)
        if path.name.isdigit() or path.name in ("page", "vif-0-tx"):
            assert path.stat().st_size == PAGE


def test_l4_a_write_across_the_end_of_a_page_is_cut(files: list[Path]) -> None:
    fd = os.open(files[4], os.O_RDWR)
    assert os.pwrite(fd, b"x" * 200, PAGE - 96) == 96
    assert os.fstat(fd).st_size == PAGE
    assert os.pread(fd, PAGE, 0) == bytes(PAGE - 96) + b"x" * 96
    os.close(fd)


def test_l4_truncation_leaves_pages_and_mappings(files: list[Path]) -> None:
    page = mapped(files[4])
    page[:4] = b"here"
    for size in (0, 1, PAGE - 1, PAGE, PAGE + 1, 10**12):
        for name in (files[4], files[5], files[7], files[9]):
            os.truncate(name, size)
            os.close(os.open(name, os.O_RDWR | os.O_TRUNC))
            assert name.stat().st_size == PAGE
    assert page[:4] == b"here"
    page.close()


def test_l4_mmap_races_truncate(files: list[Path], mnt: Xen) -> None:
    racer = mnt.client("""
        path = Path(hear())
        page = mapped(path)
        ends = time.monotonic() + 1
        wrong = []

        def truncate():
            while time.monotonic() < ends:
                os.truncate(path, 0)
                os.close(os.open(path, os.O_RDWR | os.O_TRUNC))

        def store(at):
            number = 0
            while time.monotonic() < ends and not wrong:
                number = (number + 1) % 256
                page[at] = number
                if page[at] != number:
                    wrong.append((at, number))

        threads = [threading.Thread(target=truncate), *(threading.Thread(target=store, args=(at,)) for at in (0, 4095))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        say(wrong)
    """)
    assert racer.ask(str(files[4])) == "[]"


@pytest.mark.parametrize(
    "call",
    [
        lambda p: fcntl.ioctl(os.open(p, os.O_RDONLY), 0xC0DE),
        lambda p: fcntl.ioctl(os.open(p, os.O_RDONLY), 0xC0104500, bytes(16)),
    ],
)
def test_l4_an_unknown_ioctl(files: list[Path], mnt: Xen, call: Callable[[Path], object]) -> None:
    before = descriptors(os.getpid())
    for path in files:
        refused(errno.ENOTTY, call, path)
    os.closerange(before, before + len(files) + 3)
    answers(mnt)


def test_l4_attributes_are_not_kept(files: list[Path], mnt: Xen) -> None:
    for path in [*files, mnt.home(1), mnt.root]:
        refused(errno.ENOTSUP, os.setxattr, path, "user.x", b"y")
        refused(errno.ENODATA, os.getxattr, path, "user.x")
        refused(errno.ENOTSUP, os.removexattr, path, "user.x")
        assert os.listxattr(path) == []
    refused(errno.ENOTSUP, os.setxattr, mnt.root, "user.x", b"y" * 65536)
    refused(errno.ENODATA, os.getxattr, mnt.root, "system.posix_acl_access")


def test_l4_names_that_cannot_be(mnt: Xen) -> None:
    mnt.domain(1)
    long = "x" * 4096
    for folder in (mnt.root, mnt.home(1), mnt.home(1) / "frames", mnt.home(1) / "foreign", mnt.root / ".lines"):
        refused(errno.ENAMETOOLONG, os.stat, f"{folder}/{long}")
        for name in ("x" * 255, "\\", "\n", "é", "१", "1\udcff", "-", "00", " 1", "1 ", "1e3", "0x1", "1_0"):
            refused(errno.ENOENT, os.stat, f"{folder}/{name}")
        with pytest.raises(ValueError, match="null"):
            os.stat(f"{folder}/a\0b")
    refused(errno.ENAMETOOLONG, os.mkdir, mnt.root / "domains" / ("1" * 256))
    refused(errno.EINVAL, os.mkdir, mnt.root / "domains" / ("1" * 255))
    assert os.path.samefile(mnt.home(1) / "frames" / "..", mnt.home(1))
    assert os.path.samefile(mnt.root / "..", mnt.root.parent)


def test_l4_times_and_the_same_mode_are_taken_quietly(files: list[Path]) -> None:
    for path in files:
        os.utime(path)
        os.utime(path, (0, 0))
        path.chmod(path.stat().st_mode & 0o777)
        refused(errno.EPERM, path.chmod, 0o777)


def test_l4_stale_directory_cookies(mnt: Xen) -> None:
    mnt.domain(1)
    _LIBC.opendir.restype = _LIBC.readdir.restype = ctypes.c_void_p
    folder = ctypes.c_void_p(_LIBC.opendir(os.fsencode(mnt.home(1) / "frames")))
    for place in (0, 5, 3, 1025, 1026, 10**6, MAX_OFFSET, 2):
        _LIBC.seekdir(folder, ctypes.c_long(place))
        found = _LIBC.readdir(folder)
        assert bool(found) == (place < 1026)
    (mnt.home(1) / "memory").write_text("3")
    _LIBC.seekdir(folder, ctypes.c_long(1000))
    assert _LIBC.readdir(folder), "a listing stays as it was when its reading began"
    _LIBC.rewinddir(folder)
    seen = 0
    while _LIBC.readdir(folder):
        seen += 1
    assert seen == 5
    _LIBC.closedir(folder)
