"""The monitor in a terminal: what it costs, by pane, on a machine with a crowd; and what it costs those who work.

Its CPU counts together with the daemon's. Rates with the monitor and without are taken in short turns within one run.
"""

from __future__ import annotations

import fcntl
import os
import pty
import signal
import struct
import subprocess
import sys
import tempfile
import termios
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from xenblk.guest_disk import FILE
from xentop.text import NAMES
from xl import kinds, spec

from tests.bench.block import Xenblk
from tests.bench.crowd import Crowd
from tests.bench.figure import Figure
from tests.bench.wires import ROOT, Route, Xennet, cpu_seconds
from tests.mounted.inside import die_with_parent
from tests.mounted.mount import until
from tests.net.namespaces import inside

DELAY = 0.25
COLUMNS, LINES = 120, 40
SETTLE, SECONDS = 1.0, 2.0
ROUNDS, PAUSE, TURN = 14, 0.25, 0.75
SIZE = 256 << 20
CPU_GOAL, RATE_GOAL = 25, 0.97


class Terminal:
    """`xenfs top` in a terminal of its own, of which somebody reads what is drawn."""

    def __init__(self, point: str, *words: str) -> None:
        self._master, slave = pty.openpty()
        self.drawn = 0
        try:
            fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("4H", LINES, COLUMNS, 0, 0))
            environment = {key: value for key, value in os.environ.items() if key not in ("COLUMNS", "LINES")}
            self._process = subprocess.Popen(
                [sys.executable, "-m", "xenfs", "top", "-d", str(DELAY), *words],
                stdin=slave, stdout=slave, stderr=slave, cwd=ROOT, start_new_session=True,
                env={**environment, "XEN": point, "TERM": "xterm-256color"},
                preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),  # so that it ends with us, whatever happens
            )  # fmt: skip
        except BaseException:
            os.close(self._master)
            raise
        finally:
            os.close(slave)
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        with suppress(OSError):  # EIO: nobody has the other side open any more
            while data := os.read(self._master, 1 << 16):
                self.drawn += len(data)

    @property
    def pid(self) -> int:
        return self._process.pid

    def until_draws(self) -> None:
        """Until something more is drawn."""
        seen = self.drawn
        until(lambda: self.drawn > seen or self._process.poll() is not None, 20)
        assert self._process.poll() is None, "the monitor has ended"

    def press(self, key: str) -> None:
        os.write(self._master, key.encode())

    def hold(self, is_stopped: bool) -> None:
        """Stop it, or let it go on."""
        os.kill(self.pid, signal.SIGSTOP if is_stopped else signal.SIGCONT)

    def close(self) -> None:
        """End it, as anybody would."""
        with suppress(OSError):
            self.hold(False)
            self.press("q")
        try:
            self._process.wait(3)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._reader.join(3)
        os.close(self._master)


@contextmanager
def monitor(point: str, *words: str) -> Iterator[Terminal]:
    """It is there, and has drawn."""
    terminal = Terminal(point, *words)
    try:
        terminal.until_draws()
        time.sleep(SETTLE)
        yield terminal
    finally:
        terminal.close()


def shares(daemon: int, terminal: Terminal | None = None) -> tuple[float, float]:
    """What the daemon and the monitor use, in percent of a core."""
    pids = [daemon, *([terminal.pid] if terminal is not None else [])]
    began, before = time.monotonic(), [cpu_seconds(pid) for pid in pids]
    time.sleep(SECONDS)
    used = [cpu_seconds(pid) - old for pid, old in zip(pids, before, strict=True)]
    passed = time.monotonic() - began
    return used[0] / passed * 100, sum(used[1:]) / passed * 100


def efforts(crowd: Crowd) -> Iterator[Figure]:
    """The CPU that each pane takes."""
    alone, _ = shares(crowd.daemon)
    yield Figure("the daemon, without a monitor", alone, "% of a core")
    with monitor(str(crowd.point)) as terminal:
        for number, name in enumerate(NAMES, 1):
            terminal.press(str(number))
            time.sleep(SETTLE)
            daemon, own = shares(crowd.daemon, terminal)
            terminal.until_draws()
            yield Figure(f"pane {name}, the monitor", own, "% of a core")
            yield Figure(f"pane {name}, the daemon", daemon, "% of a core")
            whole = daemon + own
            yield Figure(f"pane {name}, both", whole, "% of a core", f"<= {CPU_GOAL}", whole <= CPU_GOAL)


