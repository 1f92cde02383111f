"""The Unix socket: the store's door for programs of the control domain (xen-interfaces.md 2.11)."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from xenfs.sockets import Door, short
from xenfs.xenstore.connection import Connection
from xenfs.xenstore.store import Store

CHUNK = 1 << 16
BACKLOG = 128


class Loop(Protocol):
    """What the server needs of an event loop."""

    def watch(self, fd: int, ready: Callable[[], None]) -> None:
        """Call `ready` whenever the descriptor can be read."""

    def change(self, fd: int, *, read: bool, write: bool) -> None:
        """Call it when it can be read, written, or both, from now on."""

    def unwatch(self, fd: int) -> None:
        """Forget it."""


class Peer:
    """One client of the socket. It is read from only as long as it reads its answers."""

    def __init__(self, server: Server, connection: socket.socket) -> None:
        """Begin to serve it."""
        self._server, self._socket = server, connection
        self._connection = Connection(server.store, 0, self._stirred)
        self._blocked = False
        server.loop.watch(connection.fileno(), self._ready)

    def _stirred(self) -> None:
        self._server.stirred[self] = None

    def _ready(self) -> None:
        """It can be read from, or written to, or it has gone."""
        try:
            if self._blocked:
                self.send()
                return
            data = self._socket.recv(CHUNK)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self.close()
            return
        self._connection.feed(data)
        self.send()

    def send(self) -> None:
        """Send what there is; what does not go now goes when there is room, and nothing is read until then."""
        connection = self._connection
        try:
            while data := connection.peek(CHUNK):
                sent = self._socket.send(data)
                connection.sent(sent)
                if connection.starved:
                    connection.feed(b"")
                if sent < len(data):
                    break
        except BlockingIOError:
            pass
        except OSError:
            self.close()
            return
        if connection.broken:
            self.close()
        elif self._blocked != connection.pending:
            self._blocked = connection.pending
            self._server.loop.change(self._socket.fileno(), read=not self._blocked, write=self._blocked)

    def close(self) -> None:
        """End it; twice is fine."""
        if self._socket.fileno() >= 0:
            self._server.loop.unwatch(self._socket.fileno())
            self._socket.close()
            self._connection.close()
            self._server.peers.discard(self)


class Server:
    """Listens at a path, which only its owner (and root) may use; every client is one of domain 0."""

    def __init__(self, store: Store, loop: Loop, path: str) -> None:
        """Begin to listen. A socket that nobody listens on any more is replaced. Raises OSError."""
        self.store, self.loop, self.path = store, loop, path
        self.peers: set[Peer] = set()
        self.stirred: dict[Peer, None] = {}
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        try:
            self._bind()
            self._socket.listen(BACKLOG)
            self._door = Door(self._socket)
        except OSError:
            self._socket.close()
            raise
        loop.watch(self._socket.fileno(), self._accept)

    def _bind(self) -> None:
        before = os.umask(0o177)
        try:
            with short(self.path) as path:
                with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
                    if probe.connect_ex(path) == 0:
                        raise FileExistsError(errno.EADDRINUSE, "somebody listens there", self.path)
                if Path(path).is_socket():
                    Path(path).unlink()
                self._socket.bind(path)
        finally:
            os.umask(before)

    def _accept(self) -> None:
        if (connection := self._door.accept()) is not None:
            connection.setblocking(False)
            self.peers.add(Peer(self, connection))

    def flush(self) -> None:
        """Send the events that others have caused."""
        while self.stirred:
            self.stirred.popitem()[0].send()

    def close(self) -> None:
        """End; the path goes too."""
        for peer in list(self.peers):
            peer.close()
        self.loop.unwatch(self._socket.fileno())
        self._socket.close()
        self._door.close()
        Path(self.path).unlink(missing_ok=True)
