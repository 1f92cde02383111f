"""The shell tour of the README, run by a script in which there is no Python of ours."""

from __future__ import annotations

import subprocess
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
