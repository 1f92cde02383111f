"""libfuse 2.9's low-level interface (fuse_lowlevel.h, fuse_common.h), through the library that fusepy has loaded.

Only declarations: structs that fusepy does not have, signatures, and the few flags that we use.
"""

from __future__ import annotations

import ctypes as C  # noqa: N812 - the customary short name for a module of C declarations
from typing import Any

import fuse as fusepy  # type: ignore[import-untyped]

FileInfo = fusepy.fuse_file_info
LIB = fusepy._libfuse

Req = C.c_void_p
Ino = C.c_ulong
Fi = C.POINTER(FileInfo)

FOPEN_DIRECT_IO, FOPEN_KEEP_CACHE, FOPEN_STREAM, FOPEN_NOFLUSH = 1, 2, 16, 32
SET_MODE, SET_UID, SET_GID, SET_SIZE = 1, 2, 4, 8
OPCODE_WRITE = 16
IOCTL_COMPAT = 1


class Stat(fusepy.c_stat):  # type: ignore[misc]
    """struct stat, whole: fusepy leaves out the words at its end, and what follows it would lie 24 bytes too early."""

    _fields_ = (("_reserved", C.c_long * 3),)


class StatVfs(fusepy.c_statvfs):  # type: ignore[misc]
    """struct statvfs, whole."""

    _fields_ = (("_spare", C.c_int * 6),)


assert (C.sizeof(Stat), C.sizeof(StatVfs)) == (144, 112), "struct stat and statvfs of x86-64 Linux"


class Entry(C.Structure):
    """struct fuse_entry_param."""

    _fields_ = (
        ("ino", Ino),
        ("generation", C.c_ulong),
        ("attr", Stat),
        ("attr_timeout", C.c_double),
        ("entry_timeout", C.c_double),
    )


class Context(C.Structure):
    """struct fuse_ctx: who asks; `pid` is a thread id, and 0 for a caller outside our pid namespace."""

    _fields_ = (("uid", C.c_uint), ("gid", C.c_uint), ("pid", C.c_int), ("umask", C.c_uint))


class Args(C.Structure):
    """struct fuse_args."""

    _fields_ = (("argc", C.c_int), ("argv", C.POINTER(C.c_char_p)), ("allocated", C.c_int))


class ForgetData(C.Structure):
    """struct fuse_forget_data."""

    _fields_ = (("ino", C.c_uint64), ("nlookup", C.c_uint64))


class Bufvec(C.Structure):
    """struct fuse_bufvec with its one struct fuse_buf, over plain memory."""

    _fields_ = (
        ("count", C.c_size_t),
        ("idx", C.c_size_t),
        ("off", C.c_size_t),
        ("size", C.c_size_t),
        ("flags", C.c_int),
        ("mem", C.c_void_p),
        ("fd", C.c_int),
        ("pos", C.c_int64),
    )


# struct fuse_lowlevel_ops in order; the arguments of those that we answer (the others stay null: ENOSYS)
_ORDER = (
    *("init", "destroy", "lookup", "forget", "getattr", "setattr", "readlink", "mknod", "mkdir", "unlink", "rmdir"),
    *("symlink", "rename", "link", "open", "read", "write", "flush", "release", "fsync", "opendir", "readdir"),
    *("releasedir", "fsyncdir", "statfs", "setxattr", "getxattr", "listxattr", "removexattr", "access", "create"),
    *("getlk", "setlk", "bmap", "ioctl", "poll", "write_buf", "retrieve_reply", "forget_multi", "flock", "fallocate"),
)
_ARGUMENTS: dict[str, tuple[Any, ...]] = {
    "lookup": (Ino, C.c_char_p),
    "forget": (Ino, C.c_ulong),
    "forget_multi": (C.c_size_t, C.POINTER(ForgetData)),
    "getattr": (Ino, Fi),
    "setattr": (Ino, C.POINTER(Stat), C.c_int, Fi),
    "mknod": (Ino, C.c_char_p, C.c_uint, C.c_ulong),
    "mkdir": (Ino, C.c_char_p, C.c_uint),
    "unlink": (Ino, C.c_char_p),
    "rmdir": (Ino, C.c_char_p),
    "symlink": (C.c_char_p, Ino, C.c_char_p),
    "rename": (Ino, C.c_char_p, Ino, C.c_char_p),
    "link": (Ino, Ino, C.c_char_p),
    "open": (Ino, Fi),
    "read": (Ino, C.c_size_t, C.c_int64, Fi),
    "write": (Ino, C.c_void_p, C.c_size_t, C.c_int64, Fi),
    "flush": (Ino, Fi),
    "release": (Ino, Fi),
    "fsync": (Ino, C.c_int, Fi),
    "fallocate": (Ino, C.c_int, C.c_int64, C.c_int64, Fi),
    "opendir": (Ino, Fi),
    "readdir": (Ino, C.c_size_t, C.c_int64, Fi),
    "releasedir": (Ino, Fi),
    "statfs": (Ino,),
    "setxattr": (Ino, C.c_char_p, C.c_void_p, C.c_size_t, C.c_int),
    "getxattr": (Ino, C.c_char_p, C.c_size_t),
    "listxattr": (Ino, C.c_size_t),
    "removexattr": (Ino, C.c_char_p),
    "create": (Ino, C.c_char_p, C.c_uint, Fi),
    "ioctl": (Ino, C.c_int, C.c_void_p, Fi, C.c_uint, C.c_void_p, C.c_size_t, C.c_size_t),
    "poll": (Ino, Fi, C.c_void_p),
    "retrieve_reply": (C.c_void_p, Ino, C.c_int64, C.POINTER(Bufvec)),
}
# called from session_process only, which holds the interpreter's lock
PROTOTYPES = {name: C.PYFUNCTYPE(None, Req, *arguments) for name, arguments in _ARGUMENTS.items()}
INTERRUPT = C.PYFUNCTYPE(None, Req, C.c_void_p)


