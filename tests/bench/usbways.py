"""Transfers to USB devices by several ways in turns, from a guest's network: `… tests.bench.usbways DOMID IMAGE`.

The guest has a stick and a loopback device, and this process a controller of its own with the same, in another domain.
Prints the median rate of each measure.
"""

from __future__ import annotations

import json
import os
import socket
import struct
import sys
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from statistics import median

from xenusb import client
from xenusb.bulk_only import PASSED, STATUS, Command, Outcome
from xenusb.descriptors import TO_DEVICE, VENDOR, Setup
from xenusb.front import UsbFront
from xenusb.hub import Attached
from xenusb.importing import take
from xenusb.loopback import FETCH, STORE
from xenusb.stick import IN, OUT
from xenusb.urbs import MOST, Want
from xenusb.usbip import ADDRESS_KEY, Answers, Exported, Submit, Submitted
from xl import spec, usb

from tests.mounted.mount import until
from xenfs.abi.usbif import PipeType, Status
from xenfs.abi.xenfs_op import CreateDomain, DestroyDomain
from xenfs.domain.mounted import MountedDomain

ROUNDS, SECONDS, WARM = 5, 0.4, 0.15
DEPTH = 8
STICK, LOOPBACK = 1, 2
"""Ports."""
SPAN = 32 << 20
"""Bytes of the image that are read and written, again and again."""
PIECES = 2
"""Transfers of data in a command: of 120 KiB, as Linux's usb-storage has it."""
_BLOCK, _INWARD, _ROOM = 512, 0x80, 1 << 18
_KEPT = bytes(range(16))
_FETCH = Setup(_INWARD | VENDOR << 5 | TO_DEVICE, FETCH, 0, 0, len(_KEPT))
_STORE = Setup(VENDOR << 5 | TO_DEVICE, STORE, 0, 0, len(_KEPT))
_REQUEST, _ANSWER = bytes(48), bytes(64)
"""Of the sizes that USB/IP has for the same."""
Done = Callable[[bytes], None]
Measure = Callable[[float], float]
"""Of so many seconds."""


@dataclass(slots=True)
class Ask:
    """A transfer; `done` hears what came."""

    address: int
    size: int
    done: Done
    data: bytes = b""
    setup: Setup | None = None

    @property
    def inward(self) -> bool:
        return bool(self.address & _INWARD)


class Way(ABC):
    """How transfers get to one device."""

    @abstractmethod
    def begin(self, ask: Ask) -> None:
        """Ask, with the next `wait`."""

    @abstractmethod
    def wait(self) -> None:
        """For answers, at least one."""


class Ring(UsbFront):
    """A usbfront whose devices are nobody's but ours."""

    def _bind(self, device: Attached) -> None:
        pass

    def configured(self, port: int) -> bool:
        """Whether a device is in a port, after another turn."""
        self.loop.turn(0.01)
        return self.server is not None and port in self.hub.devices and self.hub.devices[port].value > 0


class Direct(Way):
    """Into the ring, out of this process."""

    def __init__(self, front: Ring, port: int) -> None:
        self._front, self._device = front, front.hub.devices[port]

    def begin(self, ask: Ask) -> None:
        def over(want: Want) -> None:
            assert (want.status, want.actual) == (Status.ok, want.size), (want.status, want.actual, want.size)
            ask.done(want.data if want.inward else b"")

        device, kind = self._device, PipeType.bulk if ask.setup is None else PipeType.control
        self._front.urbs.submit(
            Want(device.port, device.address, kind, ask.address & 0x0F, ask.inward, ask.size, over, ask.setup, ask.data)
        )

    def wait(self) -> None:
        self._front.urbs.push()
        self._front.loop.turn(1.0)


