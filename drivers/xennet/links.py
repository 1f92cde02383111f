"""Interfaces and bridges, by netlink."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from xenfs.xenbus import LocalDeviceError

BACK_MAC = "fe:ff:ff:ff:ff:ff"
"""The host's end of every vif, as Xen's scripts set it: never the lowest address of a bridge."""


@contextmanager
def _netlink(what: str) -> Iterator[IPRoute]:
    try:
        with IPRoute() as links:
            yield links
    except NetlinkError as error:
        raise LocalDeviceError(f"{what}: {error.args[1] if len(error.args) > 1 else error}", error.code) from error
    except OSError as error:
        raise LocalDeviceError(f"{what}: {error.strerror or error}", error.errno or errno.EIO) from error


def _index(links: IPRoute, name: str) -> int | None:
    found = links.link_lookup(ifname=name)
    return int(found[0]) if found else None


def set_up(name: str, *, mac: str, mtu: int, up: bool = True) -> None:
    """Give an interface its address and MTU, and switch it on. Raises LocalDeviceError."""
    with _netlink(name) as links:
        index = _index(links, name)
        if index is None:
            raise LocalDeviceError(f"{name}: there is no such interface", errno.ENODEV)
        links.link("set", index=index, address=mac, mtu=mtu)
        if up:
            links.link("set", index=index, state="up")


def join(name: str, bridge: str) -> None:
    """Put an interface on a bridge, which is made when missing. Raises LocalDeviceError."""
    with _netlink(f"bridge {bridge}") as links:
        master = _index(links, bridge)
        if master is None:
            try:
                links.link("add", ifname=bridge, kind="bridge", br_forward_delay=0, br_stp_state=0)
            except NetlinkError as error:
                if error.code != errno.EEXIST:
                    raise
            master = _index(links, bridge)
            links.link("set", index=master, state="up")
        links.link("set", index=_index(links, name), master=master)


def route(name: str, addresses: list[str]) -> None:
    """Without a bridge: the host routes the guest's addresses to its interface. Raises LocalDeviceError."""
    with _netlink(f"routes to {name}") as links:
        index = _index(links, name)
        for address in addresses:
            links.route("replace", dst=address, oif=index, scope="link")