class Operations(C.Structure):
    """struct fuse_lowlevel_ops."""

    _fields_ = tuple((name, PROTOTYPES.get(name, C.c_void_p)) for name in _ORDER)


_LOOP = C.PyDLL(LIB._name, handle=LIB._handle)


def _declare(library: C.CDLL, name: str, result: Any, *arguments: Any) -> Any:
    function = library[name]
    function.restype, function.argtypes = result, arguments
    return function


# What may wait for the loop itself is called without the interpreter's lock, so that the loop can go on meanwhile.
mount = _declare(LIB, "fuse_mount", C.c_void_p, C.c_char_p, C.POINTER(Args))
unmount = _declare(LIB, "fuse_unmount", None, C.c_char_p, C.c_void_p)
lowlevel_new = _declare(LIB, "fuse_lowlevel_new", C.c_void_p, C.POINTER(Args), C.c_void_p, C.c_size_t, C.c_void_p)
session_add_chan = _declare(LIB, "fuse_session_add_chan", None, C.c_void_p, C.c_void_p)
session_remove_chan = _declare(LIB, "fuse_session_remove_chan", None, C.c_void_p)
session_destroy = _declare(LIB, "fuse_session_destroy", None, C.c_void_p)
notify_inval_inode = _declare(LIB, "fuse_lowlevel_notify_inval_inode", C.c_int, C.c_void_p, Ino, C.c_int64, C.c_int64)
notify_store = _declare(
    LIB, "fuse_lowlevel_notify_store", C.c_int, C.c_void_p, Ino, C.c_int64, C.POINTER(Bufvec), C.c_int
)
notify_retrieve = _declare(
    LIB, "fuse_lowlevel_notify_retrieve", C.c_int, C.c_void_p, Ino, C.c_size_t, C.c_int64, C.c_void_p
)

# What the loop does all the time never waits, so it keeps the lock: giving it up and taking it again costs more.
session_process = _declare(_LOOP, "fuse_session_process", None, C.c_void_p, C.c_void_p, C.c_size_t, C.c_void_p)
chan_fd = _declare(_LOOP, "fuse_chan_fd", C.c_int, C.c_void_p)
chan_recv = _declare(_LOOP, "fuse_chan_recv", C.c_int, C.POINTER(C.c_void_p), C.c_void_p, C.c_size_t)
chan_bufsize = _declare(_LOOP, "fuse_chan_bufsize", C.c_size_t, C.c_void_p)
req_ctx = _declare(_LOOP, "fuse_req_ctx", C.POINTER(Context), Req)
req_interrupt_func = _declare(_LOOP, "fuse_req_interrupt_func", None, Req, INTERRUPT, C.c_void_p)
reply_err = _declare(_LOOP, "fuse_reply_err", C.c_int, Req, C.c_int)
reply_none = _declare(_LOOP, "fuse_reply_none", None, Req)
reply_entry = _declare(_LOOP, "fuse_reply_entry", C.c_int, Req, C.POINTER(Entry))
reply_create = _declare(_LOOP, "fuse_reply_create", C.c_int, Req, C.POINTER(Entry), Fi)
reply_attr = _declare(_LOOP, "fuse_reply_attr", C.c_int, Req, C.POINTER(Stat), C.c_double)
reply_buf = _declare(_LOOP, "fuse_reply_buf", C.c_int, Req, C.c_char_p, C.c_size_t)
reply_memory = _declare(_LOOP, "fuse_reply_buf", C.c_int, Req, C.c_void_p, C.c_size_t)
"""The same from an address."""
reply_open = _declare(_LOOP, "fuse_reply_open", C.c_int, Req, Fi)
reply_write = _declare(_LOOP, "fuse_reply_write", C.c_int, Req, C.c_size_t)
reply_statfs = _declare(_LOOP, "fuse_reply_statfs", C.c_int, Req, C.POINTER(StatVfs))
reply_xattr = _declare(_LOOP, "fuse_reply_xattr", C.c_int, Req, C.c_size_t)
reply_poll = _declare(_LOOP, "fuse_reply_poll", C.c_int, Req, C.c_uint)
reply_ioctl = _declare(_LOOP, "fuse_reply_ioctl", C.c_int, Req, C.c_int, C.c_char_p, C.c_size_t)
add_direntry = _declare(
    _LOOP, "fuse_add_direntry", C.c_size_t, Req, C.c_void_p, C.c_size_t, C.c_char_p, C.POINTER(Stat), C.c_int64
)
notify_poll = _declare(_LOOP, "fuse_lowlevel_notify_poll", C.c_int, C.c_void_p)
pollhandle_destroy = _declare(_LOOP, "fuse_pollhandle_destroy", None, C.c_void_p)


def args(*words: str) -> Args:
    """Arguments for mount and lowlevel_new; the array lives as long as the result."""
    return Args(len(words), (C.c_char_p * len(words))(*[w.encode() for w in words]), 0)


def memory(data: bytes) -> Bufvec:
    """A buffer vector over bytes that the caller keeps alive."""
    return Bufvec(1, 0, 0, len(data), 0, C.cast(C.c_char_p(data), C.c_void_p), -1, 0)
