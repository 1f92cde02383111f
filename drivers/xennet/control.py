"""The control ring, backend's end: grants that stay mapped. Hashing is not offered."""

from __future__ import annotations

from collections.abc import Sequence

from xenfs.abi.netif import MAPPING, CtrlStatus, CtrlType
from xenfs.abi.xen import PAGE_SIZE
from xenfs.domain import Channel, Memory, Refused
from xenfs.ring import BackRing, Entry
from xennet.pages import LIMIT, Pages

_READONLY = 1
_TABLE = PAGE_SIZE // MAPPING.size


class Control:
    """One control ring."""

    def __init__(self, ring: BackRing, channel: Channel, pages: Pages, memory: Memory, domid: int) -> None:
        """`pages`: where mappings are kept; `domid`: the frontend's."""
        self._ring, self._channel, self._pages = ring, channel, pages
        self._memory, self._domid = memory, domid

    def work(self) -> None:
        """Answer everything. Raises PeerRingError."""
        while True:
            self._ring.respond_many([self._answer(*request) for request in self._ring.take()])
            if self._ring.publish():
                self._channel.notify()
            if not self._ring.final_check():
                break

    def _answer(self, number: int, kind: int, first: int, second: int, third: int) -> Entry:
        status, data = CtrlStatus.not_supported, 0
        if kind == CtrlType.get_gref_mapping_size:
            status, data = CtrlStatus.success, LIMIT
        elif kind in (CtrlType.add_gref_mapping, CtrlType.del_gref_mapping):
            status = self._mapping(kind == CtrlType.add_gref_mapping, first, second, third)
        return number, kind, int(status), data

    def _mapping(self, add: bool, table: int, count: int, zero: int) -> CtrlStatus:
        """`table`: the grant of a page with `count` entries."""
        if zero or not 0 < count <= _TABLE:
            return CtrlStatus.invalid_parameter
        try:
            region = self._memory.map(self._domid, [table])
        except Refused:
            return CtrlStatus.invalid_parameter
        with region as view:
            entries = list(MAPPING.iter_unpack(bytes(view[: count * MAPPING.size])))
            status = self._add(entries) if add else self._remove(entries)
            for number, (ref, flags, _) in enumerate(entries):
                MAPPING.pack_into(view, number * MAPPING.size, ref, flags, int(status))
        return status

    def _add(self, entries: Sequence[tuple[int, ...]]) -> CtrlStatus:
        refs = [ref for ref, _, _ in entries]
        flags = {bits for _, bits, _ in entries}
        if len(set(refs)) < len(refs) or any(self._pages.knows(ref) for ref in refs) or flags - {0, _READONLY}:
            return CtrlStatus.invalid_parameter
        if len(self._pages) + len(refs) > LIMIT:
            return CtrlStatus.buffer_overflow
        try:
            if len(flags) == 1:
                self._pages.add(refs, readonly=_READONLY in flags)
            else:
                for ref, bits, _ in entries:
                    self._pages.add([ref], readonly=bits == _READONLY)
        except Refused:
            self._pages.remove(refs)
            return CtrlStatus.invalid_parameter
        return CtrlStatus.success

    def _remove(self, entries: Sequence[tuple[int, ...]]) -> CtrlStatus:
        refs = [ref for ref, _, _ in entries]
        if not all(self._pages.knows(ref) for ref in refs):
            return CtrlStatus.invalid_parameter
        self._pages.remove(refs)
        return CtrlStatus.success
