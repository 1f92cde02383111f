"""A backend without scruples, against the real usbfront, which is a process of its own."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TypeVar

from xenusb import usbip
from xenusb.client import Handle, Place, devices
from xenusb.importing import take

from tests.hostile.peer import SECONDS
from tests.hostile.peer_back import FrontHost
from tests.hostile.usb_liars import Gizmo
from tests.hostile.usb_program import IMPORT, Raw
from tests.hostile.usb_rings import UsbRings
from xenfs.abi.xenbus import XenbusState as S
from xenfs.xenbus import Device, OtherEnd

PORTS = 8
HASTY = """
import sys
from xenusb import front, hub, storage, urbs
from xenfs.xenbus import main
hub.CONTROL_SECONDS = storage._SECONDS = urbs._BACK_SECONDS = 0.5
urbs._QUEUE_SECONDS = float(sys.argv.pop(1))
sys.exit(main(front.UsbFront))
"""
"""A usbfront that waits for half a second where it has else much patience, and for an id as long as it is told."""
WITHOUT_FUSE = """
import sys
from xenblk import file
from xenfs.fusemount import MountError
from xenfs.xenbus import main
from xenusb.front import UsbFront
def refuse(*_):
    raise MountError(2, "there is no /dev/fuse")
file.FuseMount = refuse
sys.exit(main(UsbFront))
"""
"""A usbfront that can make no disk."""
UNLUCKY = """
import errno, sys
from xenfs.xenbus import main
from xenusb import server
from xenusb.front import UsbFront
make = server.tempfile.mkdtemp
def unlucky(*args, **kwargs):
    server.tempfile.mkdtemp = make
    raise OSError(errno.ENOSPC, "No space left on device")
