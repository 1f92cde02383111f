"""`xenfs top` for a pipe, and what it needs."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from xentop import text
from xentop.panes import PANES
from xentop.text import NAMES

from tests.conformance.world import Mount
from tests.mounted.command.lab import PROGRAM, SECONDS, line_of
from tests.mounted.command.lab import Lab as Place
from tests.mounted.command.test_user import as_nobody, reachable
from tests.need import need_tool
from tests.top.lab import RING, TABLES, Lab
from tests.top.town import Town

__all__ = ["reachable"]
pytestmark = pytest.mark.timeout(120)
Done = subprocess.CompletedProcess[str]


def run(point: str, *words: str, program: Sequence[str] = PROGRAM) -> Done:
    """The command with its output in a pipe."""
    return subprocess.run(
        [*program, "top", *words], capture_output=True, text=True, env={**os.environ, "XEN": point, "COLUMNS": "200"},
        timeout=SECONDS, check=False, stdin=subprocess.DEVNULL,
    )  # fmt: skip


def fine(point: str, *words: str) -> str:
    done = run(point, *words)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def fails(point: str, *words: str, code: int = 1) -> str:
    """What it says as it fails, without the command's name."""
    done = run(point, *words)
    assert (done.returncode, done.stdout) == (code, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith("xenfs top: ")
    return line.removeprefix("xenfs top: ")


def said(point: str, *panes: str) -> dict[str, Any]:
    """The second of two looks, as JSON."""
    lines = fine(point, "--json", "-i", "2", "-d", "0.05", "-p", ",".join(panes)).splitlines()
    found: dict[str, Any] = json.loads(lines[1])
    return found


def start(point: str, *words: str) -> subprocess.Popen[str]:
    """The same, going on until it is told to end."""
    return subprocess.Popen(
        [*PROGRAM, "top", *words], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "XEN": point}, start_new_session=True,
    )  # fmt: skip


def kill(started: subprocess.Popen[str]) -> None:
    with suppress(ProcessLookupError):
        os.killpg(started.pid, signal.SIGKILL)
    started.communicate(timeout=SECONDS)


# What is printed.


def test_once_is_four_panes_without_an_escape(lab: Lab) -> None:
    out = fine(lab.point, "--once")
    head, *parts = out.split("\n\n")
    assert head.startswith("xenfs top - ")
    assert "3 domains" in head
    assert [part.split()[0] for part in parts] == ["id", "device", "id", "id"]
    assert all(line.isprintable() for line in out.splitlines())
    assert all(word in out for word in (RING, "alpha", "beta", "echo 1/3"))


