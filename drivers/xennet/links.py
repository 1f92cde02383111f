"""Interfaces, bridges and routes of the host.

What every start of a driver does goes by the ioctls of linux/sockios.h, in microseconds; pyroute2 does what is done
once, and is loaded then, since that takes longer than all the rest of a start.
"""

from __future__ import annotations

import errno
import fcntl
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from xenfs.xenbus import LocalDeviceError
from xennet.mac import parse_mac

if TYPE_CHECKING:
    from pyroute2 import IPRoute

BACK_MAC = "fe:ff:ff:ff:ff:ff"
"""The host's end of every vif, as Xen's scripts set it: never the lowest address of a bridge."""
_SIOCGIFFLAGS, _SIOCSIFFLAGS, _SIOCSIFMTU, _SIOCSIFHWADDR, _SIOCGIFADDR = 0x8913, 0x8914, 0x8922, 0x8924, 0x8915
_SIOCBRADDIF = 0x89A2
_IFF_UP, _ARPHRD_ETHER = 1, 1
_NUMBER, _FLAGS, _ADDRESS = struct.Struct("16si20x"), struct.Struct("16sH22x"), struct.Struct("16sH6s16x")


@contextmanager
def _socket(what: str) -> Iterator[socket.socket]:
    """A socket to ask about interfaces; what is refused becomes LocalDeviceError."""
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
            yield any_socket
    except OSError as error:
        raise LocalDeviceError(f"{what}: {error.strerror or error}", error.errno or errno.EIO) from error


@contextmanager
def _netlink(what: str) -> Iterator[IPRoute]:
    from pyroute2 import IPRoute
    from pyroute2.netlink.exceptions import NetlinkError

    try:
        with IPRoute() as links:
            yield links
    except NetlinkError as error:
        raise LocalDeviceError(f"{what}: {error.args[1] if len(error.args) > 1 else error}", error.code) from error
    except OSError as error:
        raise LocalDeviceError(f"{what}: {error.strerror or error}", error.errno or errno.EIO) from error


def set_up(name: str, *, mac: str, mtu: int) -> None:
    """Give an interface its address and MTU, and switch it on. Raises LocalDeviceError."""
    key = name.encode()
    with _socket(name) as asked:
        fcntl.ioctl(asked, _SIOCSIFHWADDR, _ADDRESS.pack(key, _ARPHRD_ETHER, parse_mac(mac)))
        fcntl.ioctl(asked, _SIOCSIFMTU, _NUMBER.pack(key, mtu))
        _, flags = _FLAGS.unpack(fcntl.ioctl(asked, _SIOCGIFFLAGS, _FLAGS.pack(key, 0)))
        fcntl.ioctl(asked, _SIOCSIFFLAGS, _FLAGS.pack(key, flags | _IFF_UP))


def ipv4_address(name: str) -> bytes | None:
    """The first IPv4 address of an interface, if it has one."""
    try:
        with _socket(name) as asked:
            return fcntl.ioctl(asked, _SIOCGIFADDR, struct.pack("40s", name.encode()))[20:24]
    except LocalDeviceError:
        return None


def join(name: str, bridge: str) -> None:
    """Put an interface on a bridge, which is made when missing. Raises LocalDeviceError."""
    try:
        socket.if_nametoindex(bridge)
    except OSError:
        _make_bridge(bridge)
    with _socket(f"bridge {bridge}") as asked:
        fcntl.ioctl(asked, _SIOCBRADDIF, _NUMBER.pack(bridge.encode(), socket.if_nametoindex(name)))


def _make_bridge(bridge: str) -> None:
    from pyroute2.netlink.exceptions import NetlinkError

    with _netlink(f"bridge {bridge}") as links:
        try:
            links.link("add", ifname=bridge, kind="bridge", br_forward_delay=0, br_stp_state=0)
        except NetlinkError as error:
            if error.code != errno.EEXIST:  # else another netback was faster
                raise
        links.link("set", index=links.link_lookup(ifname=bridge)[0], state="up")


def route(name: str, addresses: list[str], gateway: str = "") -> None:
    """Without a bridge, as Xen's vif-route: the host routes the guest's addresses to its interface, and answers there
    for all others; it has the address of the interface `gateway` there too. Raises LocalDeviceError.

    Whether it forwards what comes is for net.ipv4.ip_forward to say.
    """
    own = ipv4_address(gateway) if gateway else None
    if gateway and own is None:
        raise LocalDeviceError(f"gatewaydev {gateway}: it has no IPv4 address", errno.EADDRNOTAVAIL)
    with _netlink(f"routes to {name}") as links:
        index = socket.if_nametoindex(name)
        if own is not None:
            links.addr("replace", index=index, address=socket.inet_ntoa(own), prefixlen=32)
        for address in addresses:
            links.route("replace", dst=address, oif=index, scope="link")
        Path(f"/proc/sys/net/ipv4/conf/{name}/proxy_arp").write_text("1")
