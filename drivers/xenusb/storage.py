"""The driver of a stick in usbfront: a disk, under the same file and block device as a vbd's."""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Callable
from types import SimpleNamespace

from xenblk.guest_disk import GuestDisk
from xenblk.shadow import Wish

from xenfs.abi.blkif import SECTOR_SIZE
from xenfs.abi.blkif import Op as BlockOp
from xenfs.xenbus import Frontend, LocalDeviceError
from xenusb.descriptors import Interface
from xenusb.hub import Attached
from xenusb.unit import Job, Steps, Unit
from xenusb.urbs import MOST, Urbs, Want

_SECONDS = 30.0
"""How long a command may take (Linux's SD_TIMEOUT)."""
_LARGEST = 4 * MOST
"""Bytes of one command: so many requests fit into the ring together with two more."""
_NO_SUCH_COMMAND, _BECOMING_READY = (5, 0x20, 0), (2, 0x04, 0x01)
_PAUSE, _PAUSES = 0.5, 200
"""How long is waited for a disk that comes up to speed, before it is asked again, and how often (Linux's sd has the
patience of 100 s).
"""


class Storage:
    """A stick. Implements User of a device, and Wishes for the disk's file."""

    def __init__(
        self, end: Frontend, urbs: Urbs, device: Attached, interface: Interface, name: str, left: Callable[[], None]
    ) -> None:
        """Have the interface, and find out what the disk is like. `left` is called when it is let go of."""
        self._end, self._urbs, self._device, self._left = end, urbs, device, left
        self._interface, self.name = interface, name
        self._unit = Unit(device, interface, lambda: self._gone or self._suspended)
        self.flush: BlockOp | None = BlockOp.flush_diskcache
        self.discards = False
        self.disk: GuestDisk | None = None
        self.path = f"{end.path}/disk/{device.port}"
        self._wishes: deque[Wish] = deque()
        self._running = self._gone = False
        self._suspended = False
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
                step()

        def step() -> None:
            try:
                wants = next(steps)
            except StopIteration as stop:
                self._running = False
                done(bool(stop.value))
                return
            if not wants:
                self._end.later(_PAUSE, again)
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
        if not (yield from self._unit.do(Job(b"\x12\0\0\0\x24\0", 36))) or not (yield from self._is_ready()):
            return False
        capacity = Job(b"\x25".ljust(10, b"\0"), 8)
        if not (yield from self._unit.do(capacity)) or len(capacity.data) < 8:
            return False
        last, block = struct.unpack(">II", capacity.data)
        if last == 0xFFFFFFFF:
            more = Job(b"\x9e\x10".ljust(13, b"\0") + b"\x20\0\0", 32)
            if not (yield from self._unit.do(more)) or len(more.data) < 12:
                return False
            last, block = struct.unpack(">QI", more.data[:12])
        if block not in (512, 1024, 2048, 4096) or (last + 1) * block >= 1 << 63:
            self._end.log(f"{self._end!r}: port {self._device.port}: {last + 1} blocks of {block} bytes: no disk")
            return False
        mode = Job(b"\x1a\0\x3f\0\xc0\0", 192)
        readonly = (yield from self._unit.do(mode)) and len(mode.data) > 2 and bool(mode.data[2] & 0x80)
        self._geometry = SimpleNamespace(blocks=last + 1, block=block, readonly=readonly)
        return True

    def _is_ready(self) -> Steps:
        for _ in range(_PAUSES):
            if (yield from self._unit.do(Job(bytes(6)))):
                return True
            if self._unit.sense != _BECOMING_READY:
                break
            yield []
        return False

    def _fulfil(self, wish: Wish) -> Steps:
        if not wish.size:
            return (yield from self._unit.do(Job(b"\x35".ljust(10, b"\0")))) or self._has_no_cache()
        writes = wish.op == BlockOp.write
        while wish.next < wish.size:
            size = min(wish.size - wish.next, _LARGEST)
            block = self._geometry.block
            first = (wish.sector * SECTOR_SIZE + wish.next) // block
            if first + size // block <= 1 << 32:
                words = struct.pack(">BBIBHB", 0x2A if writes else 0x28, 0, first, 0, size // block, 0)
            else:
                words = struct.pack(">BBQIBB", 0x8A if writes else 0x88, 0, first, size // block, 0, 0)
            if not (yield from self._unit.do(Job(words, size, not writes, wish, wish.next))):
                return False
            wish.next += size
        return True

    def _has_no_cache(self) -> bool:
        """Whether the device does not know the command, and so has no cache to be written (as Linux's sd takes it)."""
        if self._unit.sense != _NO_SUCH_COMMAND:
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
                f"{wish.sector}: I/O error after {wish.next}: {self._unit.why}"
            )
        self._failing = not good
        wish.done(good)
        if self.disk is not None:
            self.disk.file.go_on()
        self.push()
