"""A node: a value that is never changed, only replaced; so a transaction takes one by taking a reference."""

from __future__ import annotations

from dataclasses import dataclass

from immutables import Map

from xenfs.xenstore.perms import Perms

HEADER_SIZE, PERM_SIZE = 24, 8
"""Bytes that a node and each of its permissions count, as in C xenstored 4.17."""
_NO_CHILDREN: Map[str, int] = Map()


@dataclass(frozen=True, slots=True)
class Node:
    """`children` are names with the order in which they came; `generation` is of the last change to any of this."""

    perms: Perms
    value: bytes = b""
    children: Map[str, int] = _NO_CHILDREN
    names_size: int = 0
    generation: int = 0

    @property
    def owner(self) -> int:
        """Whose node it is."""
        return self.perms[0].domid

    @property
    def size(self) -> int:
        """What it counts against the quota of a node's size."""
        return HEADER_SIZE + PERM_SIZE * len(self.perms) + len(self.value) + self.names_size

    def names(self) -> list[str]:
        """The children's names, oldest first."""
        return sorted(self.children, key=self.children.__getitem__)
