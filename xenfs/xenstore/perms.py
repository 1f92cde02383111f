"""Permissions of a node (xen-interfaces.md 2.5): who may read and write it. The first entry is the owner's."""

from __future__ import annotations

import errno
from collections.abc import Sequence
from dataclasses import dataclass, replace

from xenfs.xenstore.errors import StoreError

READ, WRITE, OWNER = 1, 2, 4
ALL = READ | WRITE | OWNER
_MASKS = {"n": 0, "r": READ, "w": WRITE, "b": READ | WRITE}
DOMID_MAX = 0xFFFF_FFFF


@dataclass(frozen=True, slots=True)
class Perm:
    """One entry. It is `ignored` when it was given to a domain that had gone when the node was written."""

    letter: str
    domid: int
    ignored: bool = False

    @property
    def mask(self) -> int:
        """READ and WRITE."""
        return _MASKS[self.letter]

    @classmethod
    def parse(cls, text: str) -> Perm:
        """Read `r3`. Raises StoreError EINVAL."""
        letter, number = text[:1], text[1:]
        if letter not in _MASKS or not (number.isascii() and number.isdigit()) or int(number) > DOMID_MAX:
            raise StoreError(errno.EINVAL, repr(text), "not a permission: n, r, w or b and a number")
        return cls(letter, int(number))

    def __str__(self) -> str:
        return f"{self.letter}{self.domid}"


Perms = tuple[Perm, ...]


def parse(texts: Sequence[str]) -> Perms:
    """Read a list of at least one. Raises StoreError EINVAL."""
    if not texts:
        raise StoreError(errno.EINVAL, "permissions", "none given")
    return tuple(Perm.parse(text) for text in texts)


def inherited(perms: Perms, owner: int | None) -> Perms:
    """Those of a new node: its parent's, with another owner where one is given."""
    return perms if owner is None else (replace(perms[0], domid=owner), *perms[1:])
