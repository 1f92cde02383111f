"""A place to mount on and the command for it; each lab ends what has been mounted there.

What looks at a mount does it by the command, or in a child with a deadline: a mount may be one that does not answer.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import pty
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from xenfs.commands.child import ask, ready
from xenfs.commands.place import MOUNTINFO, Mount, mounts

PROGRAM = [sys.executable, "-c", "from xenfs.cli import main; main()"]
SECONDS = 60.0
Done = subprocess.CompletedProcess[str]


class Lab:
    """A place to mount on, the command with XEN set to it, and what has been started."""

    def __init__(self, home: Path) -> None:
        self.home, self.point = home, f"{home}/xen"
        self.environment = {**os.environ, "XEN": self.point, "TMPDIR": str(home), "COLUMNS": "200"}
        self.started: list[subprocess.Popen[str]] = []

    def xenfs(self, *words: str, **environment: str) -> Done:
        return subprocess.run(
            [*PROGRAM, *words],
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
            stdin=subprocess.DEVNULL,
            env={**self.environment, **environment},
        )

    def fine(self, *words: str) -> str:
        """Run what must succeed and say nothing on stderr; gives its output."""
        done = self.xenfs(*words)
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout

    def fails(self, *words: str, code: int = 1) -> str:
        """Run what must fail and say so in one line; gives the line without the command's name."""
        done = self.xenfs(*words)
        assert (done.returncode, done.stdout) == (code, "")
        (line,) = done.stderr.splitlines()
        assert line.startswith("xenfs ")
        return line.partition(": ")[2]

    def start(self, *words: str, cwd: str | None = None) -> subprocess.Popen[str]:
        """Start something that goes on until it is told to end."""
        pipe = subprocess.PIPE
        started = subprocess.Popen(
            words,
            stdin=pipe,
            stdout=pipe,
            stderr=pipe,
            text=True,
            env=self.environment,
            cwd=cwd,
            start_new_session=True,
        )
        self.started.append(started)
        return started

    def pid(self) -> int:
        status = json.loads(self.fine("status", "--json"))
        assert isinstance(status["pid"], int)
        return status["pid"]

    def mounts(self) -> list[Mount]:
        return [m for m in mounts() if m.point.startswith(f"{self.home}/")]

    def read(self, path: str) -> str:
        return ask(lambda: Path(self.point, path).read_text())

    def wait_mounts(self, wanted: Callable[[list[Mount]], bool]) -> None:
        """Until the mounts of this place are as wanted; the kernel tells of changes."""
        deadline = time.monotonic() + SECONDS
        with Path(MOUNTINFO).open("rb") as table:
            poller = select.poll()
            poller.register(table, select.POLLPRI)
            while not wanted(self.mounts()):
                assert poller.poll(max(0.0, deadline - time.monotonic()) * 1000), self.mounts()

    def daemons(self) -> list[int]:
        """The daemons of this place, which only this test can have started."""
        found = []
        for home in Path("/proc").iterdir():
            with contextlib.suppress(OSError):
                words = (home / "cmdline").read_bytes().split(b"\0") if home.name.isdigit() else []
                if b"xenfs.daemon" in words and any(w.startswith(os.fsencode(self.home)) for w in words):
                    found.append(int(home.name))
        return found

    def close(self) -> None:
        for started in self.started:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(started.pid, signal.SIGKILL)  # with what it has started
            started.communicate(timeout=10)
        for pid in self.daemons():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for mount in self.mounts():
            if os.geteuid() == 0:
                ctypes.CDLL(None).umount2(os.fsencode(mount.point), 1 | 2)
            else:
                subprocess.run(["fusermount", "-u", "-z", mount.point], check=False, timeout=10)
        assert self.mounts() == []


def running(pid: int) -> bool:
    """Whether a process is there and has not ended; one that has may wait for init to collect it."""
    try:
        return Path("/proc", str(pid), "stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def wait_ended(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        pidfd = os.pidfd_open(pid)
        try:
            assert ready(pidfd, SECONDS)
        finally:
            os.close(pidfd)


def line_of(started: subprocess.Popen[str]) -> str:
    """The next line that a program prints."""
    assert started.stdout is not None
    line, fd = b"", started.stdout.fileno()
    while not line.endswith(b"\n"):
        assert ready(fd, SECONDS)
        piece = os.read(fd, 1)
        assert piece, started.communicate(timeout=10)
        line += piece
    return line.decode().rstrip("\n")


def on_terminal(lab: Lab, words: list[str], answer: Callable[[bytes], bytes]) -> str:
    """Run on a terminal of its own; whenever something has been printed, `answer` is asked what to type."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.execvpe(words[0], words, {**lab.environment, "TERM": "xterm"})
    said = b""
    try:
        while ready(terminal, SECONDS):
            try:
                piece = os.read(terminal, 4096)
            except OSError:  # EIO: nobody has it open any more
                break
            said += piece
            if typed := answer(said):
                os.write(terminal, typed)
    finally:
        os.close(terminal)
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    return said.decode()