def test_what_an_encoding_has_no_sign_for_is_told_by_its_number(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONIOENCODING", "ascii")
    out = fine(lab.point, "--once")
    assert "\\xb7" in out
    assert out.isascii()


def test_once_does_not_tell_an_age_that_nobody_knows(lab: Lab) -> None:
    out = fine(lab.point, "--once", "-p", "devices")
    (line,) = (line for line in out.splitlines() if line.startswith("echo 1/3"))
    assert line.split()[3:7] == ["Initialising", "-", "Initialising", "-"]


@pytest.mark.parametrize("name", NAMES)
def test_every_pane_by_its_name(lab: Lab, name: str) -> None:
    out = fine(lab.point, "-b", "-i", "2", "-d", "0.2", "-p", name)
    looks = out.split("xenfs top - ")[1:]
    assert len(looks) == 2
    heads = [look.splitlines()[2].split() for look in looks if len(look.splitlines()) > 2]
    if name != text.TRACE:
        wanted = "frame" if name == "pages" else PANES[name].columns[0].head
        assert [head[0] for head in heads] == [wanted, wanted]
    assert set(said(lab.point, name)) == {"time", "total", "free", "hypervisor_cpu", name}


def test_a_pane_that_is_none(lab: Lab) -> None:
    assert fails(lab.point, "-p", "rings,tables") == f"tables: there is no such pane; there are {', '.join(NAMES)}"


def test_json_is_an_object_a_look(lab: Lab) -> None:
    lines = fine(lab.point, "--json", "-i", "3", "-d", "0.05", "-p", "domains").splitlines()
    found = [json.loads(line) for line in lines]
    assert len(found) == 3
    assert found[0]["time"] < found[1]["time"] < found[2]["time"]
    assert [row["name"] for row in found[0]["domains"]] == ["Domain-0", "alpha", "beta"]


def test_what_is_printed_is_what_is_so(lab: Lab) -> None:
    found = said(lab.point, "domains", "rings", "pages", "events", "devices", "store")
    counts = {
        row["domid"]: (row["frames"], row["granted"], row["mapped"], row["in_flight"]) for row in found["domains"]
    }
    lines = [line.split() for line in lab.file("hypervisor/frames").splitlines()[1:-1]]
    assert counts == {int(line[0]): tuple(map(int, line[2:6])) for line in lines}
    (ring,) = found["rings"]
    assert (ring["domid"], ring["name"], ring["frame"], ring["fill"]) == (1, RING, lab.ring, 2)
    assert (ring["req_prod"], ring["rsp_prod"]) == (12, 10)
    marks = {
        number: row["mark"]
        for row in found["pages"]
        for number in range(row["first"], row["first"] + row["count"])
        if number in (lab.ring, lab.mapped, lab.granted, lab.kept)
    }
    assert marks == {lab.ring: "R", lab.mapped: "M", lab.granted: "g", lab.kept: "o"}
    here, there = lab.ports
    assert [(row["domid"], row["port"], row["other"], row["pending"]) for row in found["events"]] == [
        (1, here, f"2:{there}", [f"2:{there}"]), (1, lab.waiting.port, "0:?", []),
    ]  # fmt: skip
    assert [(row["device"], row["front"]) for row in found["devices"]] == [(str(lab.stuck), "Initialising")]
    nodes = {row["path"]: row["value"] for row in found["store"]}
    assert nodes["/local/domain/1/name"] == "alpha"
    assert nodes == {path: value.decode() for path, value in walk(lab)}


def walk(lab: Lab, path: str = "/") -> list[tuple[str, bytes]]:
    """Every node of the store."""
    store = lab.root.store
    below = [f"{path.rstrip('/')}/{name}" for name in store.list(path)]
    return [node for one in below for node in ((one, store.read(one)), *walk(lab, one))]


def test_what_a_guest_writes_does_no_harm(lab: Lab) -> None:
    evil = "\x1b[2J\n9 /forged token\r\n\xff"
    watch = lab.one.store.watch("/local/domain/1/data", evil)
    lab.one.store.write("/local/domain/1/data", evil)
    try:
        out = fine(lab.point, "-b", "-i", "1", "-p", "store")
    finally:
        watch.close()
        lab.one.store.write("/local/domain/1/data", "")
    assert all(line.isprintable() for line in out.splitlines())
    (line,) = (line for line in out.splitlines() if line.startswith("/local/domain/1/data "))
    assert "\\x1b[2J\\n9 /forged token\\r\\n\\xc3\\xbf" in line
    assert line.split()[-1] == "1"


def test_a_machine_at_work(town: Town) -> None:
    before = town.in_ring()
    found = said(town.point, "domains", "rings", "devices")
    assert town.in_ring() > before
    rings = {(row["domid"], row["name"]): row for row in found["rings"]}
    assert rings[town.domid, "echo-0-ring"]["requests"] > 0
    assert not any(row["broken"] for row in found["rings"])
    kinds = {row["kind"]: row["why"] for row in found["devices"]}
    assert kinds == {"echo": "working", "vbd": "working", "vusb": "working"}
    (guest,) = (row for row in found["domains"] if row["domid"] == town.domid)
    assert guest["devices"] == 3
    assert found["domains"][0]["backends"] == 3


def test_the_trace_has_what_comes_while_one_looks(lab: Lab) -> None:
    started = start(lab.point, "--json", "-d", "0.05", "-p", text.TRACE)
    seen: list[dict[str, Any]] = []

    def until_seen(op: str, what: dict[str, Any]) -> None:
        while not any(event.get("op") == op for event in seen) or not any(event.get("in") == what for event in seen):
            seen.extend(json.loads(line_of(started))["trace"])

    try:
        json.loads(line_of(started))
        domid = lab.create("shortlived")
        home = f"/local/domain/{domid}"
        until_seen("create_domain", {"path": f"{home}/name", "value": "shortlived"})
        lab.destroy(domid)
        until_seen("destroy_domain", {"path": home})
    finally:
        kill(started)


def test_output_into_a_pipe_that_is_closed(lab: Lab) -> None:
    started = start(lab.point, "-b", "-d", "0.05")
    try:
        assert line_of(started).startswith("xenfs top - ")
        assert started.stdout is not None
        started.stdout.close()
        assert started.wait(SECONDS) == 0
        assert started.stderr is not None
        assert started.stderr.read() == ""
    finally:
        with suppress(ValueError):
            kill(started)


def test_head_has_its_lines(lab: Lab) -> None:
    line = f"{sys.executable} -m xenfs top -b -d 0.05 | head -n 1; echo ${{PIPESTATUS[*]}}"
    done = subprocess.run(
        ["bash", "-c", line], capture_output=True, text=True, timeout=SECONDS, check=False,
        env={**os.environ, "XEN": lab.point},
    )  # fmt: skip
    first, status = done.stdout.splitlines()
    assert first.startswith("xenfs top - ")
    assert (status, done.stderr) == ("0 0", "")


def test_ctrl_c_ends_it(lab: Lab) -> None:
    started = start(lab.point, "-b", "-d", "0.05")
    try:
        line_of(started)
        started.send_signal(signal.SIGINT)
        _, err = started.communicate(timeout=SECONDS)
        assert (started.returncode, err) == (130, "")
    finally:
        kill(started)


# What it needs.


def test_no_machine(tmp_path: Path) -> None:
    for words in ((), ("--once",), ("--web", "8080")):
        assert fails(str(tmp_path), *words) == f"{tmp_path}: not mounted"


def test_a_machine_that_ends_meanwhile(bare: Mount) -> None:
    started = start(str(bare.root), "-b", "-d", "0.05")
    try:
        line_of(started)
        bare.kill()
        _, err = started.communicate(timeout=SECONDS)
        assert started.returncode == 1
        (line,) = err.splitlines()
        assert line.startswith(f"xenfs top: {bare.root}: ")
    finally:
        kill(started)


@pytest.mark.parametrize("words", [("-d", "0.01"), ("-d", "x"), ("-i", "-1"), ("--nothing",), ("rings",)])
def test_words_that_mean_nothing(lab: Lab, words: tuple[str, ...]) -> None:
    done = run(lab.point, *words)
    assert (done.returncode, done.stdout) == (2, "")
    assert "Traceback" not in done.stderr


def test_a_machine_of_another_user(reachable: Place) -> None:
    reachable.fine("mount", "-o", "allow_other")
    script = f"export XEN={reachable.point}; x top --once; echo $?; x top -b; echo $?; cd $XEN/hypervisor; cat"
    done = as_nobody(reachable, " ".join([script, *TABLES]))
    assert done.stdout == "1\n1\n"
    first, second, *denied = done.stderr.splitlines()
    assert first == second
    assert first == "xenfs top: the machine belongs to another user: only whoever mounted it sees all of it"
    assert denied == [f"cat: {name}: Permission denied" for name in TABLES]


def test_an_ordinary_user_looks_at_their_own(reachable: Place) -> None:
    script = "x mount && x domain create --name mine && x top --once -p domains,pages,store,devices; echo $?; x umount"
    done = as_nobody(reachable, script)
    assert done.stderr == ""
    assert done.stdout.endswith("0\n")
    assert "mine" in done.stdout
    assert "/local/domain/1/name" in done.stdout


WITHOUT = """
import sys
class Nothing:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("textual", "textual_serve", "aiohttp"):
            raise ModuleNotFoundError(f"No module named {name}", name=name.split(".")[0])
sys.meta_path.insert(0, Nothing())
from xenfs.cli import main
main()
"""


def test_without_textual_there_is_all_that_needs_no_screen(lab: Lab, tmp_path: Path) -> None:
    path = tmp_path / "without.py"
    path.write_text(WITHOUT)
    program = [sys.executable, str(path)]
    done = run(lab.point, "-b", "-i", "2", "-d", "0.05", "-p", ",".join(NAMES), program=program)
    assert (done.returncode, done.stderr) == (0, "")
    assert RING in done.stdout
    done = run(lab.point, "--web", "8080", program=program)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("xenfs top: aiohttp is not installed: pip install")
    line = [need_tool("script", "bsdutils"), "-qec", f"{shlex.join(program)} top", "/dev/null"]
    shown = subprocess.run(
        line, capture_output=True, text=True, env={**os.environ, "XEN": lab.point}, timeout=SECONDS, check=False,
        stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert shown.returncode == 1
    assert shown.stdout.strip() == "xenfs top: textual is not installed: pip install 'xenfs[top]'"
