"""Pages of files mapped one behind the other."""

from __future__ import annotations

import gc
import mmap
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from xenfs.abi.xen import PAGE_SIZE
from xenfs.domain.inprocess.arena import Arena
from xenfs.domain.mapping import Mapped


@pytest.fixture
def memfd() -> Iterator[int]:
    fd = os.memfd_create("test")
    os.ftruncate(fd, 4 * PAGE_SIZE)
    yield fd
    os.close(fd)


def mapped_pages(fd: int) -> int:
    """How many times this process maps pages of the file, by /proc/self/maps."""
    inode = str(os.fstat(fd).st_ino)
    total = 0
    for line in Path("/proc/self/maps").read_text().splitlines():
        fields = line.split()
        if fields[4] == inode and "memfd:" in line:
            low, high = (int(part, 16) for part in fields[0].split("-"))
            total += (high - low) // PAGE_SIZE
    return total


def test_scattered_pages_are_one_view(memfd: int) -> None:
    for page in range(4):
        os.pwrite(memfd, bytes([page]) * PAGE_SIZE, page * PAGE_SIZE)
    with Mapped([(memfd, p * PAGE_SIZE) for p in (2, 0, 2)]) as view:
        assert [view[i * PAGE_SIZE] for i in range(3)] == [2, 0, 2]
        view[0] = 9
        assert view[2 * PAGE_SIZE] == 9
        assert os.pread(memfd, 1, 2 * PAGE_SIZE) == b"\x09"


def test_closing_unmaps_at_once_even_under_a_view(memfd: int) -> None:
    region = Mapped([(memfd, 0), (memfd, PAGE_SIZE)])
    part = region.view[PAGE_SIZE - 1 : PAGE_SIZE + 1]
    part[0] = 1
    assert mapped_pages(memfd) == 2
    region.close()
    region.close()
    assert mapped_pages(memfd) == 0
    assert bytes(part) == b"\0\0"
    part[0] = 5
    assert os.pread(memfd, 1, PAGE_SIZE - 1) == b"\x01", "writes to a stale view go nowhere"


def test_the_range_goes_with_its_last_view(memfd: int) -> None:
    before = len(Path("/proc/self/maps").read_text().splitlines())
    for _ in range(50):
        region = Mapped([(memfd, 0), (memfd, 2 * PAGE_SIZE)])
        region.close()
    del region
    gc.collect()
    assert len(Path("/proc/self/maps").read_text().splitlines()) <= before + 5


def test_a_read_only_region_cannot_be_written(memfd: int) -> None:
    with Mapped([(memfd, 0)], readonly=True) as view:
        assert view.readonly
        with pytest.raises(TypeError):
            view[0] = 1


def test_a_page_that_cannot_be_mapped_maps_none(memfd: int) -> None:
    with pytest.raises(OSError, match="mmap of 1 pages"):
        Mapped([(memfd, 0), (-1, 0)])
    assert mapped_pages(memfd) == 0
    with pytest.raises(ValueError, match="at least one page"):
        Mapped([])


def test_descriptors_may_close_as_soon_as_the_next_page_is_asked_for(memfd: int) -> None:
    class Files:
        """Opens each page anew, one at a time."""

        opened = 0

        def __len__(self) -> int:
            return 300

        def __iter__(self) -> Iterator[tuple[int, int]]:
            for page in range(300):
                fd = os.open(f"/proc/self/fd/{memfd}", os.O_RDWR)
                yield fd, page % 4 * PAGE_SIZE
                os.close(fd)
                self.opened += 1

    os.pwrite(memfd, b"\x07", 3 * PAGE_SIZE)
    files = Files()
    with Mapped(files) as view:
        assert files.opened == 300
        assert view[299 * PAGE_SIZE] == 7
        assert mapped_pages(memfd) == 300
    assert mapped_pages(memfd) == 0


LIMITS = {
    "vm.max_map_count": "pages = int(open('/proc/sys/vm/max_map_count').read()) + 9",
    "RLIMIT_AS": "pages = 1 << 20; resource.setrlimit(resource.RLIMIT_AS, (1 << 31, 1 << 31))",
}


@pytest.mark.parametrize("limit", LIMITS)
def test_a_limit_that_is_met_is_named_and_nothing_stays_mapped(limit: str) -> None:
    program = f"""
import os, resource
from xenfs.domain.mapping import Mapped
memfd = os.memfd_create("test")
os.ftruncate(memfd, 4096)
{LIMITS[limit]}
try:
    Mapped([(memfd, 0)] * pages)
except OSError as error:
    print(error)
with Mapped([(memfd, 0)] * 1000):
    pass
print(sum("memfd:test" in line for line in open("/proc/self/maps")))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert done.stderr == ""
    refused, left = done.stdout.splitlines()
    assert refused.startswith("[Errno 12] mmap of ")
    assert limit in refused
    assert left == "0"


def test_a_child_does_not_inherit_the_pages(memfd: int) -> None:
    with Mapped([(memfd, 0)]):
        flags = Path("/proc/self/smaps").read_text().split("memfd:test", 1)[1].split("VmFlags:", 1)[1].splitlines()[0]
        assert "dc" in flags.split(), "MADV_DONTFORK"


def test_an_arena_gives_memory_back_and_never_a_page_twice() -> None:
    arena = Arena()
    for round_ in range(100):
        region = arena.map(range(8), readonly=False)
        assert not any(region.view)
        region.view[:: mmap.PAGESIZE] = bytes([round_ % 255 + 1]) * 8
        region.close()
        arena.drop(0, 8)
    assert os.fstat(arena.fd).st_blocks * 512 <= 2 * 8 * PAGE_SIZE
    arena.close()
    arena.close()
