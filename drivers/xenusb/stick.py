"""A mass-storage stick over an image file or a block device: `stick:/path/to/image`, `stick:/path,ro`."""

from __future__ import annotations

import os
import zlib
from enum import Enum, auto

from xenblk.disk import FileDisk
from xenblk.workers import Workers

from xenfs.abi.usbif import PipeType, Speed, Status
from xenfs.xenbus.grants import cut
from xenusb import bulk_only
from xenusb.bulk_only import FAILED, GET_MAX_LUN, PASSED, PHASE_ERROR, RESET, Command, Outcome
from xenusb.descriptors import CLASS, Endpoint, Interface, Setup
from xenusb.device import Host, Transfer
from xenusb.gadget import About, Gadget, Stall
from xenusb.scsi import Failed, Flush, Move, Scsi

IN, OUT = 1, 2
_PACKET = 512


class _Phase(Enum):
    """What the stick waits for."""

    command = auto()
    data_in = auto()
    data_out = auto()
    waiting = auto()
    status = auto()


class Stick(Gadget):
    """The stick. What is read comes out of the file into the guest's pages, and what is written goes the other way."""

    speed = Speed.high
    interfaces = (
        Interface(
            0,
            bulk_only.KLASS,
            bulk_only.SUBCLASS,
            bulk_only.PROTOCOL,
            (Endpoint(IN, True, PipeType.bulk, _PACKET), Endpoint(OUT, False, PipeType.bulk, _PACKET)),
        ),
    )

    def __init__(self, argument: str, host: Host) -> None:
        """Open the image. Raises OSError."""
        path, _, word = argument.partition(",")
        if word not in ("", "ro", "rw"):
            raise OSError(0, f"{word!r} is neither ro nor rw", path)
        self._disk = FileDisk(path, readonly=word == "ro")
        serial = f"{zlib.crc32(os.path.realpath(path).encode()):08X}"
        self.about = About(0x1209, 0x5854, "xenfs", "USB stick", serial)
        super().__init__(argument, host)
        self._scsi = Scsi(self._disk, "xenfs", "USB stick", serial)
        try:
            self._workers = Workers(host.loop, host.attempt)
        except BaseException:
            self._disk.close()
            raise
        self._turn = 0
        self._begin()

    def _begin(self) -> None:
        """As after a reset."""
        self._phase = _Phase.command
        self._command = Command(0, 0, False, 0, b"\0")
        self._data: memoryview = memoryview(b"")
        self._move: Move | None = None
        self._passed = self._moved = 0
        """Bytes of the data phase so far, and those that mattered."""
        self._verdict = PASSED
        self._broken = False
        """Whether only a reset mends it (6.6.1)."""
        self._turn += 1

    def restarted(self) -> None:
        """See Gadget."""
        self._begin()

    def closed(self) -> None:
        """See Gadget."""
        self._turn += 1
        self._workers.close()
        self._disk.close()

    def control(self, setup: Setup, data: bytes) -> bytes:
        """See Gadget."""
        if (setup.kind, setup.request) == (CLASS, GET_MAX_LUN):
            return b"\0"
        if (setup.kind, setup.request) == (CLASS, RESET):
            self._begin()
            return b""
        raise Stall

    def transfer(self, transfer: Transfer) -> bool:
        """See Gadget."""
        if self._broken:
            raise Stall
        if not transfer.inward:
            if self._phase is _Phase.command:
                self._take_command(transfer)
            elif self._phase is _Phase.data_out:
                self._receive(transfer)
            else:
                return False
        elif self._phase is _Phase.data_in:
            self._send(transfer)
        elif self._phase is _Phase.status:
            self._phase = _Phase.command
            left = self._command.size - self._moved
            transfer.answer(Outcome(self._command.tag, left, self._verdict).emit())
            self.ready(OUT, inward=False)
        else:
            return False
        return True

    def _take_command(self, transfer: Transfer) -> None:
        found = Command.parse(transfer.data())
        if found is None or found.lun:
            self._broken = True
            self.halt(IN, inward=True)
            raise Stall
        self._command, self._verdict, self._move = found, PASSED, None
        self._passed = self._moved = 0
        self._data = memoryview(b"")
        transfer.end(Status.ok, transfer.size)
        try:
            outcome = self._scsi.command(found.words)
        except Failed:
            self._finish(FAILED)
            return
        if outcome is Flush:
            self._flush()
        elif isinstance(outcome, Move):
            self._begin_move(outcome)
        else:
            assert isinstance(outcome, bytes)
            self._begin_answer(outcome)

    def _begin_answer(self, data: bytes) -> None:
        if data and not (self._command.inward and self._command.size):
            self._finish(PHASE_ERROR)
            return
        self._data = memoryview(data)[: self._command.size]
        self._verdict = PASSED if len(data) <= self._command.size else PHASE_ERROR
        if self._command.size:
            self._phase = _Phase.data_in if self._command.inward else _Phase.data_out
            self._wake()
        else:
            self._finish(PASSED)

    def _begin_move(self, move: Move) -> None:
        if move.size > self._command.size or (move.writes is self._command.inward and move.size):
            self._finish(PHASE_ERROR)
            return
        self._move = move
        if not self._command.size:
            self._finish(PASSED)
            return
        self._phase = _Phase.data_in if self._command.inward else _Phase.data_out
        self._wake()

    def _wake(self) -> None:
        if self._phase in (_Phase.data_in, _Phase.status):
            self.ready(IN, inward=True)
        else:
            self.ready(OUT, inward=False)

    def _send(self, transfer: Transfer) -> None:
        """Data for the host: out of the image, or an answer; where there is less than it expects, a short packet."""
        move = self._move
        if move is None:
            self._sent(transfer.fill(bytes(self._data[self._moved :])), transfer)
            return
        size = min(transfer.size, move.size - self._moved)
        views = cut(transfer.views, size)
        try:
            self._disk.read(views, move.offset + self._moved)
        except OSError as error:
            self.host.say(f"{self._disk.path}: {error.strerror}")
            self._scsi.failed(writes=False)
            self._verdict, self._phase = FAILED, _Phase.status
            raise Stall from None
        self._sent(size, transfer)

    def _sent(self, size: int, transfer: Transfer) -> None:
        """The data phase is over with all that the host expects, or with a short packet."""
        self._passed += size
        self._moved += size
        if self._passed >= self._command.size or size < transfer.size:
            self._phase = _Phase.status
        transfer.end(Status.ok, size)

    def _receive(self, transfer: Transfer) -> None:
        """Data of the host's: into the image, as much of it as belongs there."""
        move = self._move
        size = 0 if move is None else min(transfer.size, move.size - self._moved)
        if move is not None and size and self._verdict == PASSED:
            try:
                self._disk.write(cut(transfer.views, size), move.offset + self._moved)
                self._moved += size
            except OSError as error:
                self.host.say(f"{self._disk.path}: {error.strerror}")
                self._scsi.failed(writes=True)
                self._verdict = FAILED
        self._passed += transfer.size
        if self._passed >= self._command.size or transfer.size % _PACKET or not transfer.size:
            self._phase = _Phase.status
        transfer.end(Status.ok, transfer.size)
        if self._phase is _Phase.status:
            self.ready(IN, inward=True)

    def _finish(self, verdict: int) -> None:
        """The status comes next; where the host expects data first, a STALL tells it that there is none."""
        self._verdict = verdict
        self._phase = _Phase.status
        if self._command.size:
            self.halt(IN if self._command.inward else OUT, inward=self._command.inward)
        self.ready(IN, inward=True)

    def _flush(self) -> None:
        self._phase = _Phase.waiting
        turn = self._turn

        def done(error: OSError | None) -> None:
            if turn != self._turn:
                return
            if error is not None:
                self.host.say(f"{self._disk.path}: {error.strerror}")
                self._scsi.failed(writes=True)
            self._finish(PASSED if error is None else FAILED)

        self._workers.put(self._disk.flush, done)
