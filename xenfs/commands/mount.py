"""xenfs mount: make a machine and show it at a place."""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, BinaryIO

import typer

from xenfs.commands import checks, parting, service
from xenfs.commands.failure import Unable, command
from xenfs.commands.place import Condition, default_place, examine, mounted_at, resolve
from xenfs.commands.running import RunDirectory

FramesOption = Annotated[int | None, typer.Option("--frames", min=1, help="Frames of the machine, 4 KiB each.")]


def _log(point: str) -> BinaryIO:
    """The daemon's log beside the mount, to append to; a nameless one where there can be none of our own."""
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_APPEND | os.O_CLOEXEC
    with contextlib.suppress(OSError):
        log = os.fdopen(os.open(f"{point}.log", flags, 0o600), "r+b")
        found = os.fstat(log.fileno())
        if stat.S_ISREG(found.st_mode) and found.st_uid == os.geteuid() and found.st_nlink == 1:
            return log
        log.close()
    return tempfile.TemporaryFile()


def drop_log(point: str) -> None:
    """Remove the log when there is nothing in it."""
    path = Path(f"{point}.log")
    with contextlib.suppress(OSError):
        if path.lstat().st_size == 0:
            path.unlink()


def _make(point: str) -> bool:
    """Make the directory when it is missing; whether it was."""
    try:
        Path(point).mkdir(parents=True)
    except FileExistsError:
        if not Path(point).is_dir():
            raise Unable(f"{point}: it is not a directory") from None
        return False
    return True


@contextlib.contextmanager
def _alone(place: str | None) -> Iterator[None]:
    """Nobody else mounts at a place in the same directory meanwhile, or both would find it free."""
    try:
        fd = os.open(Path(resolve(place or default_place())).parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:  # it is missing or closed to us, of which more is said later
        yield
        return
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


@command("mount")
def mount(
    place: Annotated[
        str | None,
        typer.Argument(metavar="MNT", help="Where; $XEN, else /run/xenfs for root, $XDG_RUNTIME_DIR/xenfs for others."),
    ] = None,
    foreground: Annotated[bool, typer.Option("-f", "--foreground", help="Serve from this process.")] = False,
    debug: Annotated[bool, typer.Option("-d", "--debug", help="Show each request; implies -f.")] = False,
    options: Annotated[list[str] | None, typer.Option("-o", metavar="OPT,OPT", help="Options of the mount.")] = None,
    frames: FramesOption = None,
    dom0_frames: Annotated[int | None, typer.Option(min=0, help="Frames of domain 0.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Clear a stale mount first.")] = False,
) -> None:
    """Mount a new machine; its directory is made when missing. Returns when the mount answers.

    The daemon writes what it has to say to MNT.log.

    Exit status: 0 mounted; 1 not, and the reason is on stderr; 2 wrong usage.
    """
    if problem := service.unknown_option(options or []):
        raise Unable(problem, 2)
    with _alone(place):
        _mount(place, foreground or debug, debug, options or [], frames, dom0_frames, force)


def _mount(
    place: str | None,
    foreground: bool,
    debug: bool,
    options: list[str],
    frames: int | None,
    dom0_frames: int | None,
    force: bool,
) -> None:
    found = examine(place)
    if found.mount is not None and found.condition is Condition.STALE and force:
        parting.clear(found.mount)
    elif found.condition is not Condition.ABSENT:
        hint = f", and xenfs mount --force {found.point} mounts anew" if found.condition is Condition.STALE else ""
        raise Unable(f"{found}{hint}")
    if problem := checks.obstacle():
        raise Unable(problem)
    made = _make(found.point)
    RunDirectory(found.point).clear()  # of the machine before this one
    line = service.words(found.point, frames=frames, dom0_frames=dom0_frames, options=options, debug=debug)
    if foreground:
        os.execv(line[0], line)
    try:
        with _log(found.point) as log:
            daemon = service.start(line, log)
    except BaseException:
        if mounted_at(found.point) is None:  # by another, at the same moment
            drop_log(found.point)
            if made:
                with contextlib.suppress(OSError):
                    Path(found.point).rmdir()
        raise
    service.detach(daemon)
