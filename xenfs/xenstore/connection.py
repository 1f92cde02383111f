"""A connection: bytes in, bytes out, whatever carries them.

Requests are answered in order. A connection whose answers are not read stops taking requests, so what waits for a
client is bounded: by `OUTSTANDING` answers, and by `EVENTS` bytes of events, beyond which it is `broken`.
"""

from __future__ import annotations

import errno
from collections import deque
from collections.abc import Callable
from itertools import islice

from xenfs.abi.xs_wire import XsType
from xenfs.xenstore import wire
from xenfs.xenstore.client import Client
from xenfs.xenstore.errors import StoreError
from xenfs.xenstore.requests import REQUESTS, WITHOUT_TRANSACTION, Asked
from xenfs.xenstore.store import Store
from xenfs.xenstore.wire import Decoder, Garbage, Message

OUTSTANDING = 20
EVENTS = 1 << 20
Key = tuple[str, str]


class Connection:
    """A client of the store that speaks in messages. `stirred` is called when an event has been queued."""

    def __init__(
        self, store: Store, domid: int, stirred: Callable[[], None] = lambda: None, *, twice_is_fine: bool = False
    ) -> None:
        """Connect."""
        self._store, self._decoder, self._stirred = store, Decoder(), stirred
        self.client = store.connect(Client(domid, self._event, twice_is_fine=twice_is_fine))
        self._out: deque[tuple[bytes, Key | None]] = deque()
        self._begun = 0
        self._unsent: set[Key] = set()
        self._answers = self._events = 0
        self.broken = ""

    @property
    def pending(self) -> bool:
        """Whether there is something to send."""
        return bool(self._out)

    @property
    def starved(self) -> bool:
        """Whether requests may wait in here that can be answered now."""
        return self._answers < OUTSTANDING and self._decoder.pending > 0

    def feed(self, data: bytes) -> None:
        """Take bytes, and answer what is whole; what is beyond the outstanding answers waits for `feed(b"")`."""
        if self.broken:
            return
        self._decoder.feed(data)
        try:
            while self._answers < OUTSTANDING and (message := self._decoder.next()):
                self.answer(message)
        except Garbage as garbage:
            self.broken = str(garbage)

    @property
    def accepting(self) -> bool:
        """Whether another request may be asked."""
        return self._answers < OUTSTANDING

    def answer(self, message: Message) -> None:
        """Carry a request out and queue its answer."""
        request = REQUESTS.get(message.type)
        tx = 0 if message.type in WITHOUT_TRANSACTION else message.transaction
        asked = Asked(self._store, self.client, tx, message.payload)
        try:
            if request is None:
                raise StoreError(errno.ENOSYS, f"type {message.type}", "there is no such request")
            answer = request(asked)
        except StoreError as error:
            self.refuse(message, error.errno)
            return
        self.reply(message, answer)
        if message.type == XsType.WATCH:
            # the event that says: look now; behind the answer, and whoever may see the node
            path, token = asked.strings()[:2]
            self._event(path, token)

    def reply(self, message: Message, payload: bytes) -> None:
        """Queue the answer to a request."""
        self._answers += 1
        self._out.append((Message(message.type, message.request, message.transaction, payload).emit(), None))

    def refuse(self, message: Message, code: int) -> None:
        """Queue the answer that refuses a request."""
        self._answers += 1
        self._out.append((wire.refusal(message, code), None))

    def _event(self, path: str, token: str) -> None:
        key = (path, token)
        if key in self._unsent and not path.startswith("@"):
            return  # the one that waits says it already
        data = wire.event(path, token)
        if not data or self.broken:
            return
        self._unsent.add(key)
        self._out.append((data, key))
        self._events += len(data)
        if self._events > EVENTS:
            self.broken = f"{self._events} bytes of events were not read"
        self._stirred()

    def peek(self, most: int) -> bytes:
        """Up to `most` bytes to send next; `sent` says how many of them went."""
        if not self._out:
            return b""
        first = self._out[0][0][self._begun :] if self._begun else self._out[0][0]
        if len(self._out) == 1 or len(first) >= most:
            return first[:most]
        pieces, size = [first], len(first)
        for data, _ in islice(self._out, 1, None):
            pieces.append(data)
            size += len(data)
            if size >= most:
                break
        return b"".join(pieces)[:most]

    def sent(self, count: int) -> None:
        """So many bytes of what `peek` gave have gone."""
        self._begun += count
        while self._out and self._begun >= len(self._out[0][0]):
            data, key = self._out.popleft()
            self._begun -= len(data)
            if key is None:
                self._answers -= 1
            else:
                self._events -= len(data)
                self._unsent.discard(key)

    def take(self, most: int) -> bytes:
        """Up to `most` bytes, which count as sent."""
        data = self.peek(most)
        self.sent(len(data))
        return data

    def close(self) -> None:
        """Disconnect."""
        self._store.disconnect(self.client)
