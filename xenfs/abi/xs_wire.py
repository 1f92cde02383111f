"""The xenstore protocol on the wire (xen/io/xs_wire.h): message types, the header, error names, limits."""

from __future__ import annotations

import errno
from dataclasses import dataclass
from enum import IntEnum

from xenfs.abi.wire import U32, Wire, wire

PAYLOAD_MAX = 4096
ABS_PATH_MAX = 3072
REL_PATH_MAX = 2048


class XsType(IntEnum):
    """enum xsd_sockmsg_type; the comment of a new one says since when."""

    CONTROL = 0
    DIRECTORY = 1
    READ = 2
    GET_PERMS = 3
    WATCH = 4
    UNWATCH = 5
    TRANSACTION_START = 6
    TRANSACTION_END = 7
    INTRODUCE = 8
    RELEASE = 9
    GET_DOMAIN_PATH = 10
    WRITE = 11
    MKDIR = 12
    RM = 13
    SET_PERMS = 14
    WATCH_EVENT = 15
    ERROR = 16
    IS_DOMAIN_INTRODUCED = 17
    RESUME = 18
    SET_TARGET = 19
    RESET_WATCHES = 21
    DIRECTORY_PART = 22
    GET_FEATURE = 23  # these four: newer than 4.17
    SET_FEATURE = 24
    GET_QUOTA = 25
    SET_QUOTA = 26


@wire("struct xsd_sockmsg", 16, header="xen/io/xs_wire.h")
@dataclass(frozen=True, slots=True, kw_only=True)
class Header(Wire):
    """What stands before each payload; `len` bytes follow."""

    type: U32
    req_id: U32
    tx_id: U32
    len: U32


ERRORS = (
    *("EINVAL", "EACCES", "EEXIST", "EISDIR", "ENOENT", "ENOMEM", "ENOSPC", "EIO", "ENOTEMPTY", "ENOSYS", "EROFS"),
    *("EBUSY", "EAGAIN", "EISCONN", "E2BIG", "EPERM"),
)
"""xsd_errors, in its order: the only names that an ERROR message has."""


def error_name(code: int) -> str:
    """The name that an errno has on the wire: EINVAL for one that has none."""
    name = errno.errorcode.get(code, "")
    return name if name in ERRORS else "EINVAL"


def error_code(name: str) -> int:
    """The errno of a name on the wire: EINVAL for one that is none."""
    return int(getattr(errno, name)) if name in ERRORS else errno.EINVAL
