"""A store with connections of several domains, for tests that speak its protocol."""

from __future__ import annotations

from xenfs.abi.xs_wire import XsType
from xenfs.xenstore.connection import Connection
from xenfs.xenstore.homes import Homes
from xenfs.xenstore.store import Store
from xenfs.xenstore.wire import Decoder, Message

Said = list[tuple[str, bytes]]


def messages(data: bytes) -> list[Message]:
    decoder, found = Decoder(), []
    decoder.feed(data)
    while (message := decoder.next()) is not None:
        found.append(message)
    return found


def told(data: bytes) -> Said:
    """Messages as their types' names and payloads."""
    return [(XsType(message.type).name, message.payload) for message in messages(data)]


class Peer:
    """One connection, as bytes."""

    def __init__(self, store: Store, domid: int) -> None:
        self.connection = Connection(store, domid)

    def send(self, kind: int, payload: bytes, tx: int = 0) -> None:
        self.connection.feed(Message(kind, 7, tx, payload).emit())

    def heard(self) -> Said:
        """All that has come."""
        data = b""
        while more := self.connection.take(1 << 20):
            data += more
            self.connection.feed(b"")
        return told(data)

    def ask(self, kind: int, payload: bytes, tx: int = 0) -> bytes:
        """The payload of the answer, or the errno's name. Events are dropped."""
        self.send(kind, payload, tx)
        (answer,) = [(name, said) for name, said in self.heard() if name != "WATCH_EVENT"]
        name, said = answer
        assert name in ("ERROR", *(known.name for known in XsType if known == kind))
        return said.rstrip(b"\0") if name == "ERROR" else said


class Land:
    """A store with domains 0, 1 and 2."""

    def __init__(self) -> None:
        self.store = Store()
        self.homes = Homes(self.store)
        for domid in (1, 2):
            self.homes.came(domid, f"domain-{domid}")

    def peer(self, domid: int = 0) -> Peer:
        return Peer(self.store, domid)
