"""What can go wrong in a hypercall. The one place where an errno and a GNTST code are chosen."""

from __future__ import annotations

import errno
from typing import ClassVar

from xenfs.abi.grant_table import GntStatus


class HypercallError(Exception):
    """A call that was refused and changed nothing.

    `where` names the object (`domain 3 port 5`), `problem` says what is wrong with it, `value` and `limit` are the
    numbers behind that, when there are any.
    """

    errno: ClassVar[int] = errno.EINVAL
    status: ClassVar[GntStatus | None] = None

    def __init__(self, where: str, problem: str, value: int | None = None, limit: int | None = None) -> None:
        """Keep the parts; the message is made of them."""
        numbers = "" if limit is None else f" ({value} of {limit})"
        super().__init__(f"{where}: {problem}{numbers}")
        self.where, self.problem, self.value, self.limit = where, problem, value, limit

    @classmethod
    def errno_of(cls) -> str:
        """The errno by name, such as `EINVAL`."""
        return errno.errorcode[cls.errno]

    @property
    def status_name(self) -> str:
        """The grant table status by name, or nothing for calls that have none."""
        return "" if self.status is None else f"GNTST_{self.status.name}"


class Invalid(HypercallError):
    """An argument that no state of the machine would allow."""


class UnknownOperation(HypercallError):
    """A request that is not in the table."""

    errno = errno.ENOSYS


class NotPermitted(HypercallError):
    """A request that this caller may not make."""

    errno = errno.EPERM
    status = GntStatus.permission_denied


class NoSuchDomain(HypercallError):
    """A domain that is not there."""

    errno = errno.ESRCH
    status = GntStatus.bad_domain


class DomainExists(HypercallError):
    """A number that another domain has."""

    errno = errno.EEXIST


class NoSuchHandle(HypercallError):
    """A handle that is not open."""

    errno = errno.EBADF


class TooManyHandles(HypercallError):
    """The domain has all the handles it may have."""

    errno = errno.EMFILE


class NoFrame(HypercallError):
    """The domain or the machine has no frame left, or the domain may own no more."""

    errno = errno.ENOMEM
    status = GntStatus.general_error


class NotOwned(HypercallError):
    """A frame that the caller does not own."""

    status = GntStatus.bad_page


class FrameInUse(HypercallError):
    """A frame that is granted, mapped by a peer or named as a ring."""

    errno = errno.EBUSY
    status = GntStatus.bad_page


class BadPort(HypercallError):
    """A port that is not allocated, or not in the state that the call needs."""


class NoFreePort(HypercallError):
    """The domain has all the ports it may have."""

    errno = errno.ENOSPC


class NoSuchVcpu(HypercallError):
    """A vcpu that the domain does not have."""

    errno = errno.ENOENT


class VirqTaken(HypercallError):
    """A virtual interrupt that is bound already."""

    errno = errno.EEXIST


class VirqElsewhere(HypercallError):
    """A global virtual interrupt that belongs to another domain."""

    errno = errno.EBUSY


class BadGrantRef(HypercallError):
    """A reference beyond the grant table, or an entry that is not in use."""

    errno = errno.ENOENT
    status = GntStatus.bad_gntref


class GrantRefused(HypercallError):
    """An entry that does not allow what was asked."""

    errno = errno.EACCES
    status = GntStatus.general_error


class GrantInUse(HypercallError):
    """A grant that a peer still maps."""

    errno = errno.EBUSY
    status = GntStatus.eagain


class NoFreeGrant(HypercallError):
    """The domain has all the grants it may have."""

    errno = errno.ENOSPC
    status = GntStatus.no_space


class NoFreeMapping(HypercallError):
    """The domain maps as much as it may."""

    errno = errno.ENOSPC
    status = GntStatus.no_space


class BadMapping(HypercallError):
    """A mapping that does not exist."""

    status = GntStatus.bad_handle


class NoHeadroom(HypercallError):
    """The domain that accepts a transfer may own no more frames."""

    errno = errno.ENOMEM
    status = GntStatus.general_error


class BadCopyRange(HypercallError):
    """A copy that does not stay within a page."""

    status = GntStatus.bad_copy_arg


class NameTaken(HypercallError):
    """A name that something else has."""

    errno = errno.EEXIST


class NoSuchName(HypercallError):
    """A name that nothing has."""

    errno = errno.ENOENT
