"""The headers of a frame, found in a private copy of its first bytes, and what TAPs say of checksums and segments.

A TAP with IFF_VNET_HDR puts a virtio_net_hdr before each frame (linux/virtio_net.h). The rings say the same in flags
and an extra slot (xen/io/netif.h), without the positions: those are found here again, so no peer can lie about them.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from xenfs.abi.netif import GsoType, RxFlag, TxFlag

VNET = struct.Struct("<BBHHHH")
"""flags, gso_type, hdr_len, gso_size, csum_start, csum_offset."""
VNET_SIZE = 10
NEEDS_CSUM, DATA_VALID = 1, 2
GSO_NONE, GSO_TCPV4, GSO_TCPV6, GSO_ECN = 0, 1, 4, 0x80
HEADERS_MIN, HEADERS_MAX = 64, 128
"""How much of a frame is copied: to the end of the transport header, within these bounds."""

_ETH, _VLAN = 14, 4
_IPV4, _IPV6, _QTAG, _STAG = 0x0800, 0x86DD, 0x8100, 0x88A8
_TCP, _UDP = 6, 17
_ICMP = {_IPV4: 1, _IPV6: 58}
_EXTENSIONS = frozenset({0, 43, 44, 51, 60, 135})
_FRAGMENT, _AUTHENTICATION = 44, 51
_SHORT = struct.Struct(">H")
_CSUM_OFFSET = {_TCP: 16, _UDP: 6}
_NETIF_GSO = {GSO_TCPV4: GsoType.tcpv4, GSO_TCPV6: GsoType.tcpv6}
_VNET_GSO = {int(GsoType.tcpv4): GSO_TCPV4, int(GsoType.tcpv6): GSO_TCPV6}
_GSO_ETHERTYPE = {int(GsoType.tcpv4): _IPV4, int(GsoType.tcpv6): _IPV6}
NOTHING = bytes(VNET_SIZE)
"""The header of a frame that has whole checksums and is no more than one."""


class Headers(NamedTuple):
    """Where the headers are: offset of the network header, of the transport header (0: none), end of what was found,
    the Ethernet type and the transport protocol (-1: none)."""

    l3: int
    l4: int
    end: int
    ethertype: int
    protocol: int


def parse(data: bytes) -> Headers | None:
    """Find the headers. None when the frame is shorter than an Ethernet header; what is malformed further in ends the
    search there, since such frames are still somebody's to drop."""
    size = len(data)
    if size < _ETH:
        return None
    (ethertype,), l3 = _SHORT.unpack_from(data, 12), _ETH
    for _ in range(2):
        if ethertype not in (_QTAG, _STAG) or size < l3 + _VLAN:
            break
        (ethertype,) = _SHORT.unpack_from(data, l3 + 2)
        l3 += _VLAN
    if ethertype == _IPV4:
        return _ipv4(data, l3)
    if ethertype == _IPV6:
        return _ipv6(data, l3)
    return Headers(l3, 0, l3, ethertype, -1)


def _ipv4(data: bytes, l3: int) -> Headers:
    if len(data) < l3 + 20 or data[l3] >> 4 != 4:
        return Headers(l3, 0, l3, _IPV4, -1)
    l4 = l3 + (data[l3] & 15) * 4
    fragment = _SHORT.unpack_from(data, l3 + 6)[0] & 0x1FFF
    if l4 < l3 + 20 or fragment:
        return Headers(l3, 0, min(max(l4, l3), len(data)), _IPV4, -1)
    return _transport(data, l3, l4, _IPV4, data[l3 + 9])


def _ipv6(data: bytes, l3: int) -> Headers:
    if len(data) < l3 + 40 or data[l3] >> 4 != 6:
        return Headers(l3, 0, l3, _IPV6, -1)
    following, l4 = data[l3 + 6], l3 + 40
    while following in _EXTENSIONS and len(data) >= l4 + 8:
        kind, start = following, l4
        following, length = data[start], data[start + 1]
        if kind == _FRAGMENT:
            l4 = start + 8
            if _SHORT.unpack_from(data, start + 2)[0] & 0xFFF8:
                return Headers(l3, 0, l4, _IPV6, -1)
        else:
            l4 = start + ((length + 2) * 4 if kind == _AUTHENTICATION else (length + 1) * 8)
    return _transport(data, l3, l4, _IPV6, following)


def _transport(data: bytes, l3: int, l4: int, ethertype: int, protocol: int) -> Headers:
    size = len(data)
    if protocol == _TCP and size >= l4 + 20:
        end = l4 + (data[l4 + 12] >> 4) * 4
        if l4 + 20 <= end <= size:
            return Headers(l3, l4, end, ethertype, _TCP)
    elif protocol == _UDP and size >= l4 + 8:
        return Headers(l3, l4, l4 + 8, ethertype, _UDP)
    elif protocol == _ICMP[ethertype] and size >= l4 + 8:
        return Headers(l3, l4, l4 + 8, ethertype, protocol)
    return Headers(l3, 0, min(l4, size), ethertype, -1)


