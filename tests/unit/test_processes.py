"""What is read of processes, whatever they are called and however they stand to each other."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator

import pytest
from xl.listing import Times, processes

from tests.mounted.command.lab import line_of
from xenfs.commands import parting
from xenfs.commands.place import Mount
from xenfs.fs.dev.caller import is_dying

_ODD = """
import ctypes, sys
ctypes.CDLL(None).prctl(15, b"\\xff) R\\x1b[2J", 0, 0, 0)
print("named", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def odd() -> Iterator[int]:
    """A process in /usr whose name is no text, and nothing for a terminal."""
    with subprocess.Popen(
        [sys.executable, "-c", _ODD], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd="/usr"
    ) as process:
        assert line_of(process) == "named"
        yield process.pid


def test_a_name_that_is_no_text(odd: int) -> None:
    parent, seconds = processes()[odd]
    assert parent == os.getpid()
    assert seconds >= 0
    assert not is_dying(odd)


def test_a_name_that_a_terminal_would_obey(odd: int) -> None:
    place = Mount(1, "0:1", "/usr", "fuse.xenfs", "xenfs", {})
    found = parting.users(place, besides=[os.getpid()])
    assert f"{odd} (\\xff) R\\x1b[2J)" in found


def test_the_time_of_a_process_is_also_that_of_those_below_it() -> None:
    times = Times({1: (0, 1.0), 2: (1, 10.0), 3: (2, 100.0), 4: (1, 1000.0), 5: (0, 10_000.0)})
    assert [times.of(pid) for pid in (1, 2, 4, 5, 6, None)] == [1111.0, 110.0, 1000.0, 10_000.0, 0.0, 0.0]


def test_the_time_of_many_below_each_other_or_in_a_ring() -> None:
    assert Times({pid: (pid - 1, 1.0) for pid in range(1, 30_001)}).of(1) == 30_000
    assert Times({1: (3, 1.0), 2: (1, 1.0), 3: (2, 1.0)}).of(1) == 3
