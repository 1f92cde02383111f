"""Six broken situations, each named by `explain` and `lint`; and what the two say when all is well."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from xenecho import ECHO, LAYOUT
from xenecho.back import EchoBack
from xenecho.front import EchoFront
from xl import findings
from xl.facts import MountedFacts

from tests.mounted.mount import until
from tests.toolstack.stage import Stage
from tests.xenbus.toolstack import attach
from xenfs.domain.mounted import MountedDomain
from xenfs.xenbus import Device, Loop
from xenfs.xenbus.classes import VIF

pytestmark = pytest.mark.timeout(110)


class Pair:
    """Both ends in this process, turned by hand."""

    def __init__(self, stage: Stage) -> None:
        self.stage, self.loop, self.said = stage, Loop(), list[str]()
        Path(stage.point, "domains", "1").mkdir()
        self.device = Device("echo", 1, 0)
        attach(stage.store, self.device)
        self.guest, self.host = MountedDomain(1, stage.point), MountedDomain(0, stage.point)
        self.front = EchoFront(self.guest, 0, loop=self.loop, log=self.said.append)
        self.back = EchoBack(self.host, 1, 0, loop=self.loop, log=self.said.append)

    def turn(self, count: int = 30) -> None:
        for _ in range(count):
            self.loop.turn(0.002)

    def connect(self) -> None:
        self.front.start()
        self.back.start()
        self.turn()

    def codes(self) -> set[str]:
        found = findings.of_device(self.stage.store, MountedFacts(self.stage.point), self.device)
        return {finding.code for finding in found}

    def close(self) -> None:
        self.front.close()
        self.back.close()
        self.guest.close()
        self.host.close()
        self.loop.close()


@pytest.fixture
def pair(stage: Stage) -> Iterator[Pair]:
    made = Pair(stage)
    yield made
    made.close()


def no_ring_ref(pair: Pair) -> None:
    pair.front.share_ring = lambda *_: None  # type: ignore[method-assign, assignment]
    pair.front.connected = lambda *_: None  # type: ignore[method-assign]
    pair.connect()


def dead_backend(pair: Pair) -> None:
    pair.connect()
    pair.back.close()  # as kill -9 leaves it
    pair.host.close()


def no_hotplug(pair: Pair) -> None:
    path = pair.device.backend_path
    pair.stage.store.write(f"{path}/state", "2")


def unbound_channel(pair: Pair) -> None:
    pair.connect()
    pair.back.channel.close()


def revoked_grant(pair: Pair) -> None:
    pair.connect()
    ref = int(pair.stage.store.read(f"{pair.device.frontend_path}/ring-ref"))
    pair.guest.memory.end_access([ref], defer=True)
    pair.back.close()
    pair.stage.store.write(f"{pair.device.backend_path}/state", "4")


def full_ring(pair: Pair) -> None:
    pair.connect()
    pair.loop.unwatch(pair.back.channel.fileno())
    pair.front.work()
    ring = pair.front.ring
    ring.push_many([(n, n) for n in range(ring.free)])
    ring.publish()


SITUATIONS: list[tuple[Callable[[Pair], None], str]] = [
    (no_ring_ref, "no-ring-ref"),
    (dead_backend, "backend-dead"),
    (no_hotplug, "hotplug-missing"),
    (unbound_channel, "channel-unbound"),
    (revoked_grant, "grant-revoked"),
    (full_ring, "ring-full"),
]


@pytest.mark.parametrize(("begin", "code"), SITUATIONS, ids=[code for _, code in SITUATIONS])
def test_each_is_named(stage: Stage, pair: Pair, begin: Callable[[Pair], None], code: str) -> None:
    if code == "hotplug-missing":
        pair.device = Device("vif", 1, 0)
        attach(stage.store, pair.device, {"mac": "00:16:3e:00:00:01"}, {"mac": "00:16:3e:00:00:01"})
    begin(pair)
    assert code in pair.codes()
    explained = stage.fine("explain", pair.device.kind, "1/0")
    assert f"[{code}]" in explained
    done = stage.xenfs("lint")
    assert f"{pair.device}" in done.stdout
    assert f"[{code}]" in done.stdout
    assert done.returncode == (0 if code == "ring-full" else 1)


def test_a_dead_backend_comes_first_and_nothing_says_that_all_is_well(stage: Stage, pair: Pair) -> None:
    dead_backend(pair)
    first, *rest = stage.fine("explain", "echo", "1/0").splitlines()
    assert first.endswith("it is dead; is devd running? [backend-dead]")
    assert [line.split()[0] for line in rest] == ["frontend", "backend"], "what is in the store, and no more"


def test_nothing_is_found_when_all_is_well(stage: Stage, pair: Pair) -> None:
    pair.connect()
    until(lambda: pair.codes() == set())
    said = stage.fine("explain", "echo", "1/0")
    assert "frontend /local/domain/1/device/echo/0: 4 (Connected)" in said.replace("  ", " ")
    assert said.count("  nothing to do: both ends are connected\n") == 2
    assert "nothing is wrong" in said
    assert stage.fine("lint") == ""
    shown = stage.fine("ring", "1", "echo-0-ring").splitlines()
    assert shown[0].startswith("echo-0-ring: ")
    assert f"of {LAYOUT.slots(4096)} in flight" in shown[0]
    pair.loop.unwatch(pair.back.channel.fileno())
    pair.front.pause = 100.0
    pair.turn(10)
    pair.front.ring.push(7, 77)
    pair.front.ring.publish()
    shown = stage.fine("ring", "1", "echo-0-ring").splitlines()
    assert any(line.split()[1:] == ["id", "7", "number", "77"] for line in shown)
    assert "it has: echo-0-ring" in stage.fails("ring", "1", "vif-0-tx")


def test_trace_of_one_device(stage: Stage, pair: Pair) -> None:
    pair.connect()
    said = stage.fine("trace", "--device", "echo-0")
    calls = {line.split()[2] for line in said.splitlines()}
    assert {"alloc_frame", "grant_access", "name_ring", "alloc_unbound", "map_grant_ref", "bind_interdomain"} <= calls
    assert "create_domain" not in calls
    for other in ("echo-1", "vif"):
        assert "no call for such a device is remembered" in stage.fails("trace", "--device", other)


@pytest.mark.parametrize("kind", ["vif", "vbd", "vusb", "echo"])
def test_a_kinds_states_and_keys(stage: Stage, kind: str) -> None:
    said = stage.fine("explain", kind)
    assert "The frontend of" in said
    keys = {"vif": VIF, "echo": ECHO}.get(kind)
    if keys is not None:
        assert all(key.name in said for key in keys.keys)


def test_ports_and_grants(stage: Stage, pair: Pair) -> None:
    pair.connect()
    assert "state=interdomain" in stage.fine("explain", "evtchn", "1/1")
    ref = stage.store.read(f"{pair.device.frontend_path}/ring-ref").decode()
    assert "maps=1" in stage.fine("explain", "grant", f"1/{ref}")
    assert "an event at the end that binds" in stage.fine("explain", "evtchn")
    assert stage.fails("explain", "grant", "1/999").endswith("domain 1 has no grant 999")
    assert "not DOMID/NUMBER" in stage.fails("explain", "vif", "one")
    assert "not one of" in stage.fails("explain", "pci")


BROKEN = {
    "missing": ("", "No module named 'no_such_driver'"),
    "raises": ("raise RuntimeError('out of order')", "out of order"),
}


@pytest.mark.parametrize(("program", "reason"), BROKEN.values(), ids=BROKEN)
def test_a_driver_that_cannot_be_loaded_is_told_where_it_is_asked_for_and_no_harm_elsewhere(
    stage: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, program: str, reason: str
) -> None:
    if program:
        (tmp_path / "no_such_driver.py").write_text(program)
    metadata = tmp_path / "other-1.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: other\nVersion: 1\n")
    (metadata / "entry_points.txt").write_text("[xenfs.frontends]\ncrc = no_such_driver:CrcFront\n")
    path = os.pathsep.join(filter(None, (str(tmp_path), os.environ.get("PYTHONPATH"))))
    monkeypatch.setitem(stage.environment, "PYTHONPATH", path)
    Path(stage.point, "domains", "1").mkdir()
    attach(stage.store, Device("crc", 1, 0))
    why = f"its driver cannot be loaded: {reason}"
    for words in (("crc",), ("crc", "1/0")):
        done = stage.xenfs("explain", *words)
        assert (done.returncode, done.stdout, done.stderr) == (1, "", f"xenfs explain: crc: {why}\n")
    done = stage.xenfs("lint")
    assert "Traceback" not in done.stderr
    assert "crc 1/0: no backend has come" in done.stdout
    row = stage.fine("top", "--once", "--panes", "devices").splitlines()[-1]
    assert row.startswith("crc 1/0 ")
    assert "Initialising" in row
    assert "no backend has come" in row
    stage.store.write("/local/domain/0/backend/crc/1/0/state", "2")
    assert stage.fine("top", "--once", "--panes", "devices").splitlines()[-1].endswith(why)
