"""Refusals out of what the kernel says about the files of a mount. The one place where they are told apart."""

from __future__ import annotations

import errno
import os
from types import MappingProxyType

from xenfs.abi.grant_table import GntStatus
from xenfs.domain.errors import Refused

GONE = frozenset({errno.ENOTCONN, errno.ECONNABORTED, errno.EIO})
"""What the kernel answers for the files of a daemon that is dead: later calls, calls under way, pages."""
MISSING = frozenset({errno.ENOENT, errno.ESTALE})
"""A name that is not there, or was when it was looked up."""
_LIMITS = MappingProxyType(
    {
        errno.EMFILE: "open files of this process (RLIMIT_NOFILE, see ulimit -n), or handles of the domain",
        errno.ENFILE: "open files of the system (sysctl fs.file-max)",
    }
)


class HypervisorGone(Refused):
    """The daemon has died and the machine with it: nothing of it works any more. `errno` is always ENOTCONN."""

    def __init__(self, where: str) -> None:
        """Say whose."""
        super().__init__(errno.ENOTCONN, f"{where}: the hypervisor is gone, mount xenfs again")


def refusal(error: OSError, where: str, status: GntStatus | None = None) -> Refused:
    """The refusal for an error of the kernel's at `where`, or at a file below it when the error names one."""
    if isinstance(error, Refused):
        return error
    code = error.errno or errno.EIO
    if code in GONE:
        return HypervisorGone(where)
    name = f" {error.filename}" if error.filename else ""
    limit = f", no more {_LIMITS[code]}" if code in _LIMITS else ""
    return Refused(code, f"{where}{name}: {error.strerror or os.strerror(code)}{limit}", status)
