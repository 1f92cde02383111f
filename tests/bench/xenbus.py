"""Devices: attaching and coming back after kill -9, split into their parts, and a hundred guests one after another."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

from xl import spec, toolstack

from tests.bench.figure import Figure
from tests.toolstack.stage import Stage
from tests.xenbus.test_lives import Life
from xenfs.abi.xenbus import XenbusState as S
from xenfs.domain.inprocess import InProcessXen
from xenfs.xenbus import Device

ROUNDS, GUESTS = 20, 100
FRONT = "import xenecho.front"


def timed(call: Callable[[], object]) -> float:
    began = time.perf_counter()
    call()
    return (time.perf_counter() - began) * 1e3


def process(code: str) -> float:
    """A Python that does this and ends, in ms."""
    return timed(lambda: subprocess.run([sys.executable, "-c", code], check=True))


def handshake() -> float:
    """Both ends in one process on the model: from the toolstack's keys to Connected, in ms."""
    with InProcessXen() as xen:
        life = Life(xen, after=False)
        life.attach()

        def connect() -> None:
            life.start("front")
            life.start("back")
            ends = [found[0] for found in life.ends.values() if found]
            while not all(end.state is S.Connected for end in ends):
                life.turn()

        spent = timed(connect)
        life.close()
        return spent


def resident(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def connected(stage: Stage, device: Device) -> None:
    """Until both are, without the pauses of `until`."""
    watch = stage.store.watch("/local/domain", "bench")
    while stage.states(device) != (S.Connected, S.Connected):
        watch.wait(1)
    watch.close()


def back_again(stage: Stage, device: Device, name: str) -> float:
    """kill -9 of a driver until requests come back, in ms."""
    (pid,) = stage.pids(name)
    path = Path(stage.point, "domains", str(device.domid), "rings", "echo-0-ring")

    def ino() -> int:
        try:
            return path.stat().st_ino
        except FileNotFoundError:
            return 0

    before, began = ino(), time.perf_counter()
    os.kill(pid, signal.SIGKILL)
    while ino() in (0, before):
        pass
    connected(stage, device)
    return (time.perf_counter() - began) * 1e3


def guests(stage: Stage) -> list[Figure]:
    """One after another, each with a device, made and destroyed."""
    times, sizes = [], []
    for number in range(GUESTS):
        stage.mount.arm(60)

        def life(number: int = number) -> None:
            device = Device("echo", stage.guest(f"g{number}"), 0)
            stage.attach(device)
            connected(stage, device)
            toolstack.destroy(stage.root, stage.point, device.domid)

        times.append(timed(life))
        sizes.append(resident(stage.mount.pid))
    flat = median(times[-10:]) / median(times[:10])
    grown = (sizes[-1] - sizes[9]) / (GUESTS - 10) / 1024
    return [
        Figure("guest made, connected, destroyed", median(times), "ms"),
        Figure("  the last ten guests / the first ten", flat, "", "<= 1.2", flat <= 1.2),
        Figure("  daemon memory per guest that has gone", grown, "KiB", "<= 1", grown <= 1),
    ]


def run() -> list[Figure]:
    bare = median(process("pass") for _ in range(5))
    figures = [
        Figure("a new Python", bare, "ms"),
        Figure("  and the imports of a driver", median(process(FRONT) for _ in range(5)) - bare, "ms"),
        Figure("handshake, on the model in one process", median(handshake() for _ in range(ROUNDS)), "ms"),
    ]
    with tempfile.TemporaryDirectory(prefix="xenfs-bench-") as folder:
        stage = Stage(Path(folder))
        try:
            stage.devd()
            device = Device("echo", stage.guest(), 0)
            attaching = []

            def attach() -> None:
                spec.add(stage.store, spec.DeviceSpec(device))
                connected(stage, device)

            for _ in range(ROUNDS):
                attaching.append(timed(attach))
                spec.detach(stage.store, [device])
            figures.append(Figure("attach to both Connected (drivers forked)", median(attaching), "ms"))
            stage.attach(device)
            connected(stage, device)
            for name in ("device/echo", "backend/echo"):
                again = []
                for _ in range(5):
                    stage.mount.arm(60)
                    again.append(back_again(stage, device, name))
                figures.append(Figure(f"kill -9 of {name} to Connected again", median(again), "ms"))
            spec.detach(stage.store, [device])
            return figures + guests(stage)
        finally:
            stage.close()
