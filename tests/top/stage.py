"""The monitor on a screen of any size, as a test has it: it lives in a thread of its own, and the test is who types."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any, TypeVar

from textual import events
from textual.keys import _character_to_key
from textual.pilot import Pilot
from xentop.app import NAMES, Monitor
from xentop.detail import Detail
from xentop.sheet import Sheet

from tests.mounted.mount import SOON
from tests.top.looking import look_until

T = TypeVar("T")
_Work = Callable[["Pilot[None]"], Awaitable[Any]]
_DELAY = 0.05
"""Seconds between two looks."""
_CHARACTERS = {"space": " "}
SMALLEST, USUAL, LARGE = (40, 10), (80, 24), (200, 60)
SIZES = [SMALLEST, USUAL, LARGE]
MARKS = "RMgo\N{MIDDLE DOT}"
"""What a frame may be, by the legend of the map."""


class Screen:
    """The monitor of a machine. Every method is one thing that a user does, or what one sees."""

    def __init__(self, point: str, size: tuple[int, int] = (120, 40), pane: str = "domains") -> None:
        self.app, self.size = Monitor(point, _DELAY, pane), size
        self._up = threading.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._jobs: asyncio.Queue[tuple[_Work, Future[Any]] | None] = asyncio.Queue()
        self._problem: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="screen", daemon=True)
        self._thread.start()
        assert self._up.wait(SOON), "the monitor does not come up"
        self._check()

    def _run(self) -> None:
        try:
            asyncio.run(self._live())
        except BaseException as problem:
            self._problem = problem
        finally:
            self._up.set()

    async def _live(self) -> None:
        self.app.animation_level = "none"
        async with self.app.run_test(size=self.size, notifications=True) as pilot:
            self._loop = asyncio.get_running_loop()
            self._up.set()
            while (job := await self._jobs.get()) is not None:
                work, future = job
                try:
                    future.set_result(await work(pilot))
                except BaseException as problem:
                    future.set_exception(problem)

    def _check(self) -> None:
        if self._problem is not None:
            raise self._problem

    def _do(self, work: _Work) -> Any:
        """Have something done where the application lives."""
        self._check()
        assert self._loop is not None
        future: Future[Any] = Future()
        self._loop.call_soon_threadsafe(self._jobs.put_nowait, (work, future))
        return future.result(SOON)

    def close(self) -> None:
        """End it. Raises what it has crashed by."""
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._jobs.put_nowait, None)
        self._thread.join(SOON)
        self.app.observer.thread.join(SOON)
        assert not self._thread.is_alive()
        assert not self.app.observer.thread.is_alive()
        self._check()

    # What a user does.

    def press(self, *keys: str) -> None:
        """Keys by Textual's names, each when the one before is done with."""
        for key in keys:
            self.burst(key)

    def type(self, words: str) -> None:
        """Characters, and Enter."""
        self.burst(*({" ": "space"}.get(one, one) for one in words))
        self.press("enter")

    def burst(self, *keys: str) -> None:
        """Keys that come all at once."""
        self._do(lambda pilot: self._send(pilot, keys))

    async def _send(self, pilot: Pilot[None], keys: Sequence[str]) -> None:
        driver = self.app._driver
        assert driver is not None
        for key in keys:
            name = key if len(key) > 1 or key.isalnum() else _character_to_key(key)
            driver.send_message(events.Key(name, _CHARACTERS.get(key, key if len(key) == 1 else None)))
        for _ in range(3):  # the key, what it makes happen, and what follows from that
            await pilot._wait_for_screen()

    def command(self, words: str) -> None:
        """After a colon."""
        self.press(":")
        self.type(words)

    def filter(self, words: str) -> None:
        """After a slash, in place of what was there."""
        self.press("/", "ctrl+u")
        self.type(words)

    def click(self, x: int, y: int) -> None:
        """At a place on the screen."""
        self._do(lambda pilot: pilot.click(offset=(x, y)))

    def wheel(self, x: int, y: int, by: int = 1) -> None:
        """Turn it over a place on the screen."""

        async def turn(pilot: Pilot[None]) -> None:
            kind = events.MouseScrollDown if by > 0 else events.MouseScrollUp
            driver = self.app._driver
            assert driver is not None
            driver.send_message(kind(None, x, y, 0, 0, 0, False, False, False, x, y))
            await pilot._wait_for_screen()

        self._do(turn)

    def resize(self, width: int, height: int) -> None:
        self._do(lambda pilot: pilot.resize_terminal(width, height))

    def pane(self, name: str) -> None:
        """Go to a pane, and wait until it is looked at."""
        self.press(str(NAMES.index(name) + 1))
        self.wait(lambda: self.app.view.pane == name)
        if not self.app.observer.paused:
            self.look()

    def look(self) -> None:
        """Until there is a look that was begun after this."""
        for _ in range(2):
            before = self.app.now
            self.wait(lambda before=before: self.app.now is not before)  # type: ignore[misc]

    # What one sees.

    @property
    def lines(self) -> list[str]:
        """The whole screen."""

        async def drawn(_pilot: Pilot[None]) -> list[str]:
            return [strip.text.rstrip() for strip in self.app.screen._compositor.render_strips()]

        found: list[str] = self._do(drawn)
        return found

    @property
    def text(self) -> str:
        return "\n".join(self.lines)

    @property
    def detail(self) -> str:
        """What is said of the one thing, "" when nothing is open."""
        screen = self.app.screen
        return "\n".join(screen.said) if isinstance(screen, Detail) else ""

    @property
    def sheet(self) -> Sheet:
        return self.app.query_one(Sheet)

    @property
    def body(self) -> list[str]:
        """The lines of the pane that are in sight, without the head, each with its mark."""
        top, size = self.sheet.region.y, self.sheet.scrollable_content_region.size
        return [line[: size.width].rstrip() for line in self.lines[top + 1 : top + size.height]]

    @property
    def head(self) -> str:
        return self.lines[self.sheet.region.y]

    @property
    def chosen(self) -> str:
        """The one line that is marked."""
        (found,) = (line for line in self.body if line.startswith(">"))
        return found

    def line(self, *words: str) -> str:
        """The one line of the pane that has these words, without its mark; fails when there is none, or two."""
        (found,) = (line[1:].strip() for line in self.body if all(word in line for word in words))
        return found

    def cells(self, *words: str) -> dict[str, str]:
        """The same by the heads of its columns; of a pane in which no cell but the last has blanks."""
        heads = self.head.split()
        return dict(zip(heads, self.line(*words).split(None, len(heads) - 1), strict=False))

    def until(self, *words: str, none: str = "") -> None:
        """Until all of this is on the screen, and that is not."""

        def there() -> bool:
            text = self.text
            return all(word in text for word in words) and not (none and none in text)

        self.wait(there)

    def wait(self, true: Callable[[], bool]) -> None:
        """Until it is so; the screen is in the failure if it is not."""
        look_until(true, lambda: self.text)

    def open(self, *words: str) -> str:
        """Choose the line with these words by its place, and open it; what is said, once it is read."""
        (place,) = (at for at, line in enumerate(self.body) if all(word in line for word in words))
        self.burst("g", *(["j"] * (place + self.sheet.scroll_offset.y)))
        self.press("enter")
        self.wait(lambda: self.detail not in ("", "looking …"))
        return self.detail

    def map_line(self, frame: int) -> tuple[int, str]:
        """The line of the map that has this frame, after which of those in sight it is; fails when it is not there."""
        return next(found for found in enumerate(self.body) if found[1][1:].split()[:1] == [str(frame // 64 * 64)])

    def open_frame(self, frame: int) -> str:
        """What is said of it; the map must have its line in sight."""
        place, _ = self.map_line(frame)
        self.burst("g", *(["j"] * place), *(["h"] * 64), *(["l"] * (frame % 64)))
        self.press("enter")
        self.wait(lambda: self.detail.startswith(f"frame {frame} "))
        return self.detail


@contextmanager
def monitor(point: str, size: tuple[int, int] = (120, 40), pane: str = "domains") -> Iterator[Screen]:
    """The monitor, with its first look taken."""
    screen = Screen(point, size, pane)
    try:
        screen.wait(lambda: " domain" in screen.lines[0] or "!!" in screen.lines[0])
        yield screen
    finally:
        screen.close()
