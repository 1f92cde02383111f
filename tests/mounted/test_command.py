"""The `xenfs` command on real mounts. Each test has its own place, and ends what it has mounted there, also on failure.

What looks at a mount does it by the command, or in a child with a deadline: a mount may be one that does not answer.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import pty
import select
import signal
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.need import missing, need_tool
from xenfs.commands import checks
from xenfs.commands.child import ask, ready
from xenfs.commands.place import MOUNTINFO, Mount, mounts

pytestmark = pytest.mark.timeout(120)

ROOT = Path(__file__).parents[2]
PROGRAM = [sys.executable, "-c", "from xenfs.cli import main; main()"]
SECONDS = 60.0
Done = subprocess.CompletedProcess[str]


class Lab:
    """A place to mount on, the command with XEN set to it, and what has been started."""

    def __init__(self, home: Path) -> None:
        self.home, self.point = home, f"{home}/xen"
        self.environment = {**os.environ, "XEN": self.point, "TMPDIR": str(home), "COLUMNS": "200"}
        self.started: list[subprocess.Popen[str]] = []

    def xenfs(self, *words: str, **environment: str) -> Done:
        return subprocess.run(
            [*PROGRAM, *words],
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
            stdin=subprocess.DEVNULL,
            env={**self.environment, **environment},
        )

    def fine(self, *words: str) -> str:
        """Run what must succeed and say nothing on stderr; gives its output."""
        done = self.xenfs(*words)
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout

    def fails(self, *words: str, code: int = 1) -> str:
        """Run what must fail and say so in one line; gives the line without the command's name."""
        done = self.xenfs(*words)
        assert (done.returncode, done.stdout) == (code, "")
        (line,) = done.stderr.splitlines()
        assert line.startswith("xenfs ")
        return line.partition(": ")[2]

    def start(self, *words: str, cwd: str | None = None) -> subprocess.Popen[str]:
        """Start something that goes on until it is told to end."""
        pipe = subprocess.PIPE
        started = subprocess.Popen(
            words,
            stdin=pipe,
            stdout=pipe,
            stderr=pipe,
            text=True,
            env=self.environment,
            cwd=cwd,
            start_new_session=True,
        )
        self.started.append(started)
        return started

    def pid(self) -> int:
        status = json.loads(self.fine("status", "--json"))
        assert isinstance(status["pid"], int)
        return status["pid"]

    def mounts(self) -> list[Mount]:
        return [m for m in mounts() if m.point.startswith(f"{self.home}/")]

    def read(self, path: str) -> str:
        return ask(lambda: Path(self.point, path).read_text())

    def wait_mounts(self, wanted: Callable[[list[Mount]], bool]) -> None:
        """Until the mounts of this place are as wanted; the kernel tells of changes."""
        deadline = time.monotonic() + SECONDS
        with Path(MOUNTINFO).open("rb") as table:
            poller = select.poll()
            poller.register(table, select.POLLPRI)
            while not wanted(self.mounts()):
                assert poller.poll(max(0.0, deadline - time.monotonic()) * 1000), self.mounts()

    def daemons(self) -> list[int]:
        """The daemons of this place, which only this test can have started."""
        found = []
        for home in Path("/proc").iterdir():
            with contextlib.suppress(OSError):
                words = (home / "cmdline").read_bytes().split(b"\0") if home.name.isdigit() else []
                if b"xenfs.daemon" in words and any(w.startswith(os.fsencode(self.home)) for w in words):
                    found.append(int(home.name))
        return found

    def close(self) -> None:
        for started in self.started:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(started.pid, signal.SIGKILL)  # with what it has started
            started.communicate(timeout=10)
        for pid in self.daemons():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for mount in self.mounts():
            if os.geteuid() == 0:
                ctypes.CDLL(None).umount2(os.fsencode(mount.point), 1 | 2)
            else:
                subprocess.run(["fusermount", "-u", "-z", mount.point], check=False, timeout=10)
        assert self.mounts() == []