@dataclass(frozen=True)
class Load:
    """Work to be slowed down: programs that do it until they are killed, and a count of the bytes that have passed."""

    name: str
    programs: tuple[list[str], ...]
    passed: Callable[[], int]


@contextmanager
def running(load: Load) -> Iterator[None]:
    """Its programs are at work."""
    with ExitStack() as started:
        for words in load.programs:
            nowhere = subprocess.DEVNULL
            process = subprocess.Popen(words, stdout=nowhere, stderr=nowhere, preexec_fn=die_with_parent)
            started.callback(process.wait)
            started.callback(process.kill)
            time.sleep(SETTLE)
        assert process.poll() is None, load.name
        yield


def disk_load(device: str, back: int) -> Load:
    """Writes through a vbd's file, of which `back` is the backend."""

    def written() -> int:
        lines = Path(f"/proc/{back}/io").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("wchar"))

    words = ["fio", "--name=x", f"--filename={device}", "--direct=1", "--rw=randwrite", "--bs=4k", "--iodepth=32"]
    return Load("writes of 4 KiB", ([*words, "--ioengine=libaio", "--time_based", "--runtime=100"],), written)


def tcp_load(route: Route) -> Load:
    """TCP towards the server, which has a bridge."""

    def received() -> int:
        lines = Path(f"/proc/{route.server}/net/dev").read_text().splitlines()
        return next(int(line.split(":")[1].split()[0]) for line in lines if line.strip().startswith("br0:"))

    server = inside(route.server, "iperf3", "-s", "-1")
    return Load("TCP", (server, inside(route.client, "iperf3", "-c", route.address, "-t", "100")), received)


class Town(Xennet):
    """Two guests on a bridge, and one that has a disk."""

    name, net = "top", 76

    def __init__(self, image: Path) -> None:
        super().__init__()
        self.image = image

    def build(self) -> None:
        super().build()
        domid = self.stage.guest("disk", memory=16)
        wanted = kinds.parse("vbd", f"{self.image},raw,xvda,rw", domid, 0, int)
        spec.add(self.stage.store, wanted)
        spec.wait_ready(self.stage.store, wanted)
        self.stage.until_connected(wanted.device)
        self.file = self.stage.store.read(f"{wanted.device.frontend_path}/{FILE}").decode()
        self.disk_back = self.stage.one(f"backend/vbd/{domid}")


def slowed(image: Path) -> Iterator[Figure]:
    """What the monitor costs those who work."""
    if os.geteuid() == 0 and Path("/dev/net/tun").exists():
        with Town(image) as town:
            assert isinstance(town, Town)
            loads = [disk_load(town.file, town.disk_back), tcp_load(town.to_host)]
            yield from compared(town.stage.point, loads)
    else:
        with Xenblk(image) as disk:
            assert isinstance(disk, Xenblk)
            yard = disk.yard
            loads = [disk_load(str(yard.file(disk.vbd)), yard.back(disk.vbd))]
            yield from compared(yard.stage.point, loads)


def compared(point: str, loads: Iterable[Load]) -> Iterator[Figure]:
    """Rates with the monitor and without, in short turns: under the load it is stopped, and goes on."""
    with monitor(point) as terminal:
        for load in loads:
            with running(load):
                ratios, used = [], 0.0
                for turn in range(ROUNDS):
                    found = {}
                    for is_stopped in (True, False) if turn % 2 else (False, True):
                        terminal.hold(is_stopped)
                        time.sleep(PAUSE)  # it begins with all of its screen
                        before = cpu_seconds(terminal.pid)
                        found[is_stopped] = rate(load)
                        used += cpu_seconds(terminal.pid) - before
                    ratios.append(found[False] / max(found[True], 1.0))
                terminal.hold(False)
            ratio = median(ratios)
            yield Figure(f"{load.name}, the monitor", used / (ROUNDS * TURN) * 100, "% of a core")
            yield Figure(f"{load.name}, with the monitor / without", ratio, "", f">= {RATE_GOAL}", ratio >= RATE_GOAL)


def rate(load: Load) -> float:
    """Bytes a second, of one turn."""
    before, began = load.passed(), time.monotonic()
    time.sleep(TURN)
    return (load.passed() - before) / (time.monotonic() - began)


def bench() -> Iterator[Figure]:
    """See __main__."""
    with tempfile.TemporaryDirectory(prefix="xenfs-bench-") as folder:
        with Crowd(Path(folder)) as crowd:
            yield from efforts(crowd)
        image = Path(folder) / "image"
        with image.open("wb") as file:
            for _ in range(SIZE >> 20):
                file.write(os.urandom(1 << 20))
        yield from slowed(image)
