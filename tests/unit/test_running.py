"""The files of running processes: who holds one, and who may."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from xenfs.commands.running import RunDirectory

_HOLDER = """
import sys
from xenfs.commands.running import RunDirectory
print(RunDirectory(sys.argv[1]).hold("some.pid"), flush=True)
sys.stdin.readline()
"""


@pytest.fixture
def place(tmp_path: Path) -> RunDirectory:
    return RunDirectory(str(tmp_path / "xen"))


def test_a_file_is_held_by_one_process_as_long_as_it_lives(place: RunDirectory) -> None:
    assert place.holder("some.pid") is None
    words = [sys.executable, "-c", _HOLDER, place.point]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        assert other.stdout.readline() != b"None\n"
        assert place.holder("some.pid") == other.pid
        assert place.hold("some.pid") is None
        assert place.holder("some.pid") == other.pid
        other.kill()
    assert place.holder("some.pid") is None
    fd = place.hold("some.pid")
    assert fd is not None
    assert place.holder("some.pid") == os.getpid()
    os.close(fd)


def test_who_only_looks_is_in_nobodys_way(place: RunDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    """As `xenfs list` does and the monitor, while devd or a keeper starts."""
    os.close(place.hold("some.pid") or -1)
    close, held = os.close, list[int | None]()

    def slowly(fd: int) -> None:
        monkeypatch.setattr(os, "close", close)
        held.append(place.hold("some.pid"))
        close(fd)

    monkeypatch.setattr(os, "close", slowly)
    assert place.holder("some.pid") is None
    (fd,) = held
    assert fd is not None
    os.close(fd)


def test_a_file_that_is_taken_away_by_who_held_it_is_made_anew(
    place: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """devd ends while another begins: that one must not hold a file that nobody sees."""
    first = place.hold("some.pid")
    assert first is not None
    real = os.open

    def slowly(path: Path, *words: int) -> int:
        fd = real(path, *words)
        monkeypatch.setattr(os, "open", real)
        place.release("some")
        os.close(first)
        return fd

    monkeypatch.setattr(os, "open", slowly)
    second = place.hold("some.pid")
    assert second is not None
    assert place.holder("some.pid") == os.getpid()
    os.close(second)
