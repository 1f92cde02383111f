"""Screens of any size, with much on them or nothing."""

from __future__ import annotations

import pytest
from xentop.app import NAMES

from tests.conformance.world import Mount
from tests.top.lab import Lab
from tests.top.stage import LARGE, SIZES, SMALLEST, USUAL, monitor
from tests.top.town import Town

pytestmark = pytest.mark.timeout(120)


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_every_pane_fits(lab: Lab, town: Town, size: tuple[int, int]) -> None:
    for point in (lab.point, town.point):
        with monitor(point, size) as screen:
            for number, name in enumerate(NAMES, 1):
                screen.pane(name)
                lines = screen.lines
                assert len(lines) == size[1]
                assert max(map(len, lines)) <= size[0]
                assert lines[0].startswith(" xenfs top ")
                assert f"{number} {name}" in lines[1], "the tab is in sight"
                assert lines[-1].startswith(" ? keys")
                assert sum(line.startswith(">") for line in screen.body) <= 1
                assert screen.body[0].startswith(">") or name == "trace"


def test_the_line_at_the_top_has_what_matters_and_ends_with_a_whole_part(town: Town) -> None:
    dot = " \N{MIDDLE DOT} "
    with monitor(town.point, USUAL) as screen:
        screen.press("space")
        for width, ends in ((120, "cpu"), (80, "cpu"), (60, "cpu"), (40, "rings")):
            screen.resize(width, 24)
            screen.wait(lambda ends=ends: screen.lines[0].endswith(ends))  # type: ignore[misc]
            assert " || held  2 domains" in screen.lines[0]
            assert (dot + "hypervisor " in screen.lines[0]) == (width >= 60)
        screen.filter("a" * 70)
        screen.until("/ aaa", none=dot)
        assert screen.lines[0].endswith("a\N{HORIZONTAL ELLIPSIS}")


def test_a_resize_while_it_is_held(lab: Lab) -> None:
    with monitor(lab.point, USUAL) as screen:
        assert "cpu" not in screen.head
        screen.press("space")
        screen.resize(*LARGE)
        screen.until("cpu", "held")
        screen.resize(*SMALLEST)
        screen.until("alpha", "held")
        assert len(screen.lines[0]) <= SMALLEST[0]


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_an_empty_machine(bare: Mount, size: tuple[int, int]) -> None:
    with monitor(str(bare.root), size) as screen:
        assert "Domain-0" in screen.chosen
        for name in ("devices", "rings", "events"):
            screen.pane(name)
            assert screen.chosen.rstrip() == "> nothing here"
            screen.press("enter", "j", "G", "s")
            assert screen.detail == ""
        screen.pane("pages")
        screen.until(" d0  ")
        screen.pane("trace")
        screen.press("enter", "G", "k")
        screen.pane("store")
        screen.until("  domain")
