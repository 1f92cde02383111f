"""Memory as a driver has it: frames by number, regions to reach their bytes, grants by reference.

Everything takes and gives several at once, since a batch costs hardly more than one. A call that takes or maps
something (alloc, grant, map, accept_transfer, increase_reservation) gets all it asked for or raises Refused and gets
nothing. One that gives back (free, end_access, end_transfer, decrease_reservation) tries each and then raises the first
refusal; the others stand. Where each has a status of its own, that is the answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from xenfs.abi.grant_table import GntStatus


class Region(Protocol):
    """Pages mapped one behind the other in this process; `view` is their bytes until the region is closed."""

    @property
    def view(self) -> memoryview:
        """The bytes, 4096 a page; read-only when the region is."""

    def close(self) -> None:
        """Unmap, so that a grant is no longer in use; twice is fine. Views still held read zeros from then on."""

    def __enter__(self) -> memoryview: ...

    def __exit__(self, *_: object) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class CopySegment:
    """One piece of a grant copy, within a page on either side.

    A side is a frame of one's own (`*_domid` None) or the grant of that number that a domain gave.
    """

    source: int
    source_domid: int | None = None
    source_offset: int = 0
    dest: int
    dest_domid: int | None = None
    dest_offset: int = 0
    length: int


class Memory(Protocol):
    """Frames of one's own, grants given and grants received."""

    def alloc(self, count: int = 1) -> list[int]:
        """Take zeroed frames out of the domain's idle ones. ENOMEM when there are not so many."""

    def free(self, frames: Sequence[int], *, defer: bool = False) -> None:
        """Make frames idle again. EBUSY when one is granted, mapped or a named ring; EINVAL when not held.

        With `defer` those in use become idle as soon as they no longer are.
        """

    def view(self, frames: Sequence[int], *, readonly: bool = False) -> Region:
        """Map frames of one's own. EINVAL when one is not."""

    def grant(self, frames: Sequence[int], domid: int, *, readonly: bool = False) -> list[int]:
        """Let a domain map frames; the references, in the same order. ENOSPC, EINVAL."""

    def end_access(self, refs: Sequence[int], *, defer: bool = False) -> list[int]:
        """Revoke grants; answers those that a peer still maps, which stay as they were. ENOENT for an unknown one.

        With `defer` none stays: the mapped ones are revoked too and vanish with their last mapping.
        """

    def map(self, domid: int, refs: Sequence[int], *, readonly: bool = False) -> Region:
        """Map what a domain granted. ESRCH, ENOENT, EACCES (not for us, or read-only), ENOSPC."""

    def copy(self, segments: Sequence[CopySegment]) -> list[GntStatus]:
        """Copy between pages without mapping; a status for each."""

    def accept_transfer(self, domid: int, count: int = 1) -> list[int]:
        """Offer to take frames that a domain flips to here; the references. ENOSPC."""

    def end_transfer(self, refs: Sequence[int]) -> list[int | None]:
        """Collect the frames that came, held now; None where none came and the offer is withdrawn. ENOENT, EACCES."""

    def transfer(self, frames: Sequence[int], domid: int, refs: Sequence[int]) -> list[GntStatus]:
        """Flip frames to a domain, each by its reference; a status for each, a refused frame stays."""

    def increase_reservation(self, count: int = 1) -> list[int]:
        """Balloon zeroed frames in, held. ENOMEM when the machine has no more or the domain may own no more."""

    def decrease_reservation(self, frames: Sequence[int]) -> None:
        """Balloon frames out. EBUSY, EINVAL."""

    def give_flips(
        self, frames: Sequence[int], domid: int, refs: Sequence[int], more: int = 0
    ) -> tuple[list[GntStatus], list[int]]:
        """What one who flips pages does, in one go: `transfer`, then `increase_reservation` by up to `more`.

        A status for each frame, and as many new ones as there are.
        """

    def take_flips(
        self, refs: Sequence[int], back: Sequence[int], domid: int, offers: int = 0
    ) -> tuple[list[int | None], list[int]]:
        """What one who is flipped pages does, in one go: `decrease_reservation` of the frames `back`, `offers` new
        offers to a domain (`accept_transfer`), as far as there are entries, then `end_transfer` of `refs`.

        The frames that came, None for a withdrawn offer, and the new references. Raises the first refusal, of `back`
        before `refs`; the others stand.
        """

    def read_frames(self, frames: Sequence[int], into: Sequence[memoryview]) -> None:
        """Read frames of one's own without mapping them, each into its page of memory. EINVAL when one is not."""

    def write_frames(self, frames: Sequence[int], data: memoryview) -> None:
        """Write them, with pages that lie one behind the other. EINVAL likewise."""

    def name_ring(self, name: str, frame: int) -> None:
        """Show a frame under rings/ as `<device>-<n>-<ring>`. EINVAL, EEXIST, EBUSY."""

    def unname_ring(self, name: str) -> None:
        """Take the name away. ENOENT."""
