"""The nodes of the store, by path, and the rules of changing them, whether at once or within a transaction.

A `View` is where an operation reads and changes nodes: the tree itself, or a transaction's own idea of it. `change`
and its kin are written once, for any view.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Protocol

from xenfs.xenstore import paths
from xenfs.xenstore.node import Node
from xenfs.xenstore.perms import Perm, Perms


@dataclass(frozen=True, slots=True)
class Change:
    """A node that is different now, for whoever watches. `exact` concerns only those who watch that very node.

    `node` is what it is, or was before it went; `before` are permissions that a change of them has replaced.
    """

    path: str
    node: Node
    exact: bool = False
    before: Perms | None = None


class View(Protocol):
    """Nodes that can be looked at and replaced."""

    def get(self, path: str) -> Node | None:
        """The node."""

    def put(self, path: str, node: Node, change: Change | None = None) -> None:
        """Set a node; `change` when it is to be told of."""

    def drop(self, path: str, change: Change | None) -> None:
        """Remove a node; `change` when that is to be told of."""

    def ticket(self) -> int:
        """A number larger than any before."""


class Tree:
    """The nodes as they are, with the number that each change counts up. Implements View; `told` gets the changes."""

    def __init__(self) -> None:
        """Begin with the root. `owned` and `kept` count nodes and bytes by owner."""
        self.nodes: dict[str, Node] = {}
        self.generation = 0
        self.owned: dict[int, int] = {}
        self.kept: dict[int, int] = {}
        self.told: list[Change] = []
        self.put("/", Node((Perm("n", 0),)))

    def get(self, path: str) -> Node | None:
        """See View."""
        return self.nodes.get(path)

    def _count(self, path: str, node: Node, by: int) -> None:
        owner = node.owner
        self.owned[owner] = self.owned.get(owner, 0) + by
        self.kept[owner] = self.kept.get(owner, 0) + by * (len(path) + node.size)
        if not self.owned[owner]:
            del self.owned[owner], self.kept[owner]

    def put(self, path: str, node: Node, change: Change | None = None) -> None:
        """See View."""
        old = self.nodes.get(path)
        if old is not None:
            self._count(path, old, -1)
        self._count(path, node, 1)
        self.generation += 1
        self.nodes[path] = replace(node, generation=self.generation)
        if change is not None:
            self.told.append(change)

    def drop(self, path: str, change: Change | None) -> None:
        """See View."""
        self._count(path, self.nodes.pop(path), -1)
        if change is not None:
            self.told.append(change)

    def ticket(self) -> int:
        """See View."""
        self.generation += 1
        return self.generation


def link(view: View, path: str, node: Node, name: str) -> None:
    """Put a name into a node's list of children.

    A transaction that looks at the parent later than at the child may find it there: others made it meanwhile.
    """
    if name in node.children:
        return
    children = node.children.set(name, view.ticket())
    view.put(path, replace(node, children=children, names_size=node.names_size + len(name) + 1))


def unlink(view: View, path: str, node: Node, name: str) -> None:
    """Take a name out of it."""
    view.put(path, replace(node, children=node.children.delete(name), names_size=node.names_size - len(name) - 1))


def below(view: View, path: str) -> Iterator[tuple[str, Node]]:
    """Every node below one, children before their parents, without recursion: a tree may be as deep as a path long."""
    top = view.get(path)
    stack: list[tuple[str, Node, Iterator[str]]] = [] if top is None else [(path, top, iter(top.names()))]
    while stack:
        at, node, names = stack[-1]
        name = next(names, None)
        if name is not None:
            child = paths.below(at, name)
            found = view.get(child)
            if found is not None:
                stack.append((child, found, iter(found.names())))
            continue
        stack.pop()
        if stack:
            yield at, node


def remove(view: View, path: str, node: Node) -> None:
    """Remove a node with all below it, and its name from its parent."""
    for lower, gone in list(below(view, path)):
        view.drop(lower, Change(lower, gone, exact=True))
    view.drop(path, Change(path, node))
    above = paths.parent(path)
    parent = view.get(above)
    if parent is not None and paths.name(path) in parent.children:
        unlink(view, above, parent, paths.name(path))
