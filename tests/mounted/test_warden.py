"""The warden of a daemon for tests, when the test itself is killed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.conformance.world import need_mount


def test_a_test_that_is_killed_while_the_daemon_starts_leaves_no_daemon(tmp_path: Path) -> None:
    need_mount()
    point = tmp_path / "xen"
    point.mkdir()
    reader, writer = os.pipe()
    os.close(reader)
    words = [sys.executable, "-m", "xenfs.testing.warden", str(point), "4096"]
    warden = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=writer, stderr=subprocess.DEVNULL)
    os.close(writer)
    warden.wait()
    assert not os.path.ismount(point)
    assert str(point) not in Path("/proc/mounts").read_text()
