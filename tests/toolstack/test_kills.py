"""The echo pair and its supervisors: attached and detached again and again, and killed at any moment."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from xl import spec, toolstack

from tests.mounted.mount import until
from tests.toolstack.stage import SECONDS, Stage
from xenfs.abi.xenbus import XenbusState as S
from xenfs.xenbus import Device

pytestmark = pytest.mark.timeout(180)
CYCLES = int(os.environ.get("XENFS_CYCLES", "200"))


def descriptors(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def test_two_hundred_attachments_leave_nothing(stage: Stage) -> None:
    devd = stage.devd()
    device = Device("echo", stage.guest(), 0)

    def held() -> tuple[int, int, int]:
        return descriptors(devd.pid), descriptors(stage.mount.pid), len(stage.store.list("/local/domain/0"))

    before = (0, 0, 0)
    for cycle in range(CYCLES):
        stage.mount.arm(60)
        stage.attach(device)
        stage.until_connected(device)
        assert spec.detach(stage.store, [device]) == []
        assert stage.states(device) == (S.Unknown, S.Unknown)
        if cycle in (1, CYCLES - 1):
            stage.until_clean()
            until(lambda: not stage.pids("device/echo") and not stage.pids("backend/echo"))
            before = before if any(before) else held()
    # devd closes what it had of a driver a moment after the driver has gone
    until(lambda: all(now <= then for now, then in zip(held(), before, strict=True)), SECONDS)
    assert "Traceback" not in stage.log()


@pytest.mark.parametrize("victim", ["device/echo", "backend/echo", "xl.guest"])
def test_a_killed_driver_or_supervisor_is_started_again_and_requests_go_on(stage: Stage, victim: str) -> None:
    stage.devd()
    device = Device("echo", stage.guest(), 0)
    stage.attach(device)
    stage.until_connected(device)
    stage.until_echoes(device)
    other = "backend/echo" if victim != "backend/echo" else "device/echo"
    kept = stage.one(other)
    for _ in range(3):
        before = stage.one(victim)
        stage.kill(victim)
        until(lambda before=before: stage.pids(victim) not in ([], [before]), SECONDS)  # type: ignore[misc]
        until(lambda: stage.states(device) == (S.Connected, S.Connected), SECONDS)
        stage.until_echoes(device)
    assert stage.one(other) == kept, "the other end must not start anew"
    assert spec.detach(stage.store, [device]) == []


def test_devd_killed_its_backends_end_and_another_devd_takes_over(stage: Stage) -> None:
    devd = stage.devd()
    device = Device("echo", stage.guest(), 0)
    stage.attach(device)
    stage.until_connected(device)
    devd.kill()
    devd.wait()
    until(lambda: stage.pids("backend/echo") == [], SECONDS)
    stage.devd()
    stage.until_connected(device)
    stage.until_echoes(device)


def test_the_keeper_killed_takes_the_guest_with_it_and_destroy_clears_up(stage: Stage) -> None:
    stage.devd()
    domid = stage.guest(init="sleep 1000")
    device = Device("echo", domid, 0)
    stage.attach(device)
    stage.until_connected(device)
    stage.kill("xl.keeper")
    until(lambda: stage.pids("xl.guest") == stage.pids("device/echo") == [], SECONDS)
    assert "--p---" in stage.fine("list", str(domid))
    toolstack.destroy(stage.root, stage.point, domid)
    until(lambda: stage.pids("backend/echo") == [], SECONDS)
    stage.until_clean()


TOOL = """
import os, sys
from xenfs.domain.mounted import MountedDomain
from xenfs.xenbus import Device
from xl import spec
with MountedDomain(0) as root:
    device = Device("echo", int(sys.argv[1]), 0)
    print("begin", flush=True)
    sys.stdin.readline()
    if sys.argv[2] == "attach":
        wanted = spec.DeviceSpec(device)
        spec.add(root.store, wanted)
        spec.wait_ready(root.store, wanted)
    else:
        spec.detach(root.store, [device])
    print("done", flush=True)
"""


@pytest.mark.parametrize("doing", ["attach", "detach"])
def test_the_toolstack_killed_in_the_middle_of_anything(stage: Stage, doing: str) -> None:
    stage.devd()
    domid = stage.guest()
    device = Device("echo", domid, 0)
    for step in range(8):
        stage.mount.arm(60)
        if doing == "detach":
            stage.attach(device)
            stage.until_connected(device)
        tool = subprocess.Popen(
            [sys.executable, "-c", TOOL, str(domid), doing],
            env=stage.environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert tool.stdin is not None
        assert tool.stdout is not None
        assert tool.stdout.readline() == b"begin\n"
        tool.stdin.write(b"\n")
        tool.stdin.flush()
        select.select([], [], [], step * 0.0007)  # somewhere in the middle, wherever that is
        tool.kill()
        tool.communicate()
        spec.detach(stage.store, spec.attached(stage.store, domid), destroy=True)
        spec.remove(stage.store, device)
        stage.until_clean()
    stage.attach(device)
    stage.until_connected(device)
    stage.until_echoes(device)


def test_killed_at_every_moment_of_the_handshake(stage: Stage) -> None:
    stage.devd()
    domid = stage.guest()
    device = Device("echo", domid, 0)
    for moment in range(10):
        stage.mount.arm(60)
        victim = ("device/echo", "backend/echo")[moment % 2]
        wanted = spec.DeviceSpec(device)
        spec.add(stage.store, wanted)
        deadline = time.monotonic() + moment * 0.025
        while time.monotonic() < deadline:
            select.select([], [], [], 0.002)
        for pid in stage.pids(victim):
            os.kill(pid, signal.SIGKILL)
        stage.until_connected(device)
        stage.until_echoes(device)
        assert spec.detach(stage.store, [device]) == []
        stage.until_clean()


def test_a_stopped_guest_delays_nobody(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spec, "DESTROY_SECONDS", 1.0)
    stage.devd()
    stopped, other = Device("echo", stage.guest("one"), 0), Device("echo", stage.guest("two"), 0)
    for device in (stopped, other):
        stage.attach(device)
        stage.until_connected(device)
    victim = next(pid for pid in stage.pids("device/echo") if f"XEN_DOMID={stopped.domid}" in _environment(pid))
    os.kill(victim, signal.SIGSTOP)
    assert spec.detach(stage.store, [stopped]) == [stopped]
    stage.until_echoes(other)
    os.kill(victim, signal.SIGCONT)
    until(lambda: victim not in stage.pids("device/echo"), SECONDS)
    stage.attach(stopped)
    stage.until_connected(stopped)


def _environment(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/environ").read_bytes().decode().split("\0")
