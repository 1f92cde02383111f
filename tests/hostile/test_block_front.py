"""B14 and group R against blkfront: a backend that answers nonsense, and a guest whose disk survives it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from xl import kinds, spec

from tests.mounted.mount import until
from xenfs.abi.blkif import SEGMENT, X86_64, Op
from xenfs.abi.xenbus import XenbusState as S
from xenfs.abi.xenfs_op import CreateDomain, DestroyDomain
from xenfs.domain.mounted import MountedDomain
from xenfs.ring import Entry
from xenfs.testing.mount import Mount
from xenfs.testing.peers import MockBack
from xenfs.xenbus import OtherEnd
from xenfs.xenbus.end import read_state

pytestmark = pytest.mark.timeout(90)
SECONDS = 20.0
NUMBER = 51712
READ = "import os, sys; fd = os.open(sys.argv[1], os.O_RDONLY); print(os.pread(fd, 512, 4096)[:8])"
WRITE = "import os, sys; fd = os.open(sys.argv[1], os.O_RDWR); print(os.pwrite(fd, b'x' * 512, 0))"


class DiskBack:
    """The backend: this process. It answers when a test says so."""

    def __init__(self, folder: Path, held: ExitStack) -> None:
        self.folder = folder
        mount = Mount(folder / "xen", 1 << 15)
        held.callback(mount.close)
        mount.arm(300)
        point = str(folder / "xen")
        self.root = held.enter_context(MountedDomain(0, point))
        self.store = self.root.store
        self.domid = self.root.call(CreateDomain(frames=2048)).domid
        self.path = f"/local/domain/0/backend/vbd/{self.domid}/{NUMBER}"
        self.front_path = f"/local/domain/{self.domid}/device/vbd/{NUMBER}"
        wanted = kinds.parse("vbd", "/dev/null,raw,xvda,rw", self.domid, 0, int)
        spec.add(self.store, wanted)
        with (folder / "log").open("ab") as log:
            environment = {**os.environ, "XEN": point, "XEN_DOMID": str(self.domid), "TMPDIR": str(folder)}
            words = [sys.executable, "-m", "xenblk.front", str(NUMBER)]
            self.front = subprocess.Popen(words, env=environment, stderr=log, stdin=subprocess.DEVNULL)
        self.started: list[subprocess.Popen[str]] = []
        held.callback(self._end)
        self.held = ExitStack()
        held.callback(lambda: self.held.close())

    def _end(self) -> None:
        self.front.send_signal(signal.SIGKILL)
        self.front.wait()
        for process in self.started:  # which may have waited for the disk, that has gone
            process.kill()
            process.communicate()
        for folder in self.folder.glob("disk-*"):  # as the toolstack does: who is killed as it mounts leaves that
            subprocess.run(["fusermount", "-uzq", folder], check=False, stderr=subprocess.DEVNULL)
        self.root.call(DestroyDomain(dom=self.domid))

    def set_state(self, state: S) -> None:
        self.store.write(f"{self.path}/state", str(int(state)))

    def until_state(self, *states: S) -> None:
        until(lambda: read_state(self.store, self.front_path) in states, SECONDS)

    def connect(self, **late: int) -> DiskBack:
        """Offer, map the ring, say what the disk is like, and serve until the frontend is connected."""
        self.say(**late)
        self.serve_until(lambda: read_state(self.store, self.front_path) is S.Connected)
        return self

    def say(self, **late: int) -> None:
        """As far as saying what the disk is like."""
        self.until_state(S.Initialising)
        self.store.write(f"{self.path}/feature-max-indirect-segments", "0")
        self.set_state(S.InitWait)
        self.until_state(S.Initialised)
        keys = OtherEnd(self.store, self.front_path)
        page = self.held.enter_context(self.root.memory.map(self.domid, [keys.number("ring-ref")]))
        self.ring = self.held.enter_context(MockBack(page, X86_64, lambda *_: None))
        self.channel = self.held.enter_context(
            self.root.events.bind_interdomain(self.domid, keys.number("event-channel"))
        )
        said = {"sectors": 2048, "info": 0, "sector_size": 512, "feature_flush_cache": 1, **late}
        for name, value in said.items():
            self.store.write(f"{self.path}/{name.replace('_', '-')}", str(value))
        self.set_state(S.Connected)

    def take(self) -> Entry:
        """The next request."""
        found: list[Entry] = []

        def there() -> bool:
            found.extend(self.ring.ring.take(1))
            return bool(found)

        until(there, SECONDS)
        return found[0]

    def answer(self, *responses: Entry) -> None:
        """Responses, for requests that have been taken."""
        self.ring.ring.respond_many(responses)
        self.ring.publish()
        self.channel.notify()

    def carry_out(self, entry: Entry) -> None:
        """Do what a request asks: the disk is full of the letter z."""
        op, count, _, _, _, rest = entry
        if op == Op.read:
            for ref, first, last in SEGMENT.iter_unpack(rest[: count * SEGMENT.size]):
                with self.root.memory.map(self.domid, [ref]) as view:
                    view[first * 512 : (last + 1) * 512] = b"z" * ((last - first + 1) * 512)

    def honest(self, entry: Entry) -> None:
        """Do what a request asks, and say so."""
        self.carry_out(entry)
        self.answer((entry[3], entry[0], 0))

    def serve_until(self, over: object) -> None:
        """Answer honestly until something is true: attaching a loop device reads from the disk."""
        assert callable(over)
        deadline = time.monotonic() + SECONDS
        while not over():
            for entry in self.ring.ring.take():
                self.honest(entry)
            self.ring.ring.final_check()
            assert time.monotonic() < deadline
            self.channel.wait(0.01)
            self.channel.drain()

    def start(self, code: str) -> subprocess.Popen[str]:
        """A program that uses the disk's file."""
        file = self.store.read(f"{self.front_path}/xenfs-file").decode()
        words = ["timeout", "-s", "KILL", "20", sys.executable, "-c", code, file]
        process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self.started.append(process)
        return process

    def until_stopped(self, words: str) -> None:
        """Until the frontend has closed, and says why."""
        error = f"/local/domain/{self.domid}/error/device/vbd/{NUMBER}/error"
        until(lambda: self.store.exists(error), SECONDS)
        assert words in self.store.read(error).decode(), self.store.read(error)
        self.until_state(S.Closing, S.Closed)
        assert self.front.poll() is None

    def again(self, waiting: subprocess.Popen[str]) -> None:
        """Let go, come back honestly; who has waited all the time gets an honest answer."""
        self.held.close()
        self.held = ExitStack()
        self.set_state(S.Closed)
        self.until_state(S.Closed, S.Initialising)
        self.set_state(S.InitWait)
        self.connect()
        self.serve_until(lambda: waiting.poll() is not None)
        said, wrong = waiting.communicate()
        assert said == "b'zzzzzzzz'\n", wrong


