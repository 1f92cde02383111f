"""The driver of a stick in usbfront: SCSI by the bulk-only transport, under the same file and block device as a vbd's.

A command, its data and its status are asked for at once, so that one wake-up of the backend does all three. What goes
wrong is taken up step by step: a halted endpoint is cleared and the status asked for again; what that does not mend, a
reset does; what was not done is done again, a few times.
"""

from __future__ import annotations

import ctypes
import struct
from collections import deque
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from types import SimpleNamespace

from xenblk.guest_disk import GuestDisk
from xenblk.pool import Slot
from xenblk.shadow import Wish

from xenfs.abi.blkif import SECTOR_SIZE
from xenfs.abi.blkif import Op as BlockOp
from xenfs.abi.usbif import PipeType, Status
from xenfs.xenbus import Frontend, LocalDeviceError
from xenusb import bulk_only
from xenusb.bulk_only import PASSED, Command, Outcome
from xenusb.descriptors import CLASS, TO_INTERFACE, Endpoint, Interface, Setup
from xenusb.hub import Attached
from xenusb.urbs import MOST, Urbs, Want

_TRIES = 4
_SECONDS = 30.0
"""How long a command may take (Linux's SD_TIMEOUT)."""
_LARGEST = 4 * MOST
"""Bytes of one command: so many requests fit into the ring together with two more."""
_SENSE_SIZE = 18
_UNIT_ATTENTION = 6
_NO_SUCH_COMMAND, _BECOMING_READY = (5, 0x20, 0), (2, 0x04, 0x01)
_PAUSE, _PAUSES = 0.5, 200
"""How long is waited for a disk that comes up to speed, before it is asked again, and how often (Linux's sd has the
patience of 100 s).
"""


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


