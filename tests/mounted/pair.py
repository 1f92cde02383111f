"""Two domains and a frame that goes from one to the other."""

from __future__ import annotations

from pathlib import Path

from tests.mounted.inside import PAGE
from tests.mounted.mount import Xen


def whole(byte: bytes) -> bytes:
    return byte * PAGE


class Pair:
    """Domains 1 and 2, and a frame that goes from one to the other."""

    def __init__(self, mnt: Xen) -> None:
        self.mnt = mnt
        for domid in (1, 2):
            (mnt.domain(domid) / "max_memory").write_text("1280")
        self.owner, self.receiver = mnt.ctl(1), mnt.ctl(2)
        self.frame = self.owner.do("alloc_frame")

    @property
    def path(self) -> Path:
        return self.mnt.home(1) / "frames" / str(self.frame)

    @property
    def arrived(self) -> Path:
        return self.mnt.home(2) / "frames" / str(self.frame)

    def offer(self) -> int:
        return self.receiver.do("accept_transfer dom=1")

    def take_away(self, how: str) -> None:
        if how == "transfer":
            assert self.owner.ask(f"transfer mfn={self.frame} domid=2 ref={self.offer()}") == "ok"
        elif how == "decrease":
            assert self.owner.ask(f"decrease_reservation frame={self.frame}") == "ok"
        elif how == "free":
            assert self.owner.ask(f"free_frame frame={self.frame}") == "ok"
        else:
            self.mnt.home(1).rmdir()
