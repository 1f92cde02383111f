"""The demonstration, as `make demo` shows it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.mounted.command.test_user import ordinary_python
from tests.need import missing, need_tool
from xenfs.commands import checks

DEMO = [sys.executable, "-m", "xenfs", "demo"]


@pytest.mark.timeout(120)
def test_two_guests_ping_and_move_tcp_and_nothing_is_left() -> None:
    if os.geteuid() != 0 or not Path("/dev/net/tun").exists():
        missing("the demonstration needs root and /dev/net/tun")
    if problem := checks.obstacle():
        missing(problem)
    need_tool("ping", "iputils-ping")
    links = sorted(path.name for path in Path("/sys/class/net").iterdir())
    done = subprocess.run([*DEMO, "--mib", "32"], capture_output=True, text=True, timeout=100, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "200 packets transmitted, 200 received, 0% packet loss" in done.stdout
    assert done.stdout.count("checksums are equal") == 3, "copied, killed, flipped"
    assert re.search(r"^[\d,]{3,} pages have changed hands", done.stdout, re.MULTILINE)
    assert done.stdout.count("frames, as before") == 3
    assert re.search(r"^\d{3} files are the same on the guest's disk", done.stdout, re.MULTILINE)
    assert "the letter was read where it was carried to" in done.stdout
    assert re.search(r"^-rw-rw-rw- .* 4096 .* vif-0-tx$", done.stdout, re.MULTILINE)
    killed = re.search(r"netback was process (\d+) and is process (\d+)", done.stdout)
    assert killed is not None
    assert killed[1] != killed[2]
    assert "every count is back where it was: nothing is left" in done.stdout
    assert sorted(path.name for path in Path("/sys/class/net").iterdir()) == links


def test_it_says_what_it_needs() -> None:
    setpriv = need_tool("setpriv", "util-linux")
    if os.geteuid() != 0:
        missing("becoming another user needs root")
    words = [setpriv, "--reuid=65534", "--clear-groups", "--inh-caps=-all", *ordinary_python(), "demo"]
    environment = {**os.environ, "PYTHONPATH": ":".join(sys.path), "PATH": "/nowhere"}
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False, env=environment, cwd="/")
    assert done.returncode == 1, done
    assert done.stderr.startswith("xenfs demo: it needs root, for network namespaces and TAPs; xenfs demo-ring needs")
    assert "and ping; to mend it: apt-get install iputils-ping" in done.stderr
