"""xenfs store: the store as the xenstore-* programs show it, with their words, flags and output."""

from __future__ import annotations

import errno
import os
import select
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Annotated

import typer

from xenfs.commands.escapes import sanitised, unsanitised
from xenfs.commands.failure import Unable, command
from xenfs.commands.place import served
from xenfs.domain import Refused
from xenfs.domain.mounted import MountedDomain
from xenfs.domain.mounted.store import MountedStore, MountedTransaction
from xenfs.domain.mounted.xen import default_domid

app = typer.Typer(no_args_is_help=True, help="Read, change and watch the store of the machine at $XEN.")
Reader = MountedStore | MountedTransaction
Paths = Annotated[list[str], typer.Argument(metavar="PATH…", help="Absolute, or relative to the domain's home.")]
Prefix = Annotated[bool, typer.Option("-p", help="Show the path too.")]
Raw = Annotated[bool, typer.Option("-R", help="Raw bytes, without escapes.")]
Socket = Annotated[bool, typer.Option("-s", hidden=True, help="As the xenstore-* programs take it.")]
COLUMN = 60
"""Where xenstore-ls puts permissions beside an indented tree."""
ATTEMPTS = 1000


@contextmanager
def opened() -> Iterator[MountedStore]:
    """The store, as domain $XEN_DOMID, else as domain 0. Raises Unable."""
    try:
        domid = default_domid() if os.environ.get("XEN_DOMID") else 0
        with MountedDomain(domid, served().point) as domain:
            yield domain.store
    except Refused as refused:
        raise Unable(refused.strerror or str(refused)) from refused


def together(work: Callable[[Reader], bytes], count: int) -> None:
    """Do something on one path, or on several in one transaction; then write what it says."""
    with opened() as store:
        said = b""
        if count < 2:
            said = work(store)
        else:
            for transaction in store.transaction(ATTEMPTS):
                with transaction as t:
                    said = work(t)
    _out(said)


def _out(said: bytes) -> None:
    sys.stdout.buffer.write(said)
    sys.stdout.buffer.flush()


def _each(paths: Iterable[str], problem: str, work: Callable[[str], bytes]) -> bytes:
    said = b""
    for path in paths:
        try:
            said += work(path)
        except Refused as refused:
            if refused.errno == errno.ENOTCONN:
                raise
            _out(said)
            raise Unable(problem.format(path)) from refused
    return said


@app.command("read")
@command("store read")
def read(paths: Paths, prefix: Prefix = False, raw: Raw = False, _s: Socket = False) -> None:
    """Print values, one a line.

    Exit status: 0, or 1 at the first that cannot be read.
    """

    def one(store: Reader, path: str) -> bytes:
        value = store.read(path)
        return (f"{path}: ".encode() if prefix else b"") + (value if raw else sanitised(value)) + b"\n"

    together(lambda store: _each(paths, "couldn't read path {}", lambda path: one(store, path)), len(paths))


@app.command("list")
@command("store list")
def list_(paths: Paths, prefix: Prefix = False, _s: Socket = False) -> None:
    """Print the names of children, one a line.

    Exit status: 0, or 1 at the first path that cannot be listed.
    """

    def one(store: Reader, path: str) -> bytes:
        above = path + "/" if prefix else ""
        return "".join(f"{above}{name}\n" for name in store.list(path)).encode()

    together(lambda store: _each(paths, "could not list path {}", lambda path: one(store, path)), len(paths))


@app.command("exists")
@command("store exists")
def exists(paths: Paths, _s: Socket = False) -> None:
    """Say by the exit status whether all paths exist: 0 they do, 1 one does not."""
    with opened() as store:
        if not all(store.exists(path) for path in paths):
            raise typer.Exit(1)


@app.command("write")
@command("store write")
def write(
    words: Annotated[list[str], typer.Argument(metavar="PATH VALUE…", help="Paths, each with its value.")],
    raw: Raw = False,
    _s: Socket = False,
) -> None:
    r"""Set values, all of them or none. Unless -R is given, \t \n \r \\ \x41 \101 mean what they do in C.

    Exit status: 0, or 1 and nothing is changed.
    """
    if len(words) % 2:
        raise Unable(f"{words[-1]} has no value", 2)
    values = {words[i]: os.fsencode(words[i + 1]) for i in range(0, len(words), 2)}

    def one(store: Reader, path: str) -> bytes:
        store.write(path, values[path] if raw else unsanitised(values[path]))
        return b""

    together(lambda store: _each(values, "could not write path {}", lambda path: one(store, path)), len(values))


