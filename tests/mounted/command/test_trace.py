"""`xenfs trace`, once and following."""

from __future__ import annotations

import json
import select
import signal
import subprocess
from pathlib import Path

import pytest

from tests.mounted.command.lab import PROGRAM, SECONDS, Lab, line_of
from tests.mounted.mount import until

pytestmark = pytest.mark.timeout(120)


def test_the_trace_for_people_and_for_programs(xen: Lab) -> None:
    xen.fine("domain", "create", "--name", "a")
    xen.xenfs("domain", "create", "--name", "a")
    lines = xen.fine("trace").splitlines()
    assert any("create_domain" in line and line.endswith("→ ok domid=1") for line in lines)
    assert any(line.endswith("→ EEXIST name 'a': domain 1 has it") for line in lines)
    records = [json.loads(line) for line in xen.fine("trace", "--json").splitlines()]
    assert [record["seq"] for record in records] == list(range(1, len(records) + 1))
    assert xen.fine("trace", "--domain", "1") == ""
    assert len(xen.fine("trace", "--domain", "0").splitlines()) == len(records)


def test_following_the_trace_until_ctrl_c(xen: Lab) -> None:
    xen.fine("domain", "create", "--name", "before")
    follower = xen.start(*PROGRAM, "trace", "-f")
    while "before" not in line_of(follower):
        pass
    xen.fine("domain", "create", "--name", "after")
    while "after" not in line_of(follower):
        pass
    follower.send_signal(signal.SIGINT)
    _, said = follower.communicate(timeout=10)
    assert (follower.returncode, said) == (130, "")
    xen.fine("umount")


def test_what_is_done_with_the_store_until_ctrl_c(xen: Lab) -> None:
    follower = xen.start(*PROGRAM, "trace", "--store")
    node = Path(xen.point, "xenstore/tool/followed")
    assert follower.stdout is not None
    stdout = follower.stdout.fileno()

    def heard() -> bool:
        """It follows by now what is done."""
        node.write_text("1")
        return bool(select.select([stdout], [], [], 0.1)[0])

    until(heard, SECONDS)
    assert line_of(follower).endswith("0  store.write path=/tool/followed value='1' → ok")
    node.unlink()
    while "store.rm path=/tool/followed" not in line_of(follower):
        pass
    follower.send_signal(signal.SIGINT)
    _, said = follower.communicate(timeout=10)
    assert (follower.returncode, said) == (130, "")
    assert "do not go together" in xen.fails("trace", "--store", "--device", "vif-0", code=2)


def test_following_ends_with_the_machine(xen: Lab) -> None:
    follower = xen.start(*PROGRAM, "trace", "-f", "--json")
    xen.fine("domain", "create")
    assert "create_domain" in [json.loads(line_of(follower))["op"] for _ in range(2)]
    assert "in use by " in xen.fails("umount")
    xen.fine("umount", "--lazy")
    _, said = follower.communicate(timeout=10)
    assert (follower.returncode, said) == (0, "")


def test_a_follower_that_is_killed_leaves_no_reader(xen: Lab) -> None:
    follower = xen.start(*PROGRAM, "trace", "-f")
    xen.fine("domain", "create")
    assert line_of(follower)
    follower.kill()
    follower.communicate(timeout=10)
    xen.fine("umount")


def test_a_trace_into_a_closed_pipe(xen: Lab) -> None:
    for _ in range(3):
        xen.fine("domain", "create")
    words = " ".join(f"'{word}'" for word in [*PROGRAM, "trace"])
    done = subprocess.run(
        ["bash", "-c", f"{words} | head -n 1"],
        capture_output=True,
        text=True,
        env=xen.environment,
        timeout=SECONDS,
        check=False,
    )
    assert len(done.stdout.splitlines()) == 1
    assert "Traceback" not in done.stderr
