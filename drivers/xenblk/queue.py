"""One ring of blkback: requests are carried out as they come, several at a time, and answered as they are done.

What lies in the page cache is read at once, and what is to go there is written at once; whatever waits for a device is
done on threads, so answers may be out of order. A flush waits for the writes before it, and a barrier besides holds up
what comes after it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from xenblk.disk import Disk
from xenblk.request import Bad, Parser, Wish
from xenblk.workers import Workers
from xenfs.abi.blkif import SECTOR_SIZE, Op, Request, Status
from xenfs.domain import Channel, Refused
from xenfs.ring import BackRing
from xenfs.xenbus import Counters
from xenfs.xenbus.grants import Grants, Use
from xenfs.xenbus.turns import ROUNDS, Later, Turns

_WRITES = (Op.write, Op.write_barrier, Op.discard)


class Queue:
    """One ring."""

    def __init__(
        self, ring: BackRing, channel: Channel, grants: Grants, disk: Disk, workers: Workers, counters: Counters,
        later: Later,
    ) -> None:  # fmt: skip
        """Serve from `disk`. `later` has something called some seconds from now."""
        self._ring, self._channel, self._grants = ring, channel, grants
        self._disk, self._workers, self._counters = disk, workers, counters
        self._parser = Parser(disk.size() // SECTOR_SIZE, disk.sector_size, grants.table)
        self._writing = 0
        self._waiting: deque[Wish] = deque()
        """Behind a flush or a barrier that waits itself: at its head."""
        self._barrier = False
        self._turns = Turns(later, self.work)
        self.closed = False
        self.alone = False
        """Whether this is the only ring, and there is another processor for the frontend: worth staying awake."""

    @property
    def sectors(self) -> int:
        """The size of the disk in units of 512 bytes."""
        return self._parser.sectors

    @sectors.setter
    def sectors(self, sectors: int) -> None:
        self._parser.sectors = sectors

    def work(self) -> None:
        """Take requests and carry them out, as long as there are some. Raises PeerRingError."""
        if self.closed:
            return
        for _ in range(ROUNDS):
            for entry in self._ring.take():
                self._counters.requests += 1
                self._take(entry)
            self._publish()
            if not (self.alone and self._ring.linger()) and not self._ring.final_check():
                break
        else:
            self._turns.rest()
        self._counters.write()

    def _take(self, entry: Request) -> None:
        try:
            wish = self._parser.parse(entry)
            if wish.op in _WRITES and self._disk.readonly:
                raise Bad(wish.op, "the disk is read-only")
            if wish.op == Op.discard and not self._disk.discards:
                raise Bad(wish.op, "the disk cannot discard", Status.eopnotsupp)
        except Bad as bad:
            self._answer(entry[3], bad.op, bad.status)
            return
        if self._waiting or self._barrier:
            self._waiting.append(wish)
        else:
            self._start(wish)

    def _start(self, wish: Wish) -> None:
        if wish.op == Op.read:
            self._read(wish)
        elif wish.op == Op.write:
            self._write(wish)
        elif wish.op == Op.discard:
            self._elsewhere(wish, lambda: self._disk.discard(wish.offset, wish.size))
        elif self._writing:
            self._waiting.appendleft(wish)
        else:
            self._flush(wish)

    def _use(self, wish: Wish) -> Use | None:
        try:
            return self._grants.use(wish.pieces, readonly=wish.writes)
        except Refused:
            self._answer(wish.number, wish.op, Status.error)
            return None

    def _read(self, wish: Wish) -> None:
        use = self._use(wish)
        if use is None:
            return
        try:
            if self._disk.read_now(use.views, wish.offset):
                self._end(wish, use, None)
                return
        except OSError as error:
            self._end(wish, use, error)
            return
        self._elsewhere(wish, lambda: self._disk.read(use.views, wish.offset), use)

    def _write(self, wish: Wish) -> None:
        use = self._use(wish)
        if use is None:
            return
        if self._disk.direct:
            self._elsewhere(wish, lambda: self._disk.write(use.views, wish.offset), use)
            return
        try:
            self._disk.write(use.views, wish.offset)
        except OSError as error:
            self._end(wish, use, error)
        else:
            self._end(wish, use, None)

    def _flush(self, wish: Wish) -> None:
        """A flush, or a barrier, with or without data: nothing is being written any more."""
        use = self._use(wish) if wish.size else None
        if wish.size and use is None:
            return
        self._barrier = wish.op == Op.write_barrier

        def carry_out() -> None:
            self._disk.flush()
            if use is not None:
                self._disk.write(use.views, wish.offset)
                self._disk.flush()

        self._elsewhere(wish, carry_out, use)

    def _elsewhere(self, wish: Wish, job: Callable[[], None], use: Use | None = None) -> None:
        self._writing += wish.op in _WRITES

        def done(error: OSError | None) -> None:
            self._writing -= wish.op in _WRITES
            if self.closed:
                if use is not None:
                    use.done()
                return
            if wish.op == Op.write_barrier:
                self._barrier = False
            self._end(wish, use, error)
            self._go_on()
            self._publish()
            self._counters.write()

        self._workers.put(job, done)

    def _go_on(self) -> None:
        """Start what has waited, up to the next flush or barrier that has to."""
        while self._waiting and not self._barrier:
            wish = self._waiting[0]
            if wish.op in (Op.flush_diskcache, Op.write_barrier) and self._writing:
                break
            self._start(self._waiting.popleft())

    def _end(self, wish: Wish, use: Use | None, error: OSError | None) -> None:
        if use is not None:
            use.done()
        if error is not None:
            self._counters.errors += 1
            self._answer(wish.number, wish.op, Status.error)
            return
        if wish.op == Op.read:
            self._counters.units_out += 1
            self._counters.bytes_out += wish.size
        elif wish.size:
            self._counters.units_in += 1
            self._counters.bytes_in += wish.size
        self._answer(wish.number, wish.op, Status.okay)

    def _answer(self, number: int, op: int, status: Status) -> None:
        self._ring.respond(number, op, int(status))
        self._counters.responses += 1

    def _publish(self) -> None:
        if self._ring.publish():
            self._counters.events_sent += 1
            self._channel.notify()

    def close(self) -> None:
        """Answer nothing more."""
        self.closed = True
        self._waiting.clear()