def running(pid: int) -> bool:
    """Whether a process is there and has not ended; one that has may wait for init to collect it."""
    try:
        return Path("/proc", str(pid), "stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def wait_ended(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        pidfd = os.pidfd_open(pid)
        try:
            assert ready(pidfd, SECONDS)
        finally:
            os.close(pidfd)


def line_of(started: subprocess.Popen[str]) -> str:
    """The next line that a program prints."""
    assert started.stdout is not None
    line, fd = b"", started.stdout.fileno()
    while not line.endswith(b"\n"):
        assert ready(fd, SECONDS)
        piece = os.read(fd, 1)
        assert piece, started.communicate(timeout=10)
        line += piece
    return line.decode().rstrip("\n")


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    if problem := checks.obstacle():
        missing(problem)
    made = Lab(tmp_path.resolve())
    try:
        yield made
    finally:
        made.close()


@pytest.fixture
def xen(lab: Lab) -> Lab:
    """A lab with its machine mounted."""
    lab.fine("mount", "--frames", "20000")
    return lab


# mount and umount


def test_a_machine_is_there_when_mount_returns_and_gone_when_umount_does(lab: Lab) -> None:
    assert lab.fine("mount") == ""
    (mount,) = lab.mounts()
    assert (mount.point, mount.fstype, mount.source) == (lab.point, "fuse.xenfs", "xenfs")
    assert lab.read("hypervisor/version").startswith("xenfs ")
    pid = lab.pid()
    assert int(lab.read("hypervisor/pid")) == pid
    assert lab.fine("umount") == ""
    assert lab.mounts() == []
    assert not running(pid)
    assert list(lab.home.iterdir()) == [lab.home / "xen"]


def test_the_daemon_is_detached(xen: Lab) -> None:
    pid = xen.pid()
    assert os.getsid(pid) == pid
    home = Path("/proc", str(pid))
    found = [str((home / link).readlink()) for link in ("cwd", "fd/0", "fd/2")]
    assert found == ["/", "/dev/null", f"{xen.point}.log"]


def test_a_place_is_made_with_all_above_it_and_may_have_odd_characters(lab: Lab) -> None:
    place = f"{lab.home}/a b/c\\d/e#f\tg"
    lab.fine("mount", place)
    assert [m.point for m in lab.mounts()] == [place]
    assert json.loads(lab.fine("status", "--json", place))["mount"] == place
    lab.fine("umount", place)


def test_a_place_may_be_named_by_a_symlink_or_relatively(xen: Lab) -> None:
    link = xen.home / "link"
    link.symlink_to(xen.point)
    assert "already mounted" in xen.fails("mount", str(link))
    relative = os.path.relpath(xen.point)
    assert xen.fine("status", relative).splitlines()[0].split() == ["mount", xen.point]
    xen.fine("umount", str(link))


def test_mount_after_umount(xen: Lab) -> None:
    for _ in range(3):
        xen.fine("umount")
        xen.fine("mount")


def test_the_machine_has_the_frames_that_are_asked_for(lab: Lab) -> None:
    lab.fine("mount", "--frames", "5000", "--dom0-frames", "100")
    status = json.loads(lab.fine("status", "--json"))
    assert status["frames"] == {"total": 5000, "free": 4900}


def test_a_second_mount_says_that_there_is_one(xen: Lab) -> None:
    assert xen.fails("mount") == f"{xen.point}: already mounted, by the daemon with pid {xen.pid()}"
    assert len(xen.mounts()) == 1


def test_of_two_mounts_at_once_one_wins(lab: Lab) -> None:
    both = [lab.start(*PROGRAM, "mount") for _ in range(2)]
    for one in both:
        one.communicate(timeout=SECONDS)
    assert sorted(one.returncode for one in both) == [0, 1]
    assert len(lab.mounts()) == 1
    lab.fine("umount")
    assert lab.daemons() == []


def test_umount_of_what_is_not_mounted(lab: Lab) -> None:
    assert lab.fails("umount") == f"{lab.point}: not mounted"
    assert lab.fails("umount", "--force", str(lab.home / "none")) == f"{lab.home}/none: not mounted"
    assert lab.fails("umount", "/proc") == "/proc: not mounted"


def test_a_place_that_cannot_be_made(lab: Lab) -> None:
    (lab.home / "file").write_text("")
    assert lab.fails("mount", f"{lab.home}/file").endswith("/file: it is not a directory")
    assert lab.fails("mount", f"{lab.home}/file/xen").endswith("/file/xen: Not a directory")
    assert lab.fails("mount", "/proc/xenfs").endswith("/proc/xenfs: No such file or directory")


def test_a_place_with_something_in_it(lab: Lab) -> None:
    (lab.home / "xen").mkdir()
    (lab.home / "xen" / "file").write_text("")
    assert "mountpoint is not empty" in lab.fails("mount")
    assert (lab.home / "xen" / "file").exists()


def test_the_log_is_beside_the_mount_and_nobodys_file_is_lost(lab: Lab) -> None:
    log = Path(f"{lab.point}.log")
    log.write_text("mine\n")
    assert "cannot mount" in lab.fails("mount", "-o", "max_read=x")
    lab.fine("mount")
    lab.fine("umount")
    assert log.read_text() == "mine\n"
    log.unlink()
    other = lab.home / "other"
    other.write_text("")
    log.symlink_to(other)
    lab.fine("mount")
    assert str(Path(f"/proc/{lab.pid()}/fd/2").readlink()) != str(other)
    lab.fine("umount")
    assert log.is_symlink()


def test_an_option_that_there_is_not(lab: Lab) -> None:
    assert "cannot mount" in lab.fails("mount", "-o", "max_read=x")
    assert lab.daemons() == []
    assert list(lab.home.iterdir()) == []


def test_options_reach_the_mount(lab: Lab) -> None:
    lab.fine("mount", "-o", "noexec,noatime")
    line = next(line for line in Path(MOUNTINFO).read_text().splitlines() if lab.point in line)
    assert {"noexec", "noatime"} <= set(line.split()[5].split(","))


def test_wrong_usage(lab: Lab) -> None:
    assert lab.xenfs("mount", "--no-such").returncode == 2
    assert lab.xenfs("mount", "--frames", "x").returncode == 2
    assert lab.xenfs("mount", "--frames", "0").returncode == 2


def test_a_mount_in_use_is_left_alone(xen: Lab) -> None:
    user = xen.start("cat", cwd=xen.point)
    assert xen.fails("umount") == f"{xen.point}: in use by {user.pid} (cat); end them, or use --lazy"
    assert xen.fine("status")
    assert xen.fine("umount", "--lazy") == ""
    assert xen.mounts() == []
    user.communicate(timeout=10)


def test_a_mount_with_an_open_or_mapped_file_is_in_use(xen: Lab) -> None:
    program = (
        "import mmap, os, sys\n"
        "from pathlib import Path\n"
        "fd = os.open(os.environ['XEN'] + '/hypervisor/version', os.O_RDONLY)\n"
        "print('open', flush=True); input(); sys.exit()"
    )
    user = xen.start(sys.executable, "-c", program)
    assert line_of(user) == "open"
    assert f"in use by {user.pid} (python" in xen.fails("umount")
    user.communicate("\n", timeout=10)
    xen.fine("umount")


def test_the_daemons_own_pipes_are_no_users(xen: Lab) -> None:
    script = "exec 3<>$XEN/domains/0/ctl; echo alloc_unbound remote_dom=0 >&3; read -r a <&3; echo $a; read x"
    holder = xen.start("bash", "-c", script)
    assert line_of(holder) == "ok port=1"
    assert xen.read("domains/0/evtchn/1/info").startswith("state=unbound")
    assert f"in use by {holder.pid} (bash)" in xen.fails("umount")
    assert xen.fine("umount", "--lazy") == ""
    assert xen.mounts() == []


def test_the_foreground_ends_with_a_signal(lab: Lab) -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        daemon = lab.start(*PROGRAM, "mount", "-f")
        lab.wait_mounts(lambda seen: len(seen) == 1)
        assert lab.pid() == daemon.pid
        daemon.send_signal(number)
        _, said = daemon.communicate(timeout=SECONDS)
        assert (daemon.returncode, said) == (0, "")
        assert lab.mounts() == []


def test_the_daemon_ends_with_a_signal_and_unmounts(xen: Lab) -> None:
    pid = xen.pid()
    os.kill(pid, signal.SIGTERM)
    wait_ended(pid)
    assert xen.mounts() == []
    assert xen.fails("umount") == f"{xen.point}: not mounted"


def test_an_unmount_from_outside_ends_the_daemon(xen: Lab) -> None:
    umount = need_tool("umount" if os.geteuid() == 0 else "fusermount", "mount")
    pid = xen.pid()
    subprocess.run([umount, *(["-u"] if os.geteuid() else []), xen.point], check=True, timeout=SECONDS)
    wait_ended(pid)


# stale, and not answering


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


# status and domain


def test_status_of_a_machine(xen: Lab) -> None:
    first, table = xen.fine("status").split("\n\n")
    said = dict(line.split(None, 1) for line in first.splitlines())
    assert said["mount"] == xen.point
    assert said["frames"] == "20000 total, 15904 free"
    assert said["pid"] == str(xen.pid())
    assert [line.split()[:3] for line in table.splitlines()] == [
        ["domid", "name", "state"],
        ["0", "Domain-0", "running"],
    ]


def test_status_where_nothing_is_mounted(lab: Lab) -> None:
    assert lab.fails("status", code=3) == f"{lab.point}: not mounted"
    done = lab.xenfs("status", "--json")
    assert done.returncode == 3
    assert json.loads(done.stdout) == {"mount": lab.point, "condition": "not mounted", "pid": None}


def test_domains_are_made_listed_and_ended(xen: Lab) -> None:
    assert xen.fine("domain", "create", "--name", "web", "--frames", "10", "--max", "20") == "1\n"
    assert xen.fine("domain", "create", "--name", "two words") == "2\n"
    rows = [json.loads(line) for line in xen.fine("domain", "list", "--json").splitlines()]
    assert [(r["domid"], r["name"], r["owned"], r["max"]) for r in rows[1:]] == [
        (1, "web", 10, 20),
        (2, "two words", 1024, 1024),
    ]
    table = xen.fine("domain", "list").splitlines()
    assert table[0].split() == [
        "domid", "name", "state", "user", "owned", "max", "granted", "mapped", "in_flight", "ports",
    ]  # fmt: skip
    assert table[2].split()[:3] == ["1", "web", "running"]
    assert xen.fine("domain", "destroy", "web") == ""
    assert xen.fine("domain", "destroy", "2") == ""
    assert len(xen.fine("domain", "list").splitlines()) == 2
    assert xen.fine("domain", "create") == "1\n"
    assert len(xen.read("domains/1/uuid")) == 37


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["create", "--name", "Domain-0"], "name 'Domain-0': domain 0 has it"),
        (["create", "--frames", "30000"], "frames"),
        (["create", "--name", "x" * 99], "name="),
        (["create", "--name", "a\nb"], "name="),
        (["create", "--user", "no-such-user"], "there is no user no-such-user"),
        (["destroy", "7"], "there is no domain 7"),
        (["destroy", "0"], "domain 0"),
    ],
)
def test_a_domain_that_cannot_be(xen: Lab, words: list[str], said: str) -> None:
    assert said in xen.fails("domain", *words)
    assert len(xen.fine("domain", "list").splitlines()) == 2


