"""The shell tour of the README, run by a script in which there is no Python of ours."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.conformance.world import need_mount
from tests.need import need_tool

ROOT = Path(__file__).parents[2]


def test_the_tour_prints_what_the_readme_says(tmp_path: Path) -> None:
    need_mount()
    need_tool("xxd", "xxd")
    place = tmp_path / "xen"
    place.mkdir()
    done = subprocess.run(
        ["bash", "tests/mounted/tour.sh", str(place)], cwd=ROOT, capture_output=True, text=True, timeout=90, check=False
    )
    subprocess.run(["umount", "-l", str(place)], check=False, capture_output=True)
    assert done.returncode == 0, done.stdout
    assert (ROOT / "README.md").read_text().count("#> ") > 20


def test_the_demo_runs_on_a_mount_of_its_own_and_leaves_nothing() -> None:
    need_mount()
    command = [sys.executable, "-m", "xenfs", "demo-ring", "--requests", "3000", "--pages", "5"]
    environment = {name: value for name, value in os.environ.items() if name != "XEN"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=90, check=False)
    assert done.returncode == 0, done.stderr
    assert "3000 requests through one shared page" in done.stdout
    assert "echo-0-tx" in done.stdout
    assert "flipped 5 of 5 pages; domain 1 reads: packet 0 … packet 4" in done.stdout
    assert done.stderr == ""
