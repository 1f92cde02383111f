"""Reads through the ring alone: blkfront's library in this process, blkback in another: `… tests.bench.ringdisk IMAGE`.

Prints for each size of request the requests a second, and those of preadv in a loop over the same file.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

from xenblk.front import BlkFront
from xenblk.pool import Shape
from xenblk.shadow import Wish
from xl import kinds, spec

from xenfs.abi.blkif import Op
from xenfs.abi.xenfs_op import CreateDomain, DestroyDomain
from xenfs.domain.mounted import MountedDomain
from xenfs.xenbus.end import Values

SECONDS = 1.5
DEPTH = {4096: 16, 1 << 20: 4}


class Ring(BlkFront):
    """A blkfront without a file."""

    SHAPE = Shape(small=32, large=4, large_pages=256)
    ready = False

    def _make(self, _their: Values) -> None:
        self.ready = True


def through_ring(front: Ring, size: int, total: int) -> float:
    """Requests a second."""
    done = at = 0
    ends = time.perf_counter() + SECONDS
    begun = time.perf_counter()
    under_way = 0

    def finished(good: bool) -> None:
        nonlocal done, under_way
        assert good
        done += 1
        under_way -= 1

    while time.perf_counter() < ends:
        while under_way < DEPTH[size]:
            front.shadow.add(Wish(int(Op.read), at // 512, size, finished))
            under_way += 1
            at = (at + size) % (total // size * size)
        front.shadow.push()
        front.shadow.kick()
        if front.shadow.linger():
            front.shadow.answered()
        else:
            front.loop.turn(1.0)
    return done / (time.perf_counter() - begun)


def by_preadv(path: str, size: int, total: int) -> float:
    """Requests a second."""
    fd, room, done, at = os.open(path, os.O_RDONLY), [memoryview(bytearray(size))], 0, 0
    begun = time.perf_counter()
    while time.perf_counter() < begun + SECONDS:
        os.preadv(fd, room, at)
        done += 1
        at = (at + size) % (total // size * size)
    return done / (time.perf_counter() - begun)


def main(path: str) -> None:
    """Be a guest."""
    with MountedDomain(0) as root:
        domid = root.call(CreateDomain(frames=4096)).domid
        wanted = kinds.parse("vbd", f"{path},raw,xvda,rw", domid, 0, int)
        spec.add(root.store, wanted)
        environment = {**os.environ, "XEN_DOMID": "0"}
        back = subprocess.Popen([sys.executable, "-m", "xenblk.back", str(domid), "51712"], env=environment)
        with MountedDomain(domid) as domain:
            front = Ring(domain, 51712)
            front.start()
            while not front.ready:
                front.loop.turn(1.0)
            total, found = Path(path).stat().st_size, {}
            for size in DEPTH:
                through_ring(front, size, total)
                found[size] = (through_ring(front, size, total), by_preadv(path, size, total))
            front.close()
        back.terminate()
        back.wait()
        spec.remove(root.store, wanted.device)
        root.call(DestroyDomain(dom=domid))
    print(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1])