server.tempfile.mkdtemp = unlucky
sys.exit(main(UsbFront))
"""
"""A usbfront that does not find room for its socket, the first time."""
T = TypeVar("T")


class UsbMachine(FrontHost):
    """A machine whose guests have a usbfront."""

    @contextmanager
    def back(self, ports: int = PORTS, *, hasty: float = 0, program: str = "") -> Iterator[UsbBack]:
        """A guest with a usbfront, perhaps a hasty one or another program, and its backend, which has not offered
        anything.
        """
        words = ("-c", HASTY, str(hasty)) if hasty else ("-c", program) if program else ("-m", "xenusb.front")
        with self.frontend("vusb", f"ports={ports}", *words) as (device, front):
            made = UsbBack(self, device, front)
            try:
                yield made
            finally:
                made.end()
        assert "Traceback" not in made.log()


class UsbBack(UsbRings):
    """The backend, and what programs of the guest's do with its devices."""

    def __init__(self, host: FrontHost, device: Device, front: subprocess.Popen[bytes]) -> None:
        super().__init__(host, device, front)
        self._clients = ExitStack()
        self._started: list[subprocess.Popen[str]] = []

    def end(self) -> None:
        """End the programs, and let go of everything."""
        for process in self._started:
            process.kill()
            process.communicate()
        self._clients.close()
        self.close()

    def connect(self, devices: Mapping[int, Gizmo] | None = None) -> UsbBack:
        """Offer, map, be Connected, and have something in the ports."""
        self.until_state(S.Initialising)
        self.devices.update(devices or {})
        return self.come_back()

    def let_go(self, *states: S) -> UsbBack:
        """See PeerBack; the devices have no addresses then."""
        self._addresses, self.left = {}, {}
        super().let_go(*states)
        return self

    def come_back(self) -> UsbBack:
        """Another backend, with what was in the ports."""
        self.say()
        self.set_state(S.Connected)
        for port, device in self.devices.items():
            self.plug(port, device)
        return self

    def again(self) -> UsbBack:
        """Come back honestly; the first device goes on."""
        self.let_go()
        self.lie, self.deaf = (lambda _urb, answer: [answer]), False
        self.come_back()
        self.alive()
        return self

    def until_stopped(self, words: str) -> None:
        """Until the frontend has closed; it says why, once."""
        super().until_stopped(words)
        assert self.front.poll() is None
        assert self.log().count(words) == 1, self.log()

    # What the guest has.

    def key(self, name: str) -> str:
        """One of the frontend's, "" when there is none."""
        return OtherEnd(self.store, self.front_path).raw(name) or ""

    def until_there(self, port: int, words: str = "1209:") -> None:
        """Serve until the guest says what is in a port."""
        self.serve_until(lambda: self.key(f"port/{port}").startswith(words))

    def until_said(self, port: int) -> str:
        """Serve until it says anything at all; what that is."""
        self.serve_until(lambda: bool(self.key(f"port/{port}")))
        return self.key(f"port/{port}")

    def until_logged(self, words: str) -> None:
        """Serve until usbfront has said something."""
        self.serve_until(lambda: words in self.log(), 60)

    def until_gone(self, port: int) -> None:
        """Serve until it says that there is nothing."""
        self.serve_until(lambda: not self.key(f"port/{port}"))

    def until_disk(self, port: int) -> str:
        """Serve until the stick in a port is a file of the guest's, and the loop device over that is settled."""
        self.serve_until(lambda: bool(self.key(f"disk/{port}/xenfs-device")))
        return self.key(f"disk/{port}/xenfs-file")

    def call(self, call: Callable[[], T]) -> T:
        """Have a program of the guest's done, and serve until it is over."""
        done: list[T] = []
        failed: list[BaseException] = []

        def run() -> None:
            try:
                done.append(call())
            except BaseException as error:
                failed.append(error)

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        self.serve_until(lambda: bool(done or failed))
        thread.join()
        if failed:
            raise failed[0]
        return done[0]

    def places(self) -> list[Place]:
        """What a program finds."""
        return self.call(lambda: list(devices(self.domid)))

    def products(self) -> set[int]:
        """By their numbers."""
        return {place.exported.product for place in self.places()}

    def open(self, product: int = 1) -> Handle:
        """A device, as a program has it open."""
        handle = next(place for place in self.places() if place.exported.product == product).open()
        self._clients.callback(handle.close)
        return handle

    def says(self, handle: Handle) -> int:
        """Which product it says that it is, now."""
        return self.call(handle.device).product

    def alive(self) -> None:
        """Serve until the first device says who it is, to somebody who has just come."""
        self.serve_until(self._alive)

    def _alive(self) -> bool:
        try:
            handle = self.open()
        except (OSError, StopIteration):
            return False
        try:
            return self.says(handle) == 1
        except OSError:
            return False  # it is not back yet
        finally:
            handle.close()

    def socket(self) -> socket.socket:
        """A connection to usbfront that has said nothing."""
        connection = self._clients.enter_context(socket.socket(socket.AF_UNIX))
        connection.connect(self.key("xenfs-usb"))
        connection.settimeout(SECONDS)
        return connection

    def raw(self, port: int = 1, *, answers: bool = True) -> Raw:
        """A connection that has imported what is in a port; without answers, one that has only asked for it."""
        connection = self.socket()
        if answers:
            take(connection, f"1-{port}")
        else:
            connection.sendall(IMPORT + usbip.BUS_ID.pack(f"1-{port}".encode()))
        return Raw(self.call, connection)

    def stop(self) -> None:
        """kill -STOP, and until it has stopped."""
        self.front.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, self.front.pid, os.WSTOPPED)

    def go_on(self) -> None:
        self.front.send_signal(signal.SIGCONT)

    def memory(self) -> int:
        """Bytes that usbfront has."""
        pages = int(Path(f"/proc/{self.front.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")

    def start(self, code: str, file: str, *words: str) -> subprocess.Popen[str]:
        """A program that uses a disk's file."""
        line = ["timeout", "-s", "KILL", "60", sys.executable, "-c", code, file, *words]
        process = subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self._started.append(process)
        return process

    def finish(self, process: subprocess.Popen[str]) -> tuple[str, str]:
        """Serve until a program is over; what it has said."""
        self.serve_until(lambda: process.poll() is not None, 60)
        return process.communicate()
