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
ALLOC = "from xenfs.domain.mounted import open_domain; open_domain().memory.alloc()"


def test_the_trace_for_people_and_for_programs(xen: Lab) -> None:
    xen.fine("domain", "create", "--name", "a")
    xen.xenfs("domain", "create", "--name", "a")
    lines = xen.fine("trace").splitlines()
    assert any("create_domain" in line and line.endswith("→ ok domid=1") for line in lines)
    assert any(line.endswith("→ EEXIST name 'a': domain 1 has it") for line in lines)
    records = [json.loads(line) for line in xen.fine("trace", "--json").splitlines()]
    assert [record["seq"] for record in records] == list(range(1, len(records) + 1))
    assert xen.fine("trace", "--domain", "1") == ""
    assert xen.fails("trace", "--domain", "99") == "there is no domain 99"
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
    assert xen.fails("trace", "--store", "--domain", "99") == "there is no domain 99"


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


def test_a_domain_that_has_gone_is_still_traced(xen: Lab) -> None:
    domid = xen.fine("domain", "create").strip()
    xen.fine("exec", domid, "--", "python", "-c", ALLOC)
    xen.fine("domain", "destroy", domid)
    assert "alloc_frame" in xen.fine("trace", "--domain", domid)


@pytest.mark.parametrize("words", [["--device", "nope"], ["-f", "--device", "nope-0"]])
def test_a_device_of_a_kind_that_there_is_not(xen: Lab, words: list[str]) -> None:
    assert "KIND is one of echo, vbd, vif, vusb" in xen.fails("trace", *words)


@pytest.mark.parametrize("words", [["beta"], ["--pcap", "-"]])
def test_packets_need_a_file_and_a_device(xen: Lab, words: list[str]) -> None:
    assert xen.fails("trace", *words, code=2).endswith("such as: xenfs trace --pcap packets.pcapng alpha/0")


@pytest.mark.parametrize("words", [["--store"], ["--domain", "0"], ["--device", "vif-0"], ["--json"]])
def test_packets_go_with_nothing_else(xen: Lab, words: list[str]) -> None:
    said = xen.fails("trace", "--pcap", "-", *words, "alpha/0", code=2)
    assert said == f"--pcap and {words[0]} do not go together"
