"""Commands, shown as one would type them, with what they print."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from rich.console import Console
from rich.table import Table

from xenfs.abi.stats import Stats
from xenfs.commands import service

_SECONDS = 60.0


class Failed(Exception):
    """A command of the demonstration failed; the text says which, and what it said."""


class Show:
    """A console, and a machine with what has been started on it."""

    def __init__(self, console: Console, point: str) -> None:
        """Show the machine that is mounted at `point`."""
        self.console, self.point = console, point
        self.environment = {**os.environ, "XEN": point, "COLUMNS": str(console.width)}
        self.before = ""
        """hypervisor/frames before there was a guest."""
        self._devd: subprocess.Popen[bytes] | None = None
        self._guests: list[str] = []

    def title(self, text: str) -> None:
        """A new part."""
        self.console.print()
        self.console.rule(f"[bold]{text}", align="left", style="cyan")

    def say(self, text: str) -> None:
        """A sentence in between."""
        self.console.print(text, highlight=False)

    def typed(self, words: str) -> None:
        """What one would type."""
        self.console.print(f"$ {words}", style="bold green", markup=False, highlight=False, soft_wrap=True)

    def printed(self, text: str) -> None:
        """What a command has printed."""
        self.console.print(text.rstrip("\n"), markup=False, highlight=False, soft_wrap=True)

    def _words(self, words: tuple[str, ...]) -> list[str]:
        return [sys.executable, "-m", *words] if words[0] == "xenfs" else list(words)

    def run(self, *words: str, quiet: bool = False) -> str:
        """Run a command to its end, shown unless `quiet`. Raises Failed."""
        if not quiet:
            self.typed(shlex.join(words))
        try:
            done = subprocess.run(
                self._words(words), capture_output=True, text=True, timeout=_SECONDS, check=False, env=self.environment
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise Failed(f"{' '.join(words)}: {error}") from error
        if done.returncode:
            raise Failed(f"{' '.join(words)}: {done.stderr.strip() or f'exit status {done.returncode}'}")
        if not quiet and done.stdout.strip():
            self.printed(done.stdout)
        return done.stdout

    def start(self, *words: str, quiet: bool = False) -> subprocess.Popen[str]:
        """Start a command that goes on; its output is the caller's to read."""
        if not quiet:
            self.typed(f"{shlex.join(words)} &")
        return subprocess.Popen(self._words(words), stdout=subprocess.PIPE, text=True, env=self.environment)

    def devd(self, log: BinaryIO) -> None:
        """Start the backends' supervisor, in the demonstration's own network namespace; what it says goes to `log`."""
        self.typed("xenfs devd")
        os.environ["XEN"] = self.point
        self._devd = service.start([sys.executable, "-m", "xenfs", "devd", "-F"], log, captive=True)

    def create(self, example: str) -> None:
        """Make a guest of an example's configuration."""
        path = Path(__file__).parents[1] / "examples" / f"{example}.cfg"
        self.typed(f"xenfs create {example}.cfg")
        self._guests.append(example)
        self.run("xenfs", "create", "-q", str(path), quiet=True)

    def frames(self, title: str) -> str:
        """Who owns what, as a table; the text itself is given back."""
        text = Path(self.point, "hypervisor/frames").read_text()
        head, *lines, total = text.splitlines()
        columns = head.split()
        table = Table(title=title, title_justify="left", caption=total, caption_justify="left")
        for column in columns:
            table.add_column(column, justify="left" if column in ("domid", "state", "name") else "right")
        for line in lines:
            table.add_row(*line.split(None, len(columns) - 1))
        self.console.print(table)
        return text

    def owned(self) -> dict[int, int]:
        """How many frames each domain owns."""
        lines = Path(self.point, "hypervisor/frames").read_text().splitlines()[1:-1]
        return {int(line.split()[0]): int(line.split()[2]) for line in lines}

    def stats(self, domid: int, name: str) -> Stats:
        """A driver's statistics page."""
        data = Path(self.point, "domains", str(domid), "rings", name).read_bytes()
        return Stats.parse(data)

    def end(self) -> None:
        """End all guests, and devd."""
        for name in reversed(self._guests):
            with suppress(Failed):
                self.run("xenfs", "destroy", name, quiet=True)
        if self._devd is not None:
            service.stop(self._devd)
            self._devd = None