class Remote(Way):
    """USB/IP over a connection that has imported the device."""

    def __init__(self, connection: socket.socket, exported: Exported) -> None:
        self._socket, self._id = connection, exported.id
        self._answers = Answers()
        self._asked: dict[int, Ask] = {}
        self._number = 0
        self._unsent = bytearray()

    def begin(self, ask: Ask) -> None:
        self._number += 1
        self._asked[self._number] = ask
        self._answers.inward[self._number] = ask.inward
        setup = bytes(8) if ask.setup is None else ask.setup.emit()
        self._unsent += Submit(
            self._number, self._id, ask.inward, ask.address & 0x0F, ask.size, setup=setup, data=ask.data
        ).emit()

    def wait(self) -> None:
        if self._unsent:
            self._socket.sendall(self._unsent)
            self._unsent.clear()
        data = self._socket.recv(_ROOM)
        assert data, "usbfront has ended the connection"
        for answer in self._answers.feed(data):
            ask = self._asked.pop(answer.number)
            assert isinstance(answer, Submitted)
            assert (answer.status, answer.actual) == (0, ask.size), (answer.status, answer.actual, ask.size)
            ask.done(answer.data)


# What is measured: each a number a second.


def control(way: Way, depth: int, seconds: float) -> float:
    """Control transfers."""
    done = flying = 0

    def over(data: bytes) -> None:
        nonlocal done, flying
        assert data == _KEPT
        done, flying = done + 1, flying - 1

    begun = time.perf_counter()
    while flying or time.perf_counter() < begun + seconds:
        while flying < depth and time.perf_counter() < begun + seconds:
            flying += 1
            way.begin(Ask(_INWARD, len(_KEPT), over, setup=_FETCH))
        way.wait()
    return done / (time.perf_counter() - begun)


def keep(way: Way) -> None:
    """Give the loopback device what it is to give back."""
    said: list[bytes] = []
    way.begin(Ask(0, len(_KEPT), said.append, _KEPT, _STORE))
    while not said:
        way.wait()


