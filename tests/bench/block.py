"""blkfront and blkback beside two other ways to a loop device, over the same file, in turns within one run.

All three are a loop device on a file of a FUSE mount: blkfront's, nbdfuse's in front of nbdkit's file plugin (both in
C), and a plain pass-through file of fusepy's. Then the ring alone, against preadv in a loop.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from statistics import median

from xenblk.loopdev import LoopDevice

from tests.bench.figure import Figure
from tests.bench.wires import ROOT, cpu_seconds
from tests.block.yard import Yard
from tests.mounted.mount import until
from tests.toolstack.stage import Stage
from xenfs.xenbus import Device

SIZE = 256 << 20
ROUNDS, SECONDS = 3, 1.5
KILLS = 5
CASES = {
    "4 KiB random read, depth 1": ("randread", "4k", 1),
    "4 KiB random read, depth 32": ("randread", "4k", 32),
    "4 KiB random write, depth 1": ("randwrite", "4k", 1),
    "4 KiB random write, depth 32": ("randwrite", "4k", 32),
    "1 MiB sequential read": ("read", "1m", 4),
    "1 MiB sequential write": ("write", "1m", 4),
}


class Way(ABC):
    """A block device over a file."""

    name: str
    device: str

    def __init__(self, image: Path) -> None:
        self.image = image
        self.held = ExitStack()

    def __enter__(self) -> Way:
        with ExitStack() as undo:
            undo.callback(self.held.close)
            self.build()
            undo.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self.held.close()

    @abstractmethod
    def build(self) -> None:
        """Make it."""

    def folder(self) -> Path:
        return Path(self.held.enter_context(tempfile.TemporaryDirectory(prefix="xenfs-bench-")))

    def loop(self, path: Path) -> None:
        """A loop device on a file."""
        made = LoopDevice(str(path), sector_size=512, readonly=False)
        self.held.callback(made.close)
        self.device = made.path

    def mounted(self, folder: Path, words: list[str]) -> None:
        """A process that mounts `folder`, until it does."""
        process = subprocess.Popen(words, cwd=ROOT)
        self.held.callback(process.wait)
        self.held.callback(process.kill)
        self.held.callback(lambda: subprocess.run(["umount", "-l", str(folder)], check=False))
        until(lambda: os.path.ismount(folder), 20)


class Xenblk(Way):
    """blkfront, a ring, blkback."""

    name = "xenblk"

    def build(self) -> None:
        self.yard = Yard(self.folder())
        self.held.callback(self.yard.close)
        domid = self.yard.guest()
        self.vbd: Device = self.yard.attach(domid, f"{self.image},raw,xvda,rw")
        self.device = self.yard.node(self.vbd)


class Nbdfuse(Way):
    """nbdkit's file plugin behind nbdfuse."""

    name = "nbdfuse"

    def build(self) -> None:
        folder = self.folder()
        file = folder / "disk"
        file.touch()
        self.mounted(file, ["nbdfuse", str(file), "--command", "nbdkit", "-s", "file", str(self.image)])
        self.loop(file)


class Plain(Way):
    """A pass-through of fusepy's."""

    name = "plain"

    def build(self) -> None:
        folder = self.folder()
        self.mounted(folder, [sys.executable, "-m", "tests.bench.passthrough", str(folder), str(self.image)])
        self.loop(folder / "disk")


def fio(way: Way, kind: str, size: str, depth: int) -> float:
    """MB a second."""
    words = ["fio", "--name=x", f"--filename={way.device}", "--direct=1", f"--rw={kind}", f"--bs={size}"]
    words += [f"--iodepth={depth}", "--ioengine=libaio", "--time_based", f"--runtime={SECONDS}", "--output-format=json"]
    done = subprocess.run(words, capture_output=True, text=True, check=True, timeout=60)
    said = json.loads(done.stdout[done.stdout.index("{") :])["jobs"][0]
    return float(said["read"]["bw_bytes"] + said["write"]["bw_bytes"]) / 1e6


def compared(ways: list[Way]) -> Iterator[Figure]:
    """Rates, as ratios."""
    for way in ways:
        fio(way, "read", "1m", 4)  # each has the whole file in its page cache before anything is measured
    for what, case in CASES.items():
        found: dict[str, list[float]] = {way.name: [] for way in ways}
        for _ in range(ROUNDS):
            for way in ways:
                found[way.name].append(fio(way, *case))
        by = {name: median(values) for name, values in found.items()}
        small = case[1] == "4k"
        yield Figure(what, by["xenblk"] * 1e6 / 4096 if small else by["xenblk"], "requests/s" if small else "MB/s")
        for other, goal in (("nbdfuse", 1.0), ("plain", 0.7)):
            if other in by:
                ratio = by["xenblk"] / by[other]
                yield Figure(f"{what} / {other}", ratio, "", f">= {goal}", ratio >= goal)


