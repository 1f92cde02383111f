"""`xenfs run`: a machine that is there for one program, and what is told of it afterwards."""

from __future__ import annotations

import shlex
import signal
import subprocess
import sys

import pytest

from tests.mounted.command.lab import PROGRAM, SECONDS, Lab, line_of, on_terminal, wait_ended

pytestmark = pytest.mark.timeout(120)


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["true"], 0),
        (["sh", "-c", "exit 7"], 7),
        (["sh", "-c", "kill -TERM $$"], 143),
        (["sh", "-c", "kill -KILL $$"], 137),
        (["sh", "-c", 'test -d "$XEN/domains/2" && ! test -e "$XEN/domains/3"'], 0),
        (["sh", "-c", '[ "$XEN_X" = "" ] && cat'], 0),
    ],
)
def test_run_gives_the_programs_status(lab: Lab, words: list[str], code: int) -> None:
    done = lab.xenfs("run", "--domains", "2", "--", *words)
    assert (done.returncode, done.stderr) == (code, "")
    nothing_left(lab)


@pytest.mark.parametrize(("program", "code"), [("no-such-program", 127), ("/etc/passwd", 126)])
def test_run_of_what_cannot_run(lab: Lab, program: str, code: int) -> None:
    assert lab.fails("run", "--", program, code=code).startswith(f"{program}: ")
    nothing_left(lab)


def nothing_left(lab: Lab) -> None:
    assert lab.mounts() == []
    assert lab.daemons() == []
    assert list(lab.home.iterdir()) == []


def test_run_where_there_is_no_machine(lab: Lab) -> None:
    assert "cannot mount" in lab.fails("run", "-o", "max_read=x", "--", "true", code=125)
    assert "frames" in lab.fails("run", "--frames", "5000", "--domains", "2", "--", "true", code=125)
    nothing_left(lab)


def test_run_passes_input_output_and_signal_settings(lab: Lab) -> None:
    program = (
        "import signal, sys; print(sys.stdin.read(), signal.pthread_sigmask(signal.SIG_BLOCK, []),"
        " signal.getsignal(signal.SIGINT) is signal.default_int_handler)"
    )
    words = [*PROGRAM, "run", "--", sys.executable, "-c", program]
    done = subprocess.run(
        words, input="in", capture_output=True, text=True, env=lab.environment, timeout=SECONDS, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "in set() True\n", "")


HOLDS = """
exec 3<>$XEN/domains/1/ctl
ask() { echo "$*" >&3; read -r answer <&3; }
ask alloc_unbound remote_dom=2
ask alloc_frame; ask grant_access dom=2 ${answer#ok }
cat $XEN/hypervisor/trace_pipe >/dev/null 2>&1 &
"""
"""Leaves a process behind that holds a port and a grant of domain 1 until the machine ends."""


def test_run_tells_what_leaks(lab: Lab) -> None:
    said = lab.fails("run", "--domains", "2", "--", "bash", "-c", HOLDS)
    assert said == "leaked: domain 1 (domain-1): 1 frames granted, open ports 1"
    nothing_left(lab)


def test_a_failing_program_keeps_its_status_though_something_leaks(lab: Lab) -> None:
    assert "leaked" in lab.fails("run", "--domains", "2", "--", "bash", "-c", HOLDS + "exit 7", code=7)


def test_run_does_not_call_a_leak_what_ends_with_the_program(lab: Lab) -> None:
    script = HOLDS.replace("cat $XEN/hypervisor/trace_pipe >/dev/null 2>&1 &", 'echo "$answer"')
    assert lab.fine("run", "--domains", "2", "--", "bash", "-c", script) == "ok ref=8\n"


def test_run_of_what_starts_devd_and_a_guest_leaves_nothing(lab: Lab) -> None:
    script = f"""
        x() {{ {shlex.join(PROGRAM)} "$@"; }}
        echo 'name="alpha"' > {lab.home}/alpha.cfg
        x devd && x create -q {lab.home}/alpha.cfg && x device-attach echo alpha && rm {lab.home}/alpha.cfg
    """
    done = lab.xenfs("run", "--", "bash", "-c", script)
    assert (done.returncode, done.stdout) == (1, "")
    assert [line.rpartition(")")[0] for line in done.stderr.splitlines()] == [
        "xenfs run: leaked: domain 0 (Domain-0",
        "xenfs run: leaked: domain 1 (alpha",
    ]
    nothing_left(lab)
    lab.fine("run", "--", "bash", "-c", script + "x destroy alpha")
    nothing_left(lab)


def test_run_when_the_program_ends_the_machine(lab: Lab) -> None:
    kill = "kill -KILL $(cat $XEN/hypervisor/pid)"
    assert "cannot tell" in lab.fails("run", "--", "sh", "-c", kill)
    nothing_left(lab)


WAITS = """
import signal, sys, time
caught = []
def note(number, _): caught.append(number)
for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1): signal.signal(number, note)
print("ready", flush=True)
while not caught: signal.pause()
deadline = time.monotonic() + 0.5
while time.monotonic() < deadline: signal.sigtimedwait([], deadline - time.monotonic())
print(len(caught), *caught, flush=True)
sys.exit(40 + caught[0])
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1])
def test_run_hands_signals_on(lab: Lab, number: signal.Signals) -> None:
    runner = lab.start(*PROGRAM, "run", "--", sys.executable, "-c", WAITS)
    assert line_of(runner) == "ready"
    runner.send_signal(number)
    out, said = runner.communicate(timeout=SECONDS)
    assert (runner.returncode, out, said) == (40 + number, f"1 {number}\n", "")
    nothing_left(lab)


def test_ctrl_c_reaches_the_program_once(lab: Lab) -> None:
    typed: list[bytes] = []

    def answer(said: bytes) -> bytes:
        if b"ready" in said and not typed:
            typed.append(b"\x03")
            return b"\x03"
        return b""

    said = on_terminal(lab, [*PROGRAM, "run", "--", sys.executable, "-c", WAITS], answer)
    assert "1 2\r\n" in said
    nothing_left(lab)


def test_run_that_is_killed_takes_the_machine_with_it(lab: Lab) -> None:
    runner = lab.start(*PROGRAM, "run", "--", sys.executable, "-c", WAITS)
    assert line_of(runner) == "ready"
    assert len(lab.mounts()) == 1
    (daemon,) = lab.daemons()
    runner.kill()
    wait_ended(daemon)
    assert lab.mounts() == []


def test_run_that_is_told_to_end_before_the_program_starts(lab: Lab) -> None:
    runner = lab.start(*PROGRAM, "run", "--", "sh", "-c", "echo ran; sleep 60")
    lab.wait_mounts(lambda seen: len(seen) == 1)
    runner.terminate()
    runner.communicate(timeout=SECONDS)
    assert runner.returncode == 143
    nothing_left(lab)


def test_run_can_keep_the_machine(lab: Lab) -> None:
    done = lab.xenfs("run", "--keep", "--domains", "1", "--", "sh", "-c", "echo $XEN; exit 3")
    place = done.stdout.strip()
    assert done.returncode == 3
    assert done.stderr == f"xenfs run: {place} is still mounted; xenfs umount {place} ends it\n"
    assert len(lab.fine("status", place).splitlines()) == 9
    lab.fine("umount", place)
    assert lab.mounts() == []


def test_runs_beside_each_other(lab: Lab) -> None:
    runs = [lab.start(*PROGRAM, "run", "--domains", "1", "--", "sh", "-c", "ls $XEN/domains") for _ in range(4)]
    assert [run.communicate(timeout=SECONDS) for run in runs] == [("0\n1\n", "")] * 4
    nothing_left(lab)
