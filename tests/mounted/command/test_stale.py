"""Mounts whose daemon is dead, or is there and does not answer: what is said of them, and what clears them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys

import pytest

from tests.mounted.command.lab import PROGRAM, SECONDS, Lab, running, wait_ended

pytestmark = pytest.mark.timeout(120)


@pytest.fixture
def stale(xen: Lab) -> Lab:
    pid = xen.pid()
    os.kill(pid, signal.SIGKILL)
    wait_ended(pid)
    return xen


def test_a_stale_mount_is_told_by_everything(stale: Lab) -> None:
    told = f"{stale.point}: stale: its daemon is dead; xenfs umount {stale.point} clears it"
    assert stale.fails("status", code=4) == told
    assert stale.fails("mount") == f"{told}, and xenfs mount --force {stale.point} mounts anew"
    for words in (["domain", "list"], ["domain", "create"], ["domain", "destroy", "1"], ["trace"], ["trace", "-f"]):
        assert stale.fails(*words) == told
    done = stale.xenfs("status", "--json")
    assert (done.returncode, json.loads(done.stdout)["condition"]) == (4, "stale")


@pytest.mark.parametrize("words", [["umount"], ["umount", "--force"], ["umount", "--lazy"]])
def test_umount_clears_a_stale_mount(stale: Lab, words: list[str]) -> None:
    stale.fine(*words)
    assert stale.mounts() == []
    stale.fine("mount")


def test_mount_with_force_clears_a_stale_mount(stale: Lab) -> None:
    stale.fine("mount", "--force")
    assert len(stale.mounts()) == 1
    assert stale.fine("status")


def test_a_stale_mount_in_use_is_cleared(xen: Lab) -> None:
    user = xen.start("cat", cwd=xen.point)
    pid = xen.pid()
    os.kill(pid, signal.SIGKILL)
    wait_ended(pid)
    xen.fine("umount")
    assert xen.mounts() == []
    user.communicate(timeout=10)


@pytest.fixture
def stopped(xen: Lab) -> Lab:
    os.kill(xen.pid(), signal.SIGSTOP)
    return xen


def test_a_stopped_daemon_is_told_and_hangs_nothing(stopped: Lab) -> None:
    told = f"the daemon of {stopped.point} does not answer"
    kill = f"; xenfs umount --force {stopped.point} kills it"
    expected = {
        "status": (5, told),
        "mount": (1, told),
        "mount --force": (1, told),
        "umount": (1, told + kill),
        "umount --lazy": (1, told + kill),
        "domain list": (1, told),
        "trace -f": (1, told),
    }
    runs = {words: stopped.start(*PROGRAM, *words.split()) for words in expected}
    said = {words: run.communicate(timeout=SECONDS)[1].partition(": ")[2].strip() for words, run in runs.items()}
    assert {words: (run.returncode, said[words]) for words, run in runs.items()} == expected
    (pid,) = stopped.daemons()
    os.kill(pid, signal.SIGCONT)
    assert stopped.pid() == pid


def test_umount_with_force_kills_a_stopped_daemon(stopped: Lab) -> None:
    (pid,) = stopped.daemons()
    assert stopped.fine("umount", "--force") == ""
    assert stopped.mounts() == []
    assert not running(pid)


def test_umount_with_force_frees_what_waits_for_a_stopped_daemon(stopped: Lab) -> None:
    waiting = stopped.start("cat", f"{stopped.point}/hypervisor/version")
    stopped.fine("umount", "--force")
    assert waiting.communicate(timeout=10)[0] == ""
    assert waiting.returncode == 1


def test_a_file_cannot_make_umount_kill_somebody_else(xen: Lab) -> None:
    bystander = xen.start("cat")
    program = f"""
import sys
from xenfs.commands import place, umount
real = place._read_pid
place._read_pid = lambda point: {bystander.pid}
from xenfs.cli import main
main()
"""
    done = subprocess.run(
        [sys.executable, "-c", program, "umount"], capture_output=True, text=True, env=xen.environment, timeout=SECONDS,
        check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert f"pid {bystander.pid}, which {xen.point}/hypervisor/pid names, is not its daemon" in done.stderr
    assert bystander.poll() is None
