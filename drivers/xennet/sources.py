"""Which addresses a guest may send from: its MAC, and, where its vif line has `ip=`, these addresses and networks.

As Xen's vif-bridge has it by iptables. ARP may only speak for these too; IPv6 needs its link-local addresses, and none,
to find out about others.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence

from xennet.headers import Headers

_IPV4, _ARP, _IPV6 = 0x0800, 0x0806, 0x86DD
_LOCAL = (ipaddress.IPv6Network("fe80::/10"), ipaddress.IPv6Network("::/128"))
Network = ipaddress.IPv4Network | ipaddress.IPv6Network


def networks(words: Sequence[str]) -> list[Network]:
    """Out of addresses and networks. Raises ValueError, which names the bad one."""
    return [ipaddress.ip_network(word, strict=False) for word in words]


class Sources:
    """What is allowed."""

    def __init__(self, mac: bytes, allowed: Sequence[Network] = ()) -> None:
        """No networks: any address of IP."""
        self._mac, self._any = mac, not allowed
        six = [*(_LOCAL if allowed else ()), *(n for n in allowed if isinstance(n, ipaddress.IPv6Network))]
        self._four = [(int(n.network_address), int(n.netmask)) for n in allowed if isinstance(n, ipaddress.IPv4Network)]
        self._six = [(int(n.network_address), int(n.netmask)) for n in six]

    def allow(self, frame: bytes, found: Headers) -> bool:
        """Whether a frame, of which at least the headers are given, is the guest's own."""
        if frame[6:12] != self._mac:
            return False
        if self._any:
            return True
        l3 = found.l3
        if found.ethertype == _IPV4:
            return _within(frame[l3 + 12 : l3 + 16], 4, self._four)
        if found.ethertype == _IPV6:
            return _within(frame[l3 + 8 : l3 + 24], 16, self._six)
        if found.ethertype == _ARP:
            return frame[l3 + 8 : l3 + 14] == self._mac and _within(frame[l3 + 14 : l3 + 18], 4, [*self._four, (0, ~0)])
        return True


def _within(address: bytes, size: int, allowed: Sequence[tuple[int, int]]) -> bool:
    value = int.from_bytes(address, "big")
    return len(address) == size and any(value & mask == network for network, mask in allowed)
