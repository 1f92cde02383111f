"""A backend without scruples, against the real usbfront, which is a process of its own."""

from __future__ import annotations

import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TypeVar

from xenusb import bulk_only
from xenusb.bulk_only import Command, Outcome
from xenusb.client import Handle, Place, devices
from xenusb.descriptors import (
    Ask,
    Configuration,
    DeviceDescriptor,
    Endpoint,
    Interface,
    Kind,
    Setup,
    languages,
    string,
)
from xl import kinds, spec

from tests.mounted.mount import until
from xenfs.abi.usbif import CONN, FRAME, UNLINK, URB, PipeType, Speed, Status, Urb
from xenfs.abi.xenbus import XenbusState as S
from xenfs.abi.xenfs_op import CreateDomain, DestroyDomain
from xenfs.domain.mounted import MountedDomain
from xenfs.ring import Entry
from xenfs.testing.mount import Mount
from xenfs.testing.peers import MockBack
from xenfs.xenbus import OtherEnd
from xenfs.xenbus.end import read_state

SECONDS = 20.0
PORTS = 8
BULK, QUIET, ISOC_END = 1, 2, 3
"""Endpoints of a Gizmo, all of them both ways. Nothing ever comes out of the quiet one, nor goes in."""
BLOCKS = 2048
HASTY = """
import sys
from xenusb import front, hub, storage
from xenfs.xenbus import main
hub.CONTROL_SECONDS = storage._SECONDS = 0.5
hub.Hub.run.__defaults__ = (0.5,)
sys.exit(main(front.UsbFront))
"""
"""A usbfront that waits for half a second where it has else much patience."""
Answer = bytes | Status | None
"""What a device says to a transfer: bytes, no bytes but a status, or nothing for ever."""
Lie = Callable[[Urb, Entry], Sequence[Entry]]
T = TypeVar("T")

ENDS = tuple(
    Endpoint(number, inward, kind, 512, 1)
    for number, kind in ((BULK, PipeType.bulk), (QUIET, PipeType.interrupt), (ISOC_END, PipeType.isoc))
    for inward in (True, False)
)
PLAIN = Configuration((Interface(0, 0xFF, endpoints=ENDS),))
STICK = Configuration(
    (
        Interface(
            0, bulk_only.KLASS, bulk_only.SUBCLASS, bulk_only.PROTOCOL,
            (Endpoint(1, True, PipeType.bulk, 512), Endpoint(2, False, PipeType.bulk, 512)),
        ),
    )
)  # fmt: skip


class Gizmo:
    """A device that answers out of tables, and may be told to say something else."""

    speed = int(Speed.high)

    def __init__(
        self, product: int = 1, *, device: bytes | None = None, configurations: Sequence[bytes] | None = None,
        strings: Mapping[int, bytes] | None = None,
    ) -> None:  # fmt: skip
        self.device = DeviceDescriptor(0x1209, product, strings=(1, 2, 3)).emit() if device is None else device
        self.configurations = [PLAIN.emit()] if configurations is None else list(configurations)
        self.strings = {0: languages(), 1: string("Maker"), 2: string("Gizmo")} if strings is None else dict(strings)
        self.setups: list[Setup] = []

    def control(self, setup: Setup, data: bytes) -> Answer:
        """SET_ADDRESS does not come here."""
        self.setups.append(setup)
        if setup.request != Ask.get_descriptor or setup.request_type != 0x80:
            return bytes(setup.length) if setup.inward else b""
        kind, number = setup.value >> 8, setup.value & 0xFF
        found: bytes | None = None
        if kind == Kind.device:
            found = self.device
        elif kind == Kind.configuration and number < len(self.configurations):
            found = self.configurations[number]
        elif kind == Kind.string:
            found = self.strings.get(number)
        return Status.stall if found is None else found[: setup.length]

    def transfer(self, urb: Urb, data: bytes) -> Answer:
        """What is not control. The device is full of the letter g."""
        if urb.pipe.endpoint == QUIET:
            return None
        return b"g" * urb.length if urb.pipe.inward else b""


class Dead(Gizmo):
    """Says nothing to anything, for ever, or always the same."""

    def __init__(self, answer: Answer = None) -> None:
        super().__init__()
        self.answer = answer

    def control(self, setup: Setup, data: bytes) -> Answer:
        self.setups.append(setup)
        return self.answer


