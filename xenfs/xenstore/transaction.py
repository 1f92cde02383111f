"""A transaction: what it has looked at, and what it would make of it.

A node enters at its first access, as it is then. Committing succeeds if every node that entered is still the same, and
puts all that was changed at once; so a missing node that was looked for, and a parent whose children were to change,
make a conflict too (xen-interfaces.md 2.7).
"""

from __future__ import annotations

import errno
from dataclasses import dataclass, replace

from xenfs.xenstore.errors import StoreError
from xenfs.xenstore.node import Node
from xenfs.xenstore.tree import Change, Tree


@dataclass(slots=True)
class Access:
    """A node within a transaction: the generation at which it entered (0: there was none), and what it is now."""

    entered: int
    node: Node | None
    changed: bool = False
    change: Change | None = None


class Transaction:
    """Implements View. `limit` is how many nodes may enter; None for as many as there are.

    `owned` is how many nodes more each owner would have, `kept` the bytes that it holds meanwhile.
    """

    def __init__(self, tree: Tree, limit: int | None) -> None:
        """Begin with nothing looked at, which costs nothing, however large the tree."""
        self._tree, self._limit = tree, limit
        self._accesses: dict[str, Access] = {}
        self.owned: dict[int, int] = {}
        self.kept = 0
        self.failed = False

    def _access(self, path: str) -> Access:
        access = self._accesses.get(path)
        if access is None:
            if self._limit is not None and len(self._accesses) >= self._limit:
                self.failed = True
                raise StoreError(errno.ENOSPC, path, f"more than {self._limit} nodes in a transaction")
            node = self._tree.get(path)
            access = self._accesses[path] = Access(0 if node is None else node.generation, node)
        return access

    def get(self, path: str) -> Node | None:
        """See View."""
        return self._access(path).node

    def _count(self, owner: int, by: int) -> None:
        self.owned[owner] = self.owned.get(owner, 0) + by

    def put(self, path: str, node: Node, change: Change | None = None) -> None:
        """See View."""
        access = self._access(path)
        old = access.node
        if old is None or old.owner != node.owner:
            if old is not None:
                self._count(old.owner, -1)
            self._count(node.owner, 1)
        self.kept += node.size + (0 if access.changed else len(path)) - (old.size if old and access.changed else 0)
        # a number of this moment, so that its permissions mean the domains that there are now
        access.node, access.changed = replace(node, generation=self._tree.ticket()), True
        access.change = change or access.change

    def drop(self, path: str, change: Change | None) -> None:
        """See View. A node that this transaction had made leaves nothing to tell."""
        access = self._access(path)
        if access.node is not None:
            self._count(access.node.owner, -1)
        access.node, access.changed = None, True
        access.change = change if access.entered else None

    def ticket(self) -> int:
        """See View."""
        return self._tree.ticket()

    @property
    def conflict(self) -> bool:
        """Whether a node that entered is no longer the same."""
        for path, access in self._accesses.items():
            node = self._tree.get(path)
            if (0 if node is None else node.generation) != access.entered:
                return True
        return False

    def commit(self) -> None:
        """Put everything into the tree; the changes are told in the order in which their nodes entered."""
        told = []
        for path, access in self._accesses.items():
            if not access.changed:
                continue
            if access.node is not None:
                self._tree.put(path, access.node)
            elif access.entered:
                self._tree.drop(path, None)
            if access.change is not None:
                told.append(access.change)
        self._tree.told += told
