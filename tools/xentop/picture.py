"""The pictures of the monitor that the README shows, made anew: `python -m xentop.picture FOLDER`.

They are of a small machine that is made for them, as root in a network namespace of its own, and is gone afterwards.
It is posed: from one look of the monitor to the next the same work is done, and that counts as a second. So a picture
changes when the monitor does or the drivers do, and else only by a packet or two.
"""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import ExitStack, suppress
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from xenusb.descriptors import Ask, Setup
from xl import kinds, spec, toolstack, usb
from xl.config import GuestConfig
from xl.spec import DeviceSpec

from xenfs.commands import checks, service
from xenfs.commands.failure import INTERRUPTED, Unable, tell
from xenfs.commands.namespace import unshare_net
from xenfs.commands.run import machine
from xenfs.domain.mounted import MountedDomain
from xenfs.xenbus import Device
from xenfs.xenbus.keys import OtherEnd
from xentop.look import DAEMON, Look, Sample

if TYPE_CHECKING:
    from xenusb.client import Handle

PANES = ("rings", "pages", "devices")
SIZE = 110, 32
FRAMES = 1 << 14
_GUESTS = ("alpha", "beta")
_DISK, _PIECE = 16 << 20, 1 << 16
_LOOKS = 3
"""For a picture: the first may have begun as one for another pane, and rates are of the last two."""
_WATCHED = 60.0
"""For how many seconds the monitor is to have looked, by what it shows."""
_SECONDS = 60.0
_ELSEWHERE = re.compile(r',\s*url\("https?:[^)]*\)(?: format\("\w+"\))?')
_WRITTEN = 0.3
"""Seconds after which drivers have written down what they have counted."""
_LOST = "vdev=xvdb,access=rw,backend=0,target=/srv/lost.img"
_CARD = """
ip link set eth0 addrgenmode none
ip address add 10.40.0.{number}/24 dev eth0
ip link set eth0 up
"""


def needs() -> list[str]:
    """What is missing."""
    found = [problem] if (problem := checks.obstacle()) else []
    if os.geteuid() == 0:
        modules = {"/dev/loop-control": "loop", "/dev/net/tun": "tun"}
        found += [f"{path}; to mend it: modprobe {name}" for path, name in modules.items() if not Path(path).exists()]
        if shutil.which("ping") is None:
            found.append("ping; to mend it: apt-get install iputils-ping")
        if shutil.which("ip") is None:
            found.append("ip; to mend it: apt-get install iproute2")
    if find_spec("textual") is None:
        found.append("textual; to mend it: pip install 'xenfs[top]'")
    return found


class Scene:
    """Two guests, each with a disk and a USB device, as root also with a network card; and what they do."""

    def __init__(self, point: str, folder: Path) -> None:
        """On a machine that has a devd; images of disks are kept in `folder`."""
        self.point, self.folder, self.network = point, folder, os.geteuid() == 0
        self.root = MountedDomain(0, point)
        self._held = ExitStack()
        self._disks: list[int] = []
        self._usb: list[Handle] = []
        self._rounds = 0

    def begin(self) -> None:
        """Make them, and wait until all is there. Raises Unable, OSError."""
        domids = [self._guest(number, name) for number, name in enumerate(_GUESTS, 1)]
        if self.network:
            self._ping(1)
        lost = kinds.parse("vbd", _LOST, domids[-1], 0, int)  # one that has something to tell
        spec.add(self.root.store, lost)
        self._until(lost.device.backend_path, "state", "6")

    def _guest(self, number: int, name: str) -> int:
        """One thing after the other, so that each has the same pages every time."""
        image = self.folder / f"{name}.img"
        with image.open("wb") as file:
            file.truncate(_DISK)
        config = GuestConfig(name=name, memory=16, init="exec sleep infinity")
        domid = toolstack.create(self.root, self.point, config)
        toolstack.start(self.point, domid)
        lines = {"vbd": f"{image},raw,xvda,rw", "vif": f"mac=00:16:3e:00:00:{number:02x},bridge=xenbr0", "vusb": ""}
        if not self.network:
            del lines["vif"]
        for kind, line in lines.items():
            self._attach(kinds.parse(kind, line, domid, 0, int))
        self._open_disk(Device("vbd", domid, 51712))
        usb.plug(self.root.store, Device("vusb", domid, 0), 1, "loopback:")
        self._open_usb(Device("vusb", domid, 0))
        if self.network:
            self._run(name, "sh", "-e", "-c", _CARD.format(number=number))
        return domid

    def _attach(self, wanted: DeviceSpec) -> None:
        spec.add(self.root.store, wanted)
        spec.wait_ready(self.root.store, wanted)
        self._until(wanted.device.frontend_path, "state", "4")
        self._until(wanted.device.backend_path, "state", "4")

    def _until(self, path: str, name: str, value: str = "") -> str:
        """A node, as soon as it has that value, or any."""
        end = OtherEnd(self.root.store, path)

        def there() -> bool:
            said = end.raw(name)
            return bool(said) if not value else said == value

        if not spec.Waiting(self.root.store, f"{path}/{name}").until(there, _SECONDS):
            raise Unable(f"{path}/{name} is {end.raw(name)!r} after {_SECONDS:.0f} s")
        return end.raw(name) or ""

    def _open_disk(self, device: Device) -> None:
        path = self._until(device.frontend_path, "xenfs-file")
        self._disks.append(os.open(path, os.O_RDWR | os.O_CLOEXEC))
        self._held.callback(os.close, self._disks[-1])

    def _open_usb(self, device: Device) -> None:
        """Have somebody wait for what is in it: those requests stay in the ring."""
        from xenusb.client import devices  # which needs libfuse; that it is missing is told by `needs`

        self._until(device.frontend_path, "port/1")
        handle = self._held.enter_context(next(iter(devices(device.domid))).open())
        handle.control(Setup(1, Ask.set_interface, 1, 0))
        self._usb.append(handle)

        def wait() -> None:
            with suppress(OSError):
                handle.transfer(0x82, size=64)

        for _ in range(3):
            threading.Thread(target=wait, daemon=True).start()

    def _ping(self, count: int) -> None:
        self._run("alpha", "ping", "-q", "-A", "-W", "5", "-c", str(count), "10.40.0.2")

    @staticmethod
    def _run(guest: str, *words: str) -> None:
        line = [sys.executable, "-m", "xenfs", "exec", guest, "--", *words]
        subprocess.run(line, check=True, stdout=subprocess.DEVNULL, timeout=_SECONDS)

    def work(self) -> None:
        """What is done between two looks: each time the same. Raises OSError."""
        self._rounds += 1
        for number, disk in enumerate(self._disks, 1):
            for piece in range(8 * number):
                os.pread(disk, _PIECE, (self._rounds * 8 * number + piece) * _PIECE % _DISK)
        for number, handle in enumerate(self._usb, 1):
            for _ in range(10 * number):
                handle.transfer(1, b"to and fro")
                handle.transfer(0x81, size=16)
        if self.network:
            self._ping(40)

    def close(self) -> None:
        """End the guests."""
        self._held.close()
        for domid in range(len(_GUESTS), 0, -1):
            with suppress(Unable):
                toolstack.destroy(self.root, self.point, domid, log=lambda _line: None)
        self.root.close()


