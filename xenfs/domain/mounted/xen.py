"""A domain of a mount, entered by its directory."""

from __future__ import annotations

import errno
import io
import os
import select
import signal
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TypeVar

from xenfs.abi.event_channel import AllocUnbound, Close, Status
from xenfs.abi.wire import Wire
from xenfs.abi.xen import DOMID_SELF
from xenfs.domain.errors import Refused
from xenfs.domain.mounted.ctl import Ctl
from xenfs.domain.mounted.errors import MISSING, HypervisorGone, refusal
from xenfs.domain.mounted.events import MountedEvents
from xenfs.domain.mounted.memory import MountedMemory
from xenfs.domain.mounted.store import MountedStore

W = TypeVar("W", bound=Wire)
PathName = str | os.PathLike[str]


def default_root() -> Path:
    """Where the mount is: $XEN; else /run/xenfs for root and $XDG_RUNTIME_DIR/xenfs for others."""
    chosen = os.environ.get("XEN")
    if chosen:
        return Path(chosen)
    return Path("/run" if os.geteuid() == 0 else os.environ.get("XDG_RUNTIME_DIR", "/run"), "xenfs")


def default_domid() -> int:
    """Which domain one is: $XEN_DOMID, as `xenfs exec` sets it. Raises Refused EINVAL when it does not say."""
    said = os.environ.get("XEN_DOMID", "")
    if not (said.isascii() and said.isdigit()):
        raise Refused(errno.EINVAL, f"XEN_DOMID={said!r} does not say which domain: name one, or use xenfs exec")
    return int(said)


def open_domain(domid: int | None = None, root: PathName | None = None) -> MountedDomain:
    """Enter a domain, by default `default_domid()`, of the mount at `root`, by default `default_root()`.

    Raises Refused: ENOENT without a mount, ESRCH, EACCES, EMFILE.
    """
    return MountedDomain(default_domid() if domid is None else domid, root)


class MountedDomain:
    """A domain through a handle of its own, which is its open `ctl`. Implements domain.Domain.

    Threads may use it side by side. It is for one process: a child made by fork shares the handle and must not use it.

    Beside `ctl` it holds a second open of it, read-only, of which nothing but an error is ever to be heard: that is how
    one learns without asking, and so without waiting for a daemon that hangs, that the hypervisor is gone.
    """

    def __init__(self, domain: int | PathName, root: PathName | None = None) -> None:
        """Enter a domain by its number, or by the path of its directory, wherever that is mounted.

        Raises Refused: ENOENT without a mount, ESRCH without the domain, EACCES when it is another user's, EMFILE.
        """
        if signal.getsignal(signal.SIGPIPE) is signal.SIG_DFL:
            raise Refused(errno.EINVAL, "SIGPIPE would end this process when a peer closes: set it to SIG_IGN")
        self._closed = False
        with ExitStack() as opened:
            if isinstance(domain, int):
                self._where = f"domain {domain}"
                self._folder = _enter(Path(default_root() if root is None else root), domain)
            else:
                self._where = os.fspath(domain)
                self._folder = _open_folder(Path(domain), self._where)
            opened.callback(os.close, self._folder)
            try:
                self._ctl = Ctl(io.FileIO(self.open("ctl", os.O_RDWR), "r+"), self._where)
                opened.callback(self._ctl.close)
                self._gone = opened.enter_context(select.epoll())
                self._sentinel = self.open("ctl", os.O_RDONLY)
                opened.callback(_close, self._sentinel)
                self._gone.register(self._sentinel, 0)
            except OSError as error:
                raise refusal(error, self._where) from error
            self.domid = domain if isinstance(domain, int) else self._ask_domid()
            self._where = f"domain {self.domid}"
            self._opened = opened.pop_all()
        self.memory = MountedMemory(self)
        self.events = MountedEvents(self)
        self.store = MountedStore(lambda: self._open_store(), self._where)

    def __repr__(self) -> str:
        return self._where

    def _ask_domid(self) -> int:
        """The number, which a directory mounted elsewhere does not tell: a port that waits for oneself does."""
        port = self.call(AllocUnbound(remote_dom=DOMID_SELF)).port
        said, _ = self.batch([Status(port=port), Close(port=port)])
        if isinstance(said, Status):
            return said.remote_dom
        raise Refused(errno.EPROTO, f"{self._where}: it does not tell its number")

    def call(self, request: W) -> W:
        """Make a hypercall as this domain, through this handle. Raises Refused: EBADF once it is closed."""
        return self._ctl.call(request)

    def batch(self, requests: Sequence[W]) -> list[W | Refused]:
        """Make several with one write; for each the request with its results, or its refusal."""
        return self._ctl.batch(requests)

    def open(self, name: str, flags: int) -> int:
        """Open a file of the domain's directory; raises OSError as the kernel says it."""
        self._check_open()
        return os.open(name, flags | os.O_CLOEXEC, dir_fd=self._folder)

    def _open_store(self) -> int:
        try:
            return self.open("dev/xenbus", os.O_RDWR)
        except OSError as error:
            raise refusal(error, self._where) from error

    def stat(self, name: str) -> os.stat_result:
        """What a file of the domain's directory is; raises OSError as the kernel says it."""
        self._check_open()
        return os.stat(name, dir_fd=self._folder)

    def _check_open(self) -> None:
        if self._closed:
            raise Refused(errno.EBADF, f"{self._where}: this handle is closed")

    @property
    def gone_fd(self) -> int:
        """A descriptor that becomes readable, for good, when the hypervisor is gone: for epoll, selectors, asyncio."""
        return self._gone.fileno()

    @property
    def gone(self) -> bool:
        """Whether the hypervisor is gone. Without asking it, so it is no reason to hang."""
        return not self._closed and bool(self._gone.poll(0))

    def check(self) -> None:
        """Raise HypervisorGone if it is."""
        if self.gone:
            raise HypervisorGone(self._where)

    def close(self) -> None:
        """Release everything that this object allocated; twice is fine, and so is a hypervisor that has gone."""
        if not self._closed:
            self.memory.close()
            self.events.close()
            self.store.close()
            self._closed = True
            self._opened.close()

    def __enter__(self) -> MountedDomain:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _close(fd: int) -> None:
    with suppress(OSError):  # the kernel tells a daemon that may have gone; it is closed in any case
        os.close(fd)


def _open_folder(path: Path, where: str) -> int:
    try:
        return os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        if error.errno in MISSING:
            raise Refused(errno.ENOENT, f"{where}: there is no {path}") from None
        raise refusal(error, where) from error


def _enter(root: Path, domid: int) -> int:
    domains = _open_folder(root / "domains", f"no xenfs at {root}, mount it or set XEN")
    try:
        return os.open(f"{domid:d}", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=domains)
    except OSError as error:
        if error.errno in MISSING:
            raise Refused(errno.ESRCH, f"domain {domid}: there is no such domain") from None
        raise refusal(error, f"domain {domid}") from error
    finally:
        os.close(domains)
