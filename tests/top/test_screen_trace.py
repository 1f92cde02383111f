"""The trace on the screen, while calls are made and the store is changed."""

from __future__ import annotations

import pytest

from tests.top.lab import Lab
from tests.top.stage import LARGE, Screen, monitor
from tests.top.town import Town

pytestmark = pytest.mark.timeout(120)


def test_calls_and_changes_as_they_come(lab: Lab, screen: Screen) -> None:
    screen.pane("trace")
    with lab.two.events.bind_ipi():
        lab.one.store.write("data/colour", "blue")
        screen.until("bind_ipi", "colour value='blue'")
    calls = screen.line("bind_ipi").split()
    assert calls[1:3] == ["2", "bind_ipi"]
    assert "\N{RIGHTWARDS ARROW} ok port=" in screen.line("bind_ipi")
    lab.one.store.rm("data/colour")
    screen.until("store.rm path=/local/domain/1/data/colour", "close")
    assert "'op': 'bind_ipi'" in screen.open("bind_ipi")


def test_a_refusal_is_told(lab: Lab, screen: Screen) -> None:
    screen.pane("trace")
    with pytest.raises(OSError, match="no such domain"):
        lab.destroy(77)
    screen.until("destroy_domain", "ESRCH")


def test_the_trace_by_domain_and_by_text(lab: Lab, screen: Screen) -> None:
    screen.pane("trace")
    with lab.two.events.bind_ipi(), lab.one.events.bind_ipi():
        lab.one.store.write("data/colour", "blue")
        screen.until("colour value='blue'")
        lab.one.store.rm("data/colour")
        screen.until("store.rm path=/local/domain/1/data/colour")
    screen.filter("2")
    screen.wait(lambda: [line[1:].split()[1] for line in screen.body if "bind_ipi" in line] == ["2"])
    assert "colour" not in screen.text
    screen.filter("colour")
    screen.until("colour", none="bind_ipi")
    screen.press("escape")
    screen.until("colour", "bind_ipi")


def test_the_trace_of_one_device(town: Town) -> None:
    with monitor(town.point, LARGE, "trace") as screen:
        with town.another_echo():
            screen.filter("echo-1")
            screen.until("name=echo-1-ring", "map_grant_ref", "bind_interdomain", "device/echo/1/state value='4'")
            screen.until("backend/echo/1/1/state value='4'", none="vusb")
        assert "echo/0" not in screen.text


def test_the_trace_of_a_device_that_was_there_before(town: Town) -> None:
    with town.another_echo(), monitor(town.point, LARGE, "trace") as screen:
        screen.filter("echo-1")
        town.detach_echo()
        screen.until("store.rm path=/local/domain/1/device/echo/1", "unname_ring name=echo-1-ring", "end_access")


def test_the_trace_follows_until_one_looks_back(lab: Lab, screen: Screen) -> None:
    screen.pane("trace")
    frames = lab.two.memory.alloc(60)
    screen.until(f"alloc_frame \N{RIGHTWARDS ARROW} ok frame={frames[-1]}")
    assert screen.chosen.endswith(f"={frames[-1]}")
    screen.press("k")
    lab.two.memory.free(frames[:2])
    screen.wait(lambda: str(screen.sheet.lines[-1]).endswith(f"frame={frames[1]} flags=0 \N{RIGHTWARDS ARROW} ok"))
    assert screen.chosen.endswith(f"={frames[-2]}")
    screen.press("G")
    lab.two.memory.free(frames[2:])
    screen.wait(lambda: f"={frames[-1]} " in screen.chosen)