def test_a_domain_is_given_to_a_user(xen: Lab) -> None:
    if os.geteuid() != 0:
        missing("only root may give a domain away")
    assert xen.fine("domain", "create", "--user", "nobody") == "1\n"
    assert ask(lambda: Path(xen.point, "domains/1").stat().st_uid) == 65534
    assert json.loads(xen.fine("domain", "list", "--json").splitlines()[1])["user"] == "nobody"


def test_domain_without_a_machine(lab: Lab) -> None:
    assert lab.fails("domain", "list") == f"{lab.point}: not mounted"


def test_tables_are_for_terminals(xen: Lab) -> None:
    said = on_terminal(xen, [*PROGRAM, "domain", "list"], lambda _: b"")
    assert "\x1b[1m" in said
    assert "Domain-0" in said
    assert "\x1b" not in xen.fine("domain", "list")


def on_terminal(lab: Lab, words: list[str], answer: Callable[[bytes], bytes]) -> str:
    """Run on a terminal of its own; whenever something has been printed, `answer` is asked what to type."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.execvpe(words[0], words, {**lab.environment, "TERM": "xterm"})
    said = b""
    try:
        while ready(terminal, SECONDS):
            try:
                piece = os.read(terminal, 4096)
            except OSError:  # EIO: nobody has it open any more
                break
            said += piece
            if typed := answer(said):
                os.write(terminal, typed)
    finally:
        os.close(terminal)
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    return said.decode()


# trace


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


# run


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


# doctor, and what is missing


def test_doctor_has_a_line_for_each_check(lab: Lab) -> None:
    done = lab.xenfs("doctor")
    head, *lines = done.stdout.splitlines()
    assert head.split() == ["result", "check", "mend"]
    assert len(lines) == sum(check.applies(os.geteuid()) for check in checks.table())
    assert {line.split()[0] for line in lines} <= {"ok", "missing", "advice"}
    assert done.returncode == any(line.startswith("missing") for line in lines)
    assert all(" to mend it: " in line for line in lines if not line.startswith("ok"))


def without(lab: Lab, setup: str, *words: str) -> Done:
    """Run the command in a mount namespace of its own, in which `setup` has taken something away."""
    if os.geteuid() != 0:
        missing("taking something away for one process needs root")
    script = f'{setup}; exec "$@"'
    return subprocess.run(
        [need_tool("unshare", "util-linux"), "-m", "bash", "-ec", script, "bash", *PROGRAM, *words],
        capture_output=True, text=True, env=lab.environment, timeout=SECONDS, check=False,
    )  # fmt: skip


TAKEN = {
    "/dev/fuse": ("mount -t tmpfs none /dev", "there is no such device"),
    "libfuse.so.2": ("mount --bind /dev/null {libfuse}", "file too short"),
    "CAP_SYS_ADMIN": ('exec {setpriv} "$@"', "not permitted"),
}


@pytest.mark.parametrize("name", TAKEN)
def test_what_is_missing_is_told_with_what_mends_it(lab: Lab, name: str) -> None:
    setpriv = f"{need_tool('setpriv', 'util-linux')} --bounding-set -sys_admin --inh-caps -sys_admin"
    setup, why = TAKEN[name]
    setup = setup.format(libfuse=libfuse(), setpriv=setpriv)
    mend = next(check.mend for check in checks.MOUNT if check.name == name)
    done = without(lab, setup, "mount")
    assert done.returncode == 1
    assert done.stderr.startswith(f"xenfs mount: {name}: ")
    assert why in done.stderr
    assert done.stderr.endswith(f"to mend it: {mend}\n")
    done = without(lab, setup, "doctor")
    assert done.returncode == 1
    assert any(line.split()[:2] == ["missing", name] for line in done.stdout.splitlines())
    assert without(lab, setup, "run", "--", "true").returncode == 125
    assert list(lab.home.iterdir()) == []


def libfuse() -> str:
    for line in Path("/proc/self/maps").read_text().splitlines():
        if "/libfuse.so.2" in line:
            return line.split()[-1]
    ctypes.CDLL("libfuse.so.2")
    return libfuse()


# An ordinary user


def ordinary_python() -> list[str]:
    """An interpreter like this one that every user can run."""
    check = "import sys; print(sys.version_info[:2])"
    for candidate in (sys.executable, "/usr/bin/python3"):
        shell = ["sh", "-c", 'exec "$@"', "sh"]  # setpriv itself still has the right to run anything
        words = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", *shell, candidate, "-c", check]
        done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=SECONDS)
        if done.stdout.strip() == str(sys.version_info[:2]):
            return [candidate, "-c", PROGRAM[-1]]
    return missing("no interpreter that an ordinary user can run has this version of Python")


ORDINARY = """
mknod -m 666 "$HOME_OF_TEST/fuse" c 10 229
mount --bind "$HOME_OF_TEST/fuse" /dev/fuse
mkdir "$HOME_OF_TEST/user"; chown nobody "$HOME_OF_TEST/user"; chmod 755 "$HOME_OF_TEST"
if test -e /etc/fuse.conf; then touch "$HOME_OF_TEST/conf"; mount --bind "$HOME_OF_TEST/conf" /etc/fuse.conf; fi
set +e
setpriv --reuid=65534 --regid=65534 --clear-groups bash -c "$1" "$@"
status=$?
shift; python=("$@"); x() { "${python[@]}" "$@"; }
eval "$THEN"
exit $status
"""
"""In a mount namespace of its own: /dev/fuse for everybody, and no fuse.conf."""


def as_nobody(lab: Lab, script: str, then: str = "") -> Done:
    """Run a script as nobody, who may use /dev/fuse, `then` one as root; in both, `x` is the command."""
    if os.geteuid() != 0:
        missing("becoming another user needs root")
    for tool in ("setpriv", "unshare"):
        need_tool(tool, "util-linux")
    need_tool("fusermount", "fuse3")
    packages = sysconfig.get_path("purelib")
    environment = {
        **lab.environment,
        "PYTHONPATH": f"{ROOT}:{packages}",
        "HOME_OF_TEST": str(lab.home),
        "XEN": f"{lab.home}/user/xen",
        "TMPDIR": f"{lab.home}/user",
        "THEN": then,
    }
    script = 'x() { "${python[@]}" "$@"; }; python=("$@")\n' + script
    return subprocess.run(
        ["unshare", "-m", "bash", "-ec", ORDINARY, "bash", script, *ordinary_python()],
        capture_output=True, text=True, env=environment, timeout=SECONDS, check=False, cwd="/",
    )  # fmt: skip


@pytest.fixture
def reachable() -> Iterator[Lab]:
    """A lab that every user can reach."""
    if problem := checks.obstacle():
        missing(problem)
    with tempfile.TemporaryDirectory(prefix="xenfs-test-") as home:
        made = Lab(Path(home).resolve())
        try:
            yield made
        finally:
            made.close()


def test_an_ordinary_user_has_a_machine_of_their_own(reachable: Lab) -> None:
    script = """
    x mount && x status && x domain create --name mine && x domain destroy mine && x trace >/dev/null
    x domain create --user root; x run --domains 1 -- ls
    x umount; echo $?; x status; echo $?
    """
    done = as_nobody(reachable, script)
    assert "xenfs domain create: only root may give a domain to root\n" in done.stderr
    assert done.stderr.endswith(f"xenfs status: {reachable.home}/user/xen: not mounted\n")
    assert done.stdout.startswith("mount    ")
    assert done.stdout.endswith("0\n3\n")
    assert "\n1\n" in done.stdout
    assert reachable.daemons() == []


def test_an_ordinary_user_needs_permission_for_the_device_and_the_place(reachable: Lab) -> None:
    script = "x mount /run/xenfs-of-nobody; x mount /root/x; x mount /usr; x doctor | grep /dev/fuse"
    done = as_nobody(reachable, script)
    first, second, third = done.stderr.splitlines()
    assert first == "xenfs mount: /run/xenfs-of-nobody: Permission denied"
    assert second == "xenfs mount: /root/x: Permission denied"
    assert third.startswith("xenfs mount: cannot mount on /usr")
    assert done.stdout.split()[:2] == ["ok", "/dev/fuse"]


def test_root_ends_the_machine_of_another_that_is_closed_to_it(reachable: Lab) -> None:
    done = as_nobody(reachable, "x mount", then="x status; echo $?; x umount; echo $?; x status; echo $?")
    place = f"{reachable.home}/user/xen"
    assert done.stdout == "1\n0\n3\n"
    assert done.stderr.splitlines() == [
        f"xenfs status: {place}: mounted by user 65534, for nobody else",
        f"xenfs status: {place}: not mounted",
    ]


def test_an_ordinary_user_cannot_end_the_machine_of_another(reachable: Lab) -> None:
    reachable.fine("mount")
    done = as_nobody(reachable, f"x umount {reachable.point}; x umount --force {reachable.point}; x domain list")
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 3
    assert reachable.fine("status")
