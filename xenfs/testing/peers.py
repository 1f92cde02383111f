"""The other end of a ring, for testing a driver: honest by default, hostile on request.

To test a frontend, give its page a `MockBack`; to test a backend, a `MockFront`. Each keeps the rules through its
`ring`, and breaks any of them through its `raw`, which writes the shared page directly:

    back = MockBack(page, layout, lambda id, *rest: (id, 0))
    driver.start_xmit(packet)
    back.work()                                    # answer everything, as a good backend would
    back.raw.jump("rsp_prod", 1000)                # and now as a bad one
    with back.raw.flipping(slot=3, offset=4, values=[b"\\0", b"\\xff"]):
        driver.poll()                              # while a thread changes a byte under the driver's eyes
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from itertools import count
from types import MappingProxyType
from typing import Any, Literal, TypeVar

from xenfs.abi.ring import ENTRIES, REQ_EVENT, REQ_PROD, RSP_EVENT, RSP_PROD, RingFormat, u32
from xenfs.ring import BackRing, Entry, FrontRing

Word = Literal["req_prod", "req_event", "rsp_prod", "rsp_event"]
_OFFSETS = MappingProxyType(
    {"req_prod": REQ_PROD, "req_event": REQ_EVENT, "rsp_prod": RSP_PROD, "rsp_event": RSP_EVENT}
)
M = TypeVar("M", bound="_Mock")


class Flipper:
    """A thread that keeps writing one value after another over the same bytes; see `RawRing.flipping`."""

    def __init__(self, target: memoryview, values: Sequence[bytes]) -> None:
        self._target, self._values = target, values
        self._rounds, self._stop, self._turned = 0, threading.Event(), threading.Condition()
        self._thread = threading.Thread(target=self._run, name="flipper", daemon=True)

    def _run(self) -> None:
        while not self._stop.is_set():
            for value in self._values:
                self._target[:] = value
            with self._turned:
                self._rounds += 1
                self._turned.notify_all()

    def wait(self, rounds: int, timeout: float = 10.0) -> None:
        """Until every value was written `rounds` more times. Raises TimeoutError after `timeout` seconds."""
        with self._turned:
            goal = self._rounds + rounds
            if not self._turned.wait_for(lambda: self._rounds >= goal, timeout):
                message = f"the flipper made {self._rounds} of {goal} rounds in {timeout} s"
                raise TimeoutError(message)

    def __enter__(self) -> Flipper:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self._target.release()


class RawRing:
    """A ring's page with no rules at all: everything a hostile peer can write, and when."""

    def __init__(self, view: memoryview, layout: RingFormat) -> None:
        self.layout, self.slots = layout, layout.slots(view.nbytes)
        self._view, self._words = view, view[:16].cast("I")

    def get(self, word: Word) -> int:
        """A shared index or event index as it stands."""
        return self._words[_OFFSETS[word] // 4]

    def set(self, word: Word, value: int) -> None:
        """Set a shared index or event index, whoever it belongs to; taken modulo 2^32."""
        self._words[_OFFSETS[word] // 4] = u32(value)

    def jump(self, word: Word, distance: int) -> None:
        """Move an index by `distance`, which may be negative, without writing any entry."""
        self.set(word, self.get(word) + distance)

    def scribble(self, offset: int, data: bytes) -> None:
        """Write `data` anywhere in the page: 0 is the header, 16 the private bytes, 64 the first slot."""
        self._view[offset : offset + len(data)] = data

    def fill(self, byte: int) -> None:
        """Set every byte of the page, header and all."""
        self.scribble(0, bytes([byte]) * self._view.nbytes)

    def slot(self, index: int) -> bytes:
        """The bytes in the slot of a free-running `index`."""
        start = self._start(index)
        return self._view[start : start + self.layout.entry_size].tobytes()

    def scribble_slot(self, index: int, data: bytes, offset: int = 0) -> None:
        """Write into the slot of a free-running `index`, at `offset` in it.

        Called between two steps of the other side this is the very moment that `flipping` only makes likely.
        """
        self.scribble(self._start(index) + offset, data)

    def flip(self, index: int, offset: int, bits: int = 0xFF) -> None:
        """Invert `bits` of one byte of a slot, now."""
        at = self._start(index) + offset
        self._view[at] ^= bits

    def flipping(self, index: int, offset: int, values: Sequence[bytes]) -> Flipper:
        """A context in which a thread writes `values` in turn at `offset` of a slot; stopped and joined on the way out.

        The values must be equally long.
        """
        at = self._start(index) + offset
        return Flipper(self._view[at : at + len(values[0])], values)

    def release(self) -> None:
        """Let go of the page."""
        self._words.release()

    def _start(self, index: int) -> int:
        return ENTRIES + index % self.slots * self.layout.entry_size


class _Mock:
    """What both have: the raw page beside the ring, and an end to holding either."""

    ring: FrontRing | BackRing
    raw: RawRing

    def publish(self) -> bool:
        """Announce what was queued; True when the other end asked to be notified."""
        return self.ring.publish()

    def release(self) -> None:
        """Let go of the page."""
        self.ring.release()
        self.raw.release()

    def __enter__(self: M) -> M:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


class MockFront(_Mock):
    """A frontend without a device: issues requests, knows which are in flight, collects the responses.

    `request_id` and `response_id` say which field of each entry is the id. `strays` keeps the responses that answer
    nothing in flight.
    """

    ring: FrontRing

    def __init__(
        self,
        view: memoryview,
        layout: RingFormat,
        *,
        request_id: int = 0,
        response_id: int = 0,
        name: str | None = None,
        start: int = 0,
    ) -> None:
        self.ring = FrontRing(view, layout, name=name, start=start)
        self.raw = RawRing(view, layout)
        self.in_flight: dict[int, list[Entry]] = {}
        self.strays: list[Entry] = []
        self._sent: deque[Entry] = deque(maxlen=self.ring.slots)
        self._request_id, self._response_id = request_id, response_id

    def issue(self, *fields: Any) -> int:
        """Push one request and give its id; None in the id's place asks for the lowest that is not in flight.

        Nothing is published yet. Ids already in flight are accepted: that too is a test.
        """
        at = self._request_id
        chosen = fields[at]
        if chosen is None:
            chosen = next(number for number in count() if number not in self.in_flight)
        request = (*fields[:at], chosen, *fields[at + 1 :])
        self.ring.push(*request)
        self.in_flight.setdefault(chosen, []).append(request)
        self._sent.append(request)
        return int(chosen)

    def replay(self, back: int = 1) -> int:
        """Push again the request sent `back` requests ago, id and all."""
        return self.issue(*self._sent[-back])

    def collect(self, limit: int | None = None) -> list[Entry]:
        """Take responses and strike their requests off; those that match none go to `strays` as well."""
        responses = self.ring.take(limit)
        for response in responses:
            asked = self.in_flight.get(response[self._response_id])
            if asked is None:
                self.strays.append(response)
                continue
            asked.pop(0)
            if not asked:
                del self.in_flight[response[self._response_id]]
        return responses


class MockBack(_Mock):
    """A backend without a device: answers each request with what `answer(*request)` returns.

    An answer of None leaves the request unanswered, for the test to `ring.respond` to later, in any order. `seen`
    keeps the latest requests, a ring's worth.
    """

    ring: BackRing

    def __init__(
        self,
        view: memoryview,
        layout: RingFormat,
        answer: Callable[..., Entry | None],
        *,
        name: str | None = None,
        start: int = 0,
    ) -> None:
        self.ring = BackRing(view, layout, name=name, start=start)
        self.raw = RawRing(view, layout)
        self.answer = answer
        self.seen: deque[Entry] = deque(maxlen=self.ring.slots)

    def work(self, limit: int | None = None) -> bool:
        """Take what there is, answer it, publish; True when the frontend asked to be notified."""
        requests = self.ring.take(limit)
        self.seen.extend(requests)
        answers = [self.answer(*request) for request in requests]
        self.ring.respond_many([fields for fields in answers if fields is not None])
        return self.ring.publish()