def _remove(store: Reader, path: str, tidy: bool) -> bytes:
    store.rm(path)
    while tidy and "/" in path.strip("/"):
        path = path.rpartition("/")[0]
        if store.list(path) or store.read(path):
            break
        store.rm(path)
    return b""


@app.command("rm")
@command("store rm")
def rm(
    paths: Paths,
    tidy: Annotated[bool, typer.Option("-t", help="And parents that are empty then.")] = False,
    _s: Socket = False,
) -> None:
    """Remove nodes with all below them, all or none.

    Exit status: 0, or 1 and nothing is changed.
    """
    work = lambda store: _each(paths, "could not remove path {}", lambda path: _remove(store, path, tidy))  # noqa: E731
    together(work, 2 if tidy else len(paths))


def _tree(store: Reader, top: str) -> Iterator[tuple[str, str, int]]:
    """Every node below one: its path, name and depth, parents first."""
    stack = [(f"{top.rstrip('/')}/{name}", name, 0) for name in reversed(store.list(top))]
    while stack:
        path, name, depth = stack.pop()
        yield path, name, depth
        try:
            names = store.list(path)
        except Refused as refused:
            if refused.errno not in (errno.ENOENT, errno.EACCES):
                raise
            names = ()
        stack += [(f"{path}/{child}", child, depth + 1) for child in reversed(names)]


def _line(store: Reader, entry: tuple[str, str, int], whole: bool, perms: bool) -> bytes:
    path, name, depth = entry
    line = path.encode() if whole else b" " * depth + name.encode()
    try:
        line += b' = "%b"' % sanitised(store.read(path))
        if perms:
            line += b" "
            if not whole:
                line += b"".join(b"." if at & 1 else b" " for at in range(len(line), COLUMN))
            line += f"  ({','.join(store.perms(path))})".encode()
    except Refused as refused:
        if refused.errno not in (errno.ENOENT, errno.EACCES):
            raise
        line += b":"
    return line + b"\n"


@app.command("ls")
@command("store ls")
def ls(
    path: Annotated[str, typer.Argument(metavar="[PATH]", help="Where to begin.")] = "/",
    whole: Annotated[bool, typer.Option("-f", help="Whole paths instead of a tree.")] = False,
    perms: Annotated[bool, typer.Option("-p", help="Permissions too.")] = False,
    _s: Socket = False,
) -> None:
    """Print the tree with its values.

    Exit status: 0, or 1 when the path cannot be listed.
    """
    with opened() as store:
        try:
            for entry in _tree(store, path):
                _out(_line(store, entry, whole, perms))
        except Refused as refused:
            raise Unable(f"xs_directory ({path}): {os.strerror(refused.errno or errno.EIO)}") from refused


@app.command("chmod")
@command("store chmod")
def chmod(
    path: Annotated[str, typer.Argument(metavar="PATH", help="Which node.")],
    modes: Annotated[list[str], typer.Argument(metavar="MODE…", help="n0 r3: the owner with the default first.")],
    recursive: Annotated[bool, typer.Option("-r", help="And all below it.")] = False,
    upto: Annotated[bool, typer.Option("-u", help="And all above it.")] = False,
    _s: Socket = False,
) -> None:
    """Set permissions.

    Exit status: 0, or 1 and nothing is changed.
    """
    for mode in modes:
        if mode[:1] not in ("n", "r", "w", "b"):
            raise Unable(f"Invalid permission specification: '{mode[:1]}'")

    def work(store: Reader) -> bytes:
        reached = [path, *(below for below, _, _ in _tree(store, path))] if recursive else [path]
        above = path
        while upto and (above := above.rpartition("/")[0]):
            reached.append(above)
        for node in reached:
            try:
                store.chmod(node, modes)
            except Refused as refused:
                said = os.strerror(refused.errno or errno.EIO)
                raise Unable(f"Error occurred setting permissions on '{node}': {said}") from refused
        return b""

    together(work, 2)


@app.command("watch")
@command("store watch")
def watch(
    paths: Paths, count: Annotated[int, typer.Option("-n", metavar="NR", help="End after so many events.")] = -1
) -> None:
    """Print each path that changes at or below one, as it does; the paths themselves first.

    Exit status: 0 after -n events; 130 after Ctrl-C; 1 the machine is gone.
    """
    with opened() as store:
        poller, watches = select.poll(), {}
        for path in paths:
            one = store.watch(path, path)
            watches[one.fileno()] = one
            poller.register(one, select.POLLIN)
        while count:
            for fd, _ in poller.poll():
                event = watches[fd].wait()
                if event is not None and count:
                    _out(event[0].encode() + b"\n")
                    count -= 1
