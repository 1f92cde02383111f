"""Going from line to line where there are many, by keys, by a filter and with the mouse."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.conformance.world import Mount
from tests.top.lab import Lab
from tests.top.stage import SMALLEST, USUAL, Screen, monitor
from xenfs.abi.xenfs_op import CreateDomain
from xenfs.domain.mounted import MountedDomain

pytestmark = pytest.mark.timeout(120)


@pytest.fixture(scope="module")
def crowd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A hundred domains."""
    mount = Mount(tmp_path_factory.mktemp("crowd") / "xen")
    try:
        mount.arm(300)
        with MountedDomain(0, mount.root) as root:
            for number in range(1, 101):
                root.call(CreateDomain(name=f"guest{number}", frames=16))
        yield str(mount.root)
    finally:
        mount.close()


def place(screen: Screen) -> int:
    """The number of the domain that is chosen, which is in sight."""
    return int(screen.chosen[1:].split()[0])


def test_moving_among_a_hundred(crowd: str) -> None:
    with monitor(crowd, USUAL) as screen:
        assert "101 domains" in screen.lines[0]
        page = screen.sheet.page
        steps = [
            ("j", 1), ("down", 2), ("k", 1), ("up", 0), ("up", 0), ("G", 100), ("j", 100), ("g", 0), ("pagedown", page),
            ("pagedown", 2 * page), ("pageup", page), ("end", 100), ("pageup", 100 - page), ("home", 0),
        ]  # fmt: skip
        for key, domid in steps:
            screen.press(key)
            assert (key, place(screen)) == (key, domid)


def test_the_chosen_line_stays_in_sight_on_the_smallest_screen(crowd: str) -> None:
    with monitor(crowd, SMALLEST) as screen:
        screen.burst(*(["j"] * 12))
        assert place(screen) == 12
        screen.press("G")
        assert place(screen) == 100
        screen.resize(*USUAL)
        screen.resize(*SMALLEST)
        screen.wait(lambda: any(line.startswith(">") for line in screen.body))
        assert place(screen) == 100


@pytest.mark.parametrize("size", [SMALLEST, USUAL], ids=str)
def test_the_last_line_is_in_sight_above_a_scrollbar(lab: Lab, size: tuple[int, int]) -> None:
    with monitor(lab.point, size, "store") as screen:
        screen.look()
        screen.press("G")
        assert "xenstored" in screen.chosen


def test_one_of_a_hundred_by_its_number(crowd: str) -> None:
    with monitor(crowd, USUAL) as screen:
        screen.press("G")
        screen.filter("42")
        screen.until("guest42", none="guest43")
        assert place(screen) == 42
        screen.filter("guest9")
        screen.until("guest99", none="guest42")
        assert len([line for line in screen.body if "guest9" in line]) == 11


def test_the_mouse_on_tabs_and_lines(crowd: str) -> None:
    with monitor(crowd, USUAL) as screen:
        top = screen.sheet.region.y
        screen.click(10, top + 6)
        assert (place(screen), screen.detail) == (5, "")
        screen.click(10, top + 6)
        screen.wait(lambda: "guest5" in screen.detail)
        screen.press("escape")
        screen.click(10, top)
        assert screen.detail == "", "the head is no line"
        screen.wheel(10, top + 6)
        screen.wait(lambda: screen.sheet.scroll_offset.y > 0)
        screen.click(10, top + 6)
        assert place(screen) == 5 + screen.sheet.scroll_offset.y
        screen.click(screen.lines[1].index("rings"), 1)
        screen.wait(lambda: screen.app.view.pane == "rings")
