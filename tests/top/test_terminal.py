"""`xenfs top` in a real terminal: what is on it while the machine works, and how it is left."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from xentop.app import NAMES

from tests.conformance.world import Mount
from tests.mounted.mount import until
from tests.top.lab import Lab
from tests.top.terminal import RESTING, XENFS, Terminal, terminal
from tests.top.town import Town

pytestmark = pytest.mark.timeout(120)
USUAL, LARGE = (80, 24), (160, 50)
_WRITE = """
import os, sys
from xenfs.commands.child import die_with_parent
die_with_parent()
fd = os.open(sys.argv[1], os.O_WRONLY)
while True:
    os.pwrite(fd, os.urandom(65536), 0)
    os.fsync(fd)
"""
_TELL_OPENS = """
import os, sys
log = os.open(sys.argv.pop(1), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
def told(event, args):
    if event in ("open", "os.listdir", "os.scandir", "os.chdir"):
        os.write(log, f"{args[0]}\\n".encode())
sys.addaudithook(told)
from xenfs.__main__ import main
main()
"""
_COLOUR = re.compile(r"\x1b\[(?:[0-9;:]*[;:])?(?:3[0-8]|4[0-8]|9[0-7]|10[0-7])(?:[;:][0-9;:]*)?m")


_SHOWN = {
    "domains": "alpha", "devices": "echo 1/3", "rings": "echo-0-ring", "pages": "RMgo", "events": "unbound",
    "store": "xenstored", "trace": "call \N{RIGHTWARDS ARROW} result",
}  # fmt: skip
"""What each pane has of the lab."""


@contextmanager
def traffic(town: Town) -> Iterator[None]:
    """A program of the guest writes to its disk, again and again."""
    writer = subprocess.Popen([sys.executable, "-c", _WRITE, str(town.file(town.disk))])
    try:
        yield
        assert writer.poll() is None
    finally:
        writer.kill()
        writer.wait()


@contextmanager
def watching(folder: Path, point: str, size: tuple[int, int] = USUAL, **environment: str) -> Iterator[Terminal]:
    """A terminal with the monitor in it, which has looked once."""
    with terminal(folder, point, size[0], size[1], **environment) as made:
        made.run(f"{XENFS} top -d 0.2")
        made.until("xenfs top", "Domain-0", "? keys")
        yield made


def left_clean(made: Terminal, settings: str) -> None:
    """It is as it was before the line was typed."""
    made.wait(lambda: made.modes == RESTING)
    assert made.settings() == settings
    assert made.lines[0][:2] in ("$ ", "# ")
    assert "? keys" not in made.text


@pytest.mark.parametrize("size", [USUAL, LARGE], ids=str)
def test_a_guest_that_writes_is_seen_to_write(town: Town, tmp_path: Path, size: tuple[int, int]) -> None:
    with traffic(town), watching(tmp_path, town.point, size) as made:
        assert len(made.lines) == size[1]
        made.command("sort block")
        made.wait(lambda: re.search(r"worker .* \d[\d.]*[KM]/s", made.text) is not None)
        assert made.lines[3].split()[0] == "id"
        assert "worker" in made.lines[4], "who moves most comes first"
        made.press("Tab")
        made.until("vbd 1/51712", "vusb 1/0", "working")
        made.type("3")
        made.until("vbd-51712-ring", "req/s")
        turning = re.compile(r"vbd-51712-ring +[#.]{10} +\d+ +32 +(\d+) +\d+ +[\d.]+ ")
        seen = set[str]()

        def turned() -> bool:
            seen.update(turning.findall(made.text))
            return len(seen) > 2

        made.wait(turned)
        made.press("q")
        made.ended(0)


def test_what_is_open_in_a_pane(lab: Lab, tmp_path: Path) -> None:
    with watching(tmp_path, lab.point) as made:
        made.type("3")
        made.until("echo-0-ring")
        made.press("Enter")
        made.until("2 of 256 in flight", "id 7  number 77", "id 8  number 88")
        made.press("Escape")
        made.until("req_prod", none="in flight")
        made.type("/")
        made.type("nothing")
        made.press("Enter")
        made.until("nothing here", "/ nothing")
        made.press("Escape")
        made.until("echo-0-ring")


def test_the_mouse(lab: Lab, tmp_path: Path) -> None:
    with watching(tmp_path, lab.point) as made:
        made.mouse(made.lines[1].index("events"), 1)
        made.until("interdomain")
        row = next(at for at, line in enumerate(made.lines) if "unbound" in line)
        made.mouse(10, row)
        made.wait(lambda: made.lines[row].startswith(">"))
        made.mouse(10, row)
        made.until("it waits for domain 0", "unbound")


@pytest.mark.parametrize(("key", "status"), [("q", 0), ("C-c", 130)])
def test_the_terminal_is_left_as_it_was(lab: Lab, tmp_path: Path, key: str, status: int) -> None:
    with terminal(tmp_path, lab.point) as made:
        settings = made.settings()
        assert made.modes == RESTING
        made.run(f"{XENFS} top")
        made.until("Domain-0", "? keys")
        assert made.modes != RESTING
        made.press(key)
        made.ended(status)
        left_clean(made, settings)


def test_a_kill_leaves_it_so_too(lab: Lab, tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    with terminal(tmp_path, lab.point) as made:
        settings = made.settings()
        made.run(f"sh -c 'echo $$ > {pid}; exec {XENFS} top'")
        made.until("Domain-0", "? keys")
        os.kill(int(pid.read_text()), signal.SIGTERM)
        made.ended(128 + signal.SIGTERM)
        left_clean(made, settings)


def test_a_fault_of_its_own_is_told_and_leaves_it_so_too(lab: Lab, tmp_path: Path) -> None:
    code = tmp_path / "faulty.py"
    code.write_text(f"from xentop import app; app.text.summary = None; app.watch({lab.point!r}, 0.5, 'domains')")
    with terminal(tmp_path, lab.point, *LARGE) as made:
        settings = made.settings()
        made.run(f"{sys.executable} {code}")
        made.ended(1)
        assert "TypeError: 'NoneType' object is not callable" in made.text
        made.wait(lambda: made.modes == RESTING)
        assert made.settings() == settings


def test_ctrl_c_while_words_are_typed(lab: Lab, tmp_path: Path) -> None:
    with watching(tmp_path, lab.point) as made:
        made.type(":dom")
        made.until("dom")
        made.press("C-c")
        made.ended(130)


def test_a_window_that_grows_and_shrinks(lab: Lab, tmp_path: Path) -> None:
    with watching(tmp_path, lab.point, COLUMNS="80", LINES="24") as made:
        assert " cpu" not in made.lines[3]
        made.resize(*LARGE)
        made.until(" usb   cpu")
        made.wait(lambda: made.lines[-1].startswith(" ? keys") and len(made.lines) == LARGE[1])
        made.resize(40, 10)
        made.wait(lambda: made.lines[-1].startswith(" ? keys") and len(made.lines) == 10)
        made.until("alpha")
        made.resize(*USUAL)
        made.until("alpha", "q end")
        made.press("q")
        made.ended(0)


@pytest.mark.parametrize("where", ["2>{err}", "< /dev/null", "> {out}", "2>{err} | cat"])
def test_without_a_screen_it_prints(lab: Lab, tmp_path: Path, where: str) -> None:
    out, err = tmp_path / "out", tmp_path / "err"
    out.touch()
    err.touch()
    with terminal(tmp_path, lab.point, 160, 50) as made:
        made.run(f"{XENFS} top -d 0.2 " + where.format(out=out, err=err))
        printed = re.compile(r"xenfs top - \d\d:\d\d:\d\d - 3 domains.*\n(.*\n)+.*alpha", re.MULTILINE)
        made.wait(lambda: printed.search(out.read_text() or made.text) is not None)
        assert made.modes == RESTING, "it has not taken the screen"
        made.press("C-c")
        if "|" not in where:
            made.ended(130)
    assert "\x1b" not in out.read_text() + err.read_text()


def test_without_colours_there_is_not_one(lab: Lab, tmp_path: Path) -> None:
    with watching(tmp_path, lab.point, NO_COLOR="1") as made:
        for place in range(1, len(NAMES) + 1):
            made.type(str(place))
            made.until(_SHOWN[NAMES[place - 1]] if place != 6 else "local")
        made.type("1")
        made.until("alpha")
        assert sum(line.startswith("> ") for line in made.lines) == 1
        made.press("Enter")
        made.until(" MiB, ")
        made.press("Escape")
        made.until("alpha", none=" MiB, ")
        made.press("q")
        made.ended(0)
    assert _COLOUR.findall(made.raw.read_text(errors="replace")) == []


def test_with_colours_there_are_some(lab: Lab, tmp_path: Path) -> None:
    with watching(tmp_path, lab.point) as made:
        made.press("q")
        made.ended(0)
    assert _COLOUR.search(made.raw.read_text(errors="replace"))


def test_more_rings_than_files_that_a_shell_lets_one_open(lab: Lab, tmp_path: Path) -> None:
    domid = lab.create("many", 256)
    try:
        with lab.inside(domid) as many, terminal(tmp_path, lab.point, *LARGE) as made:
            for number, frame in enumerate(many.memory.alloc(200)):
                many.memory.name_ring(f"echo-{number}-ring", frame)
            made.run(f"ulimit -S -n 100; {XENFS} top -p rings")
            made.until("201 rings", "echo-0-ring")
            made.press("G")
            made.until("echo-99-ring")
    finally:
        lab.destroy(domid)


def test_what_a_guest_writes_is_no_command_for_the_terminal(lab: Lab, tmp_path: Path) -> None:
    lab.one.store.write("data/evil", b"\x1b]2;TAKEN\x07\x1b[?1049l")
    try:
        with watching(tmp_path, lab.point, LARGE) as made:
            made.command("store")
            made.until("evil", r"\x1b]2;TAKEN")
            made.type("/evil")
            made.press("Enter")
            made.until("/ evil")
            made.press("G", "Enter")
            made.until("/local/domain/1/data/evil")
            assert made.title != "TAKEN"
            assert made.modes != RESTING
    finally:
        lab.one.store.rm("data/evil")


def test_a_machine_that_ends_is_told_and_q_ends_with_1(bare: Mount, tmp_path: Path) -> None:
    with watching(tmp_path, str(bare.root)) as made:
        bare.kill()
        made.until("!! the hypervisor is gone")
        made.type("?")
        made.until("another pane")
        made.press("Escape")
        made.until("Domain-0", none="another pane")
        made.press("q")
        made.until(f"xenfs top: {bare.root}: the hypervisor is gone")
        made.ended(1)
        assert made.modes == RESTING


def test_it_ends_while_the_daemon_does_not_answer(bare: Mount, tmp_path: Path) -> None:
    with watching(tmp_path, str(bare.root)) as made:
        bare.stop()
        try:
            made.until("!! no answer for ")
            made.press("q")
            made.ended(0)
        finally:
            bare.go_on()


def calls(lab: Lab) -> list[dict[str, object]]:
    """What the hypervisor remembers."""
    return [json.loads(line) for line in lab.file("hypervisor/trace").splitlines()]


def open_files(pid: int) -> Iterator[str]:
    """What a process has open now."""
    for link in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):
            yield str(link.readlink())


def test_it_opens_nothing_of_what_is_mapped(lab: Lab, tmp_path: Path) -> None:
    opened, code, pid = tmp_path / "opened", tmp_path / "told.py", tmp_path / "pid"
    code.write_text(_TELL_OPENS)
    last = calls(lab)[-1]["seq"]
    with terminal(tmp_path, lab.point, *LARGE) as made:
        made.run(f"sh -c 'echo $$ > {pid}; exec {sys.executable} {code} {opened} top -d 0.1'")
        made.until("Domain-0")
        for place, name in enumerate(NAMES, 1):
            made.type(str(place))
            made.until(_SHOWN[name])
            if name != "trace":
                made.press("Enter")
                made.until("\N{BOX DRAWINGS LIGHT ARC DOWN AND RIGHT}")
                made.press("Escape")
                made.until(_SHOWN[name], none="\N{BOX DRAWINGS LIGHT ARC DOWN AND RIGHT}")
        kept = set(open_files(int(pid.read_text())))
        made.press("q")
        made.ended(0)
    names = set(opened.read_text().splitlines())
    ring = f"{lab.point}/domains/1/rings/echo-0-ring"
    wanted = {f"{lab.point}/hypervisor/{name}" for name in ("frames", "pages", "trace_pipe")}
    assert wanted < names, "it is known what it opens"
    assert ring in names & kept
    assert [name for name in names | kept if "foreign" in name] == []
    until(lambda: calls(lab)[-1]["op"] == "close_handle")
    assert {call["op"] for call in calls(lab) if int(str(call["seq"])) > int(str(last))} == {
        "open_handle", "close_handle",
    }  # fmt: skip
