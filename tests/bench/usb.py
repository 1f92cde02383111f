"""usbfront and usbback: a stick beside a vbd over the same image, and transfers by each of the ways to a device.

Both disks are taken as the file that the guest has, without the page cache; the loop device over it would show the
cache's rates. Ratios are of what was taken in turns within one run.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from statistics import median

from xenblk.guest_disk import FILE
from xl import spec, usb

from tests.bench.block import Way, Xenblk, fio
from tests.bench.figure import Figure
from tests.bench.usbways import DEPTH, LOOPBACK, STICK
from tests.bench.wires import ROOT
from tests.block.yard import Yard
from tests.mounted.mount import until
from xenfs.commands.namespace import join_net

SIZE = 128 << 20
ROUNDS = 3
CASES = {
    "1 MiB sequential read": ("read", "1m", 4),
    "1 MiB sequential write": ("write", "1m", 4),
    "4 KiB random read": ("randread", "4k", 1),
    "4 KiB random write": ("randwrite", "4k", 1),
}


class Vbd(Xenblk):
    """As a vbd."""

    name = "vbd"

    def build(self) -> None:
        super().build()
        self.device = str(self.yard.file(self.vbd))


class Stick(Way):
    """In a USB port of the same guest."""

    name = "stick"

    def __init__(self, image: Path, yard: Yard) -> None:
        super().__init__(image)
        self.yard, self.domid = yard, yard.guest()

    def build(self) -> None:
        stage = self.yard.stage
        self.held.callback(lambda: spec.detach(stage.store, usb.controllers(stage.store, self.domid)))
        for line in (f"port={STICK},device=stick:{self.image}", f"port={LOOPBACK},device=loopback:"):
            stage.fine("usbdev-attach", str(self.domid), line)
        (controller,) = usb.controllers(stage.store, self.domid)
        path = f"{controller.frontend_path}/disk/{STICK}/{FILE}"
        until(lambda: stage.store.exists(path), 20)
        self.device = stage.store.read(path).decode()
        self.front = stage.one("device/vusb/0")


def disks(vbd: Vbd, stick: Stick) -> Iterator[Figure]:
    """Rates of the two disks."""
    for way in (vbd, stick):
        fio(way, "read", "1m", 4)
    for what, case in CASES.items():
        found: dict[str, list[float]] = {"vbd": [], "stick": []}
        for _ in range(ROUNDS):
            for way in (vbd, stick):
                found[way.name].append(fio(way, *case))
        by = {name: median(values) for name, values in found.items()}
        for name, value in by.items():
            yield Figure(f"{what}, {name}", value, "MB/s")
        yield Figure(f"{what}, stick / vbd", by["stick"] / by["vbd"], "")
    pages = int(Path(f"/proc/{stick.front}/statm").read_text().split()[1])
    yield Figure("memory of usbfront after that", pages * os.sysconf("SC_PAGE_SIZE") / 1e6, "MB")


def ways(stick: Stick, image: Path) -> Iterator[Figure]:
    """Rates of transfers, by the ways to a device. Ratios are to round trips on one core, which other work on the
    machine changes least."""
    stage = stick.yard.stage
    keeper = stage.place.holder(f"{stick.domid}/keeper.pid")
    assert keeper is not None
    words = [sys.executable, "-m", "tests.bench.usbways", str(stick.domid), str(image)]
    environment = {**stage.environment, "TMPDIR": str(image.parent)}
    done = subprocess.run(
        words, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True, check=True, timeout=100,
        preexec_fn=lambda: join_net(keeper),
    )  # fmt: skip
    said: dict[str, float] = json.loads(done.stdout)
    for cores, name in ((1, "one core"), (2, "two cores")):
        yield Figure(f"bare round trips, Unix socket, {name}", said[f"bare {cores}"], "/s")
    for depth in (1, DEPTH):
        for way, through in (("client", "xenusb.client"), ("socket", "its socket"), ("ring", "the ring alone")):
            name, rate = f"control, {depth} in flight, {through}", said[f"{way} {depth}"]
            yield Figure(name, rate, "/s")
            yield Figure(f"{name} / bare", rate / said["bare 1"], "")
    cases = {f"control, {depth} in flight": (f"{depth}", "/s") for depth in (1, DEPTH)}
    cases |= {f"bulk {what}": (what, "MB/s") for what in ("read", "write")}
    for name, (key, unit) in cases.items():
        yield Figure(f"{name}, USB/IP", said[f"usbip {key}"], unit)
        yield Figure(f"{name}, USB/IP / the ring alone", said[f"usbip {key}"] / said[f"ring {key}"], "")


def bench() -> Iterator[Figure]:
    """See __main__."""
    with tempfile.TemporaryDirectory(prefix="xenfs-bench-") as folder:
        images = [Path(folder) / name for name in ("vbd", "stick", "other")]
        for image in images:
            with image.open("wb") as file:
                for _ in range(SIZE >> 20):
                    file.write(os.urandom(1 << 20))
        with Vbd(images[0]) as vbd:
            assert isinstance(vbd, Vbd)
            with Stick(images[1], vbd.yard) as stick:
                assert isinstance(stick, Stick)
                yield from disks(vbd, stick)
                yield from ways(stick, images[2])
