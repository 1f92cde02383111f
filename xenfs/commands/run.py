"""xenfs run: a machine for as long as a program runs."""

from __future__ import annotations

import os
import signal
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Annotated, BinaryIO

import typer

from xenfs.commands import checks, parting, service
from xenfs.commands.failure import Unable, command, tell
from xenfs.commands.leaks import leaked
from xenfs.commands.machine import Frames, create_domain, frames, within
from xenfs.commands.mount import FramesOption
from xenfs.commands.place import mounted_at
from xenfs.commands.running import RunDirectory

FORWARDED = frozenset({
    signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2,
})  # fmt: skip
SI_KERNEL = 0x80  # asm-generic/siginfo.h
_LEAVE_SECONDS = 10.0
"""For devd and guests, which end with the machine."""
SETUP_FAILED, CANNOT_RUN, NOT_FOUND = 125, 126, 127
"""As env and timeout have them."""


def wait_forwarding(pid: int) -> int:
    """Wait for a child and give its status, 128 + N for a signal; hand on what arrives here meanwhile.

    Not what the terminal sends: that goes to the whole foreground group, so the child has it already.
    """
    while True:
        info = signal.sigwaitinfo({*FORWARDED, signal.SIGCHLD})
        if info.si_signo != signal.SIGCHLD:
            if info.si_code != SI_KERNEL:
                os.kill(pid, info.si_signo)
            continue
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended == pid:
            code = os.waitstatus_to_exitcode(status)
            return code if code >= 0 else 128 - code


def run_command(words: Sequence[str], environment: dict[str, str], mask: set[int]) -> int:
    """Run a program to its end and give its status. The signals that we wait for are blocked here, not in it."""
    ours = {signal.SIGPIPE, signal.SIGXFSZ}  # Python ignores these
    try:
        pid = os.posix_spawnp(words[0], list(words), environment, setsigmask=mask, setsigdef=ours)
    except OSError as error:
        tell("run", f"{words[0]}: {error.strerror}")
        return NOT_FOUND if isinstance(error, FileNotFoundError) else CANNOT_RUN
    return wait_forwarding(pid)


@contextmanager
def blocked(numbers: frozenset[signal.Signals]) -> Iterator[set[int]]:
    """Have signals wait for us; gives the mask from before."""
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {*numbers, signal.SIGCHLD})
    try:
        yield mask
    finally:
        for number in numbers & signal.sigpending():
            signal.sigwait({number})  # came too late to be handed on
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def _clear(point: str) -> None:
    """Take away what a daemon left that did not end in peace."""
    if mount := mounted_at(point):
        parting.clear(mount, abort=True)


@contextmanager
def machine(options: Sequence[str], size: int | None, log: BinaryIO, *, keep: bool) -> Iterator[str]:
    """A machine mounted at a place of its own. Raises Unable."""
    if problem := service.unknown_option(options) or checks.obstacle():
        raise Unable(problem, SETUP_FAILED)
    home = os.path.realpath(tempfile.mkdtemp(prefix="xenfs-"))  # as mountinfo will have it
    point = f"{home}/xen"
    with ExitStack() as cleanup:
        cleanup.callback(os.rmdir, home)
        cleanup.callback(RunDirectory(point).clear, _LEAVE_SECONDS)
        Path(point).mkdir()
        cleanup.callback(os.rmdir, point)
        line = service.words(point, frames=size, dom0_frames=None, options=options, debug=False)
        try:
            daemon = service.start(line, log, captive=not keep)
        except Unable as error:
            raise Unable(str(error), SETUP_FAILED) from error
        cleanup.callback(_clear, point)
        cleanup.callback(service.stop, daemon)
        yield point
        if keep:
            service.detach(daemon)
            cleanup.pop_all()


def prepared(point: str, domains: int) -> Frames:
    """The machine with its domains. Raises Unable."""
    try:
        for _ in range(domains):
            create_domain(point)
        return within(point, lambda: frames(point))
    except OSError as error:
        raise Unable(f"{error.filename}: {error.strerror}", SETUP_FAILED) from error
    except Unable as error:
        raise Unable(str(error), SETUP_FAILED) from error


def report(point: str, before: Frames) -> list[str]:
    """Lines about what leaked, or why that cannot be told."""
    try:
        return [f"leaked: {leak}" for leak in leaked(point, before)]
    except (Unable, OSError, ValueError) as error:
        return [f"cannot tell what leaked: {getattr(error, 'strerror', None) or error}"]


@command("run")
def run(
    words: Annotated[list[str], typer.Argument(metavar="CMD", help="After --: the program and its arguments.")],
    domains: Annotated[int, typer.Option(min=0, help="Domains to make, 1 to N.")] = 0,
    size: FramesOption = None,
    options: Annotated[list[str] | None, typer.Option("-o", metavar="OPT,OPT", help="Options of the mount.")] = None,
    keep: Annotated[bool, typer.Option("--keep", help="Leave the machine mounted, and say where.")] = False,
) -> None:
    """Run a program on a machine of its own, which is mounted at $XEN and ends with it: xenfs run -- CMD ARGS.

    Afterwards, whatever is still held in a domain (granted, mapped, in flight, a port, a dying domain) is told on
    stderr.

    Exit status: the program's, 128+N when signal N ended it; 1 when it was 0 and something leaked; 125 there was no
    machine; 126 the program cannot be run; 127 it is not found.
    """
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    with tempfile.TemporaryFile() as log, blocked(FORWARDED) as mask:
        try:
            with machine(options or [], size, log, keep=keep) as point:
                before = prepared(point, domains)
                if early := FORWARDED & signal.sigpending():
                    raise typer.Exit(128 + min(early))
                status = run_command(words, {**os.environ, "XEN": point}, mask)
                lines = report(point, before)
                for line in lines:
                    tell("run", line)
                if keep:
                    tell("run", f"{point} is still mounted; xenfs umount {point} ends it")
        finally:
            for line in service.said(log):
                tell("run", f"the daemon said: {line}")
    raise typer.Exit(status or (1 if lines else 0))