def bulk(way: Way, seconds: float, *, writes: bool) -> float:
    """MB, by commands to a stick, one behind the other."""
    data, size, moved, left = os.urandom(MOST), PIECES * MOST, 0, 0

    def over(_data: bytes) -> None:
        nonlocal left
        left -= 1

    def judged(said: bytes) -> None:
        assert Outcome.parse(said) == Outcome(1, 0, PASSED), said
        over(said)

    begun = time.perf_counter()
    while time.perf_counter() < begun + seconds:
        place = moved % (SPAN - SPAN % size) // _BLOCK
        words = struct.pack(">BBIBHB", 0x2A if writes else 0x28, 0, place, 0, size // _BLOCK, 0)
        command = Command(1, size, not writes, 0, words).emit()
        way.begin(Ask(OUT, len(command), over, command))
        for _ in range(PIECES):
            way.begin(Ask(OUT, MOST, over, data) if writes else Ask(IN | _INWARD, MOST, over))
        way.begin(Ask(IN | _INWARD, STATUS.size, judged))
        left = PIECES + 2
        while left:
            way.wait()
        moved += size
    return moved / (time.perf_counter() - begun) / 1e6


def through_client(handle: client.Handle, threads: int, seconds: float) -> float:
    """Control transfers, as programs make them."""
    ends = time.perf_counter() + seconds
    found: list[int] = []

    def work() -> None:
        count = 0
        while time.perf_counter() < ends:
            assert handle.control(_FETCH) == _KEPT
            count += 1
        found.append(count)

    workers = [threading.Thread(target=work) for _ in range(threads - 1)]
    begun = time.perf_counter()
    for worker in workers:
        worker.start()
    work()
    for worker in workers:
        worker.join()
    assert len(found) == threads
    return sum(found) / (time.perf_counter() - begun)


class Echo:
    """A process that answers, and nothing else."""

    def __init__(self) -> None:
        self._socket, theirs = socket.socketpair()
        if not (pid := os.fork()):
            self._socket.close()
            while theirs.recv(_ROOM):
                theirs.sendall(_ANSWER)
            os._exit(0)
        theirs.close()
        self._pid = pid

    def round_trips(self, cores: int, seconds: float) -> float:
        """A question and its answer, with both processes on one core or on two: left to themselves they are on either,
        which are far apart."""
        before = os.sched_getaffinity(0)
        place = sorted(before)
        os.sched_setaffinity(0, place[:1])
        os.sched_setaffinity(self._pid, place[:cores][-1:])
        done, begun = 0, time.perf_counter()
        while time.perf_counter() < begun + seconds:
            self._socket.sendall(_REQUEST)
            answer = self._socket.recv(_ROOM)
            assert len(answer) == len(_ANSWER)
            done += 1
        took = time.perf_counter() - begun
        os.sched_setaffinity(0, before)
        return done / took

    def close(self) -> None:
        self._socket.close()
        os.waitpid(self._pid, 0)


# Where it is measured.


@contextmanager
def controller(root: MountedDomain, image: str) -> Iterator[Ring]:
    """A guest of our own with both devices."""
    domid = root.call(CreateDomain(frames=2048)).domid
    with ExitStack() as held:
        held.callback(lambda: root.call(DestroyDomain(dom=domid)))
        wanted = usb.parse("", domid, 0, int)
        spec.add(root.store, wanted)
        held.callback(lambda: spec.detach(root.store, [wanted.device], destroy=True))
        spec.wait_ready(root.store, wanted)
        front = Ring(held.enter_context(MountedDomain(domid)), wanted.device.id)
        held.callback(front.close)
        held.callback(front.remove)
        front.start()
        for port, what in ((STICK, f"stick:{image}"), (LOOPBACK, "loopback:")):
            usb.plug(root.store, wanted.device, port, what)
            until(lambda port=port: front.configured(port))  # type: ignore[misc]
        yield front


@contextmanager
def imported(address: str, bus_id: str) -> Iterator[Remote]:
    """A device, by the server's address: a path, or host:port."""
    local = address.startswith("/")
    with socket.socket(socket.AF_UNIX if local else socket.AF_INET) as connection:
        if local:
            connection.connect(address)
        else:
            host, _, port = address.rpartition(":")
            connection.connect((host, int(port)))
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.settimeout(20)
        yield Remote(connection, take(connection, bus_id))


def main(domid: int, image: str) -> None:
    """Be beside a guest."""
    with ExitStack() as held:
        echo = Echo()
        held.callback(echo.close)
        root = held.enter_context(MountedDomain(0))
        front = held.enter_context(controller(root, image))
        address = root.store.read(f"{usb.controllers(root.store, domid)[0].frontend_path}/{ADDRESS_KEY}").decode()
        places = {place.exported.bus_id: place for place in client.devices(domid)}
        place = places[f"1-{LOOPBACK}"]
        handle = held.enter_context(place.open())
        local = held.enter_context(imported(place.path, f"1-{LOOPBACK}"))
        ring = Direct(front, LOOPBACK)
        keep(local)
        keep(ring)
        ip_stick = held.enter_context(imported(address, f"1-{STICK}"))
        ip = held.enter_context(imported(address, f"1-{LOOPBACK}"))
        ways: dict[str, Way] = {"socket": local, "ring": ring, "usbip": ip}
        sticks: dict[str, Way] = {"ring": Direct(front, STICK), "usbip": ip_stick}
        measures: dict[str, Measure] = {f"bare {cores}": partial(echo.round_trips, cores) for cores in (1, 2)}
        for depth in (1, DEPTH):
            measures[f"client {depth}"] = partial(through_client, handle, depth)
            measures |= {f"{name} {depth}": partial(control, way, depth) for name, way in ways.items()}
        for writes, what in ((False, "read"), (True, "write")):
            measures |= {f"{name} {what}": partial(bulk, way, writes=writes) for name, way in sticks.items()}
        print(json.dumps(alternate(measures)))


def alternate(measures: dict[str, Measure]) -> dict[str, float]:
    """The median of each, taken in turns."""
    found: dict[str, list[float]] = {name: [] for name in measures}
    for measure in measures.values():
        measure(WARM)
    for _ in range(ROUNDS):
        for name, measure in measures.items():
            found[name].append(measure(SECONDS))
    return {name: median(values) for name, values in found.items()}


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
