"""A backend without scruples, against the real usbfront, which is a process of its own."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, TypeVar

from xenusb import usbip
from xenusb.client import Handle, Place, devices
from xenusb.descriptors import Ask, Setup
from xenusb.importing import take
from xenusb.usbip import Short, Submit, Submitted
from xl import kinds, spec

from tests.hostile.usb_liars import Answer, Gizmo
from tests.mounted.mount import until
from xenfs.abi.usbif import CONN, FRAME, UNLINK, URB, PipeType, Status, Urb
from xenfs.abi.xenbus import XenbusState as S
from xenfs.abi.xenfs_op import CreateDomain, DestroyDomain
from xenfs.domain.mounted import MountedDomain
from xenfs.ring import Entry
from xenfs.testing.mount import Mount
from xenfs.testing.peers import MockBack
from xenfs.xenbus import OtherEnd
from xenfs.xenbus.end import read_state
from xenfs.xenbus.process import PARENT

SECONDS = 20.0
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
Lie = Callable[[Urb, Entry], Sequence[Entry]]
T = TypeVar("T")
IMPORT = usbip.OP.pack(usbip.VERSION, usbip.Op.import_request, 0)


class Raw:
    """Somebody who uses a device, and says what he likes."""

    def __init__(self, back: UsbBack, connection: socket.socket) -> None:
        self._back, self.socket = back, connection
        self._answers = usbip.Answers()

    def submit(self, endpoint: int, size: int = 8, *, number: int = 1, inward: bool = True, **more: Any) -> Submit:
        """A transfer, which is to be sent."""
        self._answers.inward[number] = inward
        return Submit(number, 0, inward, endpoint, size, **more)

    def control(self, setup: Setup, *, number: int = 1) -> Submit:
        """A control transfer."""
        return self.submit(0, setup.length, number=number, inward=setup.inward, setup=setup.emit())

    def send(self, *asked: Submit | Short) -> None:
        """Send."""
        data = b"".join(one.emit() for one in asked)
        self._back.call(lambda: self.socket.sendall(data))

    def answers(self, count: int, *, serve: bool = True) -> list[Submitted | Short]:
        """So many answers; without serving for those that must come by themselves."""
        found: list[Submitted | Short] = []

        def enough() -> None:
            while len(found) < count:
                data = self.socket.recv(1 << 16)
                assert data, "usbfront has ended the connection"
                found.extend(self._answers.feed(data))

        if serve:
            self._back.call(enough)
        else:
            enough()
        return found

    def ask(self, *asked: Submit | Short) -> list[Submitted | Short]:
        """Send, and get as many answers."""
        self.send(*asked)
        return self.answers(len(asked))

    def statuses(self, *asked: Submit | Short) -> list[int]:
        """Send, and get the statuses of as many answers."""
        return [one.status if isinstance(one, Submitted) else one.value for one in self.ask(*asked)]

    def close(self) -> None:
        self.socket.close()


class UsbMachine:
    """A machine whose domain 0 is this process."""

    def __init__(self, folder: Path, held: ExitStack) -> None:
        self.mount = Mount(folder / "xen", 1 << 15)
        held.callback(self.mount.close)
        self.mount.arm(600)
        self.point, self.folder = str(folder / "xen"), folder
        self.root = held.enter_context(MountedDomain(0, self.point))

    @contextmanager
    def back(self, ports: int = PORTS, *, hasty: float = 0) -> Iterator[UsbBack]:
        """A guest with a usbfront, perhaps a hasty one, and its backend, which has not offered anything."""
        domid = self.root.call(CreateDomain(frames=2048)).domid
        wanted = kinds.parse("vusb", f"ports={ports}", domid, 0, int)
        spec.add(self.root.store, wanted)
        log = self.folder / f"log-{domid}"
        program = ("-c", HASTY, str(hasty)) if hasty else ("-m", "xenusb.front")
        with log.open("wb") as said:
            front = subprocess.Popen(
                [sys.executable, *program, "0"],
                env={
                    **os.environ,
                    "XEN": self.point,
                    "XEN_DOMID": str(domid),
                    "TMPDIR": str(self.folder),
                    PARENT: str(os.getpid()),
                },
                stderr=said,
                stdin=subprocess.DEVNULL,
            )
        with front:
            try:
                made = UsbBack(self, domid, front, log)
                try:
                    yield made
                    assert front.poll() is None, f"usbfront must not end: {log.read_text()}"
                finally:
                    made.close()
                    spec.remove(self.root.store, wanted.device)
                until(lambda: front.poll() is not None, SECONDS)
                assert front.returncode in (0, 1), "1 is for a device that went with a complaint"
            finally:
                front.send_signal(signal.SIGKILL)
                self.root.call(DestroyDomain(dom=domid))
        assert "Traceback" not in log.read_text()

    def held(self) -> list[str]:
        """What is granted, mapped or dying anywhere."""
        lines = Path(self.point, "hypervisor/frames").read_text().splitlines()[1:-1]
        return [line for line in lines if line.split()[3:6] != ["0", "0", "0"] or line.split()[1] == "dying"]


class UsbBack:
    """The backend. It answers while it is told to serve, honestly where `lie` does not say otherwise."""

    ring: MockBack
    plugs: MockBack

    def __init__(self, machine: UsbMachine, domid: int, front: subprocess.Popen[bytes], log: Path) -> None:
        self.machine, self.domid, self.front, self._log = machine, domid, front, log
        self.root, self.store = machine.root, machine.root.store
        self.path = f"/local/domain/0/backend/vusb/{domid}/0"
        self.front_path = f"/local/domain/{domid}/device/vusb/0"
        self.devices: dict[int, Gizmo] = {}
        self.lie: Lie = lambda _urb, answer: [answer]
        self.asked: deque[Urb] = deque(maxlen=4096)
        """What was asked for."""
        self.left: dict[int, Urb] = {}
        """What was not answered."""
        self.deaf = False
        """Whether requests to take another back are not answered either."""
        self.held = ExitStack()
        self._clients = ExitStack()
        self._started: list[subprocess.Popen[str]] = []
        self._addresses: dict[int, int] = {}

    def close(self) -> None:
        """Let go of everything."""
        for process in self._started:
            process.kill()
            process.communicate()
        self._clients.close()
        self.held.close()

    # The connection.

    def set_state(self, state: S) -> None:
        self.store.write(f"{self.path}/state", str(int(state)))

    def state(self) -> S | None:
        """The frontend's."""
        return read_state(self.store, self.front_path)

    def until_state(self, *states: S) -> None:
        until(lambda: self.state() in states, SECONDS)

    def say(self) -> None:
        """Offer, and map what the frontend shares."""
        self.set_state(S.InitWait)
        self.until_state(S.Connected)
        keys = OtherEnd(self.store, self.front_path)
        memory, events = self.root.memory, self.root.events
        self._pages: dict[int, memoryview] = {}
        urbs, plugs = (
            self.held.enter_context(memory.map(self.domid, [keys.number(name)]))
            for name in ("urb-ring-ref", "conn-ring-ref")
        )
        self.ring = self.held.enter_context(MockBack(urbs, URB, lambda *_: None))
        self.plugs = self.held.enter_context(MockBack(plugs, CONN, lambda *_: None))
        self.channel = self.held.enter_context(events.bind_interdomain(self.domid, keys.number("event-channel")))

    def connect(self, devices: Mapping[int, Gizmo] | None = None) -> UsbBack:
        """Offer, map, be Connected, and have something in the ports."""
        self.until_state(S.Initialising)
        self.devices.update(devices or {})
        return self.come_back()

    def let_go(self, *states: S) -> UsbBack:
        """Close, from one moment to the next."""
        self.held.close()
        self.held = ExitStack()
        self._addresses, self.left = {}, {}
        for state in (*states, S.Closed):
            self.set_state(state)
        self.until_state(S.Closed, S.Initialising)
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
        error = f"/local/domain/{self.domid}/error/device/vusb/0/error"
        until(lambda: self.store.exists(error), SECONDS)
        assert words in self.store.read(error).decode(), self.store.read(error)
        self.until_state(S.Closing, S.Closed)
        assert self.front.poll() is None
        assert self.log().count(words) == 1, self.log()

    def log(self) -> str:
        """What usbfront has said."""
        return self._log.read_text()

    def key(self, name: str) -> str:
        """One of the frontend's, "" when there is none."""
        return OtherEnd(self.store, self.front_path).raw(name) or ""

    # The ring of plugs.

    def plug(self, port: int, device: Gizmo) -> None:
        """Put a device into a port, and tell."""
        self.devices[port] = device
        self._addresses[port] = 0
        self.tell((port, device.speed))

    def unplug(self, port: int) -> None:
        """Take it out."""
        self.devices.pop(port, None)
        self.tell((port, 0))

    def tell(self, *news: tuple[int, int]) -> None:
        """Ports and speeds, as they are."""
        for port, speed in news:
            self.respond_plug(port, speed)
        self.plugs.publish()
        self.channel.notify()

    def respond_plug(self, port: int, speed: int, number: int | None = None) -> None:
        """Use up a request, when there is one; with another id than its own perhaps."""
        found: list[Entry] = []

        def there() -> bool:
            found.extend(self.plugs.ring.take(1))
            return bool(found)

        if not there():
            self.plugs.publish()
            self.channel.notify()
            until(there, SECONDS)
        self.plugs.ring.respond(found[0][0] if number is None else number, port, speed)

    # The ring of transfers.

    def work(self) -> bool:
        """Answer what there is; whether there was something."""
        entries = self.ring.ring.take()
        for entry in entries:
            urb = Urb.parse(entry)
            self.asked.append(urb)
            self.answer(*self._answers(urb))
        return bool(entries)

    def answer(self, *entries: Entry) -> None:
        """Responses, for requests that have been taken."""
        if entries:
            self.ring.ring.respond_many(entries)
            self.ring.publish()
            self.channel.notify()

    def _answers(self, urb: Urb) -> Sequence[Entry]:
        if urb.pipe.unlink:
            return self._unlinked(urb)
        said = self._said(urb)
        if said is None:
            self.left[urb.id] = urb
            return ()
        if isinstance(said, Status):
            return self.lie(urb, (urb.id, 0, int(said), 0, 0))
        if urb.pipe.inward:
            self.put(urb, said)
        return self.lie(urb, (urb.id, 0, 0, len(said), 0))

    def _unlinked(self, urb: Urb) -> Sequence[Entry]:
        if self.deaf:
            return ()
        (number,) = UNLINK.unpack(urb.special)
        victim = self.left.pop(number, None)
        if victim is None:
            return self.lie(urb, (urb.id, 0, int(Status.inval), 0, 0))
        return [(number, 0, int(Status.shutdown), 0, 0), *self.lie(urb, (urb.id, 0, 0, 0, 0))]

    def _said(self, urb: Urb) -> Answer:
        port = urb.pipe.port
        device, setup = self.devices.get(port), Setup.parse(urb.special)
        if device is None or urb.pipe.address not in (0, self._addresses[port]):
            return Status.nodev
        if urb.pipe.type is not PipeType.control:
            return device.transfer(urb, b"" if urb.pipe.inward else self.got(urb))
        if not urb.pipe.address:
            self._addresses[port] = 0
        if setup.is_standard(Ask.set_address):
            self._addresses[port] = setup.value
            return b""
        return device.control(setup)

    def _parts(self, segments: Iterable[tuple[int, int, int]]) -> Iterator[memoryview]:
        for ref, offset, length in segments:
            if ref not in self._pages:
                self._pages[ref] = self.held.enter_context(self.root.memory.map(self.domid, [ref]))
            yield self._pages[ref][offset : offset + length]

    def put(self, urb: Urb, data: bytes) -> None:
        """Into the pages of a request."""
        for part in self._parts(urb.data):
            part[: len(data)] = data[: len(part)]
            data = data[len(part) :]

    def got(self, urb: Urb) -> bytes:
        """Out of them."""
        return b"".join(self._parts(urb.data))

    def describe(self, urb: Urb, packets: Iterable[tuple[int, int]]) -> None:
        """Say of each packet how many bytes it had, and its status."""
        (view,) = self._parts(urb.frames)
        for number, (actual, status) in enumerate(packets):
            offset, length, _, _ = FRAME.unpack_from(view, number * FRAME.size)
            FRAME.pack_into(view, number * FRAME.size, offset, length, actual, status)

    def serve_until(self, over: Callable[[], bool], seconds: float = SECONDS) -> None:
        """Answer until something is true."""
        deadline = time.monotonic() + seconds
        while not over():
            if self.work() or self.ring.ring.final_check():
                continue
            assert time.monotonic() < deadline, f"it did not come to pass; usbfront says: {self.log()}"
            self.channel.wait(0.01)
            self.channel.drain()

    def take(self, count: int = 1) -> list[Urb]:
        """The next requests, which are not answered."""
        found: list[Urb] = []

        def enough() -> bool:
            found.extend(Urb.parse(entry) for entry in self.ring.ring.take(count - len(found)))
            return len(found) == count

        until(enough, SECONDS)
        return found

    # What the guest has.

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
        return Raw(self, connection)

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
