"""The store, naively: a dictionary of nodes, and a transaction as a second dictionary of what it has looked at."""

from __future__ import annotations

from dataclasses import dataclass, field

ALL = "rwo"
RIGHTS = {"n": "", "r": "r", "w": "w", "b": "rw"}


class No(Exception):
    """A refusal: the errno's name."""


@dataclass
class N:
    """A node; `stamp` is of the last change to it or to its list of children."""

    value: bytes
    perms: list[str]
    children: list[str] = field(default_factory=list)
    stamp: int = 0

    def copy(self) -> N:
        return N(self.value, list(self.perms), list(self.children), self.stamp)


@dataclass
class Tx:
    """What a transaction has looked at: as it was then, and as it is for the transaction now."""

    was: dict[str, int] = field(default_factory=dict)
    now: dict[str, N | None] = field(default_factory=dict)
    events: dict[str, tuple[str, bool]] = field(default_factory=dict)


@dataclass
class NaiveStore:
    """All of it. Events are (path, exact) in the order in which they happen."""

    nodes: dict[str, N] = field(default_factory=lambda: {"/": N(b"", ["n0"])})
    clock: int = 1
    txs: dict[tuple[str, int], Tx] = field(default_factory=dict)
    last: dict[str, int] = field(default_factory=dict)
    events: list[tuple[str, bool]] = field(default_factory=list)

    def get(self, tx: Tx | None, path: str) -> N | None:
        if tx is None:
            return self.nodes.get(path)
        if path not in tx.now:
            node = self.nodes.get(path)
            tx.was[path] = node.stamp if node else 0
            tx.now[path] = node.copy() if node else None
        return tx.now[path]

    def touch(self, tx: Tx | None, path: str, node: N | None, event: bool | None) -> None:
        """Set or remove a node; `event` False or True for one that is (not) exact."""
        self.clock += 1
        if node is not None:
            node.stamp = self.clock
        if tx is None:
            if node is None:
                del self.nodes[path]
            else:
                self.nodes[path] = node
            self.events += [] if event is None else [(path, event)]
            return
        tx.now[path] = node
        if event is not None:
            tx.events[path] = (path, event)
        if node is None and not tx.was[path]:
            tx.events.pop(path, None)

    def may(self, domid: int, node: N, right: str) -> bool:
        owner, *rest = node.perms
        if domid in (0, int(owner[1:])):
            return True
        letter = next((p[0] for p in rest if int(p[1:]) == domid), owner[0])
        return right in RIGHTS[letter]

    def find(self, domid: int, tx: Tx | None, path: str, right: str) -> N | None:
        node = self.get(tx, path)
        known, at = node, path
        while known is None:
            at = at.rpartition("/")[0] or "/"
            known = self.get(tx, at)
        if not self.may(domid, known, right):
            raise No("EACCES")
        return node

    def need(self, domid: int, tx: Tx | None, path: str, right: str) -> N:
        node = self.find(domid, tx, path, right)
        if node is None:
            raise No("ENOENT")
        return node

    def set(self, domid: int, tx: Tx | None, path: str, value: bytes | None) -> None:
        """WRITE, and MKDIR for None."""
        node = self.find(domid, tx, path, "w")
        if node is not None:
            if value is not None:
                node.value = value
                self.touch(tx, path, node, False)
            return
        missing = [path]
        while self.get(tx, above := missing[-1].rpartition("/")[0] or "/") is None:
            missing.append(above)
        for place in reversed(missing):
            above = place.rpartition("/")[0] or "/"
            parent = self.get(tx, above)
            assert parent is not None
            # looked at later than the child, it may list it already: others made it, and there will be a conflict
            if (name := place.rpartition("/")[2]) not in parent.children:
                parent.children.append(name)
                self.touch(tx, above, parent, None)
            perms = list(parent.perms)
            if domid:
                perms[0] = f"{perms[0][0]}{domid}"
            made = N((value or b"") if place == path else b"", perms)
            self.get(tx, place)
            self.touch(tx, place, made, False if place == path else None)

    def rm(self, domid: int, tx: Tx | None, path: str) -> None:
        if path == "/":
            raise No("EINVAL")
        above = path.rpartition("/")[0] or "/"
        if self.find(domid, tx, path, "w") is None:
            if self.get(tx, above) is None:
                raise No("ENOENT")
            return
        self.fell(tx, path, False)
        parent, name = self.get(tx, above), path.rpartition("/")[2]
        # a transaction may look at the parent later than at the child, when others have changed it: then it conflicts
        if parent is not None and name in parent.children:
            parent.children.remove(name)
            self.touch(tx, above, parent, None)

    def fell(self, tx: Tx | None, path: str, exact: bool) -> None:
        node = self.get(tx, path)
        if node is None:
            return
        for child in list(node.children):
            self.fell(tx, f"{path}/{child}", True)
        self.touch(tx, path, None, exact)

    def chmod(self, domid: int, tx: Tx | None, path: str, perms: list[str]) -> None:
        node = self.need(domid, tx, path, "o")
        if domid and perms[0][1:] != node.perms[0][1:]:
            raise No("EPERM")
        node.perms = perms
        self.touch(tx, path, node, False)

    def begin(self, who: str) -> int:
        self.last[who] = self.last.get(who, 0) + 1
        self.txs[who, self.last[who]] = Tx()
        return self.last[who]

    def end(self, who: str, number: int, commit: bool) -> None:
        tx = self.txs.pop((who, number))
        if not commit:
            return
        for path, stamp in tx.was.items():
            node = self.nodes.get(path)
            if (node.stamp if node else 0) != stamp:
                raise No("EAGAIN")
        for path, new in tx.now.items():
            if new is None:
                self.nodes.pop(path, None)
            elif new.stamp != tx.was[path]:
                self.clock += 1
                new.stamp = self.clock
                self.nodes[path] = new
        self.events += [tx.events[path] for path in tx.was if path in tx.events]
