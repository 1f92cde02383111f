"""xenfs shutdown and reboot: of guests that are run, and of those that nobody runs any more."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.mounted.mount import until
from tests.toolstack.stage import SECONDS, Stage

pytestmark = pytest.mark.timeout(180)
UNKEPT = "nobody runs this guest: its keeper has died; xenfs destroy it, or xenfs unpause it"


@pytest.mark.parametrize("words", [["shutdown"], ["shutdown", "-w"], ["reboot"]])
def test_a_guest_whose_keeper_was_killed_is_not_asked(stage: Stage, words: list[str]) -> None:
    domid = stage.guest("alpha", init="sleep 1000")
    stage.kill("xl.keeper")
    assert stage.fails(*words, "alpha") == f"xenfs {words[0]}: domain {domid}: {UNKEPT}"
    assert stage.store.read(f"/local/domain/{domid}/control/shutdown") == b""


def test_a_guest_whose_keeper_was_killed_can_be_unpaused_and_then_shut_down(stage: Stage) -> None:
    domid = stage.guest("alpha", init="sleep 1000")
    stage.kill("xl.keeper")
    stage.fine("unpause", "alpha")
    assert stage.fine("shutdown", "-w", "alpha") == f"Shutting down domain {domid}\n"
    assert stage.domids() == [0]


def test_the_wait_for_a_guest_ends_when_its_keeper_dies(stage: Stage) -> None:
    domid = stage.guest("alpha", init="sleep 1000")
    keeper = stage.one("xl.keeper")
    os.kill(keeper, signal.SIGSTOP)
    waiting = subprocess.Popen(
        [sys.executable, "-m", "xenfs", "shutdown", "-w", "alpha"],
        env={**stage.environment, "PYTHONUNBUFFERED": "1"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    stage.processes.append(waiting)  # type: ignore[arg-type]
    assert waiting.stdout is not None
    assert waiting.stdout.readline() == f"Shutting down domain {domid}\n"
    os.kill(keeper, signal.SIGKILL)
    _, said = waiting.communicate(timeout=SECONDS)
    assert (waiting.returncode, said) == (1, f"xenfs shutdown: domain {domid}: {UNKEPT}\n")


def test_a_guest_that_is_kept_after_its_end_is_waited_for_but_not_asked_again(stage: Stage) -> None:
    domid = stage.guest("alpha", init="sleep 1000", on_poweroff="preserve")
    stage.fine("shutdown", "-w", "alpha")
    assert Path(stage.point, "domains", str(domid), "state").read_text() == "poweroff\n"
    until(lambda: stage.pids("xl.keeper") == [], SECONDS)
    assert f"domain {domid} has ended already" in stage.fails("shutdown", "alpha")


def test_a_rebooted_guest_is_waited_for_though_another_has_its_number(stage: Stage) -> None:
    domid = stage.guest("alpha", init="sleep 1000")
    before = stage.one("xl.keeper")
    began = time.monotonic()
    until(lambda: time.monotonic() - began > 1.1)  # one that ends sooner is not started again
    assert stage.fine("reboot", "-w", "alpha") == f"Rebooting domain {domid}\n"
    until(lambda: stage.pids("xl.keeper") not in ([], [before]), SECONDS)
    assert stage.fine("domid", "alpha") == f"{domid}\n"


def test_all_guests_are_asked_though_nobody_runs_one(stage: Stage) -> None:
    dead = stage.guest("alpha", init="sleep 1000")
    stage.kill("xl.keeper")
    other = stage.guest("beta", init="sleep 1000")
    done = stage.xenfs("shutdown", "--all", "-w")
    assert (done.returncode, done.stdout) == (1, f"Shutting down domain {other}\n")
    assert done.stderr == f"xenfs shutdown: domain {dead}: {UNKEPT}\n"
    assert stage.domids() == [0, dead]
