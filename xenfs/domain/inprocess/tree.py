"""The store of an in-process machine: enough of xenstore for drivers to find each other in a test.

It has the tree, permissions, transactions that conflict per node touched, and watches, with the real rules; it has no
quotas and no wire. The rules are those of docs/misc/xenstore.txt.
"""

from __future__ import annotations

import copy
import errno
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from xenfs.domain.errors import Refused

_ALLOWED = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-/_@")
_MAX_PATH = 3072
Perm = tuple[str, int]
Listener = Callable[[str, bool], None]
"""Told of a changed path, and whether the change is exact (a node that went with its parent)."""


def refuse(code: int, path: str, problem: str) -> Refused:
    """The refusal for a path."""
    return Refused(code, f"{path or 'empty path'}: {problem}")


@dataclass(slots=True)
class Node:
    """A node; `generation` changes with its value, permissions and list of children."""

    perms: list[Perm]
    value: bytes = b""
    generation: int = 0
    children: dict[str, Node] = field(default_factory=dict)


def parts(path: str) -> list[str]:
    """Names from the root down. EINVAL for a path that cannot be."""
    if path == "/":
        return []
    if not path.startswith("/") or path.endswith("/") or "//" in path or len(path) > _MAX_PATH or set(path) - _ALLOWED:
        raise refuse(errno.EINVAL, path, "not a path")
    return path[1:].split("/")


def parse_perms(path: str, perms: Sequence[str]) -> list[Perm]:
    """Read permissions such as `n0`. EINVAL."""
    if not perms or not all(p[:1] in ("n", "r", "w", "b") and p[1:].isascii() and p[1:].isdigit() for p in perms):
        raise refuse(errno.EINVAL, path, f"not permissions: {' '.join(perms)}")
    return [(p[0], int(p[1:])) for p in perms]


class Tree:
    """The nodes, and who listens. Every method takes the domid it is done for; domain 0 may do everything."""

    def __init__(self) -> None:
        """Begin with the home of domain 0."""
        self.root = Node([("n", 0)])
        self.generation = 0
        self.listeners: dict[object, Listener] = {}
        self.lock = threading.RLock()
        self.touched: Callable[[str, int | None], None] | None = None
        self.add_domain(0)

    def snapshot(self) -> Tree:
        """A tree of its own with the same nodes, for a transaction; nobody listens to it."""
        twin = Tree.__new__(Tree)
        with self.lock:
            twin.root, twin.generation = copy.deepcopy(self.root), self.generation
        twin.listeners, twin.lock, twin.touched = {}, self.lock, None
        return twin

    def add_domain(self, domid: int) -> None:
        """Make a domain's home, which it may read, and in it `data` and `device`, which are its own."""
        home = f"/local/domain/{domid}"
        self.mkdir(home, 0)
        self.chmod(home, ["n0", f"r{domid}"], 0)
        for own in ("data", "device", "error"):
            self.mkdir(f"{home}/{own}", 0)
            self.chmod(f"{home}/{own}", [f"n{domid}"], 0)

    def remove_domain(self, domid: int) -> None:
        """Remove a domain's home."""
        self.rm(f"/local/domain/{domid}", 0)

    def leaks(self) -> list[str]:
        """Watches that nobody closed."""
        return [repr(listener) for listener in self.listeners]

    def find(self, path: str) -> Node | None:
        """The node, or None."""
        node: Node | None = self.root
        for name in parts(path):
            node = node.children.get(name) if node else None
        if self.touched is not None:
            self.touched(path, None if node is None else node.generation)
        return node

    def _ancestor(self, path: str) -> tuple[str, Node]:
        node, at = self.root, ""
        for name in parts(path):
            if name not in node.children:
                break
            node, at = node.children[name], f"{at}/{name}"
        return at or "/", node

    def visible(self, path: str, domid: int) -> bool:
        """Whether a domain may read a node; one that is gone counts by its nearest ancestor."""
        return allows(self._ancestor(path)[1], domid, "r")

    def get(self, path: str, domid: int, right: str) -> Node:
        """The node, if the domain has the right (`r` or `w`). EACCES, or ENOENT where it may know that."""
        node = self.find(path)
        if not allows(node or self._ancestor(path)[1], domid, right):
            raise refuse(errno.EACCES, path, f"domain {domid} may not")
        if node is None:
            raise refuse(errno.ENOENT, path, "no such node")
        return node

    def _changed(self, node: Node) -> None:
        self.generation += 1
        node.generation = self.generation

    def fire(self, path: str, *, exact: bool = False) -> None:
        """Tell the listeners of a change."""
        for listener in list(self.listeners.values()):
            listener(path, exact)

    def _make(self, path: str, domid: int) -> tuple[Node, bool]:
        node = self.find(path)
        if not allows(node or self._ancestor(path)[1], domid, "w"):
            raise refuse(errno.EACCES, path, f"domain {domid} may not write")
        if node is not None:
            return node, False
        self.find(self._ancestor(path)[0])  # its list of children is about to change: siblings conflict through it
        node = self.root
        for name in parts(path):
            if name not in node.children:
                owner = domid or node.perms[0][1]
                node.children[name] = Node([(node.perms[0][0], owner), *node.perms[1:]])
                self._changed(node)
            node = node.children[name]
        self._changed(node)
        return node, True

    def write(self, path: str, value: bytes, domid: int) -> None:
        """Set a value."""
        node, _ = self._make(path, domid)
        node.value = value
        self._changed(node)
        self.fire(path)

    def mkdir(self, path: str, domid: int) -> None:
        """Make a node; an existing one is left alone and nobody told."""
        if self._make(path, domid)[1]:
            self.fire(path)

    def rm(self, path: str, domid: int) -> None:
        """Remove a node and all below."""
        names = parts(path)
        if not names:
            raise refuse(errno.EINVAL, path, "the root stays")
        above = "/" + "/".join(names[:-1])
        parent = self.find(above)
        if self.find(path) is None:
            if parent is None:
                raise refuse(errno.ENOENT, path, "no such node, and no parent")
            return
        node = self.get(path, domid, "w")
        assert parent is not None
        del parent.children[names[-1]]
        self._changed(parent)
        for below in _below(node, path):
            self.fire(below, exact=True)
        self.fire(path)

    def chmod(self, path: str, perms: Sequence[str], domid: int) -> None:
        """Set permissions, as the owner."""
        parsed = parse_perms(path, perms)
        node = self.get(path, domid, "r")
        if domid and node.perms[0][1] != domid:
            raise refuse(errno.EACCES, path, f"domain {domid} does not own it")
        if domid and parsed[0][1] != domid:
            raise refuse(errno.EPERM, path, f"domain {domid} may not give it away")
        node.perms = parsed
        self._changed(node)
        self.fire(path)


def allows(node: Node, domid: int, right: str) -> bool:
    """Whether a domain has a right (`r`, `w`) on a node."""
    (default, owner), *others = node.perms
    if domid in (0, owner):
        return True
    letter = next((p for p, d in others if d == domid), default)
    return letter in (right, "b")


def _below(node: Node, path: str) -> Iterator[str]:
    stack = [(node, path, False)]
    while stack:
        at, name, done = stack.pop()
        if done:
            yield name
            continue
        if at is not node:
            stack.append((at, name, True))
        stack.extend((child, f"{name}/{key}", False) for key, child in reversed(at.children.items()))
