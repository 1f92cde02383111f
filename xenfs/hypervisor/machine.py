"""The machine: one door, through which every change goes and is traced."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

from xenfs.abi.wire import Wire
from xenfs.abi.xenfs_op import CreateDomain, Reap
from xenfs.hypervisor import lives
from xenfs.hypervisor.errors import HypercallError, NoSuchHandle, NotPermitted, UnknownOperation
from xenfs.hypervisor.state import Caller, Config, State
from xenfs.hypervisor.table import BY_REQUEST, Access, Hypercall
from xenfs.hypervisor.trace import Calls, Failure, Record, Trace
from xenfs.hypervisor.world import ByteContents, Contents, EventCounts, Lines

R = TypeVar("R", bound=Wire)


class ReplayError(Exception):
    """A record whose call did not end as it did the first time."""


class Machine:
    """A machine with domain 0 in it.

    Every call is `answer = machine.call(request, domid, handle)`: the request with its results filled in, or a
    HypercallError and no change. Not to be used from several threads at once.
    """

    def __init__(
        self,
        config: Config | None = None,
        *,
        contents: Contents | None = None,
        lines: Lines | None = None,
        clock: Callable[[], int] | None = None,
    ) -> None:
        """Make the machine in the given world; without a `clock` (nanoseconds), all times are 0."""
        self.config = config or Config()
        self.state = State(self.config, contents or ByteContents(), lines or EventCounts())
        self.trace = Trace(self.config.trace)
        self._clock = clock or int
        frames = self.config.dom0_frames
        lives.add_domain(self.state, 0, CreateDomain(frames=frames, max_frames=self.config.frames))

    def call(self, request: R, domid: int = 0, handle: int = 0, *, world: bool = False) -> R:
        """Make one call as a domain through one of its handles; 0 is the handle that lives as long as the domain.

        `world` is for what the filesystem itself does on a domain's behalf (handles, mappings). The request's fields
        must fit their types: requests read from bytes or text do, others are held to it by `request.check()`.
        """
        row = BY_REQUEST.get(type(request))
        if row is None:
            raise UnknownOperation(type(request).__name__, "there is no such hypercall")
        try:
            answer = self._run(row, request, domid, handle, world)
        except HypercallError as error:
            self._note(request, domid, handle, world, Failure.of(error, request))
            raise
        self._note(request, domid, handle, world, answer)
        return answer

    def call_rows(
        self, kind: type[Wire], requests: Sequence[Any], domid: int = 0, handle: int = 0
    ) -> list[Any | HypercallError]:
        """Make calls of one kind one behind the other: for each its answer, or what it was refused with.

        Requests are rows (`Layout.row`) and answers their values, which makes this several times as fast as `call`.
        """
        row = BY_REQUEST[kind]
        answers: list[Any | HypercallError]
        try:
            caller = self._caller(domid, handle, world=False)
            self._admit(row, domid, world=False)
        except HypercallError as error:
            answers = [error] * len(requests)
        else:
            answers = self._run_rows(row, caller, requests)
        kept = [
            Failure.of(answer, kind.of(request)) if isinstance(answer, HypercallError) else answer
            for request, answer in zip(requests, answers, strict=True)
        ]
        self.trace.append(Calls(self.trace.last + 1, self._clock(), domid, handle, kind, requests, kept))
        return answers

    def _run_rows(self, row: Hypercall, caller: Caller, requests: Sequence[Any]) -> list[Any | HypercallError]:
        state, handler, places = self.state, row.handler, row.places
        answers: list[Any | HypercallError] = []
        for request in requests:
            try:
                results = handler(state, caller, request)
            except HypercallError as error:
                answers.append(error)
                continue
            if places:
                values = list(request)
                for at, name in places:
                    values[at] = results.get(name, 0)
                answers.append(values)
            else:
                answers.append(request)
        return answers

    @staticmethod
    def _admit(row: Hypercall, domid: int, world: bool) -> None:
        if not world and row.access is not Access.GUEST and (domid or row.access is Access.WORLD):
            raise NotPermitted(row.name, f"only {row.access.value} may, not domain {domid}")

    def _run(self, row: Hypercall, request: R, domid: int, handle: int, world: bool) -> R:
        caller = self._caller(domid, handle, world)
        self._admit(row, domid, world)
        results = row.handler(self.state, caller, request)
        # what the caller left in the fields for results is not a result
        return request.with_results({**row.blank, **results}) if row.gives else request

    def _caller(self, domid: int, number: int, world: bool) -> Caller:
        domain = self.state.domain(domid)
        handle = domain.handles.get(number) if number else domain.root
        if handle is None:
            raise NoSuchHandle(f"handle {number} of {domain}", "it is not open")
        return Caller(domain, handle, world)

    def _note(self, request: Wire, domid: int, handle: int, world: bool, answer: Wire | Failure) -> None:
        self.trace.append(Record(self.trace.last + 1, self._clock(), domid, handle, world, request, answer))

    def reap(self) -> bool:
        """Release a slice of what closed handles and dead domains left; True while there is more.

        Whoever owns the loop calls this between other work whenever `state.closing` is not empty.
        """
        return bool(self.state.closing) and self.call(Reap(budget=self.config.slice), world=True).left > 0

    def settle(self) -> None:
        """Release everything that waits to be released."""
        while self.reap():
            pass

    @classmethod
    def replay(cls, config: Config, records: Iterable[Record], **world: Any) -> Machine:
        """Live a life again from its records. Raises ReplayError at the first call that ends differently."""
        machine = cls(config, **world)
        for record in records:
            answer: Wire | Failure
            try:
                answer = machine.call(record.request, record.domid, record.handle, world=record.world)
            except HypercallError as error:
                answer = Failure.of(error, record.request)
            if answer != record.answer:
                message = f"call {record.seq} gave {answer}, it was {record.answer}"
                raise ReplayError(message)
        return machine
