"""SCSI commands to a stick, by the bulk-only transport.

A command, its data and its status are asked for at once, so that one wake-up of the backend does all three. What goes
wrong is taken up step by step: a halted endpoint is cleared and the status asked for again; what that does not mend, a
reset does; what was not done is done again, a few times.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from enum import Enum, auto

from xenblk.pool import Slot
from xenblk.shadow import Wish

from xenfs.abi.usbif import PipeType, Status
from xenusb import bulk_only
from xenusb.bulk_only import PASSED, Command, Outcome
from xenusb.descriptors import CLASS, TO_INTERFACE, Endpoint, Interface, Setup
from xenusb.hub import Attached
from xenusb.urbs import MOST, Want

_TRIES = 4
_SENSE_SIZE = 18
_UNIT_ATTENTION = 6


class Verdict(Enum):
    """What became of a command."""

    done = auto()
    refused = auto()
    """The device says that it was not done; sense tells why."""
    broken = auto()
    """Neither: the device is to be reset."""
    gone = auto()


@dataclass(slots=True)
class Job:
    """One command and its data: bytes `at` to `at + size` of a wish, or an answer that comes into `data`."""

    words: bytes
    size: int = 0
    inward: bool = True
    wish: Wish | None = None
    at: int = 0
    data: bytes = b""


def interface_of(device: Attached) -> Interface | None:
    """The interface of a stick, when the device has one."""
    wanted = (bulk_only.KLASS, bulk_only.SUBCLASS, bulk_only.PROTOCOL)
    found = device.configuration
    for one in found.interfaces if found else ():
        if (one.klass, one.subclass, one.protocol) == wanted and not one.alternate:
            ends = [end for end in one.endpoints if end.type is PipeType.bulk]
            if {end.inward for end in ends} == {True, False}:
                return one
    return None


Steps = Generator[list[Want], None, bool]
"""Lists of transfers that are asked for together, an empty one for a pause; whether it was done."""


class Unit:
    """What is behind one interface. Steps are taken by whoever has it, as long as the device is there."""

    def __init__(self, device: Attached, interface: Interface, stopped: Callable[[], bool]) -> None:
        """`stopped` tells whether the device, or the backend, has gone: nothing is tried again then."""
        self._device, self._interface, self._stopped = device, interface, stopped
        self._in = next(e for e in interface.endpoints if e.inward and e.type is PipeType.bulk)
        self._out = next(e for e in interface.endpoints if not e.inward and e.type is PipeType.bulk)
        self._tag = 0
        self.why = ""
        """What was wrong with the last command that was not done."""
        self.sense: tuple[int, int, int] | None = None
        """And what the device said of that: key, additional code and its qualifier."""

    def do(self, job: Job) -> Steps:
        """A command until it is done, or is known not to be possible."""
        self.sense = None
        for _ in range(_TRIES):
            verdict = yield from self._once(job)
            if verdict is Verdict.done:
                return True
            if verdict is Verdict.gone or self._stopped():
                return False
            if verdict is Verdict.refused:
                sense = Job(bytes((0x03, 0, 0, 0, _SENSE_SIZE, 0)), _SENSE_SIZE)
                if (yield from self._once(sense)) is Verdict.done and not self._worth_trying(sense.data):
                    return False
            else:
                yield from self._recover()
        return False

    def _worth_trying(self, sense: bytes) -> bool:
        self.why = f"sense {sense[2:3].hex()}/{sense[12:13].hex()}/{sense[13:14].hex()}"
        if len(sense) > 13:
            self.sense = sense[2] & 0x0F, sense[12], sense[13]
        return len(sense) > 2 and sense[2] & 0x0F in (0, 1, _UNIT_ATTENTION)

    def _broken(self, why: str) -> Verdict:
        self.why = why
        return Verdict.broken

    def _once(self, job: Job) -> Generator[list[Want], None, Verdict]:
        """Command, data and status, once."""
        self._tag = (self._tag + 1) & 0xFFFFFFFF
        command = Command(self._tag, job.size, job.inward, 0, job.words)
        first = self._bulk(self._out, bulk_only.COMMAND.size, command.emit())
        data = [self._data(job, at) for at in range(0, job.size, MOST)]
        status = self._bulk(self._in, bulk_only.STATUS.size)
        yield [first, *data, status]
        wrong = next((want.status for want in (first, *data) if want.status not in (Status.ok, Status.stall)), None)
        if wrong is not None or first.status is Status.stall:
            return self._failed(wrong or first.status)
        halted = any(want.status is Status.stall for want in data)
        if halted:
            yield [self._clear(self._in if job.inward else self._out)]
        if status.status is Status.stall:
            if not (halted and job.inward):
                yield [self._clear(self._in)]
            status = self._bulk(self._in, bulk_only.STATUS.size)
            yield [status]
        if status.status is not Status.ok:
            return self._failed(status.status)
        outcome = Outcome.parse(status.data)
        if outcome is None or outcome.tag != self._tag:
            return self._broken("a status that is none of this command")
        if job.wish is None:
            job.data = b"".join(want.data for want in data)[: job.size - outcome.residue]
        elif outcome.status == PASSED and (outcome.residue or any(want.actual < want.size for want in data)):
            return self._broken("passed, with less data than was asked for")
        if outcome.status == PASSED:
            if job.wish is not None and job.inward:
                self._drain(job.wish, job.at, data)
            return Verdict.done
        if outcome.status != bulk_only.FAILED:
            return self._broken(f"status {outcome.status}")
        self.why = "refused, and it does not say why"
        return Verdict.refused

    def _failed(self, status: Status) -> Verdict:
        """A transfer was not carried out."""
        self.why = f"a transfer ends with {status.name}"
        return Verdict.gone if status is Status.nodev else Verdict.broken

    def _bulk(self, endpoint: Endpoint, size: int, data: bytes = b"") -> Want:
        device = self._device
        where = (device.port, device.address, PipeType.bulk, endpoint.number, endpoint.inward)
        return Want(*where, size, lambda _: None, data=data)

    def _data(self, job: Job, at: int) -> Want:
        want = self._bulk(self._in if job.inward else self._out, min(MOST, job.size - at))
        wish = job.wish
        if wish is not None and not job.inward:
            want.fill = lambda slot: wish.fill(slot, job.at + at, want.size)
        return want

    @staticmethod
    def _drain(wish: Wish, at: int, data: Sequence[Want]) -> None:
        """What has come, now that it is known to be good: a wish may be answered with it."""
        for want in data:
            address = ctypes.cast(ctypes.c_char_p(want.data), ctypes.c_void_p).value
            assert address is not None
            wish.drain(Slot(address, ()), at, want.actual)
            at += want.actual

    def _clear(self, endpoint: Endpoint) -> Want:
        return self._device.want(Setup(2, 1, 0, endpoint.address), lambda _: None)

    def _recover(self) -> Generator[list[Want], None, None]:
        """Reset recovery (5.3.4)."""
        setup = Setup(CLASS << 5 | TO_INTERFACE, bulk_only.RESET, 0, self._interface.number)
        yield [self._device.want(setup, lambda _: None)]
        yield [self._clear(self._in)]
        yield [self._clear(self._out)]
