"""What a client process of a test has at hand; the test's own process may use it too, for what cannot hang it."""

from __future__ import annotations

import ctypes
import ctypes.util
import errno
import mmap
import os
import signal
import sys
from pathlib import Path
from types import TracebackType

PAGE = 4096
_LIBC = ctypes.CDLL(None, use_errno=True)
_LIBC.mmap.restype = ctypes.c_void_p
_LIBC.mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long)
_LIBC.munmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
_PR_SET_PDEATHSIG = 1


class RefusedError(Exception):
    """An answer `error ERRNO …`; `code` is the errno's name."""

    def __init__(self, line: str) -> None:
        super().__init__(line)
        self.code = line.split()[1]


def xen() -> Path:
    """The mount."""
    return Path(os.environ["XEN"])


def home(domid: int) -> Path:
    """A domain's directory."""
    return xen() / "domains" / str(domid)


class Ctl:
    """A handle of a domain. `ask` gives the line that answers, `do` its numbers, `all` the answers to a batch."""

    def __init__(self, domain: int | Path, flags: int = os.O_RDWR) -> None:
        folder = home(domain) if isinstance(domain, int) else domain
        self.fd = os.open(folder / "ctl", flags)
        self._rest = b""

    def send(self, text: str) -> None:
        os.write(self.fd, text.encode())

    def line(self) -> str:
        while b"\n" not in self._rest:
            more = os.read(self.fd, 65536)
            if not more:
                raise EOFError
            self._rest += more
        line, self._rest = self._rest.split(b"\n", 1)
        return line.decode()

    def ask(self, call: str) -> str:
        self.send(call + "\n")
        return self.line()

    def all(self, calls: list[str]) -> list[str]:
        self.send("".join(f"{call}\n" for call in calls))
        return [self.line() for _ in calls]

    def do(self, call: str) -> int:
        """The first number of the answer, 0 when there is none. Raises RefusedError."""
        return number(self.ask(call))

    def grant(self, domid: int, flags: int = 0) -> tuple[int, int]:
        """A new frame, and a grant of it."""
        frame = self.do("alloc_frame")
        return frame, self.do(f"grant_access frame={frame} dom={domid} flags={flags}")

    def close(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def __enter__(self) -> Ctl:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self.close()


def number(line: str) -> int:
    """The first number of an answer. Raises RefusedError."""
    kind, *words = line.split()
    if kind != "ok":
        raise RefusedError(line)
    return int(words[0].partition("=")[2]) if words else 0


def mapped(path: Path | int, *, write: bool = True) -> mmap.mmap:
    """A page as shared memory. Python keeps a duplicate of the descriptor as long as the mapping."""
    flags = os.O_RDWR if write else os.O_RDONLY
    fd = path if isinstance(path, int) else os.open(path, flags)
    try:
        return mmap.mmap(fd, PAGE, access=mmap.ACCESS_WRITE if write else mmap.ACCESS_READ)
    finally:
        os.close(fd)


def raw_map(fd: int, *, write: bool = True) -> int:
    """An address at which a page is mapped, with no descriptor kept."""
    prot = mmap.PROT_READ | (mmap.PROT_WRITE if write else 0)
    address = _LIBC.mmap(None, PAGE, prot, mmap.MAP_SHARED, fd, 0)
    if address in (None, ctypes.c_void_p(-1).value):
        raise OSError(ctypes.get_errno(), "mmap")
    return int(address)


def raw_unmap(address: int) -> None:
    if _LIBC.munmap(address, PAGE):
        raise OSError(ctypes.get_errno(), "munmap")


def mprotect(address: int, prot: int) -> None:
    if _LIBC.mprotect(ctypes.c_void_p(address), ctypes.c_size_t(PAGE), prot):
        raise OSError(ctypes.get_errno(), "mprotect")


def outcome(path: str | Path, flags: int) -> str:
    """How an open ends: `ok`, or the errno's name."""
    try:
        os.close(os.open(path, flags))
    except OSError as error:
        return errno.errorcode[error.errno or 0]
    return "ok"


def say(*words: object) -> None:
    """Tell the test."""
    print(*words, flush=True)


def hear() -> str:
    """Wait for the test's next line."""
    line = sys.stdin.readline()
    if not line:
        sys.exit(1)
    return line.strip()


def become(uid: int) -> None:
    """Be an ordinary user from now on."""
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)
    die_with_parent()


def die_with_parent() -> None:
    """Leave nothing behind, even when the test is killed."""
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
