"""What a driver imports: a `Domain` and the three things it has, memory, events and a store.

Each is a Protocol. `inprocess` has them straight on the model, for tests without a mount, and `mounted` through the
files of a mount; a driver written against the Protocols runs on either, and never imports the hypervisor. What needs
no store takes a `BareDomain`.
"""

from __future__ import annotations

from typing import Protocol

from xenfs.domain.errors import Refused
from xenfs.domain.events import Channel, Events
from xenfs.domain.memory import CopySegment, Memory, Region
from xenfs.domain.store import Store, Transaction, Watch

__all__ = [
    "BareDomain",
    "Channel",
    "CopySegment",
    "Domain",
    "Events",
    "Memory",
    "Refused",
    "Region",
    "Store",
    "Transaction",
    "Watch",
]


class BareDomain(Protocol):
    """One domain as one process of it sees it, and as the hypervisor alone knows it: without xenstore.

    Closing releases everything that was allocated through it.
    """

    @property
    def domid(self) -> int:
        """The domain's number."""

    @property
    def memory(self) -> Memory:
        """Frames, grants, mappings."""

    @property
    def events(self) -> Events:
        """Event channels."""

    def close(self) -> None:
        """End the handle; twice is fine."""

    def __enter__(self) -> BareDomain: ...

    def __exit__(self, *_: object) -> None: ...


class Domain(BareDomain, Protocol):
    """A domain with its store."""

    @property
    def store(self) -> Store:
        """xenstore, as this domain."""

    def __enter__(self) -> Domain: ...
