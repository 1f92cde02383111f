"""A real terminal, by tmux: a server of its own for every test, which does not outlive it."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.mounted.mount import REPO
from tests.need import need_tool
from tests.top.looking import look_until

SECONDS = 20.0
XENFS = shlex.join([sys.executable, "-m", "xenfs"])
_MODES = "#{alternate_on} #{mouse_any_flag} #{keypad_cursor_flag} #{cursor_flag}"
RESTING = "0 0 0 1"
"""The modes of a terminal in which a shell waits: no other screen, no mouse, plain arrows, a cursor."""


class Terminal:
    """A shell in a terminal."""

    def __init__(self, folder: Path, point: str, **environment: str) -> None:
        self._tmux = [need_tool("tmux", "tmux"), "-u", "-S", str(folder / "tmux"), "-f", "/dev/null"]
        wanted = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "TMUX")}
        self._environment = {
            **wanted, "XEN": point, "LC_ALL": "C.UTF-8", "PYTHONPATH": str(REPO), **environment,
        }  # fmt: skip
        self.raw = folder / "raw"

    def start(self, width: int, height: int) -> None:
        """Have the shell, until it prompts."""
        self._do("new-session", "-d", "-x", str(width), "-y", str(height), "-c", str(REPO), "sh")
        self._do("pipe-pane", "-O", f"exec cat > {shlex.quote(str(self.raw))}")
        self.wait(lambda: self.lines[0].strip() in ("$", "#"))

    def _do(self, *words: str) -> str:
        done = subprocess.run(
            [*self._tmux, *words], capture_output=True, text=True, timeout=SECONDS, check=False, env=self._environment
        )
        assert done.returncode == 0, (words, done.stderr)
        return done.stdout

    def type(self, text: str) -> None:
        """Characters, as they are."""
        self._do("send-keys", "-l", text)

    def press(self, *keys: str) -> None:
        """Keys by tmux's names."""
        for key in keys:
            self._do("send-keys", key)

    def run(self, line: str) -> None:
        """A line for the shell, which tells how it has ended."""
        self.type(f"{line}; echo status=$?")
        self.press("Enter")

    def command(self, words: str) -> None:
        """One of the monitor's."""
        self.type(f":{words}")
        self.press("Enter")

    def mouse(self, x: int, y: int) -> None:
        """A click, as terminals tell it."""
        self.type(f"\x1b[<0;{x + 1};{y + 1}M\x1b[<0;{x + 1};{y + 1}m")

    def resize(self, width: int, height: int) -> None:
        self._do("resize-window", "-x", str(width), "-y", str(height))

    @property
    def lines(self) -> list[str]:
        """What is on the screen; lines that were too long for it are whole."""
        return [line.rstrip() for line in self._do("capture-pane", "-p", "-J").splitlines()]

    @property
    def text(self) -> str:
        return "\n".join(self.lines)

    @property
    def modes(self) -> str:
        return self._do("display-message", "-p", _MODES).strip()

    @property
    def title(self) -> str:
        return self._do("display-message", "-p", "#{pane_title}").strip()

    def settings(self) -> str:
        """What stty says of the terminal."""
        tty = self._do("display-message", "-p", "#{pane_tty}").strip()
        return subprocess.run(["stty", "-g", "-F", tty], capture_output=True, text=True, check=True).stdout

    def wait(self, true: Callable[[], bool]) -> None:
        """Until it is so; the screen is in the failure if it is not."""
        look_until(true, lambda: self.text, SECONDS)

    def until(self, *words: str, none: str = "") -> None:
        """Until all of this is on the screen, and that is not."""

        def there() -> bool:
            text = self.text
            return all(word in text for word in words) and not (none and none in text)

        self.wait(there)

    def ended(self, status: int) -> None:
        """Until the line has ended, so."""
        found: list[str] = []

        def over() -> bool:
            found[:] = [line.removeprefix("^C") for line in self.lines if re.fullmatch(r"(\^C)?status=\d+", line)]
            return bool(found)

        self.wait(over)
        assert found == [f"status={status}"], self.text

    def close(self) -> None:
        """End it with all that runs in it."""
        subprocess.run([*self._tmux, "kill-server"], capture_output=True, timeout=SECONDS, check=False)


@contextmanager
def terminal(folder: Path, point: str, width: int = 80, height: int = 24, **environment: str) -> Iterator[Terminal]:
    """One that is closed afterwards."""
    made = Terminal(folder, point, **environment)
    try:
        made.start(width, height)
        yield made
    finally:
        made.close()
