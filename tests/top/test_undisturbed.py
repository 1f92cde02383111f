"""What is watched does not notice."""

from __future__ import annotations

from pathlib import Path

import pytest
from xentop.app import NAMES

from tests.top.lab import RING, Lab
from tests.top.stage import Screen

pytestmark = pytest.mark.timeout(120)


def test_looking_disturbs_nothing(lab: Lab, screen: Screen) -> None:
    tables = ("frames", "grants", "pages", "ports", "rings", "trace")

    def state() -> list[str]:
        return [lab.file(f"hypervisor/{name}") for name in tables]

    page = Path(lab.point, "domains/1/rings", RING)
    before, content = state(), page.read_bytes()
    for name in NAMES:
        screen.pane(name)
        screen.press("enter")
        screen.look()
        screen.press("escape")
    screen.pane("pages")
    for frame in (lab.ring, lab.mapped, lab.granted, lab.kept):
        screen.open_frame(frame)
        screen.press("escape")
    assert state() == before, "not one hypercall"
    assert page.read_bytes() == content
    opened = [str(link.readlink()) for link in Path("/proc/self/fd").iterdir() if link.is_symlink()]
    assert [name for name in opened if name.startswith(lab.point) and "/foreign" in name] == []
