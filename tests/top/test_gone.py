"""A machine that does not answer, or has ended, under the monitor's eyes."""

from __future__ import annotations

import pytest
from xentop import app as xentop_app
from xentop.app import NAMES
from xentop.keys import HELP

from tests.conformance.world import Mount
from tests.mounted.mount import until
from tests.top.stage import LARGE, SIZES, SMALLEST, monitor

pytestmark = pytest.mark.timeout(120)


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_it_says_that_the_hypervisor_is_gone_and_stays_usable(bare: Mount, size: tuple[int, int]) -> None:
    with monitor(str(bare.root), size) as screen:
        bare.kill()
        screen.until("!! the hypervisor is gone")
        screen.press("?")
        assert screen.detail == HELP
        screen.press("escape")
        assert "Domain-0" in screen.open("Domain-0")
        screen.press("escape")
        for name in NAMES:
            screen.command(name)
            assert "!! the hypervisor is gone" in screen.lines[0]
        screen.press("space", "s", "j", "enter")
        assert screen.app.is_running
        screen.press("q")
        until(lambda: not screen.app.is_running)


def test_that_it_is_gone_is_said_also_while_all_is_held(bare: Mount) -> None:
    with monitor(str(bare.root)) as screen:
        screen.press("space")
        screen.wait(lambda: screen.app.observer.paused)
        bare.kill()
        screen.until("!! the hypervisor is gone")


def test_a_frame_of_a_machine_that_is_gone(bare: Mount) -> None:
    with monitor(str(bare.root), pane="pages") as screen:
        bare.kill()
        screen.until("!! the hypervisor is gone")
        screen.press("enter")
        assert screen.detail == "the hypervisor is gone"


@pytest.mark.parametrize("size", [SMALLEST, LARGE], ids=str)
def test_a_daemon_that_is_stopped_does_not_stop_the_screen(
    bare: Mount, monkeypatch: pytest.MonkeyPatch, size: tuple[int, int]
) -> None:
    monkeypatch.setattr(xentop_app, "_SILENT_SECONDS", 0.5)
    with monitor(str(bare.root), size, "pages") as screen:
        bare.stop()
        try:
            screen.until("!! no answer for 1 s")
            screen.press("enter")
            assert screen.detail == "looking \N{HORIZONTAL ELLIPSIS}"
            screen.press("escape", "?")
            assert screen.detail == HELP
            screen.press("escape", "1")
            assert "Domain-0" in screen.chosen
            screen.until("!! no answer for 2 s")
        finally:
            bare.go_on()
        screen.until("Domain-0", none="!!")
        screen.look()


def test_a_long_delay_is_no_silence(bare: Mount, monkeypatch: pytest.MonkeyPatch) -> None:
    with monitor(str(bare.root)) as screen:
        screen.command("delay 60")
        screen.wait(lambda: screen.app.observer.asked is None)
        monkeypatch.setattr(xentop_app, "_SILENT_SECONDS", 0.0)
        screen.press("space", "space")
        screen.until("xenfs top", none="!!")
