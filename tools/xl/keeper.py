"""The keeper of a guest: `python -m xl.keeper DOMID`. It holds the guest's network namespace, runs the supervisor of
its frontends and its command, hears when it is asked to shut down, and does what is to be done when it has ended.

All processes of the guest end with it. The supervisor may die on its own: it is started again.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from xenfs.abi.xenfs_op import ShutdownDomain, ShutdownReason
from xenfs.commands.child import die_with_parent
from xenfs.commands.running import RunDirectory
from xenfs.domain import Refused, Watch
from xenfs.domain.mounted import MountedDomain
from xenfs.xenbus import Loop
from xenfs.xenbus.end import to_stderr
from xenfs.xenbus.process import PARENT
from xl import netns, toolstack
from xl.config import GuestConfig

TERM_SECONDS, LEAVE_SECONDS = 2.0, 10.0
_REASONS = {"poweroff": ShutdownReason.poweroff, "halt": ShutdownReason.poweroff, "reboot": ShutdownReason.reboot}
_FIRST, _LAST = 0.1, 5.0
_ALONE = ("unshare", "--pid", "--fork", "--kill-child", "--mount-proc", "--propagation", "slave")
"""How root's guests have processes of their own."""


class Keeper:
    """One guest."""

    def __init__(self, point: str, domid: int, config: GuestConfig) -> None:
        """Enter the domain."""
        self.point, self.domid, self.config = point, domid, config
        self.domain = MountedDomain(domid, point)
        self.place = RunDirectory(point)
        self.loop = Loop()
        self.reason: ShutdownReason | None = None
        self._supervisor: subprocess.Popen[bytes] | None = None
        self._command: subprocess.Popen[bytes] | None = None
        self._pause = 0.0
        self._watch: Watch | None = None
        self._fds: dict[int, int] = {}

    def _environment(self) -> dict[str, str]:
        own = {"XEN": self.point, "XEN_DOMID": str(self.domid), "XEN_EXTRA": self.config.extra}
        return {**os.environ, **own, PARENT: str(os.getpid())}

    def _on_end(self, process: subprocess.Popen[bytes], call: Callable[[int], None]) -> None:
        pidfd = os.pidfd_open(process.pid)

        def ended() -> None:
            self.loop.unwatch(pidfd)
            os.close(pidfd)
            call(process.wait())

        self.loop.watch(pidfd, ended)

    def start(self) -> None:
        """Start the supervisor, which says when the command may start, and hear of shutdowns."""
        self._supervise()
        self._watch = self.domain.store.watch("control/shutdown", "keeper")
        self.loop.watch(self._watch.fileno(), self._asked)
        self.loop.watch(self.domain.gone_fd, self.loop.stop)

    def _supervise(self) -> None:
        if self.reason is not None or self.loop.stopped:
            return
        process = subprocess.Popen(
            [sys.executable, "-m", "xl.guest"],
            env=self._environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        self._supervisor = process
        assert process.stdout is not None
        pipe = process.stdout

        def said() -> None:
            line = pipe.readline()
            self.loop.unwatch(pipe.fileno())
            if line == b"ready\n":
                self._run_command()

        self.loop.watch(pipe.fileno(), said)

        def ended(code: int) -> None:
            self.loop.unwatch(pipe.fileno())
            pipe.close()
            self._supervisor = None
            if self.reason is None and not self.domain.gone and self._alive():
                self._pause = min(max(2 * self._pause, _FIRST), _LAST)
                why = f"killed by {signal.Signals(-code).name}" if code < 0 else f"ended with status {code}"
                to_stderr(f"the supervisor of the frontends was {why}, and starts again in {self._pause:.1f} s")
                self.loop.later(self._pause, self._supervise)
            elif self.reason is None:
                self.loop.stop()

        self._on_end(process, ended)

    def _alive(self) -> bool:
        """Whether the domain is there."""
        return Path(self.point, "domains", str(self.domid)).is_dir()

    def _run_command(self) -> None:
        if self._command is not None or not self.config.init:
            return
        shell = ["sh", "-c", self.config.init]
        alone = _ALONE if os.geteuid() == 0 else ()
        line = [sys.executable, "-m", "xenfs", "exec", str(self.domid), "--", *alone, *shell]
        with (self.place.guest(self.domid) / "console").open("ab") as console:
            self._command = subprocess.Popen(
                line,
                env=self._environment(),
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=console,
                start_new_session=True,
                preexec_fn=die_with_parent,
            )
        self._on_end(self._command, self._command_ended)

    def _command_ended(self, code: int) -> None:
        self._command = None
        if self.reason is None:
            to_stderr(f"the guest's command ended with status {code}")
            self._stop(ShutdownReason.poweroff if code == 0 else ShutdownReason.crash)

    def _asked(self) -> None:
        assert self._watch is not None
        try:
            while self._watch.wait(0) is not None:
                pass
            wish = self.domain.store.read("control/shutdown").decode("ascii", "replace")
            if wish in _REASONS:
                self.domain.store.write("control/shutdown", "")
                self._stop(_REASONS[wish])
            elif wish:
                to_stderr(f"control/shutdown = {wish[:40]!r}: not known here")
                self.domain.store.write("control/shutdown", "")
        except Refused:
            self.loop.stop()  # the domain has gone

    def _stop(self, reason: ShutdownReason) -> None:
        if self.reason is None:
            self.reason = reason
            self.loop.stop()

    def end(self) -> None:
        """End the guest's processes: after a wish of its own in order, else at once."""
        orderly = self.reason is not None and self.reason is not ShutdownReason.crash
        for process in (self._command, self._supervisor):
            if process is None:
                continue
            if orderly:
                process.terminate()
                with suppress(subprocess.TimeoutExpired):
                    process.wait(TERM_SECONDS if process is self._command else LEAVE_SECONDS)
            process.kill()
            process.wait()


def act(point: str, domid: int, config: GuestConfig, reason: ShutdownReason) -> bool:
    """What the configuration wants done when a guest has ended; whether it is to start again."""
    wish = {
        ShutdownReason.poweroff: config.on_poweroff,
        ShutdownReason.reboot: config.on_reboot,
        ShutdownReason.crash: config.on_crash,
    }.get(reason, config.on_crash)
    to_stderr(f"domain {domid}: {reason.name}: {wish}")
    if wish == "preserve":
        return False
    with MountedDomain(0, point) as root:
        toolstack.destroy(root, point, domid, keep_files=True)
    return wish == "restart"


def main(words: list[str]) -> int:
    """Keep a guest to its end."""
    point, domid, ready = words[0], int(words[1]), int(words[words.index("--ready-fd") + 1])
    place = RunDirectory(point)
    kept: dict[str, Any] = place.read(domid, "config")
    kept = {name: tuple(v) if isinstance(v, list) else v for name, v in kept.items()}
    config = GuestConfig(**kept)
    if place.hold(f"{domid}/keeper.pid") is None:
        os.write(ready, b"the domain has a keeper")
        return 1
    try:
        netns.enter_new()
        keeper = Keeper(point, domid, config)
        keeper.loop.on_signals((signal.SIGTERM,), keeper.loop.stop)
        keeper.start()
    except OSError as error:
        os.write(ready, f"{error.filename or 'keeper'}: {error.strerror}".encode())
        return 1
    os.write(ready, b"ok")
    os.close(ready)
    began = time.monotonic()
    keeper.loop.run()
    keeper.end()
    if keeper.reason is None:  # destroyed, or the hypervisor is gone
        place.unmount(str(domid))
        return 0
    with suppress(Refused):
        keeper.domain.call(ShutdownDomain(reason=int(keeper.reason)))
    keeper.domain.close()
    try:
        again = act(point, domid, config, keeper.reason)
        if again and time.monotonic() - began > 1:
            toolstack.start_again(point, config)
        elif again:
            to_stderr(f"domain {domid}: it ended within a second: not started again")
    except Exception as error:
        to_stderr(f"domain {domid}: {error}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
