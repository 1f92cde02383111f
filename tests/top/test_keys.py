"""Every key of the monitor, its filter, and its commands."""

from __future__ import annotations

from operator import attrgetter

import pytest
from textual.widgets import Tabs
from xentop.app import NAMES
from xentop.keys import HELP

from tests.mounted.mount import until
from tests.top.stage import Screen, monitor
from tests.top.town import Town

pytestmark = pytest.mark.timeout(120)


def test_tab_goes_round_and_digits_go_at_once(screen: Screen) -> None:
    seen = []
    for _ in NAMES:
        screen.press("tab")
        seen.append(screen.app.view.pane)
    assert seen == [*NAMES[1:], NAMES[0]]
    screen.press("shift+tab")
    assert screen.app.view.pane == "trace"
    for place, name in enumerate(NAMES, 1):
        screen.press(str(place))
        assert screen.app.view.pane == name


def test_question_mark_tells_the_keys_and_esc_leads_back(screen: Screen) -> None:
    for leave in ("escape", "enter"):
        screen.press("?")
        assert screen.detail == HELP
        screen.press(leave)
        assert screen.detail == ""
    assert screen.app.is_running


def test_tab_does_nothing_behind_what_is_open(screen: Screen) -> None:
    said = screen.open("alpha")
    screen.press("tab", ":", "s")
    assert screen.app.view.pane == "domains"
    screen.press("escape")
    assert not screen.app.query("#words.open")
    assert "alpha" in said


def test_keys_that_come_all_at_once(screen: Screen) -> None:
    """What is open is of the pane that is seen, whichever of the two was asked for first."""
    for number, name in enumerate(NAMES, 1):
        for other in range(1, len(NAMES) + 1):
            screen.pane(name)
            screen.burst("enter", str(other), "enter", str(number))
            screen.look()
            wanted = screen.app.observer.wanted
            assert wanted is None or wanted.pane == screen.app.view.pane
            assert screen.app.query_one(Tabs).active == screen.app.view.pane
            screen.press("escape")


def test_q_ends_it(screen: Screen) -> None:
    screen.press("q")
    until(lambda: not screen.app.is_running)
    assert (screen.app.return_code, screen.app.problem) == (0, "")


@pytest.mark.parametrize("way", ["?", "enter"])
def test_q_ends_it_also_where_something_is_open(screen: Screen, way: str) -> None:
    screen.press(way)
    assert screen.detail
    screen.press("q")
    until(lambda: not screen.app.is_running)
    assert (screen.app.return_code, screen.app.problem) == (0, "")


def test_space_holds_everything_still(town: Town) -> None:
    with monitor(town.point, pane="rings") as screen:
        screen.press("space")
        screen.until("|| held")
        held, before = screen.body, town.in_ring()
        until(lambda: town.in_ring() > before + 10)
        assert screen.body == held
        screen.pane("pages")
        screen.until("domain 1")
        screen.pane("rings")
        screen.until("echo-0-ring")
        said = screen.open("vusb-0-conn")
        assert "vusb-0-conn: 512 of 512 in flight" in said
        screen.press("escape", "space")
        screen.until("echo-0-ring", none="held")
        held = screen.body
        screen.wait(lambda: screen.body != held)


COMMANDS: list[tuple[str, str, object]] = [
    ("rings", "view.pane", "rings"), ("ev", "view.pane", "events"), ("domain 1", "view.filter", "1"),
    ("delay 2", "observer.delay", 2.0), ("delay .5", "observer.delay", 0.5),
    ("sort cpu", "view.sorted", {"domains": "cpu"}), ("domain", "view.pane", "domains"),
]  # fmt: skip


@pytest.mark.parametrize(("said", "name", "value"), COMMANDS, ids=[said for said, _, _ in COMMANDS])
def test_a_command_is_obeyed(screen: Screen, said: str, name: str, value: object) -> None:
    screen.command(said)
    assert attrgetter(name)(screen.app) == value
    assert not screen.app._notifications


NO_COMMAND, NO_DELAY = "there is no command {}: a pane's name, domain N", "{} is no delay: 0.05 to 3600 seconds"
NO_DOMAIN, NO_COLUMN = "{} is no domain's number", "there is no column {} to sort by: domid, cpu"
NONSENSE = [
    ("nonsense", NO_COMMAND.format("nonsense")), ("[/b] [red", NO_COMMAND.format("[/b] [red")),
    ("sort", NO_COMMAND.format("sort")), ("quit now", NO_COMMAND.format("quit now")),
    ("foo bar", NO_COMMAND.format("foo bar")), ("sort nothere", NO_COLUMN.format("nothere")),
    ("domain x", NO_DOMAIN.format("x")), ("domain \N{SUPERSCRIPT TWO}", NO_DOMAIN.format("\N{SUPERSCRIPT TWO}")),
    ("delay 0", NO_DELAY.format("0")), ("delay -1", NO_DELAY.format("-1")), ("delay x", NO_DELAY.format("x")),
    ("delay \N{SUPERSCRIPT TWO}", NO_DELAY.format("\N{SUPERSCRIPT TWO}")), ("delay 1e9", NO_DELAY.format("1e9")),
    ("delay " + "9" * 80, NO_DELAY.format("9" * 23 + "\N{HORIZONTAL ELLIPSIS}")),
]  # fmt: skip


def told(screen: Screen) -> list[str]:
    """The messages that are there."""
    return [one.message for one in screen.app._notifications]


def test_nonsense_gives_a_message_of_what_is_wrong_and_nothing_more(screen: Screen) -> None:
    for said, message in NONSENSE:
        screen.command(said)
        assert [one[: len(message)] for one in told(screen)] == [message], "one at a time"
        screen.until(message.split(":")[0].split()[-1][:10])
    assert (screen.app.view.pane, screen.app.view.filter, screen.app.view.sorted) == ("domains", "", {})
    screen.command("")
    assert not told(screen)
    screen.pane("store")
    screen.command("sort nothere")
    assert told(screen) == ["store has an order of its own"]


def test_no_message_lies_over_what_is_typed(screen: Screen) -> None:
    screen.press("s", "s")
    assert told(screen) == ["sorted by net"]
    screen.press(":")
    assert not told(screen)


@pytest.mark.parametrize("said", ["q", "quit"])
def test_a_command_ends_it(screen: Screen, said: str) -> None:
    screen.command(said)
    until(lambda: not screen.app.is_running)


def test_keys_that_come_all_at_once_are_typed(screen: Screen) -> None:
    screen.burst(*":domain", "space", "2", "enter")
    screen.until("/ 2", none="alpha")
    screen.press("escape")
    screen.burst(*"/q:/s", "enter")
    screen.until("/ q:/s", none="alpha")


def test_esc_closes_what_is_typed_and_then_takes_the_filter_away(screen: Screen) -> None:
    screen.filter("alp")
    screen.until("/ alp", none="beta")
    screen.press("/")
    assert screen.app.query_one("#words").has_focus
    screen.press("escape")
    screen.until("/ alp", none="beta")
    screen.press("escape")
    screen.until("beta")


def test_a_filter_that_nothing_passes_is_no_harm(screen: Screen) -> None:
    for said in ("\N{SUPERSCRIPT TWO}", "99999999999999999999", "[/b]", "vif-\N{SUPERSCRIPT TWO}"):
        screen.filter(said)
        for name in NAMES:
            screen.pane(name)
            assert f"/ {said}" in screen.lines[0]
            assert "alpha" not in "".join(screen.body)
