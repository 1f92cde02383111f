"""The trace: every call with its outcome, as many as there is room for.

A record is enough to make the call again: replaying the records of a machine's whole life gives the same machine.
Its line is one JSON object: seq, time (nanoseconds, of the clock that the machine was given), domid, handle, world,
op, in, and out or error.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from xenfs.abi.wire import Wire
from xenfs.hypervisor.errors import HypercallError
from xenfs.hypervisor.table import BY_NAME, BY_REQUEST


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a call was refused, as the trace and the text form tell it."""

    errno: str
    status: str
    text: str

    @classmethod
    def of(cls, error: HypercallError, request: Wire | None = None) -> Failure:
        """From the exception; only operations of the grant table, which answer it in Xen too, have a status."""
        has_status = request is not None and BY_REQUEST[type(request)].has_status
        return cls(error.errno_of(), error.status_name if has_status else "", str(error))


class Record(NamedTuple):
    """One call. `answer` is the request with its results filled in, or the failure."""

    seq: int
    time: int
    domid: int
    handle: int
    world: bool
    request: Wire
    answer: Wire | Failure

    def line(self) -> str:
        """One line of JSON, without its newline."""
        row = BY_REQUEST[type(self.request)]
        said: dict[str, Any] = {"seq": self.seq, "time": self.time, "domid": self.domid, "handle": self.handle}
        if self.world:
            said["world"] = True
        said["op"] = row.name
        said["in"] = {name: getattr(self.request, name) for name in row.takes}
        if isinstance(self.answer, Failure):
            said["error"] = self.answer.errno
            if self.answer.status:
                said["status"] = self.answer.status
            said["text"] = self.answer.text
        else:
            said["out"] = {name: getattr(self.answer, name) for name in row.gives}
        return json.dumps(said)

    @classmethod
    def parse(cls, line: str) -> Record:
        """Read a line back. Raises ValueError or KeyError when it is not one of ours."""
        try:
            return cls._of(json.loads(line))
        except TypeError as error:
            message = f"not a record: {error}"
            raise ValueError(message) from error

    @classmethod
    def _of(cls, said: dict[str, Any]) -> Record:
        row = BY_NAME[said["op"]]
        request = row.request(**said["in"])
        request.check()
        answer: Wire | Failure
        if "error" in said:
            answer = Failure(said["error"], said.get("status", ""), said["text"])
        else:
            answer = row.request(**said["in"], **said["out"])
        return cls(said["seq"], said["time"], said["domid"], said["handle"], bool(said.get("world")), request, answer)


@dataclass(frozen=True, slots=True)
class Calls:
    """Calls of one kind that were made at once, kept as they came: rows, and failures. Records when somebody looks."""

    seq: int
    time: int
    domid: int
    handle: int
    kind: type[Wire]
    requests: Sequence[Any]
    answers: Sequence[Any]

    def __len__(self) -> int:
        return len(self.requests)

    def records(self) -> Iterator[Record]:
        """A record for each."""
        for number, (request, answer) in enumerate(zip(self.requests, self.answers, strict=True)):
            said = answer if isinstance(answer, Failure) else self.kind.of(answer)
            yield Record(self.seq + number, self.time, self.domid, self.handle, False, self.kind.of(request), said)


class Trace:
    """The last `room` records. Readers keep their own place by sequence number."""

    def __init__(self, room: int) -> None:
        """Begin empty; the first record is number 1."""
        self._room, self._kept = room, 0
        self._records: deque[Record | Calls] = deque()
        self.last = 0

    def append(self, made: Record | Calls) -> None:
        """Put in what was done, whose first number is `last` + 1; the oldest goes when there is no room."""
        records, count = self._records, len(made) if isinstance(made, Calls) else 1
        self.last += count
        self._kept += count
        records.append(made)
        while self._kept > self._room:
            oldest = records[0]
            count = len(oldest) if isinstance(oldest, Calls) else 1
            if self._kept - count < self._room and count > 1:
                break  # some of it is still wanted
            self._kept -= count
            records.popleft()

    def __len__(self) -> int:
        return min(self._kept, self._room)

    def since(self, seq: int) -> tuple[int, list[Record]]:
        """What came after number `seq`: how many of those are lost, and the others in order."""
        first = max(seq, self.last - len(self)) + 1
        found: list[Record] = []
        for made in reversed(self._records):
            if found and found[-1].seq <= first:
                break
            found += reversed([*made.records()]) if isinstance(made, Calls) else [made]
        lost = max(0, self.last - len(self) - seq)
        return lost, [record for record in reversed(found) if record.seq >= first]
