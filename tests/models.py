"""A machine in memory that a test calls on behalf of its domains."""

from __future__ import annotations

from typing import TypeVar

import pytest

from xenfs.abi.grant_table import MapGrantRef, UnmapGrantRef
from xenfs.abi.wire import Wire
from xenfs.abi.xenfs_op import CloseHandle, CreateDomain, OpenHandle
from xenfs.hypervisor import Config, Machine
from xenfs.hypervisor.errors import HypercallError
from xenfs.hypervisor.snapshot import snapshot
from xenfs.hypervisor.world import ByteContents, EventCounts

R = TypeVar("R", bound=Wire)


class Model:
    """A machine with domains 1, 2 and 3, of which domain 1 makes the calls unless another is named."""

    def __init__(self, config: Config, frames: int, max_frames: int = 0) -> None:
        self.contents, self.lines = ByteContents(), EventCounts()
        self.machine = Machine(config, contents=self.contents, lines=self.lines)
        self.state = self.machine.state
        for dom in (1, 2, 3):
            self.machine.call(CreateDomain(dom=dom, frames=frames, max_frames=max_frames))

    def __call__(self, request: R, domid: int = 1, handle: int = 0) -> R:
        world = isinstance(request, (OpenHandle, CloseHandle, MapGrantRef, UnmapGrantRef))
        return self.machine.call(request, domid, handle, world=world)

    def refused(self, request: Wire, domid: int = 1) -> HypercallError:
        """The refusal of a call, which changes nothing and raises no event."""
        before = snapshot(self.machine), dict(self.lines.events)
        with pytest.raises(HypercallError) as caught:
            self(request, domid)
        assert (snapshot(self.machine), self.lines.events) == before
        return caught.value
