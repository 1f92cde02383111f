"""blkback: the host's end of a guest's disk, a file or a block device."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Mapping

from xenblk.disk import Disk, FileDisk
from xenblk.queue import Queue
from xenblk.request import MAX_INDIRECT
from xenblk.served import Served
from xenblk.workers import Workers
from xenfs.abi.blkif import FORMATS, SECTOR_SIZE, X86_64, Info
from xenfs.abi.xenbus import XenbusState as S
from xenfs.domain import Domain
from xenfs.xenbus import GREF, PORT, Backend, Counters, LocalDeviceError, Loop, OtherEnd, main
from xenfs.xenbus.classes import VBD
from xenfs.xenbus.end import Log, Values, to_stderr
from xenfs.xenbus.grants import Grants
from xenfs.xenbus.keys import Value

MAX_ORDER = 4
"""The ring may have up to 16 pages."""
_LOOK_SECONDS = 1.0
_QUEUE = "queue "


class BlkBack(Backend):
    """One vbd."""

    CLASS = VBD
    disk: Disk | None = None
    counters: Counters
    _grants: Grants | None = None
    _served: Served | None = None
    _sectors = 0

    @property
    def _most_queues(self) -> int:
        return os.cpu_count() or 1

    def __init__(
        self, domain: Domain, frontend_domid: int, number: int, *, loop: Loop | None = None, log: Log = to_stderr
    ) -> None:
        """See Backend."""
        super().__init__(domain, frontend_domid, number, loop=loop, log=log)
        self._queues: list[Queue] = []

    def offer(self) -> Mapping[str, object]:
        """The features that a frontend finds before it publishes."""
        return {
            "feature-max-indirect-segments": MAX_INDIRECT,
            "multi-queue-max-queues": self._most_queues,
            "max-ring-page-order": MAX_ORDER,
        }

    def hotplug(self) -> Mapping[str, object]:
        """Open what is behind the disk; an image of another format is served by qemu-nbd."""
        params, readonly = str(self.config["params"]), self.config["mode"] == "r"
        direct = bool(self.config["direct-io-safe"])
        if not params:
            raise LocalDeviceError("params: no medium", errno.ENOMEDIUM)
        try:
            form, _, path = params.partition(":") if ":" in params.split("/", 1)[0] else ("raw", "", params)
            if form == "raw":
                self.disk = FileDisk(path, readonly=readonly, direct=direct)
            else:
                self._served = Served(form, path, readonly=readonly)
                self.disk = self._served.disk
        except OSError as error:
            raise LocalDeviceError(f"{params}: {error.strerror}", error.errno or errno.EIO) from None
        if not self.config["discard-enable"]:
            self.disk.discards = False
        self.counters = Counters(role=1, loop=self.loop, device=2)
        self.counters.share(self.memory, f"vbd-{self.device.domid}-{self.device.id}-stats")
        number = self.disk.number
        plugged = {} if number is None else {"physical-device": f"{os.major(number):x}:{os.minor(number):x}"}
        return {**plugged, "physical-device-path": path}

    def more(self, their: OtherEnd) -> Values:
        """For each queue the grants of its ring's pages, and behind them its port."""
        count = their.number("multi-queue-num-queues", 1, self._most_queues, 1)
        pages = 1 << their.number("ring-page-order", 0, MAX_ORDER, 0)
        one = their.raw("ring-page-order") is None
        names = ["ring-ref"] if one else [f"ring-ref{page}" for page in range(pages)]
        found: dict[str, Value] = {}
        for number in range(count):
            prefix = f"queue-{number}/" if count > 1 else ""
            refs = [their.get(f"{prefix}{name}", GREF) for name in names]
            words = [*refs, their.get(f"{prefix}event-channel", PORT)]
            found[f"{_QUEUE}{number}"] = " ".join(str(word) for word in words)
        return found

    def connect(self, their: Values) -> None:
        """Map the rings, bind the channels, and say what the disk is like."""
        disk = self.disk
        if disk is None:
            raise LocalDeviceError("there is no disk", errno.ENOMEDIUM)
        layout = FORMATS.get(str(their["protocol"]), X86_64)
        persistent = bool(their["feature-persistent"])
        grants = Grants(self.memory, self.device.domid, persistent=persistent, clock=self.loop.now)
        self.held.callback(grants.close)
        workers = Workers(self.loop, self.attempt)
        self.held.callback(workers.close)
        self._queues, self._grants = [], grants
        for key in sorted(key for key in their if key.startswith(_QUEUE)):
            *refs, port = (int(word) for word in str(their[key]).split())
            number = len(self._queues)
            ring = self.map_ring(f"queue {number}", refs, layout)
            channel = self.bind_channel(port, lambda number=number: self._event(number))  # type: ignore[misc]
            queue = Queue(ring, channel, grants, disk, workers, self.counters, self.later)
            self.held.callback(queue.close)
            self._queues.append(queue)
        self._queues[0].alone = len(self._queues) == 1 and len(os.sched_getaffinity(0)) > 1
        self.mine |= self._described(disk)

    def _described(self, disk: Disk) -> dict[str, str]:
        self._sectors = disk.size() // SECTOR_SIZE
        info = (Info.cdrom if self.config["device-type"] == "cdrom" else 0) | (Info.readonly if disk.readonly else 0)
        info |= Info.removable if self.config["removable"] else 0
        found: dict[str, object] = {"feature-flush-cache": 1, "feature-discard": int(disk.discards)}
        if disk.discards:
            found |= {"discard-granularity": disk.sector_size, "discard-alignment": 0}
        found |= {
            "feature-barrier": 1,
            "feature-persistent": 1,
            "sectors": self._sectors,
            "info": int(info),
            "sector-size": disk.sector_size,
            "physical-sector-size": disk.physical_sector_size,
        }
        return {name: str(value) for name, value in found.items()}

    def connected(self) -> None:
        """Requests may be there already, of a frontend that knew the backend before us."""
        self.counters.reconnects += 1
        self._look()
        for number in range(len(self._queues)):
            self._event(number)

    def _event(self, number: int) -> None:
        self.counters.events_received += 1
        self._queues[number].work()

    def _look(self) -> None:
        """From time to time: whether the disk has another size, and which pages are not used any more."""
        grants = self._grants
        if grants is None:
            return
        grants.expire()
        self.changed()

        def again() -> None:
            if self._grants is grants:
                self._look()

        self.later(_LOOK_SECONDS, again)

    def changed(self) -> None:
        """Perhaps the size of the disk."""
        if self.disk is None or self._grants is None:
            return
        sectors = self.disk.size() // SECTOR_SIZE
        if sectors != self._sectors:
            self._sectors = sectors
            for queue in self._queues:
                queue.sectors = sectors
            self.write({"sectors": sectors})
            if self._own() is S.Connected:
                self.store.write(f"{self.path}/state", str(int(S.Connected)))  # again, so that the frontend looks

    def release(self) -> None:
        """See End."""
        self._grants, self._queues = None, []
        super().release()

    def remove(self) -> None:
        """Close the disk."""
        if self.disk is not None:
            self.disk.close()
            self.disk = None
        if self._served is not None:
            self._served.close()
            self._served = None


if __name__ == "__main__":
    sys.exit(main(BlkBack))
