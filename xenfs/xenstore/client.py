"""Who asks: a connection to the store, with what belongs to it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from xenfs.xenstore.transaction import Transaction
    from xenfs.xenstore.watches import Watch

Listener = Callable[[str, str], None]


class Client:
    """A client as a domain. `event(path, token)` is called for each event of its watches.

    Clients of the control domain, 0, are privileged: no permission and no quota stops them. With `twice_is_fine` the
    same watch can be set twice and fires twice, as through Linux's /dev/xen/xenbus.
    """

    def __init__(self, domid: int, event: Listener, *, twice_is_fine: bool = False) -> None:
        """Begin with nothing."""
        self.domid, self.event, self.twice_is_fine = domid, event, twice_is_fine
        self.target: int | None = None
        self.watches: dict[tuple[str, str], list[Watch]] = {}
        self.transactions: dict[int, Transaction] = {}
        self._last_transaction = 0

    def __repr__(self) -> str:
        return f"client of domain {self.domid}"

    @property
    def privileged(self) -> bool:
        """Whether it is of the control domain."""
        return self.domid == 0

    @property
    def watch_count(self) -> int:
        """Watches."""
        return sum(len(group) for group in self.watches.values())

    def new_transaction(self, transaction: Transaction) -> int:
        """Number a transaction: from 1, never 0, never one that is open."""
        number = self._last_transaction
        while True:
            number = number % 0xFFFF_FFFF + 1
            if number not in self.transactions:
                break
        self._last_transaction = number
        self.transactions[number] = transaction
        return number