@pytest.fixture
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DiskBack]:
    with ExitStack() as held:
        yield DiskBack(tmp_path_factory.mktemp("machine"), held)


@pytest.fixture
def back(fresh: DiskBack) -> DiskBack:
    return fresh.connect()


@pytest.mark.parametrize(
    ("name", "value"), [("sectors", 1 << 54), ("sectors", -1), ("sector_size", 0), ("sector_size", 768), ("info", 8)]
)
def test_a_disk_that_cannot_be_is_refused_and_a_possible_one_taken(fresh: DiskBack, name: str, value: int) -> None:
    fresh.say(**{name: value})
    fresh.until_stopped(f"{name.replace('_', '-')} = '{value}'")
    fresh.held.close()
    fresh.held = ExitStack()
    fresh.set_state(S.Closed)
    fresh.until_state(S.Initialising)
    fresh.connect()


def test_a_flush_is_a_barrier_where_that_is_all_there_is(fresh: DiskBack) -> None:
    fresh.connect(feature_flush_cache=0, feature_barrier=1)
    writer = fresh.start(WRITE + "; os.fsync(fd); print('flushed')")
    barriers = []
    while writer.poll() is None:
        for entry in fresh.ring.ring.take():
            if entry[0] == Op.write_barrier:
                barriers.append(entry[1])
            fresh.honest(entry)
        fresh.channel.wait(0.01)
    assert writer.communicate()[0] == "512\nflushed\n"
    assert barriers == [0], "once, with no segments"


def test_an_honest_backend_is_read_from(back: DiskBack) -> None:
    reader = back.start(READ)
    back.serve_until(lambda: reader.poll() is not None)
    assert reader.communicate()[0] == "b'zzzzzzzz'\n"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda number, op: (number ^ 512, op, 0), "not in flight"),
        (lambda _number, op: ((1 << 64) - 1, op, 0), "not in flight"),
        (lambda number, _op: (number, int(Op.write), 0), "operation 1"),
        (lambda number, op: (number, op, 7), "status 7"),
        (lambda number, op: (number, op, -3), "status -3"),
    ],
)
def test_b14_a_response_that_answers_nothing_breaks_the_device_and_the_guest_waits(
    back: DiskBack, change: object, words: str
) -> None:
    assert callable(change)
    reader = back.start(READ)
    op, _, _, number, _, _ = back.take()
    back.answer(change(number, op))
    back.until_stopped(words)
    assert reader.poll() is None, "it waits for a backend that knows"
    back.again(reader)


def test_b14_a_response_that_comes_twice(back: DiskBack) -> None:
    reader = back.start(READ)
    entry = back.take()
    back.carry_out(entry)  # for a frontend that takes the first before it sees the second
    back.ring.ring.respond(entry[3], entry[0], 0)
    back.ring.raw.scribble_slot(back.ring.raw.get("rsp_prod") + 1, back.ring.raw.slot(back.ring.raw.get("rsp_prod")))
    back.ring.publish()
    back.ring.raw.jump("rsp_prod", 1)
    back.channel.notify()
    back.until_stopped("rsp_prod")
    back.again(reader)


@pytest.mark.parametrize("distance", [1, 33, 1 << 31, -1])
def test_r1_responses_that_cannot_be(back: DiskBack, distance: int) -> None:
    back.ring.raw.jump("rsp_prod", distance)
    back.channel.notify()
    back.until_stopped("rsp_prod")


@pytest.mark.parametrize("status", [-1, -2])
def test_an_error_is_the_readers(back: DiskBack, status: int) -> None:
    reader = back.start(READ)
    while reader.poll() is None:
        for op, _, _, number, _, _ in back.ring.ring.take():
            back.answer((number, op, status))
        back.channel.wait(0.01)
    assert "Input/output error" in reader.communicate()[1]


def test_a_flush_that_is_not_known_is_not_asked_again(back: DiskBack) -> None:
    writer = back.start(WRITE + "; os.fsync(fd); os.fsync(fd); print('flushed')")
    flushes = 0
    while writer.poll() is None:
        for entry in back.ring.ring.take():
            if entry[0] == Op.flush_diskcache:
                flushes += 1
                back.answer((entry[3], entry[0], -2))
            else:
                back.honest(entry)
        back.channel.wait(0.01)
    assert writer.communicate()[0] == "512\nflushed\n"
    assert flushes == 1
