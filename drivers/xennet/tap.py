"""A TAP: a network interface whose other side is a file (linux/if_tun.h)."""

from __future__ import annotations

import errno
import fcntl
import os
import struct
from contextlib import suppress

from xenfs.xenbus import LocalDeviceError

_TUNSETIFF, _TUNSETPERSIST, _TUNSETOFFLOAD, _TUNSETCARRIER = 0x400454CA, 0x400454CB, 0x400454D0, 0x400454E2
_TUNGETIFF = 0x800454D2
_IFF_TAP, _IFF_NO_PI, _IFF_VNET_HDR = 0x0002, 0x1000, 0x4000
TUN_F_CSUM, TUN_F_TSO4, TUN_F_TSO6, TUN_F_TSO_ECN = 1, 2, 4, 8
NAME_MAX = 15


def unread(error: OSError) -> None:
    """What became of a packet that could not be read from a TAP: one that did not fit is lost, and that is all.

    Raises LocalDeviceError when the TAP is no more.
    """
    if error.errno not in (errno.EFAULT, errno.EINVAL):
        raise LocalDeviceError(f"the TAP: {error.strerror}", error.errno or errno.EIO) from error


class Tap:
    """An open TAP, not blocking. It goes with its last descriptor unless it is kept."""

    def __init__(self, name: str) -> None:
        """Make the interface, or take the one of that name that nobody has open. Raises LocalDeviceError."""
        self.name = name
        try:
            self.fd = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            raise LocalDeviceError(f"/dev/net/tun: {error.strerror}", error.errno or errno.ENODEV) from error
        try:
            flags = _IFF_TAP | _IFF_NO_PI | _IFF_VNET_HDR
            fcntl.ioctl(self.fd, _TUNSETIFF, struct.pack("16sH22x", name.encode()[:NAME_MAX], flags))
        except OSError as error:
            os.close(self.fd)
            hint = "; it takes root" if error.errno == errno.EPERM else ""
            raise LocalDeviceError(f"TAP {name}: {error.strerror}{hint}", error.errno or errno.EIO) from error

    @classmethod
    def adopt(cls, name: str, fd: int) -> Tap:
        """One that another process has made and left."""
        self = cls.__new__(cls)
        self.name, self.fd = name, fd
        os.set_blocking(fd, False)
        return self

    def offload(self, *, csum: bool, tso4: bool, tso6: bool) -> None:
        """What may come out of it unfinished: blank checksums, and TCP segments larger than the MTU."""
        flags = 0
        if csum:
            flags = TUN_F_CSUM | (TUN_F_TSO4 | TUN_F_TSO_ECN if tso4 else 0) | (TUN_F_TSO6 if tso6 else 0)
        fcntl.ioctl(self.fd, _TUNSETOFFLOAD, flags)

    def carrier(self, on: bool) -> None:
        """Plug the cable in, or pull it. A kernel that cannot (before 5.0) leaves it in."""
        with suppress(OSError):
            fcntl.ioctl(self.fd, _TUNSETCARRIER, struct.pack("i", on))

    @property
    def alive(self) -> bool:
        """Whether the interface is still there: anybody with the right to may delete it."""
        try:
            fcntl.ioctl(self.fd, _TUNGETIFF, bytes(40))
        except OSError:
            return False
        return True

    def keep(self, on: bool) -> None:
        """Whether the interface is to outlive its file, with its addresses and routes."""
        fcntl.ioctl(self.fd, _TUNSETPERSIST, int(on))

    def close(self) -> None:
        """Close the file."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1
