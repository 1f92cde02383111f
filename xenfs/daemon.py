"""The daemon: one event loop that serves the mount. `python -m xenfs.daemon MNT` runs it in the foreground."""

from __future__ import annotations

import argparse
import contextlib
import gc
import os
import resource
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

from xenfs.fs.filesystem import Filesystem
from xenfs.fs.operations import Operations
from xenfs.fs.session import Session
from xenfs.fusemount import MountError
from xenfs.hypervisor import Config
from xenfs.xenstore.server import Server

FUSE_CONF = Path("/etc/fuse.conf")
STOP_DEADLINE = 5.0
SWITCH_SECONDS = 0.0005
"""How long a busy loop keeps the work thread from running: each of its jobs needs several turns."""


def mount_options(extra: Sequence[str] = ()) -> list[str]:
    """Options of the mount: other users may come in where the system lets us allow it."""
    options = ["fsname=xenfs", "subtype=xenfs", "default_permissions"]
    if os.getuid() == 0 or _user_allow_other():
        options.append("allow_other")
    return [*options, *extra]


def _user_allow_other() -> bool:
    with contextlib.suppress(OSError):
        return any(line.strip() == "user_allow_other" for line in FUSE_CONF.read_text().splitlines())
    return False


def open_writeback(mountpoint: str) -> None:
    """As root, let dirty pages of this mount be as many as they will: the defaults stall stores to shared pages.

    Best effort, and `xenfs doctor` tells when it is not possible. Looks at the mount, so not from the loop's thread.
    """
    device = Path(mountpoint).stat().st_dev
    bdi = Path(f"/sys/class/bdi/{os.major(device)}:{os.minor(device)}")
    for name, value in (("strict_limit", "0"), ("max_ratio", "100")):
        with contextlib.suppress(OSError):
            (bdi / name).write_text(value)


@contextmanager
def _signals(numbers: Sequence[int], then: Callable[[], None]) -> Iterator[int]:
    """A descriptor that polls readable after one of the signals; `then` is called for each in the handler."""
    read, write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    before = signal.set_wakeup_fd(write, warn_on_full_buffer=False)
    handlers = {number: signal.signal(number, lambda *_: then()) for number in numbers}
    try:
        yield read
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(before)
        os.close(read)
        os.close(write)


class Daemon:
    """A filesystem with its session and its loop."""

    def __init__(self, mountpoint: str, config: Config, options: Sequence[str] = (), *, debug: bool = False) -> None:
        """Mount. Raises MountError."""
        self.fs = Filesystem(mountpoint, config, version("xenfs"))
        self.session = Session(mountpoint, Operations(self.fs).handlers(), mount_options(options), debug=debug)
        self.fs.channel = self.session.channel
        self._stopping = False
        self._alive = True

    def stop(self) -> None:
        """Have the loop end."""
        self._stopping = True

    def run(self, ready: Callable[[], None]) -> None:
        """Serve until stopped or unmounted; `ready` is called once the mount answers."""
        work = self.fs.work
        work.start()
        work.put(lambda: open_writeback(self.fs.mountpoint))
        work.then(ready)
        loop = self.fs.loop
        with _signals((signal.SIGINT, signal.SIGTERM, signal.SIGHUP), self.stop) as woken:
            loop.watch(self.session.fd, self._serve)
            loop.watch(work.fd, work.collect)
            loop.watch(woken, lambda: None)
            more, server = False, self._serve_store()
            while self._alive and not self._stopping:
                loop.turn(0 if more else None)
                more = self.fs.tend()
                if server is not None:
                    server.flush()
            if server is not None:
                server.close()
            self._let_go()
        loop.close()
        self.session.close()

    def _serve_store(self) -> Server | None:
        """The store's socket, beside the mount; without it, where it cannot be, the other doors remain."""
        path = f"{self.fs.mountpoint}.sock"
        try:
            return Server(self.fs.store, self.fs.loop, path)
        except OSError as error:
            print(f"xenfs: no xenstore socket at {path}: {error.strerror or error}", file=sys.stderr)
            return None

    def _serve(self) -> None:
        self._alive = self.session.serve()

    def _let_go(self) -> None:
        """Close the FIFOs, which keep the mount busy; the work that this is may need us to answer meanwhile."""
        work, deadline = self.fs.work, time.monotonic() + STOP_DEADLINE
        self.fs.fifos.close()
        work.close()
        while not work.ended and self._alive and time.monotonic() < deadline:
            self.fs.loop.turn(STOP_DEADLINE)


def main(argv: Sequence[str] | None = None) -> int:
    """Serve a mount in the foreground."""
    parser = argparse.ArgumentParser(prog="python -m xenfs.daemon", description=main.__doc__)
    parser.add_argument("mountpoint")
    parser.add_argument("--frames", type=int, default=Config().frames, help="frames of the machine, 4 KiB each")
    parser.add_argument("--dom0-frames", type=int, default=Config().dom0_frames, help="frames of domain 0")
    parser.add_argument("--ready-fd", type=int, default=-1, help="told ok, or the reason, once")
    parser.add_argument("-o", action="append", default=[], dest="options", help="more options for the mount")
    parser.add_argument("--debug", action="store_true", help="show what libfuse does")
    words = parser.parse_args(argv)

    def tell(line: str) -> None:
        if words.ready_fd >= 0:
            os.write(words.ready_fd, f"{line}\n".encode())
            os.close(words.ready_fd)

    # what is there now stays; the tree of a large machine should not be walked again and again
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)
    sys.setswitchinterval(SWITCH_SECONDS)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))  # a descriptor for each port
    if words.dom0_frames > words.frames:
        needs = f"the machine needs at least {words.dom0_frames} frames, which domain 0 has"
        problem = f"{needs}; --frames gives it {words.frames}"
        tell(problem)
        print(f"xenfs: {problem}", file=sys.stderr)
        return 1
    config = Config(frames=words.frames, dom0_frames=words.dom0_frames, lingering_maps=True)
    options = [option for group in words.options for option in group.split(",") if option]
    try:
        daemon = Daemon(str(Path(words.mountpoint).resolve()), config, options, debug=words.debug)
    except MountError as error:
        tell(str(error.strerror))
        print(f"xenfs: {error.strerror}", file=sys.stderr)
        return 1
    daemon.run(lambda: tell("ok"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
