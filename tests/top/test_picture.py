"""The pictures of the README, made anew."""

from __future__ import annotations

import getpass
import os
import re
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from xml.etree import ElementTree

import pytest
from xenblk.loopdev import CONTROL
from xentop.picture import PANES

from tests.conformance.world import need_mount
from tests.mounted.command.lab import Lab as Place
from tests.mounted.command.test_user import as_nobody, reachable
from tests.mounted.mount import REPO
from tests.need import missing, need_tool
from xenfs.commands.place import mounts

__all__ = ["reachable"]
pytestmark = pytest.mark.timeout(120)
SECONDS = 100.0
MOST = 150_000
"""Bytes that a picture may have."""


def run(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "xentop.picture", *words], capture_output=True, text=True, timeout=SECONDS, check=False,
        env={**os.environ, **environment}, stdin=subprocess.DEVNULL,
    )  # fmt: skip


def words(picture: Path) -> str:
    """What is written in a picture, which is well-formed."""
    root = ElementTree.fromstring(picture.read_text())
    return "\n".join("".join(element.itertext()) for element in root.iter() if element.tag.endswith("}text"))


def same(found: dict[str, str]) -> None:
    """What is in all of them, and what is in none."""
    for said in found.values():
        assert "xenfs\xa0top" in said
        for never in (getpass.getuser(), socket.gethostname(), tempfile.gettempdir(), str(REPO)):
            assert never not in said


def test_the_pictures_show_the_panes_and_nothing_of_whoever_made_them(tmp_path: Path) -> None:
    need_mount()
    need_tool("ping", "iputils-ping")
    if not Path(CONTROL).exists():
        missing(f"{CONTROL} is not there: modprobe loop")
    home = tmp_path / "tmp"
    home.mkdir()
    done = run(str(tmp_path / "made"), TMPDIR=str(home))
    assert (done.returncode, done.stderr) == (0, "")
    made = [tmp_path / "made" / f"{name}.svg" for name in PANES]
    assert done.stdout.splitlines() == [str(path) for path in made]
    assert all(path.stat().st_size < MOST for path in made)
    assert not any(re.search(r"https?://(?!www\.w3\.org|www\.textualize\.io)", path.read_text()) for path in made)
    found = {path.stem: words(path) for path in made}
    same(found)
    for ring in ("vbd-51712-ring", "vif-0-rx", "vif-0-tx", "vusb-0-urb"):
        assert all(f"\xa0{number}\xa0\xa0{ring}\xa0" in found["rings"] for number in (1, 2))
    assert "##" in found["rings"]
    assert "RR" in found["pages"]
    assert "domain\xa02" in found["pages"]
    assert found["devices"].count("working") == 6
    assert "vbd\xa02/51728" in found["devices"]
    assert list(home.iterdir()) == []
    assert [mount for mount in mounts() if mount.point.startswith(str(home))] == []
    assert using(home) == []


def using(home: Path) -> list[str]:
    """Processes that were started with a machine there."""
    found = []
    for process in Path("/proc").iterdir():
        if process.name.isdigit():
            try:
                if f"XEN={home}".encode() in (process / "environ").read_bytes():
                    found.append((process / "cmdline").read_text())
            except OSError:
                continue
    return found


def test_an_ordinary_user_has_pictures_without_a_network(reachable: Place) -> None:
    done = as_nobody(reachable, '"${python[0]}" -m xentop.picture "$TMPDIR/made"; cat $TMPDIR/made/rings.svg')
    assert done.stderr == ""
    assert "vusb-0-urb" in done.stdout
    assert "vbd-51712-ring" in done.stdout
    assert "vif-0-tx" not in done.stdout
    assert [path.name for path in (reachable.home / "user").iterdir()] == ["made"]


def test_what_is_missing_is_told_before_anything_is_made(tmp_path: Path) -> None:
    need_mount()
    script = 'mount -t tmpfs none /dev; exec "$@"'
    line = [need_tool("unshare", "util-linux"), "-m", "bash", "-ec", script, "bash", sys.executable]
    done = subprocess.run(
        [*line, "-m", "xentop.picture", str(tmp_path / "made")], capture_output=True, text=True, timeout=SECONDS,
        check=False, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("xenfs picture: it needs /dev/fuse: ")
    assert "\n  and /dev/net/tun; to mend it: modprobe tun" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_it_is_told_where_to_put_them() -> None:
    done = run()
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "xenfs picture: python -m xentop.picture FOLDER\n"
