"""The store: every operation, for a client and within one of its transactions or outside (tx 0).

Values are bytes and paths text; both as on the wire, without terminators. Whatever is refused raises StoreError and
has changed nothing. Events come to the clients' `event` before the operation that caused them returns.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise

from xenfs.xenstore import paths, perms, tree, watches
from xenfs.xenstore.client import Client
from xenfs.xenstore.domains import Domains, Known
from xenfs.xenstore.errors import StoreError
from xenfs.xenstore.node import Node
from xenfs.xenstore.operation import Operation, followed
from xenfs.xenstore.perms import Perm, Perms
from xenfs.xenstore.quotas import Quotas
from xenfs.xenstore.transaction import Transaction
from xenfs.xenstore.tree import Change, Tree, View
from xenfs.xenstore.watches import Watches

SPECIAL = (watches.INTRODUCE, watches.RELEASE)


class Store:
    """The whole store. `heard`, if set, is told of every change, before the watches are; `operated` of every operation
    that changes something or would, once it is over.
    """

    def __init__(self) -> None:
        """Begin as xenstored does, with domain 0."""
        self.tree, self.watches, self.quotas = Tree(), Watches(), Quotas()
        self.domains = Domains()
        self.clients: dict[Client, None] = {}
        self.heard: Callable[[Change], None] | None = None
        self.operated: Callable[[Operation], None] | None = None
        self.special: dict[str, Perms] = {name: (Perm("n", 0),) for name in SPECIAL}
        self.domain_came(0)
        self.domains[0].introduced = True
        own = self.connect(Client(0, lambda _path, _token: None))
        self.mkdir(own, "/tool/xenstored")
        self.disconnect(own)

    def connect(self, client: Client) -> Client:
        """A client comes."""
        known = self.domains.get(client.domid)
        client.target = known.target if known else None
        self.clients[client] = None
        return client

    def disconnect(self, client: Client) -> None:
        """A client goes, with its transactions and watches."""
        self.clients.pop(client, None)
        self.reset(client)

    def reset(self, client: Client) -> None:
        """Drop a client's watches and transactions (RESET_WATCHES)."""
        self.watches.clear(client)
        client.transactions.clear()

    # --- rights ---

    def _may(self, client: Client, node: Node, right: int) -> bool:
        return bool(self.domains.rights(client, node.perms, node.generation) & right)

    def _path(self, client: Client, path: str) -> str:
        return paths.absolute(path, client.domid, self.quotas["path-max"])

    def _view(self, client: Client, tx: int) -> View:
        if not tx:
            return self.tree
        transaction = client.transactions.get(tx)
        if transaction is None:
            raise StoreError(errno.ENOENT, f"transaction {tx}", "there is no such transaction")
        return transaction

    def _find(self, client: Client, view: View, path: str, right: int) -> Node | None:
        """The node, None when there is none and the client may know that. Raises StoreError EACCES."""
        node = view.get(path)
        known = node
        if node is None:
            for above in paths.upwards(path)[1:]:
                known = view.get(above)
                if known is not None:
                    break
        if known is None or not self._may(client, known, right):
            raise StoreError(errno.EACCES, path, f"domain {client.domid} may not")
        return node

    def _get(self, client: Client, view: View, path: str, right: int) -> Node:
        node = self._find(client, view, path, right)
        if node is None:
            raise StoreError(errno.ENOENT, path, "no such node")
        return node

    def _fits(self, client: Client, path: str, node: Node) -> None:
        """Raise ENOSPC when the node is too large for this client to make."""
        limit = self.quotas["node-size"]
        if not client.privileged and node.size >= limit:
            raise StoreError(errno.ENOSPC, path, f"{node.size} bytes with its list of children, below {limit} allowed")

    def _room(self, client: Client, view: View, count: int, more: int) -> None:
        """Raise unless a client may own so many nodes more (ENOSPC), and keep so many bytes more (ENOMEM)."""
        if client.privileged:
            return
        owned, kept = self.tree.owned.get(client.domid, 0), self.tree.kept.get(client.domid, 0) + more
        if isinstance(view, Transaction):
            owned += view.owned.get(client.domid, 0)
        if count and owned + count > self.quotas["nodes"]:
            raise StoreError(errno.ENOSPC, f"domain {client.domid}", f"owns {owned} nodes of {self.quotas['nodes']}")
        kept += sum(transaction.kept for transaction in client.transactions.values())
        if kept > self.quotas["memory"]:
            raise StoreError(errno.ENOMEM, f"domain {client.domid}", f"{kept} bytes of {self.quotas['memory']}")

    # --- telling ---

    def _tell(self) -> None:
        """Give the watchers what has changed."""
        told, self.tree.told = self.tree.told, []
        for change in told:
            if self.heard is not None:
                self.heard(change)
            self.watches.fire(change.path, lambda c, change=change: self._hears(c, change), exact=change.exact)  # type: ignore[misc]

    def _hears(self, client: Client, change: Change) -> bool:
        """Who may read the node, or its parent, or might before its permissions changed."""
        node = self.tree.get(change.path) or change.node
        if self._may(client, node, perms.READ):
            return True
        above = self.tree.get(paths.parent(change.path))
        if above is not None and self._may(client, above, perms.READ):
            return True
        return change.before is not None and bool(
            self.domains.rights(client, change.before, node.generation) & perms.READ
        )

    # --- reading ---

    def read(self, client: Client, path: str, tx: int = 0) -> bytes:
        """A node's value."""
        return self.look(client, path, tx).value

    def look(self, client: Client, path: str, tx: int = 0) -> Node:
        """A node that the client may read."""
        return self._get(client, self._view(client, tx), self._path(client, path), perms.READ)

    def get_perms(self, client: Client, path: str, tx: int = 0) -> list[str]:
        """A node's permissions."""
        return [str(entry) for entry in self.look(client, path, tx).perms]

    # --- changing ---

    @followed
    def write(self, client: Client, path: str, value: bytes, tx: int = 0) -> None:
        """Set a value, making the node and its parents when missing."""
        full, view = self._path(client, path), self._view(client, tx)
        node = self._find(client, view, full, perms.WRITE)
        if node is None:
            self._make(client, view, full, value)
        else:
            new = replace(node, value=value, perms=self.domains.settled(node.perms, node.generation))
            self._fits(client, full, new)
            self._room(client, view, 0, len(value) - len(node.value))
            view.put(full, new, Change(full, new))
        self._tell()

    @followed
    def mkdir(self, client: Client, path: str, tx: int = 0) -> None:
        """Make an empty node when missing."""
        full, view = self._path(client, path), self._view(client, tx)
        if self._find(client, view, full, perms.WRITE) is None:
            self._make(client, view, full, b"")
            self._tell()

    def _make(self, client: Client, view: View, path: str, value: bytes) -> None:
        """Make a node that is missing, with what is missing above it: all of it, or nothing."""
        missing = []
        for at in paths.upwards(path):
            parent = view.get(at)
            if parent is not None:
                break
            missing.append(at)
        assert parent is not None
        first, owner = paths.name(missing[-1]), None if client.privileged else client.domid
        entries = perms.inherited(self.domains.settled(parent.perms, parent.generation), owner)
        self._fits(client, at, replace(parent, names_size=parent.names_size + len(first) + 1))
        for lower, upper in pairwise(missing):
            size = len(paths.name(lower)) + 1
            self._fits(client, upper, Node(entries, names_size=size))
        self._fits(client, path, Node(entries, value))
        self._room(client, view, len(missing), len(path) + len(value))
        tree.link(view, at, parent, first)
        for place in reversed(missing):
            node = Node(entries, value if place == path else b"")
            view.put(place, node, Change(place, node) if place == path else None)
            if place != path:
                tree.link(view, place, node, paths.name(missing[missing.index(place) - 1]))

    @followed
    def rm(self, client: Client, path: str, tx: int = 0) -> None:
        """Remove a node with all below it; a missing one is fine when its parent exists."""
        full, view = self._path(client, path), self._view(client, tx)
        if full == "/":
            raise StoreError(errno.EINVAL, "/", "the root stays")
        node = self._find(client, view, full, perms.WRITE)
        if node is not None:
            tree.remove(view, full, node)
            self._tell()
        elif view.get(paths.parent(full)) is None:
            raise StoreError(errno.ENOENT, full, "no such node, and no parent")

    @followed
    def set_perms(self, client: Client, path: str, texts: Sequence[str], tx: int = 0) -> None:
        """Set permissions, as the owner."""
        full = paths.absolute(path, client.domid, self.quotas["path-max"], special=True)
        entries = perms.parse(texts)
        if not client.privileged and len(entries) > self.quotas["permissions"]:
            raise StoreError(errno.ENOSPC, full, f"{len(entries)} permissions of {self.quotas['permissions']}")
        if full.startswith("@"):
            self._set_special(client, full, entries)
            return
        view = self._view(client, tx)
        node = self._get(client, view, full, perms.OWNER)
        if not client.privileged and entries[0].domid != node.owner:
            raise StoreError(errno.EPERM, full, f"domain {client.domid} may not give it away")
        if entries[0].domid not in self.domains:
            raise StoreError(errno.ENOENT, full, f"there is no domain {entries[0].domid} to own it")
        new = replace(node, perms=self.domains.settled(entries, self.tree.generation))
        self._fits(client, full, new)
        view.put(full, new, Change(full, new, before=node.perms))
        self._tell()

    def _set_special(self, client: Client, name: str, entries: Perms) -> None:
        if name not in self.special:
            raise StoreError(errno.EINVAL, name, "there is no such special node")
        if not client.privileged:
            raise StoreError(errno.EACCES, name, f"domain {client.domid} may not")
        self.special[name] = entries

    # --- transactions ---

    @followed
    def begin(self, client: Client, tx: int = 0) -> int:
        """Start a transaction; its number."""
        if tx:
            self._view(client, tx)
            raise StoreError(errno.EBUSY, f"transaction {tx}", "one cannot start within it")
        if not client.privileged and len(client.transactions) > self.quotas["transactions"]:
            raise StoreError(errno.ENOSPC, repr(client), f"{len(client.transactions)} transactions are open")
        limit = None if client.privileged else self.quotas["transaction-nodes"]
        return client.new_transaction(Transaction(self.tree, limit))

    @followed
    def end(self, client: Client, tx: int, commit: bool) -> None:
        """End one. Committing it raises EAGAIN when something that it looked at has changed; it is over in any case."""
        if tx not in client.transactions:
            raise StoreError(errno.ENOENT, f"transaction {tx}", "there is no such transaction")
        transaction = client.transactions.pop(tx)
        if not commit:
            return
        if transaction.failed:
            raise StoreError(errno.ENOMEM, f"transaction {tx}", "an operation of it had failed")
        if transaction.conflict:
            raise StoreError(errno.EAGAIN, f"transaction {tx}", "what it looked at has changed")
        for owner, more in transaction.owned.items():
            if owner and more > 0 and self.tree.owned.get(owner, 0) + more > self.quotas["nodes"]:
                raise StoreError(errno.ENOSPC, f"transaction {tx}", f"too many nodes for domain {owner}")
        transaction.commit()
        self._tell()

    # --- watches ---

    @followed
    def watch(self, client: Client, path: str, token: str, depth: int | None = None) -> None:
        """Begin to watch; the first event, which says to look now, is `first_event`, after the answer."""
        full = paths.absolute(path, client.domid, self.quotas["path-max"], special=True)
        if depth is not None and depth < 0:
            raise StoreError(errno.EINVAL, path, "a depth is not negative")
        if not client.privileged and client.watch_count > self.quotas["watches"]:
            raise StoreError(errno.E2BIG, path, f"{client.watch_count} watches are too many")
        relative = not path.startswith(("/", "@"))
        self.watches.add(client, full, token, relative=relative, depth=depth)

    @followed
    def unwatch(self, client: Client, path: str, token: str) -> None:
        """End a watch."""
        full = paths.absolute(path, client.domid, self.quotas["path-max"], special=True)
        self.watches.remove(client, full, token)

    # --- domains ---

    def domain_came(self, domid: int) -> None:
        """The machine has a domain of that number now."""
        self.domains[domid] = Known(self.tree.ticket())

    def domain_stopped(self, domid: int) -> None:
        """A domain has shut down or crashed: whoever watches is told, once."""
        known = self.domains[domid]
        if known.introduced and not known.shutdown:
            known.shutdown = True
            self._announce(watches.RELEASE, domid)

    def domain_gone(self, domid: int) -> None:
        """A domain has been destroyed: what is its own goes, then whoever watches is told."""
        known = self.domains.pop(domid)
        for client in [c for c in self.clients if c.domid == domid]:
            self.reset(client)
        self._purge(domid)
        if known.introduced:
            self._announce(watches.RELEASE, domid)

    def _purge(self, domid: int) -> None:
        """Remove every node that a domain owns, with all below it."""
        if domid not in self.tree.owned:
            return
        for path in sorted(p for p, node in self.tree.nodes.items() if node.owner == domid):
            node = self.tree.get(path)
            if node is not None and path == "/":
                self.tree.put(path, replace(node, perms=perms.inherited(node.perms, 0)))
            elif node is not None:
                tree.remove(self.tree, path, node)
        self._tell()

    def _announce(self, name: str, domid: int) -> None:
        entries = self.special[name]
        self.watches.special(
            name, domid, lambda client: bool(self.domains.rights(client, entries, self.tree.generation) & perms.READ)
        )

    def _control(self, client: Client, what: str) -> None:
        if not client.privileged:
            raise StoreError(errno.EACCES, what, f"domain {client.domid} may not")

    @followed
    def introduce(self, client: Client, domid: int, port: int) -> None:
        """A domain may use the store from now on; once more resets what its clients had."""
        self._control(client, "introduce")
        if port <= 0:
            raise StoreError(errno.EINVAL, f"domain {domid}", f"port {port} cannot be")
        known = self.domains.get(domid)
        if known is None:
            raise StoreError(errno.ENOENT, f"domain {domid}", "there is no such domain")
        if not known.introduced:
            known.introduced = True
            self._announce(watches.INTRODUCE, domid)
            return
        for other in [c for c in self.clients if c.domid == domid and domid]:
            self.reset(other)

    @followed
    def release(self, client: Client, domid: int) -> None:
        """A domain may no longer use it: its nodes go, as if it had been destroyed."""
        self._control(client, "release")
        known = self.domains.introduced(domid)
        known.introduced = False
        for other in [c for c in self.clients if c.domid == domid]:
            self.reset(other)
        self._purge(domid)
        self._announce(watches.RELEASE, domid)

    @followed
    def resume(self, client: Client, domid: int) -> None:
        """A domain that had shut down runs again."""
        self._control(client, "resume")
        self.domains.introduced(domid).shutdown = False

    @followed
    def set_target(self, client: Client, domid: int, target: int) -> None:
        """Give a domain the rights of another besides its own."""
        self._control(client, "set_target")
        self.domains.introduced(domid).target = target
        if target not in self.domains:
            self.domains[domid].target = None
            raise StoreError(errno.ENOENT, f"domain {target}", "there is no such domain")
        for other in self.clients:
            if other.domid == domid:
                other.target = target

    def is_introduced(self, client: Client, domid: int) -> bool:
        """Whether a domain has been introduced."""
        self._control(client, "is_domain_introduced")
        known = self.domains.get(domid)
        return known is not None and known.introduced