class MockStick(Gizmo):
    """Mass storage, full of the letter z. `lie` gets the words of a command, the data and the status that an honest one
    would send, and says what is sent instead; data that are no bytes are for each transfer of them.
    """

    def __init__(self, product: int = 0x57, *, configuration: Configuration = STICK) -> None:
        super().__init__(product, configurations=[configuration.emit()])
        self.capacity = struct.pack(">II", BLOCKS - 1, 512)
        self.capacity16 = bytes(32)
        self.lie: Callable[[bytes, bytes, bytes], tuple[Answer, Answer]] = lambda _words, data, status: (data, status)
        self.letter = b"z"
        self.commands: list[bytes] = []
        self._forget()

    def _forget(self) -> None:
        self._data: Answer = b""
        self._left = 0
        self._status: Answer = Status.stall

    def control(self, setup: Setup, data: bytes) -> Answer:
        if (setup.request_type, setup.request) == (0x21, bulk_only.RESET):
            self._forget()
        return super().control(setup, data)

    def transfer(self, urb: Urb, data: bytes) -> Answer:
        if not self._left and not urb.pipe.inward:
            return self._begin(data)
        if not self._left:
            return self._status
        self._left -= min(self._left, urb.length)
        if not urb.pipe.inward or not isinstance(self._data, bytes):
            return self._data if not isinstance(self._data, bytes) else b""
        part, self._data = self._data[: urb.length], self._data[urb.length :]
        return part

    def _begin(self, data: bytes) -> Answer:
        command = Command.parse(data)
        if command is None:
            return Status.stall
        self.commands.append(command.words)
        said = self._read(command)[: command.size] if command.inward else b""
        residue = command.size - len(said) if command.inward else 0
        status = Outcome(command.tag, residue, bulk_only.PASSED).emit()
        self._left = command.size
        self._data, self._status = self.lie(command.words, said, status)
        return b""

    def _read(self, command: Command) -> bytes:
        op = command.words[0]
        if op in (0x28, 0x88):
            return self.letter * command.size
        return {
            0x03: b"\x70\0\x05".ljust(18, b"\0"), 0x12: bytes(36), 0x1A: bytes(4), 0x25: self.capacity,
            0x9E: self.capacity16,
        }.get(op, b"")  # fmt: skip


def read_from(words: bytes) -> int | None:
    """The first block of a command, if it reads."""
    return int.from_bytes(words[2:6], "big") if words[0] == 0x28 else None


class UsbMachine:
    """A machine whose domain 0 is this process."""

    def __init__(self, folder: Path, held: ExitStack) -> None:
        self.mount = Mount(folder / "xen", 1 << 15)
        held.callback(self.mount.close)
        self.mount.arm(600)
        self.point, self.folder = str(folder / "xen"), folder
        self.root = held.enter_context(MountedDomain(0, self.point))

    @contextmanager
    def back(self, ports: int = PORTS, program: Sequence[str] = ("-m", "xenusb.front")) -> Iterator[UsbBack]:
        """A guest with a usbfront, and its backend, which has not offered anything."""
        domid = self.root.call(CreateDomain(frames=2048)).domid
        wanted = kinds.parse("vusb", f"ports={ports}", domid, 0, int)
        spec.add(self.root.store, wanted)
        log = self.folder / f"log-{domid}"
        with log.open("ab") as said:
            front = subprocess.Popen(
                [sys.executable, *program, "0"],
                env={**os.environ, "XEN": self.point, "XEN_DOMID": str(domid), "TMPDIR": str(self.folder)},
                stderr=said,
                stdin=subprocess.DEVNULL,
            )
        with front:
            try:
                made = UsbBack(self, domid, front, log)
                try:
                    yield made
                finally:
                    made.close()
                assert front.poll() is None, f"usbfront must not end: {log.read_text()}"
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
        self.say()
        self.set_state(S.Connected)
        for port, device in (self.devices if devices is None else devices).items():
            self.plug(port, device)
        return self

    def let_go(self) -> None:
        """Close, from one moment to the next."""
        self.held.close()
        self.held = ExitStack()
        self._addresses, self.left = {}, {}
        self.set_state(S.Closed)
        self.until_state(S.Closed, S.Initialising)

    def again(self) -> UsbBack:
        """Come back honestly, with what was in the ports."""
        self.let_go()
        self.lie, self.deaf = (lambda _urb, answer: [answer]), False
        self.set_state(S.InitWait)
        self.until_state(S.Connected)
        self.say()
        self.set_state(S.Connected)
        for port, device in self.devices.items():
            self.plug(port, device)
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
        return self.lie(urb, (urb.id, 0, 0, len(said) if urb.pipe.inward else urb.length, 0))

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
        return device.control(setup, b"" if urb.pipe.inward else self.got(urb))

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
        place = next(place for place in self.places() if place.exported.product == product)
        handle = self.call(place.open)
        self._clients.callback(handle.close)
        return handle

    def alive(self, handle: Handle | None = None) -> None:
        """The first device says who it is."""
        own = self.open() if handle is None else handle
        assert self.call(own.device).product == 1
        if handle is None:
            own.close()

    def socket(self) -> socket.socket:
        """A connection to usbfront that has said nothing."""
        connection = self._clients.enter_context(socket.socket(socket.AF_UNIX))
        connection.settimeout(SECONDS)
        connection.connect(self.key("xenfs-usb"))
        return connection

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
