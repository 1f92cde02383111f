"""The server of an image of another format: while it starts, and when it does not end."""

from __future__ import annotations

import errno
import sys
from contextlib import closing
from pathlib import Path
from typing import NoReturn

import pytest
from xenblk import served
from xenblk.nbd import NbdDisk
from xenblk.served import Served

from tests.block.yard import run
from tests.mounted.mount import until
from tests.need import need_tool

pytestmark = pytest.mark.timeout(60)
DEAF = """#!{python}
import os, pathlib, signal
signal.signal(signal.SIGTERM, signal.SIG_IGN)
pathlib.Path({pid!r}).write_text(str(os.getpid()))
while True:
    signal.pause()
"""


def test_a_server_whose_socket_is_there_before_it_listens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    need_tool("qemu-nbd", "qemu-utils")
    image = tmp_path / "image"
    run("qemu-img", "create", "-q", "-f", "qcow2", str(image), "1M")
    early: list[OSError] = [ConnectionRefusedError(), FileNotFoundError()]

    def connect(at: str, *, readonly: bool) -> NbdDisk:
        if early:
            raise early.pop()
        return NbdDisk(at, readonly=readonly)

    monkeypatch.setattr(served, "NbdDisk", connect)
    with closing(Served("qcow2", str(image), readonly=False)) as made:
        assert made.disk.size() == 1 << 20
    assert early == []


def test_a_server_that_does_not_hear_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pid, tool, image = tmp_path / "pid", tmp_path / "qemu-nbd", tmp_path / "image"
    image.touch()
    tool.write_text(DEAF.format(python=sys.executable, pid=str(pid)))
    tool.chmod(0o700)

    def connect(_at: str, *, readonly: bool) -> NoReturn:
        until(lambda: pid.exists() and bool(pid.read_text()), 30)
        raise OSError(errno.EPROTO, f"no server, readonly={readonly}")

    monkeypatch.setattr(served, "NbdDisk", connect)
    monkeypatch.setattr(served, "_END_SECONDS", 0.1)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(OSError, match="no server, readonly=True"):
        Served("qcow2", str(image), readonly=True)
    assert not Path("/proc", pid.read_text()).exists()
