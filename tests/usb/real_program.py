"""A RealDevice, against a device that is none.

Real are libusb1 and libusb, which run in a program of their own under umockdev-run: they find the device in a /sys of
umockdev's, open its node and ask of it what they would of a kernel's. What answers is `Usbfs` of usbfs.py for nearly
everything; in `test_umockdev_replays_a_record` it is umockdev's own replay of a record. There is no fake of libusb1,
but where a test says so one method of it fails once, for no kernel can be made to have libusb say that; and the
programs of `test_without_...` have it, or the library, hidden from them.
"""

from __future__ import annotations

import json
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from xenusb.descriptors import STANDARD, Ask, Setup

from tests.need import missing
from tests.usb.real_samples import DEVICE, DRIVERS, SAMPLES
from tests.usb.usbfs import SECONDS, Usbfs
from xenfs.abi.usbif import PipeType

REPO = Path(__file__).parents[2]
Event = dict[str, Any]


class Program:
    """A program that has a RealDevice, see real_child.py: it is told what to do, and what it tells is kept."""

    def __init__(self, *words: str) -> None:
        self.process = subprocess.Popen(
            [*words, sys.executable, "-m", "tests.usb.real_child"],
            cwd=REPO, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
        )  # fmt: skip
        self.events: list[Event] = []
        self._left = b""
        self._number = 0
        self.root = Path(self.until("root")["path"])

    def close(self) -> str:
        """Have it end; its last words."""
        with self.process as process:
            try:
                _, said = process.communicate(timeout=SECONDS)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                _, said = process.communicate()
                shutil.rmtree(self.root, ignore_errors=True)
        return said.decode()

    def _listen(self) -> None:
        """Hear one event at least."""
        assert self.process.stdout is not None
        deadline = time.monotonic() + SECONDS
        while b"\n" not in self._left:
            ready, _, _ = select.select([self.process.stdout], [], [], max(0.0, deadline - time.monotonic()))
            data = os.read(self.process.stdout.fileno(), 1 << 16) if ready else b""
            if not data:
                pytest.fail(f"the program {'ended' if ready else 'says nothing'}: {self.close()}", pytrace=False)
            self._left += data
        *lines, self._left = self._left.split(b"\n")
        self.events.extend(json.loads(line) for line in lines)

    def until(self, event: str, **words: Any) -> Event:
        """The first event of a kind that was not taken yet, as soon as it is there."""
        wanted = {"event": event, **words}
        while True:
            for at, found in enumerate(self.events):
                if wanted.items() <= found.items():
                    return self.events.pop(at)
            self._listen()

    def tell(self, *orders: Event) -> None:
        """Have it do things one after the other, without anything in between, and wait until they are done."""
        assert self.process.stdin is not None
        self.process.stdin.write(b"".join(json.dumps(order).encode() + b"\n" for order in orders))
        self.process.stdin.flush()
        for _ in orders:
            self.until("did")

    def do(self, what: str, **words: Any) -> None:
        """Have it do one thing."""
        self.tell({"do": what, **words})

    def plug(self, path: str = DEVICE.path, user: int | None = None) -> Event:
        """What becomes of a device."""
        self.do("plug", path=path, user=os.geteuid() if user is None else user)
        return self.until("plugged")

    def over(self, number: int) -> tuple[str, int]:
        """How a transfer ends, and how many bytes that were."""
        found = self.until("over", number=number)
        return found["status"], found["actual"]

    def rest(self) -> list[Event]:
        """What it told and was not taken, once it has nothing to do."""
        for _ in range(100):
            self.do("turns", count=20)
            if not self.until("turns")["busy"]:
                return self.events
        pytest.fail("it is busy for nothing")

    def submit(self, endpoint: int, what: int | bytes, kind: PipeType = PipeType.bulk, **words: Any) -> int:
        """Ask for a transfer: so many bytes from the device, or these for it. Its number."""
        self.tell(self.order(endpoint, what, kind, **words))
        return self._number

    def order(self, endpoint: int, what: int | bytes, kind: PipeType = PipeType.bulk, **words: Any) -> Event:
        """To ask for a transfer, which then is the last."""
        self._number += 1
        size, data = (what, "") if isinstance(what, int) else (len(what), what.hex())
        return {
            "do": "submit", "number": self._number, "kind": kind.name, "endpoint": endpoint & 15,
            "inward": isinstance(what, int), "size": size, "data": data, **words,
        }  # fmt: skip

    def control(self, setup: Setup, data: bytes = b"") -> int:
        """Ask for a control transfer. Its number."""
        return self.submit(
            0, setup.length if setup.inward else data, PipeType.control, setup=setup.emit().hex()
        )  # fmt: skip

    def set(self, ask: Ask, value: int, index: int = 0, recipient: int = 0) -> tuple[str, int]:
        """How a standard request without data ends."""
        return self.over(self.control(Setup(STANDARD << 5 | recipient, ask, value, index)))


class Bench(Program):
    """The program under umockdev-run, and the device that a test has; by bus paths there are all the SAMPLES."""

    usbfs: Usbfs

    def __init__(self, place: Path) -> None:
        file = place / "bus.umockdev"
        file.write_text("".join(sample.describe() for sample in SAMPLES))
        super().__init__("umockdev-run", "--device", str(file), "--")

    @contextmanager
    def having(self, path: str = DEVICE.path, drivers: Mapping[int, str] = DRIVERS) -> Iterator[None]:
        """Have a device there, and the host's own drivers for some of its interfaces."""
        (sample,) = (sample for sample in SAMPLES if sample.path == path)
        self.usbfs = Usbfs(self.root, sample, drivers)
        try:
            yield
        finally:
            try:
                if self.process.poll() is None:
                    self.do("forget")
            finally:
                self.usbfs.close()
                self.events.clear()


def need_libusb() -> None:
    """Both of them."""
    try:
        import usb1

        usb1.loadLibrary()
    except ImportError:
        missing("libusb1 is not installed: pip install libusb1")
    except OSError:
        missing("libusb-1.0 is not installed: apt-get install libusb-1.0-0")
