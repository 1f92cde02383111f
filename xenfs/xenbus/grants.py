"""A frontend's pages in a backend: kept mapped as long as they are in use, or mapped for one request.

Pages that were mapped for the same request are a group: they lie one behind the other, so that the next request with
them is read and written in one piece, and they are unmapped together.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from xenfs.abi.xen import PAGE_SIZE
from xenfs.domain import Memory, Refused, Region

MOST = 1056
"""Pages kept mapped (xen-blkback's max_persistent_grants)."""
_REMEMBERED = 512
"""Lists of pieces whose views are remembered."""
MOST_TABLES = 64
"""Pages of descriptors kept mapped."""
IDLE_SECONDS = 60.0
"""How long they are kept unused."""
Piece = tuple[int, int, int]
"""A grant, an offset in its page, and a number of bytes."""


@dataclass(frozen=True, slots=True)
class Pieces:
    """Segments that were looked at and found good; `raw` is how the guest wrote them, and tells them from others."""

    raw: bytes
    list: tuple[Piece, ...]
    size: int


def cut(views: Sequence[memoryview], size: int) -> list[memoryview]:
    """As much of the views as `size` bytes fill."""
    found = []
    for view in views:
        if size <= 0:
            break
        found.append(view[:size])
        size -= len(view)
    return found


class Group:
    """Pages mapped together. `users` counts the requests under way, during which they stay."""

    __slots__ = ("refs", "region", "used", "users")

    def __init__(self, refs: tuple[int, ...], region: Region) -> None:
        """As mapped."""
        self.refs, self.region = refs, region
        self.users, self.used = 0, 0.0


class Use:
    """The views of a request, until `done`."""

    __slots__ = ("_groups", "_once", "views")

    def __init__(self, views: list[memoryview], groups: Sequence[Group], once: Region | None = None) -> None:
        """`groups` are kept, `once` is not."""
        self.views, self._groups, self._once = views, groups, once
        for group in groups:
            group.users += 1

    def done(self) -> None:
        """The request is over."""
        for group in self._groups:
            group.users -= 1
        if self._once is not None:
            self._once.close()


class Grants:
    """The pages of one frontend."""

    def __init__(self, memory: Memory, domid: int, *, persistent: bool, clock: Callable[[], float]) -> None:
        """`persistent`: whether the frontend uses the same pages again."""
        self._memory, self._domid, self._persistent, self._clock = memory, domid, persistent, clock
        self._at: dict[int, tuple[Group, int]] = {}
        self._groups: OrderedDict[Group, None] = OrderedDict()
        self._tables: OrderedDict[int, Region] = OrderedDict()
        self._known: dict[bytes, tuple[list[memoryview], list[Group]]] = {}
        self.mapped = 0
        """Mappings made so far."""

    def __len__(self) -> int:
        """Pages kept mapped."""
        return sum(len(group.refs) for group in self._groups)

    def use(self, pieces: Pieces, *, readonly: bool) -> Use:
        """Views of pieces, joined where they lie one behind the other. Raises Refused."""
        if not self._persistent:
            return self._once(pieces.list, readonly=readonly)
        found = self._known.get(pieces.raw)
        if found is None:
            refs = dict.fromkeys(ref for ref, _, _ in pieces.list)
            missing = tuple(ref for ref in refs if ref not in self._at)
            wanted = {self._at[ref][0] for ref in refs if ref in self._at}
            if missing and not self._keep(missing, wanted):
                return self._once(pieces.list, readonly=readonly)
            if len(self._known) >= _REMEMBERED:
                self._known.clear()
            found = self._known[pieces.raw] = self._views(pieces.list)
        views, groups = found
        now = self._clock()
        for group in groups:
            group.used = now
            self._groups.move_to_end(group)
        return Use(views, groups)

    def _keep(self, refs: tuple[int, ...], wanted: set[Group]) -> bool:
        """Map pages to stay, without letting go of those that are `wanted` as well; whether that can be done."""
        while len(self) + len(refs) > MOST:
            idle = (group for group in self._groups if not group.users and group not in wanted)
            if (oldest := next(idle, None)) is None:
                return False
            self._drop(oldest)
        try:
            region = self._memory.map(self._domid, refs)
        except Refused:
            return False  # perhaps it is granted read-only
        self.mapped += len(refs)
        group = Group(refs, region)
        self._groups[group] = None
        for number, ref in enumerate(refs):
            self._at[ref] = group, number * PAGE_SIZE
        return True

    def _drop(self, group: Group) -> None:
        del self._groups[group]
        for ref in group.refs:
            del self._at[ref]
        self._known.clear()
        group.region.close()

    def _views(self, pieces: tuple[Piece, ...]) -> tuple[list[memoryview], list[Group]]:
        views: list[memoryview] = []
        groups: dict[Group, None] = {}
        last: Group | None = None
        start = end = 0
        for ref, offset, size in pieces:
            group, base = self._at[ref]
            groups[group] = None
            if group is last and base + offset == end:
                end += size
                continue
            if last is not None:
                views.append(last.region.view[start:end])
            last, start = group, base + offset
            end = start + size
        if last is not None:
            views.append(last.region.view[start:end])
        return views, list(groups)

    def _once(self, pieces: tuple[Piece, ...], *, readonly: bool) -> Use:
        region = self._memory.map(self._domid, [ref for ref, _, _ in pieces], readonly=readonly)
        self.mapped += len(pieces)
        views = []
        start = end = 0
        for number, (_, offset, size) in enumerate(pieces):
            at = number * PAGE_SIZE + offset
            if at == end and number:
                end += size
                continue
            if number:
                views.append(region.view[start:end])
            start, end = at, at + size
        views.append(region.view[start:end])
        return Use(views, (), region)

    def table(self, ref: int, size: int) -> bytes:
        """A copy of the beginning of a page of descriptors, which is kept mapped too. Raises Refused."""
        if not self._persistent:
            with self._memory.map(self._domid, [ref], readonly=True) as view:
                return bytes(view[:size])
        region = self._tables.get(ref)
        if region is None:
            region = self._memory.map(self._domid, [ref], readonly=True)
            self.mapped += 1
            while len(self._tables) >= MOST_TABLES:
                self._tables.popitem(last=False)[1].close()
            self._tables[ref] = region
        self._tables.move_to_end(ref)
        return bytes(region.view[:size])

    def expire(self) -> None:
        """Unmap what has not been used for a while."""
        before = self._clock() - IDLE_SECONDS
        for group in [group for group in self._groups if group.used < before and not group.users]:
            self._drop(group)

    def close(self) -> None:
        """Unmap everything."""
        for group in list(self._groups):
            self._drop(group)
        while self._tables:
            self._tables.popitem()[1].close()