def pause(way: Xenblk, strike: Callable[[], None]) -> float:
    """Milliseconds that a writer waits, the median of some."""
    found = []
    for _ in range(KILLS):
        time.sleep(2.2)  # a driver that dies sooner is started again with a pause
        words, pipe = [sys.executable, "-m", "tests.bench.writer", way.device], subprocess.PIPE
        writer = subprocess.Popen(words, stdin=pipe, stdout=pipe, text=True, cwd=ROOT)
        assert writer.stdout is not None
        assert writer.stdin is not None
        writer.stdout.readline()
        pid = way.yard.back(way.vbd)
        strike()
        until(lambda pid=pid: way.yard.back(way.vbd) != pid, 20)  # type: ignore[misc]
        way.yard.stage.until_connected(way.vbd)
        time.sleep(0.1)
        writer.stdin.close()
        found.append(float(writer.stdout.readline()))
        writer.wait()
    return median(found) * 1e3


class Cold:
    """A blkback started as a new interpreter each time, by nobody but us."""

    def __init__(self, way: Xenblk) -> None:
        self._way = way
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        device, stage = self._way.vbd, self._way.yard.stage
        program = (
            f"from xenfs.xenbus.process import name_process; name_process('backend/vbd/{device.domid}/{device.id}');"
            "import sys; from xenblk.back import BlkBack; from xenfs.xenbus import main; sys.exit(main(BlkBack))"
        )
        words = [sys.executable, "-c", program, str(device.domid), str(device.id)]
        self._process = subprocess.Popen(words, env={**stage.environment, "XEN_DOMID": "0"})

    def end(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def strike(self) -> None:
        self.end()
        self.start()


def pauses(way: Xenblk) -> Iterator[Figure]:
    """How long a writer waits when blkback is killed."""
    ms = pause(way, lambda: os.kill(way.yard.back(way.vbd), signal.SIGKILL))
    yield Figure("pause after kill -9 of blkback, devd's spare", ms, "ms", "<= 50", ms <= 50)
    way.yard.devd.terminate()
    way.yard.devd.wait(30)
    cold = Cold(way)
    try:
        cold.start()
        way.yard.back(way.vbd)
        way.yard.stage.until_connected(way.vbd)
        ms = pause(way, cold.strike)
    finally:
        cold.end()
    yield Figure("pause after kill -9 of blkback, cold start", ms, "ms", "<= 250", ms <= 250)


def effort(way: Xenblk) -> Iterator[Figure]:
    """CPU of each process for a request of 4 KiB."""
    pids = {"blkfront": way.yard.front(), "blkback": way.yard.back(way.vbd)}
    before = {name: cpu_seconds(pid) for name, pid in pids.items()}
    count = fio(way, "randwrite", "4k", 32) * 1e6 / 4096 * SECONDS
    for name, pid in pids.items():
        yield Figure(f"CPU of {name} for a write of 4 KiB", (cpu_seconds(pid) - before[name]) / count * 1e6, "us")


def ring_alone(image: Path) -> Iterator[Figure]:
    """Requests a second and GB/s, against preadv in a loop."""
    with tempfile.TemporaryDirectory(prefix="xenfs-bench-") as folder:
        stage = Stage(Path(folder))
        stage.mount.arm(200)
        try:
            words = [sys.executable, "-m", "tests.bench.ringdisk", str(image)]
            done = subprocess.run(
                words, cwd=ROOT, env=stage.environment, capture_output=True, text=True, check=True, timeout=100
            )
            said = json.loads(done.stdout)
        finally:
            stage.close()
    for size, (requests, alone) in said.items():
        large = int(size) > 4096
        value = requests * int(size) / 1e9 if large else requests
        yield Figure(f"the ring alone, {size} bytes", value, "GB/s" if large else "requests/s")
        goal = (">= 0.5", requests / alone >= 0.5) if large else (None, None)
        yield Figure(f"the ring alone, {size} bytes / preadv", requests / alone, "", *goal)


def bench() -> Iterator[Figure]:
    """See __main__."""
    with tempfile.TemporaryDirectory(prefix="xenfs-bench-") as folder:
        image = Path(folder) / "image"
        with image.open("wb") as file:
            for _ in range(SIZE >> 20):
                file.write(os.urandom(1 << 20))
        with Xenblk(image) as ours, Plain(image) as plain, ExitStack() as more:
            assert isinstance(ours, Xenblk)
            ways: list[Way] = [ours, plain]
            if shutil.which("nbdfuse") and shutil.which("nbdkit"):
                ways.append(more.enter_context(Nbdfuse(image)))
            yield from compared(ways)
            yield from effort(ours)
            yield from pauses(ours)
        yield from ring_alone(image)
