"""Keeps a daemon for tests, as a process of its own: `python -m xenfs.testing.warden MOUNTPOINT FRAMES`.

A client of a hung daemon hangs in the kernel, where no timeout of its own can reach it. So somebody else must kill the
daemon: this does, when what was announced by a line `arm SECONDS` is not followed by `rest` in time. It says
`ready PID` when the mount answers, and `resting` or `dead` to each `rest`; at the end of its input it ends the daemon
and removes the mount, so that nothing is left when pytest itself is killed.
"""

from __future__ import annotations

import os
import select
import shutil
import subprocess
import sys
import time
from pathlib import Path

START_SECONDS = 30
END_SECONDS = 5


def say(words: str) -> None:
    """Tell whoever started us."""
    sys.stdout.write(words + "\n")
    sys.stdout.flush()


def start(mountpoint: str, frames: str) -> tuple[subprocess.Popen[bytes], int]:
    """Start the daemon; what it says when it is ready comes by the descriptor."""
    reader, writer = os.pipe()
    command = [sys.executable, "-m", "xenfs.daemon", mountpoint, "--frames", frames, "--ready-fd", str(writer)]
    daemon = subprocess.Popen(command, pass_fds=[writer], stdin=subprocess.DEVNULL, stdout=sys.stderr)
    os.close(writer)
    return daemon, reader


def wait_ready(daemon: subprocess.Popen[bytes], reader: int) -> None:
    """Wait until the daemon is ready, and say so; it is killed when it is not in time."""
    ready, _, _ = select.select([reader], [], [], START_SECONDS)
    if not (ready and os.read(reader, 3) == b"ok\n"):
        daemon.kill()
        daemon.wait()
    os.close(reader)


def guard(daemon: subprocess.Popen[bytes]) -> None:
    """Say how it began, and follow the lines of standard input until it ends."""
    say("failed" if daemon.returncode is not None else f"ready {daemon.pid}")
    deadline: float | None = None
    pending = b""
    while True:
        left = None if deadline is None else max(0.0, deadline - time.monotonic())
        ready, _, _ = select.select([0], [], [], left)
        if not ready:
            daemon.kill()
            daemon.wait()
            deadline = None
            continue
        data = os.read(0, 4096)
        if not data:
            return
        *lines, pending = (pending + data).split(b"\n")
        for line in lines:
            word, _, seconds = line.partition(b" ")
            deadline = time.monotonic() + float(seconds) if word == b"arm" else None
            if word == b"rest":
                say("resting" if daemon.poll() is None else "dead")


def end(daemon: subprocess.Popen[bytes], mountpoint: str) -> None:
    """End the daemon by asking, then by force, and take the mount away."""
    daemon.terminate()
    try:
        daemon.wait(END_SECONDS)
    except subprocess.TimeoutExpired:
        daemon.kill()
        daemon.wait()
    fusermount = shutil.which("fusermount") or "fusermount3"
    unmount = ["umount", "-l"] if os.geteuid() == 0 else [fusermount, "-u", "-z", "-q"]
    Path(f"{mountpoint}.sock").unlink(missing_ok=True)  # a daemon that was killed leaves it
    subprocess.run([*unmount, mountpoint], check=False, capture_output=True, timeout=END_SECONDS)


def main(mountpoint: str, frames: str) -> None:
    """Keep a daemon until standard input ends."""
    daemon, reader = start(mountpoint, frames)
    try:
        wait_ready(daemon, reader)
        guard(daemon)
    except BrokenPipeError:  # whoever started us has been killed
        os.dup2(2, 1)  # and there is nobody to tell at the end either
    finally:
        end(daemon, mountpoint)


if __name__ == "__main__":
    main(*sys.argv[1:])
