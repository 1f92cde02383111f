"""The map of frames on the screen, and what is said of one of them."""

from __future__ import annotations

import pytest

from tests.top.lab import PAGE, TEXT, Lab
from tests.top.stage import LARGE, MARKS, SMALLEST, USUAL, Screen, monitor

pytestmark = pytest.mark.timeout(120)
MOVED = "\N{RIGHTWARDS ARROW OVER LEFTWARDS ARROW}"
MAP = 13
"""The column of the screen at which the frames of a line of the map begin."""


def marks(screen: Screen, frame: int) -> str:
    """The letters of the line of the map with this frame."""
    _, line = screen.map_line(frame)
    return line[MAP : MAP + 64]


def test_the_map_tells_what_every_frame_is_and_whose(lab: Lab, screen: Screen) -> None:
    screen.pane("pages")
    shown = marks(screen, lab.ring)
    found = {frame: shown[frame % 64] for frame in (lab.ring, lab.mapped, lab.granted, lab.kept)}
    assert found == {lab.ring: "R", lab.mapped: "M", lab.granted: "g", lab.kept: "o"}
    assert shown.strip(MARKS) == "", "every frame has a letter"
    assert screen.line(str(lab.ring // 64 * 64)).endswith("domain 1")
    for mark in ("R ring", "M mapped", "g granted", "o held", "idle", MOVED):
        assert mark in screen.head


def test_the_map_fits_the_usual_screen_with_a_legend_of_all_that_is_in_it(lab: Lab) -> None:
    with monitor(lab.point, USUAL, "pages") as screen:
        screen.until(" d1 ")
        assert not screen.sheet.show_horizontal_scrollbar
        assert marks(screen, lab.ring)[lab.ring % 64] == "R"
        for mark in ("R ring", "M mapped", "g granted", "o held", "idle", MOVED, "blank free", "+ more"):
            assert mark in screen.head
        screen.resize(*LARGE)
        screen.until("domain 1", "blank free", "d1+ and others")


def test_enter_on_a_frame_tells_its_owner_grants_maps_and_bytes(lab: Lab, screen: Screen) -> None:
    screen.pane("pages")
    said = screen.open_frame(lab.mapped).splitlines()
    assert said[0] == f"frame {lab.mapped} belongs to domain 1, held"
    assert said[1].strip() == f"grant {lab.mapped_ref} to domain 2: permit_access rw, mapped 1 times"
    screen.press("escape")
    said = screen.open_frame(lab.granted).splitlines()
    assert said[1].strip() == f"grant {lab.granted_ref} to domain 0: permit_access ro, not mapped"
    screen.press("escape")
    said = screen.open_frame(lab.kept).splitlines()
    assert said[1].strip() == "granted to nobody"
    rows = [line.split("  ", 2) for line in said[3:] if "  " in line]
    shown = b"".join(bytes.fromhex(row[1]) for row in rows)
    assert shown.startswith(TEXT)
    assert rows[0][2].strip() == TEXT[:16].decode().strip()


def test_the_bytes_of_a_frame_change_while_they_are_shown(lab: Lab, screen: Screen) -> None:
    screen.pane("pages")
    screen.open_frame(lab.kept)
    lab.write(lab.kept, b"Whatever")
    screen.wait(lambda: "Whatever" in screen.detail)
    lab.write(lab.kept, TEXT)
    screen.wait(lambda: "Whatever" not in screen.detail)


def test_a_grant_of_a_frame_is_told_as_soon_as_the_map_has_it(lab: Lab, screen: Screen) -> None:
    screen.app.observer.delay = 0.01
    screen.pane("pages")
    for _ in range(5):
        (ref,) = lab.one.memory.grant([lab.kept], 0)
        screen.open_frame(lab.kept)
        screen.look()
        assert f"  grant {ref} to domain 0: permit_access rw, not mapped" in screen.detail
        lab.one.memory.end_access([ref])
        screen.look()
        assert "granted to nobody" in screen.detail
        screen.press("escape")


def test_a_frame_longer_than_the_screen_is_scrolled(lab: Lab) -> None:
    lab.write(lab.kept, bytes(number * 7 & 0xFF for number in range(PAGE)))
    with monitor(lab.point, USUAL, "pages") as screen:
        screen.open_frame(lab.kept)
        screen.until("0000  0007")
        for key, first, gone in (("j", "0010", "0ff0"), ("pagedown", "0150", "0000"), ("end", "0ff0", "0000"),
                                 ("pageup", "0ea0", "0ff0"), ("home", "0000", "0ff0")):  # fmt: skip
            screen.press(key)
            screen.until(f" {first}  ", none=f" {gone}  ")
    lab.write(lab.kept, TEXT.ljust(PAGE, b"\0"))


def test_the_map_of_one_domain(screen: Screen) -> None:
    screen.pane("pages")
    screen.filter("2")
    screen.until("/ 2", none="domain 1")
    assert {line.rpartition("  ")[2] for line in screen.body if "domain" in line} == {"domain 2"}


def test_a_flip_is_seen(lab: Lab, screen: Screen) -> None:
    screen.command("delay 0.5")
    screen.pane("pages")
    (ref,) = lab.two.memory.accept_transfer(1)
    (frame,) = lab.one.memory.alloc()
    lab.one.memory.transfer([frame], 2, [ref])
    screen.wait(lambda: marks(screen, frame)[frame % 64] == MOVED)
    assert "domain 1: 63, domain 2: 1" in screen.line(str(frame // 64 * 64))
    lab.two.memory.end_transfer([ref])
    screen.command("delay 0.05")
    screen.wait(lambda: marks(screen, frame)[frame % 64] == "o")
    (back,) = lab.one.memory.accept_transfer(2)
    lab.two.memory.transfer([frame], 1, [back])
    lab.one.memory.end_transfer([back])
    lab.one.memory.free([frame])
    screen.wait(lambda: screen.line(str(frame // 64 * 64)).endswith("domain 1"))


def test_on_a_narrow_screen_the_map_follows_the_chosen_frame(lab: Lab) -> None:
    with monitor(lab.point, SMALLEST, "pages") as screen:
        screen.burst(*(["l"] * 63))
        screen.wait(lambda: screen.sheet.scroll_offset.x > 0)
        at = screen.sheet.column
        assert at is not None
        assert 0 <= at + 2 - screen.sheet.scroll_offset.x < screen.size[0]
        screen.resize(*LARGE)
        screen.wait(lambda: screen.sheet.scroll_offset.x == 0)
        screen.resize(*SMALLEST)
        screen.wait(lambda: screen.sheet.scroll_offset.x > 0)
        screen.burst(*(["h"] * 63))
        screen.wait(lambda: screen.sheet.scroll_offset.x == 0)


def test_the_mouse_on_a_frame(lab: Lab, screen: Screen) -> None:
    screen.pane("pages")
    top = screen.sheet.region.y
    line, _ = screen.map_line(lab.kept)
    for _ in range(2):
        screen.click(MAP + lab.kept % 64, top + 1 + line)
    screen.wait(lambda: screen.detail.startswith(f"frame {lab.kept} belongs to domain 1"))
