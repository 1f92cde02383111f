"""A mount as tests see it: domains that are removed afterwards, and clients as processes of their own."""

from __future__ import annotations

import os
import select
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import pytest

from tests.conformance.world import Mount
from tests.mounted.inside import Ctl
from xenfs.hypervisor.snapshot import Counts

REPO = Path(__file__).parents[2]
SOON = 10.0
"""Seconds in which whatever is to happen has happened."""
_PRELUDE = """\
import ctypes, errno, mmap, os, select, signal, socket, stat, struct, sys, threading, time
from pathlib import Path
from tests.mounted.inside import *
die_with_parent()
say("ready")
"""


def until(true: Callable[[], bool], seconds: float = SOON) -> None:
    """Look again and again until something is true."""
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "it did not come to pass"
        select.select([], [], [], 0.002)


def stacks(pid: int) -> Iterator[str]:
    """Where in the kernel each thread of a process is."""
    for task in Path(f"/proc/{pid}/task").iterdir():
        with suppress(FileNotFoundError, ProcessLookupError):  # it has just ended
            yield (task / "stack").read_text()


class Client:
    """A process. What it says comes by `line`; it is killed at the end of the test in any case."""

    def __init__(self, root: Path, code: str, prefix: Sequence[str]) -> None:
        self.process = subprocess.Popen(
            [*prefix, sys.executable, "-c", _PRELUDE + textwrap.dedent(code)],
            cwd=REPO,
            env={**os.environ, "XEN": str(root), "PYTHONPATH": str(REPO)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        self._said = b""
        if self.line() != "ready":
            pytest.fail("the client did not start")

    @property
    def pid(self) -> int:
        return self.process.pid

    def line(self, seconds: float = SOON) -> str:
        """The next line it says; fails when it says nothing more."""
        assert self.process.stdout is not None
        fd, deadline = self.process.stdout.fileno(), time.monotonic() + seconds
        while b"\n" not in self._said:
            ready, _, _ = select.select([fd], [], [], max(0.0, deadline - time.monotonic()))
            more = os.read(fd, 65536) if ready else b""
            if not more:
                self.kill()
                why = "ended" if ready else f"said nothing for {seconds} s"
                assert self.process.stderr is not None
                pytest.fail(f"the client {why}: {self.process.stderr.read().decode()[-2000:]}", pytrace=True)
            self._said += more
        line, self._said = self._said.split(b"\n", 1)
        return line.decode()

    def speaks(self, seconds: float) -> bool:
        """Whether it says something within that time."""
        assert self.process.stdout is not None
        return bool(self._said or select.select([self.process.stdout], [], [], seconds)[0])

    def say(self, text: str = "") -> None:
        """Send it a line."""
        assert self.process.stdin is not None
        self.process.stdin.write(text.encode() + b"\n")
        self.process.stdin.flush()

    def ask(self, text: str = "") -> str:
        """Send it a line, and wait for its next."""
        self.say(text)
        return self.line()

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    @property
    def waits(self) -> bool:
        """Whether a thread of it waits for an answer of the daemon's."""
        return any("fuse_" in stack or "folio_" in stack for stack in stacks(self.pid))

    def kill(self) -> None:
        """kill -9, and wait until it is gone with all it had open."""
        self.process.kill()
        self.process.wait(SOON)

    def end(self, seconds: float = SOON) -> int:
        """Wait for its end; the exit code, negative for a signal."""
        return self.process.wait(seconds)

    def close(self) -> None:
        with suppress(subprocess.TimeoutExpired):
            self.kill()
        for pipe in (self.process.stdin, self.process.stdout, self.process.stderr):
            if pipe is not None:
                with suppress(OSError):
                    pipe.close()


class Xen:
    """A mount in use by one test."""

    def __init__(self, mount: Mount) -> None:
        self.mount, self.root, self.pid = mount, mount.root, mount.pid
        self._clients: list[Client] = []
        self._ctls: list[Ctl] = []

    def home(self, domid: int) -> Path:
        return self.root / "domains" / str(domid)

    def domain(self, domid: int, user: int | None = None) -> Path:
        """Make a domain; its directory."""
        self.home(domid).mkdir()
        if user is not None:
            os.chown(self.home(domid), user, user)
        return self.home(domid)

    def ctl(self, domid: int, flags: int = os.O_RDWR) -> Ctl:
        """A handle of a domain, closed after the test."""
        self._ctls.append(Ctl(self.home(domid), flags))
        return self._ctls[-1]

    def client(self, code: str, prefix: Sequence[str] = ()) -> Client:
        """Run code in a process of its own, with everything of `inside` at hand."""
        self._clients.append(Client(self.root, code, prefix))
        return self._clients[-1]

    def lines(self) -> list[list[str]]:
        """hypervisor/frames as words."""
        return [line.split() for line in (self.root / "hypervisor" / "frames").read_text().splitlines()[1:]]

    def counts(self, domid: int) -> Counts:
        """What a living domain has."""
        (found,) = (line for line in self.lines() if line[0] == str(domid) and line[1] != "dying")
        return Counts(*(int(word) for word in found[2:6]))

    def dying(self) -> list[str]:
        """Numbers of the dead domains that still own something."""
        return [line[0] for line in self.lines() if line[1] == "dying"]

    def environment(self) -> dict[str, str]:
        """For a process that is to use this mount."""
        return {**os.environ, "XEN": str(self.root), "PYTHONPATH": str(REPO)}

    def until_info(self, domid: int, port: int, words: str) -> None:
        """Until a port's info begins with these words."""
        info = self.home(domid) / "evtchn" / str(port) / "info"
        until(lambda: info.read_text().startswith(words))

    def log(self) -> str:
        """What the daemon has said on stderr."""
        return (self.root.parent / f"{self.root.name}.log").read_text()

    def close_handles(self) -> None:
        """Close what `ctl` opened."""
        for ctl in self._ctls:
            ctl.close()

    def abandon(self) -> None:
        """End clients and handles."""
        for client in self._clients:
            client.close()
        self.close_handles()

    def close(self) -> None:
        """End clients, handles and domains, and see that nothing is left."""
        self.abandon()
        for path in (self.root / "domains").iterdir():
            if path.name != "0":
                path.rmdir()
        until(self._nothing_left)

    def _nothing_left(self) -> bool:
        """Domain 0 is alone, and uses nothing."""
        *domains, total = self.lines()
        return [(line[0], *line[3:6]) for line in domains] == [("0", "0", "0", "0")] and total[0] == "total"
