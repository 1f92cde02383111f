"""A frontend's pages in the backend: those that the control ring keeps mapped, and those mapped for one packet."""

from __future__ import annotations

from collections.abc import Sequence

from xenfs.abi.xen import PAGE_SIZE
from xenfs.domain import Memory, Region

LIMIT = 1024
"""Grants that a frontend may keep mapped (get_gref_mapping_size)."""


class Pages:
    """Where grants are in this process. Grants that were mapped together lie one behind the other."""

    def __init__(self, memory: Memory, domid: int) -> None:
        """Begin with none."""
        self._memory, self._domid = memory, domid
        self._at: dict[int, tuple[memoryview, int]] = {}
        self.generation = 0
        """Changes with what is kept mapped."""
        self._regions: list[tuple[Region, set[int]]] = []

    def __len__(self) -> int:
        return len(self._at)

    def add(self, refs: Sequence[int], *, readonly: bool) -> None:
        """Keep grants mapped: all of them, or none and Refused."""
        region = self._memory.map(self._domid, refs, readonly=readonly)
        self.generation += 1
        view = region.view
        for number, ref in enumerate(refs):
            self._at[ref] = view, number * PAGE_SIZE
        self._regions.append((region, set(refs)))

    def knows(self, ref: int) -> bool:
        """Whether a grant is kept mapped."""
        return ref in self._at

    def remove(self, refs: Sequence[int]) -> None:
        """Keep grants no longer; their mappings end with the last of those they were mapped with."""
        self.generation += 1
        gone = set(refs)
        for ref in gone:
            self._at.pop(ref, None)
        kept = []
        for region, members in self._regions:
            members -= gone
            if members:
                kept.append((region, members))
            else:
                region.close()
        self._regions = kept

    def place(self, ref: int) -> tuple[memoryview, int] | None:
        """Where a grant's page is: in which view, and at which of its bytes; None when it is not kept mapped."""
        return self._at.get(ref)

    def slices(self, pieces: Sequence[tuple[int, int, int]]) -> list[memoryview] | None:
        """The bytes of pieces, joined where they lie one behind the other; None when one is not kept mapped."""
        found: list[memoryview] = []
        known, whole, start, end = self._at, None, 0, 0
        for ref, offset, size in pieces:
            place = known.get(ref)
            if place is None:
                return None
            view, base = place
            if view is whole and base + offset == end:
                end += size
                continue
            if whole is not None:
                found.append(whole[start:end])
            whole, start = view, base + offset
            end = start + size
        if whole is not None:
            found.append(whole[start:end])
        return found

    def once(
        self, pieces: Sequence[tuple[int, int, int]], *, readonly: bool = False
    ) -> tuple[list[Region], list[memoryview]]:
        """The same, mapped for the time being: the regions are the caller's to close. Raises Refused, and maps none."""
        regions: list[Region] = []
        views = []
        try:
            for ref, offset, size in pieces:
                region = self._memory.map(self._domid, [ref], readonly=readonly)
                regions.append(region)
                views.append(region.view[offset : offset + size])
        except BaseException:
            for region in regions:
                region.close()
            raise
        return regions, views

    def close(self) -> None:
        """Unmap everything."""
        self.generation += 1
        for region, _ in self._regions:
            region.close()
        self._regions, self._at = [], {}