class Storage:
    """A stick. Implements User of a device, and Wishes for the disk's file."""

    def __init__(
        self, end: Frontend, urbs: Urbs, device: Attached, interface: Interface, name: str, left: Callable[[], None]
    ) -> None:
        """Have the interface, and find out what the disk is like. `left` is called when it is let go of."""
        self._end, self._urbs, self._device, self._left = end, urbs, device, left
        self._interface, self.name = interface, name
        self._in = next(e for e in interface.endpoints if e.inward and e.type is PipeType.bulk)
        self._out = next(e for e in interface.endpoints if not e.inward and e.type is PipeType.bulk)
        self.flush: BlockOp | None = BlockOp.flush_diskcache
        self.discards = False
        self.disk: GuestDisk | None = None
        self.path = f"{end.path}/disk/{device.port}"
        self._wishes: deque[Wish] = deque()
        self._tag = 0
        self._running = self._gone = False
        self._suspended = False
        self._why = ""
        """What was wrong with the last command that was not done."""
        self._sense: tuple[int, int, int] | None = None
        """And what the device said of that: key, additional code and its qualifier."""
        self._failing = False
        self._wanting: list[Callable[[str], None]] = []
        """Those who want the device, while the disk is being taken away."""
        self._geometry = SimpleNamespace(blocks=0, block=SECTOR_SIZE, readonly=False)
        device.claims[interface.number] = self
        self._run(self._begin(), self._begun)

    # Wishes, for the file.

    @property
    def idle(self) -> bool:
        """See Wishes."""
        return not self._wishes

    def add(self, wish: Wish) -> None:
        """See Wishes."""
        if self._gone:
            wish.done(False)
        else:
            self._wishes.append(wish)

    def push(self) -> None:
        """See Wishes."""
        if self._wishes and not (self._running or self._suspended or self._gone):
            self._run(self._fulfil(self._wishes[0]), self._fulfilled)

    def kick(self) -> None:
        """See Wishes: every step is announced as it is taken."""

    def linger(self) -> bool:
        """See Wishes."""
        return self._running and self._urbs.linger()

    def answered(self) -> None:
        """See Wishes. Raises PeerRingError and PeerProtocolError."""
        self._urbs.answered()

    # The device's life.

    def gone(self) -> None:
        """See User: the disk fails, and is no more."""
        self._gone = True
        wishes, self._wishes = self._wishes, deque()
        for wish in wishes:
            wish.done(False)
        self._lose()
        self._left()
        wanting, self._wanting = self._wanting, []
        for then in wanting:
            then("ok")

    def suspend(self) -> None:
        """The backend has died: whoever waits for the disk goes on waiting."""
        self._suspended = True

    def resume(self) -> None:
        """The device is back."""
        self._suspended = False
        if not self._gone and not self._running:
            if self.disk is None:
                self._run(self._begin(), self._begun)
            self.push()

    def leave(self, then: Callable[[str], None]) -> None:
        """Let go of the device, unless the disk is in use: `then` hears `ok` or `busy`, also when it is unplugged
        meanwhile.
        """
        self._wanting.append(then)

        def said(words: str) -> None:
            if words != "busy":
                self._device.claims.pop(self._interface.number, None)
                self.gone()
            elif then in self._wanting:
                self._wanting.remove(then)
                then("busy")

        if self.disk is None:
            said("ok")
        else:
            self.disk.detach(said)

    def _lose(self) -> None:
        disk, self.disk = self.disk, None
        if disk is not None:
            disk.forget()

    def _begun(self, good: bool) -> None:
        if self._gone or self.disk is not None:
            return
        if not good:
            if not self._suspended:
                self._end.log(f"{self._end!r}: port {self._device.port}: a stick that does not work: no disk")
            return
        self._make()

    def _make(self) -> None:
        """What cannot be made is missing, and nothing else of the controller is."""
        found = self._geometry
        try:
            self.disk = GuestDisk(
                self._end, self.path, self.name, self, size=found.blocks * found.block, sector_size=found.block,
                readonly=found.readonly, settled=lambda: None, lost=self._anew,
            )  # fmt: skip
        except (LocalDeviceError, OSError) as error:
            why = error.strerror if isinstance(error, OSError) else error
            self._end.log(f"{self._end!r}: port {self._device.port}: {why}: no disk")

    def _anew(self) -> None:
        wishes, self._wishes = self._wishes, deque()
        for number, wish in enumerate(wishes):
            if number or not self._running:
                wish.done(False)
            else:  # it is being fulfilled, for nobody
                self._wishes.append(wish)
                wish.done(False)
                wish.done, wish.drain = lambda _good: None, lambda _slot, _at, _size: None
        self._lose()
        self._make()

    # One command after the other.

    def _run(self, steps: Steps, done: Callable[[bool], None]) -> None:
        """Take steps, each when all transfers of the one before are over."""
        self._running = True

        def again() -> None:
            if not self._gone:
                self._end.attempt(step)

        def step() -> None:
            try:
                wants = next(steps)
            except StopIteration as stop:
                self._running = False
                done(bool(stop.value))
                return
            if not wants:
                self._end.loop.later(_PAUSE, again)
                return
            left = len(wants)

            def over(_want: Want) -> None:
                nonlocal left
                left -= 1
                if not left and not self._gone:  # else it is another's, or nobody's
                    step()

            for want in wants:
                want.done = over
            for want in wants:
                self._urbs.submit(want, _SECONDS)
            self._urbs.push()

        step()

    def _begin(self) -> Steps:
        """Who are you, are you ready, how large, and may you be written."""
        if not (yield from self._do(Job(b"\x12\0\0\0\x24\0", 36))) or not (yield from self._is_ready()):
            return False
        capacity = Job(b"\x25".ljust(10, b"\0"), 8)
        if not (yield from self._do(capacity)) or len(capacity.data) < 8:
            return False
        last, block = struct.unpack(">II", capacity.data)
        if last == 0xFFFFFFFF:
            more = Job(b"\x9e\x10".ljust(13, b"\0") + b"\x20\0\0", 32)
            if not (yield from self._do(more)) or len(more.data) < 12:
                return False
            last, block = struct.unpack(">QI", more.data[:12])
        if block not in (512, 1024, 2048, 4096) or (last + 1) * block >= 1 << 63:
            self._end.log(f"{self._end!r}: port {self._device.port}: {last + 1} blocks of {block} bytes: no disk")
            return False
        mode = Job(b"\x1a\0\x3f\0\xc0\0", 192)
        readonly = (yield from self._do(mode)) and len(mode.data) > 2 and bool(mode.data[2] & 0x80)
        self._geometry = SimpleNamespace(blocks=last + 1, block=block, readonly=readonly)
        return True

    def _is_ready(self) -> Steps:
        for _ in range(_PAUSES):
            if (yield from self._do(Job(bytes(6)))):
                return True
            if self._sense != _BECOMING_READY:
                break
            yield []
        return False

    def _fulfil(self, wish: Wish) -> Steps:
        if not wish.size:
            return (yield from self._do(Job(b"\x35".ljust(10, b"\0")))) or self._has_no_cache()
        writes = wish.op == BlockOp.write
        while wish.next < wish.size:
            size = min(wish.size - wish.next, _LARGEST)
            block = self._geometry.block
            first = (wish.sector * SECTOR_SIZE + wish.next) // block
            if first + size // block <= 1 << 32:
                words = struct.pack(">BBIBHB", 0x2A if writes else 0x28, 0, first, 0, size // block, 0)
            else:
                words = struct.pack(">BBQIBB", 0x8A if writes else 0x88, 0, first, size // block, 0, 0)
            if not (yield from self._do(Job(words, size, not writes, wish, wish.next))):
                return False
            wish.next += size
        return True

    def _has_no_cache(self) -> bool:
        """Whether the device does not know the command, and so has no cache to be written (as Linux's sd takes it)."""
        if self._sense != _NO_SUCH_COMMAND:
            return False
        self.flush = None
        return True

    def _fulfilled(self, good: bool) -> None:
        if self._gone:
            return
        if not good and self._suspended:
            self._wishes[0].next = 0  # again, when the device is back
            return
        wish = self._wishes.popleft()
        if not (good or self._failing):  # of many that follow each other the first tells enough
            word = BlockOp(wish.op).name
            self._end.log(
                f"{self._end!r}: port {self._device.port}: {self.name}: {word} of {wish.size} bytes at sector "
                f"{wish.sector}: I/O error after {wish.next}: {self._why}"
            )
        self._failing = not good
        wish.done(good)
        if self.disk is not None:
            self.disk.file.go_on()
        self.push()

    def _do(self, job: Job) -> Steps:
        """A command until it is done, or is known not to be possible."""
        self._sense = None
        for _ in range(_TRIES):
            verdict = yield from self._once(job)
            if verdict is Verdict.done:
                return True
            if verdict is Verdict.gone or self._gone or self._suspended:
                return False
            if verdict is Verdict.refused:
                sense = Job(bytes((0x03, 0, 0, 0, _SENSE_SIZE, 0)), _SENSE_SIZE)
                if (yield from self._once(sense)) is Verdict.done and not self._worth_trying(sense.data):
                    return False
            else:
                yield from self._recover()
        return False

    def _worth_trying(self, sense: bytes) -> bool:
        self._why = f"sense {sense[2:3].hex()}/{sense[12:13].hex()}/{sense[13:14].hex()}"
        if len(sense) > 13:
            self._sense = sense[2] & 0x0F, sense[12], sense[13]
        return len(sense) > 2 and sense[2] & 0x0F in (0, 1, _UNIT_ATTENTION)

    def _broken(self, why: str) -> Verdict:
        self._why = why
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
            if job.wish is not None and job.inward and not self._gone:
                self._drain(job.wish, job.at, data)
            return Verdict.done
        if outcome.status != bulk_only.FAILED:
            return self._broken(f"status {outcome.status}")
        self._why = "refused, and it does not say why"
        return Verdict.refused

    def _failed(self, status: Status) -> Verdict:
        """A transfer was not carried out."""
        self._why = f"a transfer ends with {status.name}"
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