class _Posed(Look):
    """As if a second passed from look to look, and nobody had used a processor. Each look waits for its turn."""

    def __init__(self, scene: Scene) -> None:
        super().__init__(scene.point)
        self.turns, self.over = threading.Semaphore(0), False
        self._scene, self._seconds = scene, 0.0

    def sample(self, *wanted: str) -> Sample:
        """See Look."""
        self.turns.acquire()
        if not self.over:
            self._scene.work()
            time.sleep(_WRITTEN)
        self._seconds += 1.0
        seen = super().sample(*wanted)
        return replace(
            seen, time=self._seconds, cpu=dict.fromkeys((DAEMON, *(d.domid for d in seen.frames.domains)), 0.0)
        )


async def _draw(scene: Scene) -> dict[str, str]:
    from xentop.app import Monitor, forget_size

    forget_size()
    posed, drawn = _Posed(scene), dict[str, str]()
    app = Monitor(scene.point, 0.05, PANES[0], posed)
    try:
        async with app.run_test(size=SIZE) as pilot:
            for pane in PANES:
                app.action_show(pane)
                for _ in range(_LOOKS):
                    last, deadline = app.now, time.monotonic() + _SECONDS
                    posed.turns.release()
                    while app.now is last:
                        if app.problem or time.monotonic() > deadline:
                            raise Unable(app.problem or f"nothing is to be seen after {_SECONDS:.0f} s")
                        app.began = time.monotonic() - _WATCHED
                        await pilot.pause(0.02)
                drawn[pane] = _ELSEWHERE.sub("", app.export_screenshot(simplify=True))
    finally:
        posed.over = True
        posed.turns.release()
        if app.observer.thread.is_alive():
            app.observer.thread.join(_SECONDS)
    return drawn


def make(folder: Path) -> list[Path]:
    """Make the pictures. Raises Unable."""
    if missing := needs():
        raise Unable("it needs " + "\n  and ".join(missing))
    folder.mkdir(parents=True, exist_ok=True)
    if os.geteuid() == 0:
        unshare_net()
    with ExitStack() as held:
        log, backends = (held.enter_context(tempfile.TemporaryFile()) for _ in range(2))
        point = held.enter_context(machine([], FRAMES, log, keep=False))
        os.environ["XEN"] = point
        images = held.enter_context(tempfile.TemporaryDirectory(prefix="xenfs-picture-"))
        devd = service.start([sys.executable, "-m", "xenfs", "devd", "-F"], backends, captive=True)
        held.callback(service.stop, devd)
        scene = Scene(point, Path(images))
        held.callback(scene.close)
        scene.begin()
        drawn = asyncio.run(_draw(scene))
    made = []
    for pane, picture in drawn.items():
        made.append(folder / f"{pane}.svg")
        made[-1].write_text(picture)
    return made


def main(words: list[str]) -> int:
    """Make them, and say where they are."""
    if len(words) != 1:
        tell("picture", "python -m xentop.picture FOLDER")
        return 2
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that all is taken down
    try:
        for path in make(Path(words[0])):
            print(path)
    except (Unable, OSError, subprocess.SubprocessError) as error:
        tell("picture", str(error))
        return 1
    except KeyboardInterrupt:
        return INTERRUPTED
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
