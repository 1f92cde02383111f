"""Starting the daemon, and ending one that is our child."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterable, Sequence
from typing import BinaryIO

from xenfs.commands.child import die_with_parent, ready
from xenfs.commands.failure import Unable

START_SECONDS = 30.0
END_SECONDS = 10.0


FLAGS = (
    "allow_other", "async", "atime", "default_permissions", "dev", "dirsync", "exec", "noatime", "nodev", "noexec",
    "nonempty", "nosuid", "ro", "rw", "suid", "sync",
)  # fmt: skip
VALUES = ("fsname", "max_read", "subtype")
"""The options of the mount that libfuse, fusermount and mount(8) all know; libfuse drops what it does not know."""


def unknown_option(groups: Iterable[str]) -> str | None:
    """What is wrong with options of the mount, as -o has them."""
    for option in (option for group in groups for option in group.split(",") if option):
        name, valued, _ = option.partition("=")
        if name not in (VALUES if valued else FLAGS):
            known = ", ".join(sorted([*FLAGS, *(f"{name}=" for name in VALUES)]))
            return f"-o {option}: there is no such option; known are {known}"
    return None


def words(point: str, *, frames: int | None, dom0_frames: int | None, options: Sequence[str], debug: bool) -> list[str]:
    """The command line of the daemon."""
    made = [sys.executable, "-m", "xenfs.daemon", point]
    for flag, value in (("--frames", frames), ("--dom0-frames", dom0_frames)):
        made += [flag, str(value)] if value is not None else []
    made += ["-o", ",".join(options)] if options else []
    return made + (["--debug"] if debug else [])


def start(command: Sequence[str], log: BinaryIO, *, captive: bool = False) -> subprocess.Popen[bytes]:
    """Start the daemon in a session of its own and wait until its mount answers.

    What it says on stderr goes to `log`. A captive one ends when we do. Raises Unable with the reason it gave.
    """
    reader, writer = os.pipe()
    before = log.seek(0, os.SEEK_END)
    try:
        daemon = subprocess.Popen(
            [*command, "--ready-fd", str(writer)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd="/",
            start_new_session=True,
            pass_fds=[writer],
            preexec_fn=lambda: _begin(captive),
        )
        os.close(writer)
        writer = -1
        try:
            answer = os.read(reader, 4096).decode(errors="replace").strip() if ready(reader, START_SECONDS) else None
        except BaseException:
            stop(daemon)
            raise
    finally:
        os.close(reader)
        if writer >= 0:
            os.close(writer)
    if answer == "ok":
        return daemon
    stop(daemon)
    if answer is None:
        raise Unable(f"the daemon did not get the mount ready in {START_SECONDS:.0f} s")
    reason = _reason(answer, said(log, before), daemon.returncode)
    log.truncate(before)
    raise Unable(reason)


def _begin(captive: bool) -> None:
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    if captive:
        die_with_parent(signal.SIGTERM)


def said(log: BinaryIO, since: int = 0) -> list[str]:
    """The lines that the daemon has written."""
    log.seek(since)
    return [line.strip() for line in log.read().decode(errors="replace").splitlines() if line.strip()]


def _reason(answer: str, lines: Sequence[str], status: int) -> str:
    hints = [line.removeprefix("fuse: ").removeprefix("fusermount: ") for line in lines if "fuse" in line.split(":")[0]]
    told = [answer or (lines[-1] if lines else f"the daemon ended with status {status}"), *hints[:1]]
    return "; ".join(dict.fromkeys(told))


def detach(daemon: subprocess.Popen[bytes]) -> None:
    """Let a daemon outlive us: it is no child that is waited for."""
    daemon.returncode = 0


def stop(daemon: subprocess.Popen[bytes], seconds: float = END_SECONDS) -> None:
    """End a daemon that is our child, politely first."""
    daemon.terminate()
    try:
        daemon.wait(seconds)
    except subprocess.TimeoutExpired:
        daemon.kill()
        daemon.wait(seconds)
