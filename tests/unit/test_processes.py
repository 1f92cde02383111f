"""What is read of processes, whatever they are called and however they stand to each other."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator

import pytest
from xl.listing import processes

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
    assert seconds > 0
    assert not is_dying(odd)


def test_a_name_that_a_terminal_would_obey(odd: int) -> None:
    place = Mount(1, "0:1", "/usr", "fuse.xenfs", "xenfs", {})
    found = parting.users(place, besides=[os.getpid()])
    assert f"{odd} (\\xff) R\\x1b[2J)" in found
