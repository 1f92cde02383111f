"""netfront's end of the control ring: it asks the backend to keep its pages mapped."""

from __future__ import annotations

from collections.abc import Sequence

from xenfs.abi.netif import MAPPING, CtrlStatus, CtrlType
from xenfs.domain import Channel
from xenfs.ring import FrontRing
from xenfs.xenbus import Frontend


class MappedPages:
    """Lists of grants that are to stay mapped. Until they are, and where they cannot be, they are mapped as needed."""

    def __init__(
        self, ring: FrontRing, channel: Channel, end: Frontend, lists: Sequence[tuple[Sequence[int], bool]]
    ) -> None:
        """`lists`: grants, and whether they are read-only."""
        self._ring, self._channel, self._end, self._lists = ring, channel, end, lists

    def add(self) -> None:
        """Ask for all of them."""
        requests = []
        for number, (refs, readonly) in enumerate(self._lists):
            table, _, (table_ref,) = self._end.share_pages(1)
            for place, ref in enumerate(refs):
                MAPPING.pack_into(table, place * MAPPING.size, ref, int(readonly), 0)
            requests.append((number, int(CtrlType.add_gref_mapping), table_ref, len(refs), 0))
        self._ring.push_many(requests)
        self._ring.final_check()
        if self._ring.publish():
            self._channel.notify()

    def work(self) -> None:
        """Hear what the backend says. Raises PeerRingError."""
        while True:
            for _, _, status, _ in self._ring.take():
                if status != CtrlStatus.success:
                    self._end.log(f"{self._end!r}: the backend does not keep pages mapped (status {status})")
            if not self._ring.final_check():
                break