def vnet(found: Headers, *, blank: bool, valid: bool, gso_type: int = 0, gso_size: int = 0) -> bytes | None:
    """The virtio_net_hdr for a frame; None for one that cannot be what is said of it: segments of TCP that are not, or
    a blank checksum where none is known."""
    if not blank and not gso_type:
        return VNET.pack(DATA_VALID, 0, 0, 0, 0, 0) if valid else NOTHING
    offset = _CSUM_OFFSET.get(found.protocol)
    if offset is None:
        return None
    if not gso_type:
        return VNET.pack(NEEDS_CSUM, 0, 0, 0, found.l4, offset)
    if found.protocol != _TCP or found.ethertype != _GSO_ETHERTYPE.get(gso_type) or not gso_size:
        return None
    return VNET.pack(NEEDS_CSUM, _VNET_GSO[gso_type], found.end, gso_size, found.l4, offset)


def tx_said(header: bytes | bytearray) -> tuple[int, int, int]:
    """What a TAP says of a frame, for a transmit request: flags, GSO type and size."""
    flags, gso, _, size, _, _ = VNET.unpack_from(header)
    said = 0
    if flags & NEEDS_CSUM:
        said = TxFlag.csum_blank | TxFlag.data_validated
    elif flags & DATA_VALID:
        said = TxFlag.data_validated
    kind = _NETIF_GSO.get(gso & ~GSO_ECN, 0)
    return int(said), int(kind), size if kind else 0


def rx_said(header: bytes | bytearray) -> tuple[int, int, int]:
    """The same for a receive response, whose flags are others."""
    flags, kind, size = tx_said(header)
    said = 0
    if flags & TxFlag.csum_blank:
        said = RxFlag.csum_blank | RxFlag.data_validated
    elif flags & TxFlag.data_validated:
        said = RxFlag.data_validated
    return int(said), kind, size


def fold(data: bytes, start: int = 0) -> int:
    """The ones' complement sum of 16-bit words (RFC 1071), not inverted."""
    if len(data) % 2:
        data += b"\0"
    total: int = start + sum(struct.unpack(f">{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total


def _pseudo(frame: bytes, found: Headers, length: int) -> int:
    """The sum over the pseudo header: both addresses, the protocol, the length of the transport part."""
    if found.protocol not in _CSUM_OFFSET:
        message = f"protocol {found.protocol} has no checksum that is known here, only TCP and UDP"
        raise ValueError(message)
    if found.ethertype == _IPV4:
        return fold(frame[found.l3 + 12 : found.l3 + 20] + struct.pack(">HH", found.protocol, length))
    return fold(frame[found.l3 + 8 : found.l3 + 40] + struct.pack(">IHH", length, 0, found.protocol))


def _transport_end(frame: bytes, found: Headers) -> int:
    """Where IP says that the packet ends; what follows pads the frame. The frame's end where IP says nothing true."""
    if found.ethertype == _IPV4:
        said = found.l3 + int(_SHORT.unpack_from(frame, found.l3 + 2)[0])
    else:
        said = found.l3 + 40 + int(_SHORT.unpack_from(frame, found.l3 + 4)[0])
    return said if found.end <= said <= len(frame) else len(frame)


def transport_sum(frame: bytes, found: Headers) -> int:
    """The sum over the pseudo header and the transport part: 0xFFFF when a whole checksum is right.

    Raises ValueError for what is neither TCP nor UDP, as the three below do too.
    """
    end = _transport_end(frame, found)
    return fold(frame[found.l4 : end], _pseudo(frame, found, end - found.l4))


def partial_checksum(frame: bytes, found: Headers) -> int:
    """What Linux expects in the checksum field of a blank frame (CHECKSUM_PARTIAL): the pseudo header's sum alone."""
    return _pseudo(frame, found, _transport_end(frame, found) - found.l4)


def whole_checksum(frame: bytes, found: Headers) -> int:
    """What belongs in the checksum field, whatever is in it now; never 0, which to UDP means that there is none."""
    at = found.l4 + _CSUM_OFFSET.get(found.protocol, 0)
    without = frame[:at] + b"\0\0" + frame[at + 2 :]
    return transport_sum(without, found) ^ 0xFFFF or 0xFFFF


def complete(frame: bytearray, found: Headers) -> None:
    """Fill in a blank checksum, for a peer that wants whole ones."""
    value = whole_checksum(bytes(frame), found)
    _SHORT.pack_into(frame, found.l4 + _CSUM_OFFSET[found.protocol], value)
